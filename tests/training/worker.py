"""What one of several processes runs: ``worker.py STAGE OUT BATCH_SIZE REPORT [TOKENIZER]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flexvar.config import parse
from flexvar.training import ModelRecipe, TokenizerRecipe, train
from flexvar.training.guard import Interrupted
from flexvar.training.loop import Loop
from training.conftest import model_options, quiet, tokenizer_options


def watch(report: Path) -> None:
    """Write what every process really is and ends with."""
    finish = Loop.finish

    def watched(self: Loop) -> dict[str, float]:
        try:
            return finish(self)
        finally:
            parameters = list(self.bare.parameters())
            local = [p.to_local() if hasattr(p, "to_local") else p for p in parameters]
            codes = getattr(self.bare, "codes", None)
            facts: dict[str, Any] = {
                "processes": self.accelerator.num_processes,
                "wrapper": type(self.main.module).__name__,
                "parameters": sum(p.numel() for p in parameters),
                "held": sum(p.numel() for p in local),
                "codes": None if codes is None else codes.detach().double().sum(0).tolist(),
                "use": float(torch.linalg.vector_norm(self.stage.care.use_V))  # type: ignore[attr-defined]
                if codes is not None
                else None,
            }
            rank = self.accelerator.process_index
            Path(f"{report}.{rank}").write_text(json.dumps(facts))

    Loop.finish = watched  # type: ignore[method-assign]


def main() -> None:
    stage, out, batch_size, report, *rest = sys.argv[1:]
    watch(Path(report))
    options: dict[str, Any] = {"batch_size": int(batch_size), "log_every": 1}
    if stage == "tokenizer":
        recipe: Any = parse(TokenizerRecipe, tokenizer_options(out, **options))
        train(recipe, device="cpu", say=quiet)
        return
    data = model_options(rest[0], out, **options)
    data["backbone"].pop("drop_path")  # its draws differ between processes
    if "stop" in rest:
        try:
            train(parse(ModelRecipe, data | {"stop_after": 3}), device="cpu", say=quiet)
        except Interrupted:
            return
    train(parse(ModelRecipe, data), resume=True, device="cpu", say=quiet)


if __name__ == "__main__":
    main()
