"""Trains what is not trained yet, once, whoever asks; a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flexvar.checkpoint import CONFIG
from flexvar.errors import FlexvarError
from flexvar.training.recipe import ModelRecipe, TokenizerRecipe, TrainRecipe
from flexvar.training.run import RECIPE, RunDirectory
from studies.ablation import full_over_residual
from studies.ablation.plan import Budget, ModelRun, TokenizerRun, tokenizers

# Where runs live unless the environment says otherwise; big and remade at will, so not in git.
WORK = Path(
    os.environ.get("FLEXVAR_ABLATION_RUNS") or Path(__file__).parents[2] / "runs" / "ablation"
)


def root_of(quick: bool, root: Path = WORK) -> Path:
    """Where the runs of a budget live."""
    return root / ("quick" if quick else "full")


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs live and how they run.

    root: the directory of all runs. device: "cpu", "cuda" or "auto". seed: of weights, data order
    and everything drawn.
    """

    root: Path
    budget: Budget
    device: str = "cpu"
    seed: int = 0

    def directory(self, name: str, recipe: dict[str, Any]) -> Path:
        """The run's own directory; another recipe gets another one."""
        text = json.dumps(recipe, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        return self.root / f"seed-{self.seed}" / f"{slug}-{digest}"


def tokenizer(run: TokenizerRun, place: Place) -> Path:
    """The directory of the trained tokenizer."""
    recipe = {**run.recipe, "seed": place.seed}
    out = place.directory(f"tokenizer {run.name}", recipe)
    _train(TokenizerRecipe.model_validate({**recipe, "out": str(out)}), out, place)
    return out


def tokenizer_of(run: ModelRun, place: Place) -> Path | str:
    """The checkpoint of a model's tokenizer, trained now if it has to be."""
    found = [one for one in tokenizers(place.budget) if one.name == run.tokenizer]
    if not found:
        return run.tokenizer
    source = tokenizer(found[0], place)
    if not run.full:
        return source
    full_over_residual.offer()
    target = source.with_name(f"{source.name}-as-full")
    with locked(target):
        if not (target / CONFIG).is_file():
            full_over_residual.convert(source, target)
    return target


def model(run: ModelRun, place: Place) -> Path:
    """The directory of the trained model."""
    checkpoint = tokenizer_of(run, place)
    recipe: dict[str, Any] = {**run.recipe, "seed": place.seed, "tokenizer": str(checkpoint)}
    # Which tokenizer it is follows from the name of its directory, wherever that lies.
    known = {**recipe, "tokenizer": Path(checkpoint).name}
    out = place.directory(run.name, known)
    if place.budget.views:
        # Digits come out the same every time, photographs are cropped at random.
        views = 1 if run.data == "digits" else place.budget.views
        stored = {"data": run.recipe["data"], "views": views}
        cache = place.directory(f"latents {run.data} {Path(checkpoint).name}", stored)
        recipe["cache"] = {"directory": str(cache), "views": views}
    _train(ModelRecipe.model_validate({**recipe, "out": str(out)}), out, place)
    return out


def log(directory: Path, kind: str) -> list[dict[str, float]]:
    """The lines of a run's log of one kind, "train" or "validation"."""
    text = (directory / "log.jsonl").read_text(encoding="utf-8")
    return [line for line in map(json.loads, text.splitlines()) if line["kind"] == kind]


def finished(directory: Path, recipe: TrainRecipe) -> bool:
    """Whether the run is there and has done all its steps."""
    try:
        before = yaml.safe_load((directory / RECIPE).read_text(encoding="utf-8"))
    except OSError:
        return False
    done = RunDirectory(directory).steps()
    return bool(done) and done[-1] >= recipe.steps == before["steps"]


def _train(recipe: TrainRecipe, out: Path, place: Place) -> None:
    # The check without the lock: most of the time there is nothing to do.
    if finished(out, recipe):
        return
    with locked(out):
        if finished(out, recipe):
            return
        if isinstance(recipe, ModelRecipe) and recipe.cache is not None:
            with locked(Path(recipe.cache.directory)):
                _open_cache(recipe, place)
        from flexvar.training.train import train

        train(recipe, resume=True, device=place.device, say=lambda line: _say(out.name, line))


def _open_cache(recipe: ModelRecipe, place: Place) -> None:
    """Make the cache of latents unless it is there: two runs may start together."""
    from accelerate import Accelerator

    from flexvar.ops.precision import parse_device
    from flexvar.training.latents import KEY
    from flexvar.training.model_stage import ModelStage

    assert recipe.cache is not None
    if not (Path(recipe.cache.directory) / KEY).is_file():
        accelerator = Accelerator(cpu=parse_device(place.device).type == "cpu")
        ModelStage(recipe, recipe.batch_size).place(accelerator)


def _say(name: str, line: str) -> None:
    if line.startswith(("going on", "finished")):
        print(f"{name}: {line}", flush=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else, in any process, is between here and there for the same path."""
    try:
        import fcntl
    except ImportError:
        raise FlexvarError(
            "The ablation locks its run directories with fcntl, which this system does not have; "
            "run it on Linux or macOS."
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.parent / f".{path.name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
