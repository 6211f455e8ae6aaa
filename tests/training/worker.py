"""One of several processes: ``worker.py STAGE OUT BATCH_SIZE REPORT [TOKENIZER [WORD ...]]``.

Words: ``mamba`` for that backbone, ``bf16`` for that precision, ``stop`` to stop after 3 steps.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as functional
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flexvar_plugins.backbones import ssd

from flexvar.config import parse
from flexvar.training import ModelRecipe, TokenizerRecipe, train
from flexvar.training.guard import Interrupted
from flexvar.training.loop import Loop
from training.conftest import model_options, quiet, tokenizer_options


def digest(tensor: torch.Tensor) -> str:
    """A text that is the same for the same bits only."""
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()


def watch(report: Path) -> None:
    """Write what every process really is and ends with."""
    finish, losses, scan = Loop.finish, functional.cross_entropy, ssd.Inputs
    exact: set[str] = set()

    def watched_losses(logits: torch.Tensor, *more: Any, **options: Any) -> torch.Tensor:
        result = losses(logits, *more, **options)
        exact.update((f"logits {logits.dtype}", f"loss {result.dtype}"))
        return result

    def watched_scan(**inputs: Any) -> ssd.Inputs:
        names = ("dt_BLH", "rate_H", "skip_H")
        exact.update(f"{name} {inputs[name].dtype}" for name in names)
        return scan(**inputs)

    functional.cross_entropy = watched_losses
    ssd.Inputs = watched_scan  # type: ignore[misc, assignment]

    def watched(self: Loop) -> dict[str, float]:
        try:
            return finish(self)
        finally:
            parameters = list(self.bare.parameters())
            local = [p.to_local() if hasattr(p, "to_local") else p for p in parameters]
            sharded = [p for p in parameters if isinstance(p, DTensor)]
            codes = getattr(self.bare, "codes", None)
            blocks = getattr(getattr(self.bare, "backbone", None), "blocks", [])
            facts: dict[str, Any] = {
                "pid": os.getpid(),
                "processes": self.accelerator.num_processes,
                # What torch itself knows of, whatever accelerate says.
                "world": dist.get_world_size() if dist.is_initialized() else 1,
                "backend": dist.get_backend() if dist.is_initialized() else None,
                "tensors": len(parameters),
                "sharded": sum(p.to_local().numel() < p.numel() for p in sharded),
                "blocks": len(blocks),
                "sharded_blocks": sum(
                    isinstance(block, FSDPModule)
                    and all(isinstance(p, DTensor) for p in block.parameters())
                    for block in blocks
                ),
                "dtypes": sorted({str(p.dtype) for p in parameters}),
                "exact": sorted(exact),
                "wrapper": type(self.main.module).__name__,
                "parameters": sum(p.numel() for p in parameters),
                "held": sum(p.numel() for p in local),
                "codes": None if codes is None else digest(codes),
                "use": None if codes is None else digest(self.stage.care.use_GV),  # type: ignore[attr-defined]
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
    if "mamba" in rest:
        data["backbone"] = {"name": "mamba", "depth": 2, "width": 32, "state_size": 8}
    if "bf16" in rest:
        data["precision"] = "bf16"
    if "stop" in rest:
        try:
            train(parse(ModelRecipe, data | {"stop_after": 3}), device="cpu", say=quiet)
        except Interrupted:
            return
    train(parse(ModelRecipe, data), resume=True, device="cpu", say=quiet)


if __name__ == "__main__":
    main()
