"""The directory of a run: checkpoints that are whole or not there, logs, pictures."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from flexvar.errors import CheckpointError, FlexvarError
from flexvar.files import UnwritableError, sweep, whole_file, whole_folder
from flexvar.training.lock import held
from flexvar.training.recipe import TrainRecipe

STATE, BEST, RECIPE, LOG = "state.pt", "best.json", "recipe.yaml", "log.jsonl"
FORMAT = 1
LEFT_BEHIND = re.compile(r"\.(step-\d+(\.png)?|best\.json|recipe\.yaml|log\.jsonl)\.tmp")


class UnreadableStateError(CheckpointError):
    """A checkpoint that is truncated, damaged or not there."""


class RunDirectory:
    """Where a run lives: the pipeline it makes, ``checkpoints/``, ``samples/``, ``log.jsonl``.

    Only the main process writes.
    """

    def __init__(self, path: str | Path, *, write: bool = True) -> None:
        self.path = Path(path).expanduser()
        self.write = write
        self.checkpoints = self.path / "checkpoints"

    def check(self, *, resume: bool) -> None:
        """Raise `FlexvarError` if no run can be here: before anything expensive is built."""
        place = self.path
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir():
            raise FlexvarError(f"out: {place} is a file; name a directory for the run.")
        known = self.steps()
        if known and not resume:
            raise FlexvarError(
                f"{self.path} already holds a run, at step {known[-1]}. Go on with --resume, "
                "or choose another --out."
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out of the directory while the block runs, see `flexvar.training.lock`.

        Raises `FlexvarError` naming who is in it already.
        """
        if not self.write:
            yield
            return
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
        with held(self.path):
            yield

    def create(self) -> None:
        """Make the directories, and remove what a killed run left half written."""
        if not self.write:
            return
        with self._writing():
            for folder in (self.path, self.checkpoints, self.path / "samples"):
                folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.path, self.checkpoints, self.path / "samples"):
                sweep(folder)
                for left in folder.glob(".*.tmp"):  # names of earlier versions
                    if LEFT_BEHIND.fullmatch(left.name) and left.is_dir():
                        shutil.rmtree(left, ignore_errors=True)
                    elif LEFT_BEHIND.fullmatch(left.name):
                        left.unlink(missing_ok=True)

    def steps(self) -> list[int]:
        """The steps of all checkpoints, in rising order."""
        if not self.checkpoints.is_dir():
            return []
        # A run that was killed while it let go of one leaves an empty folder.
        names = [
            re.fullmatch(r"step-(\d+)", entry.name)
            for entry in self.checkpoints.iterdir()
            if (entry / STATE).exists()
        ]
        return sorted(int(match[1]) for match in names if match)

    def folder(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.checkpoints / f"step-{step:08d}"

    def save(self, state: Mapping[str, Any], *, keep: int) -> Path:
        """Write a checkpoint and let go of older ones; whole or not there, whenever it stops.

        A checkpoint of that step that is there already stays until the new one takes its place.
        Raises `CheckpointError` if it cannot be written; the earlier ones are untouched then.
        """
        step = int(state["step"])
        target = self.folder(step)
        try:
            with whole_folder(target) as made, open(made / STATE, "wb") as file:
                torch.save(dict(state), file)
                file.flush()
                os.fsync(file.fileno())
        except (UnwritableError, RuntimeError) as error:
            raise CheckpointError(
                f"Cannot write the checkpoint {target}: {self._reason(error)}.{self.whole()}"
            ) from None
        best = self.best()
        for old in self.steps()[:-keep]:
            if best is None or old != best["step"]:
                shutil.rmtree(self.folder(old), ignore_errors=True)
        return target

    def load(self, step: int) -> dict[str, Any]:
        """The state of a checkpoint.

        Raises `UnreadableStateError` if it cannot be read, `CheckpointError` if it is another
        version's.
        """
        path = self.folder(step) / STATE
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise UnreadableStateError(
                f"{path} cannot be read ({(str(error) or type(error).__name__).splitlines()[0]})"
            ) from None
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise CheckpointError(f"{path} is no training state of this version of flexvar.")
        return state

    def load_latest(self, say: Callable[[str], None]) -> tuple[dict[str, Any] | None, list[int]]:
        """The latest state that can be read, None without any, and the steps that cannot be.

        Each of those is said. Raises `CheckpointError` if there are checkpoints but none can be
        read: a run that begins afresh over them would lose what may still be saved by hand.
        """
        unreadable: list[int] = []
        known = self.steps()
        for step in reversed(known):
            try:
                state = self.load(step)
            except UnreadableStateError as error:
                unreadable.append(step)
                say(f"Warning: {error}; trying the checkpoint before it.")
                continue
            return state, unreadable
        if known:
            raise CheckpointError(
                f"None of the {len(known)} checkpoints in {self.checkpoints} can be read. Start "
                "again with another --out."
            )
        return None, []

    def set_aside(self, step: int) -> None:
        """Rename a checkpoint that cannot be read, so that it counts as none."""
        if self.write:
            place = self.checkpoints / f"unreadable-{self.folder(step).name}"
            with self._writing():
                if place.exists():
                    shutil.rmtree(place)
                self.folder(step).rename(place)

    def best(self) -> dict[str, Any] | None:
        """``{"step": ..., "value": ...}`` of the best checkpoint so far."""
        try:
            return dict(json.loads((self.checkpoints / BEST).read_text()))
        except (OSError, ValueError):
            return None

    def set_best(self, step: int, value: float) -> None:
        """Remember which checkpoint is the best."""
        self._text(self.checkpoints / BEST, json.dumps({"step": step, "value": value}) + "\n")

    def forget_best(self) -> None:
        """No checkpoint is the best one."""
        if self.write:
            (self.checkpoints / BEST).unlink(missing_ok=True)

    def write_recipe(self, recipe: TrainRecipe) -> None:
        """Keep the recipe beside what it made."""
        text = yaml.safe_dump(recipe.model_dump(mode="json", exclude_none=True), sort_keys=False)
        self._text(self.path / RECIPE, text)

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append a line of JSON to the log."""
        if self.write:
            with self._writing(), open(self.path / LOG, "a", encoding="utf-8") as file:
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
        path = self.path / "samples" / f"step-{step:08d}.png"
        with self._writing(), whole_file(path) as temporary:
            image.save(temporary, format="PNG")

    def _text(self, path: Path, text: str) -> None:
        if not self.write:
            return
        with self._writing(), whole_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what the system says into a `CheckpointError` that says what is whole."""
        try:
            yield
        except UnwritableError as error:
            raise CheckpointError(
                f"Cannot write to {self.path}: {error.reason}.{self.whole()}"
            ) from None
        except OSError as error:
            raise CheckpointError(
                f"Cannot write to {self.path}: {self._reason(error)}.{self.whole()}"
            ) from None

    def whole(self) -> str:
        """What is left after a failed write, and what to do, as sentences after a message."""
        known = self.steps()
        have = f" The checkpoint of step {known[-1]} is whole." if known else ""
        return f"{have} Free some room or choose another place, then go on with --resume."

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, UnwritableError):
            return error.reason
        # torch hides a failed write behind an internal check of its own.
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and cause.strerror:
                return cause.strerror
            cause = cause.__context__
        return str(error).strip().splitlines()[0]
