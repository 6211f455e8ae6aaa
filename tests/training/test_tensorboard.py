"""What a run writes for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flexvar.training import train
from flexvar.training.guard import Interrupted

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def steps_of(directory: Path) -> list[int]:
    events = event_accumulator.EventAccumulator(str(directory))
    events.Reload()
    return [event.step for event in events.Scalars("train/loss")]


def test_going_on_from_before_the_last_logged_step_doubles_none(
    tmp_path: Path, tokenizer_recipe: Any
) -> None:
    options: dict[str, Any] = {"tensorboard": True, "log_every": 1, "steps": 6}
    with pytest.raises(Interrupted):
        train(tokenizer_recipe(tmp_path, stop_after=2, **options), device="cpu", say=str)
    with pytest.raises(Interrupted):
        train(tokenizer_recipe(tmp_path, stop_after=2, **options), resume=True, device="cpu",
              say=str)  # fmt: skip
    # As of a run that was killed after step 4, before it was saved.
    (last,) = (tmp_path / "checkpoints").glob("*4")
    (last / "state.pt").unlink()
    train(tokenizer_recipe(tmp_path, **options), resume=True, device="cpu", say=str)
    assert steps_of(tmp_path / "tensorboard") == [1, 2, 3, 4, 5, 6]
