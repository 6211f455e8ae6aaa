"""The directory of a run: checkpoints that are whole or not there, logs, pictures."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from flexvar.errors import CheckpointError, FlexvarError
from flexvar.training.recipe import TrainRecipe

STATE, BEST, RECIPE, LOG = "state.pt", "best.json", "recipe.yaml", "log.jsonl"
FORMAT = 1
# What may change when a run goes on: nothing that the weights depend on but its length.
FREE = frozenset(
    {
        "out", "steps", "stop_after", "batch_size", "accumulate", "workers", "log_every",
        "validate_every", "sample_every", "save_every", "keep", "validation_images",
        "tensorboard", "patience", "presets", "sample_labels", "samples_per_label", "start_from",
    }
)  # fmt: skip


class RunDirectory:
    """Where a run lives: the pipeline it makes, ``checkpoints/``, ``samples/``, ``log.jsonl``.

    Only the main process writes.
    """

    def __init__(self, path: str | Path, *, write: bool = True) -> None:
        self.path = Path(path).expanduser()
        self.write = write
        self.checkpoints = self.path / "checkpoints"

    def create(self) -> None:
        """Make the directories, and remove what a killed run left half written."""
        if not self.write:
            return
        try:
            for folder in (self.path, self.checkpoints, self.path / "samples"):
                folder.mkdir(parents=True, exist_ok=True)
            for left in self.checkpoints.glob(".*.tmp"):
                shutil.rmtree(left, ignore_errors=True)
        except OSError as error:
            raise FlexvarError(f"Cannot write to {self.path}: {error.strerror or error}.") from None

    def steps(self) -> list[int]:
        """The steps of all checkpoints, in rising order."""
        if not self.checkpoints.is_dir():
            return []
        names = [re.fullmatch(r"step-(\d+)", entry.name) for entry in self.checkpoints.iterdir()]
        return sorted(int(match[1]) for match in names if match)

    def folder(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.checkpoints / f"step-{step:08d}"

    def save(self, state: Mapping[str, Any], *, keep: int) -> Path:
        """Write a checkpoint and let go of older ones; whole or not there, whenever it stops.

        Raises `CheckpointError` if it cannot be written; the earlier ones are untouched then.
        """
        step = int(state["step"])
        target = self.folder(step)
        temporary = self.checkpoints / f".step-{step:08d}.tmp"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            with open(temporary / STATE, "wb") as file:
                torch.save(dict(state), file)
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                shutil.rmtree(target)
            os.replace(temporary, target)
        except (OSError, RuntimeError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            kept = self.steps()
            have = f" The checkpoint of step {kept[-1]} is whole." if kept else ""
            raise CheckpointError(
                f"Cannot write the checkpoint {target}: {_reason(error)}.{have} Free some room, "
                "then go on with --resume."
            ) from None
        best = self.best()
        for old in self.steps()[:-keep]:
            if best is None or old != best["step"]:
                shutil.rmtree(self.folder(old), ignore_errors=True)
        return target

    def load(self, step: int) -> dict[str, Any]:
        """The state of a checkpoint. Raises `CheckpointError` if it cannot be read."""
        path = self.folder(step) / STATE
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(
                f"{path} cannot be read ({str(error).splitlines()[0]}); delete "
                f"{path.parent} to go on from the one before it."
            ) from None
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise CheckpointError(f"{path} is no training state of this version of flexvar.")
        return state

    def best(self) -> dict[str, Any] | None:
        """``{"step": ..., "value": ...}`` of the best checkpoint so far."""
        try:
            return dict(json.loads((self.checkpoints / BEST).read_text()))
        except (OSError, ValueError):
            return None

    def set_best(self, step: int, value: float) -> None:
        """Remember which checkpoint is the best."""
        self._text(self.checkpoints / BEST, json.dumps({"step": step, "value": value}) + "\n")

    def write_recipe(self, recipe: TrainRecipe) -> None:
        """Keep the recipe beside what it made."""
        text = yaml.safe_dump(recipe.model_dump(mode="json", exclude_none=True), sort_keys=False)
        self._text(self.path / RECIPE, text)

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append a line of JSON to the log."""
        if self.write:
            with open(self.path / LOG, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def trim_log(self, step: int) -> None:
        """Drop the lines after a step: a run that goes on writes them again."""
        path = self.path / LOG
        if not (self.write and path.is_file()):
            return
        lines = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    lines.append(line + "\n")
            except (ValueError, KeyError):
                continue  # half a line of a run that was killed
        self._text(path, "".join(lines))

    def save_picture(self, image: Image.Image, step: int) -> None:
        """Keep the pictures of a step."""
        image.save(self.path / "samples" / f"step-{step:08d}.png")

    def _text(self, path: Path, text: str) -> None:
        if not self.write:
            return
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)


def check_same(recipe: TrainRecipe, before: Mapping[str, Any], images_per_step: int) -> None:
    """Raise `FlexvarError` naming what differs unless a run can go on with this recipe.

    before: a state, whose ``recipe`` is JSON.
    """
    now, then = (
        _flat(data) for data in (recipe.model_dump(mode="json"), json.loads(before["recipe"]))
    )
    rows = [
        f"  {key}: was {then.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(now.keys() | then.keys())
        if key.split(".")[0] not in FREE and now.get(key) != then.get(key)
    ]
    if before["images_per_step"] != images_per_step:
        rows.append(
            f"  images per step over all processes: was {before['images_per_step']}, is "
            f"{images_per_step}"
        )
    if rows:
        raise FlexvarError(
            "The run cannot go on with another recipe:\n" + "\n".join(rows) + "\nTake the old "
            "values, or start a new run with another --out (start_from takes over weights)."
        )


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            result |= _flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().splitlines()[0]
