"""Figures and samples go where accelerate can send them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flexvar import FlexvarError
from flexvar.training import train

tracking = pytest.importorskip("accelerate.tracking")


class Recorder(tracking.GeneralTracker):  # type: ignore[misc, name-defined]
    """Keeps what it is told."""

    name = "recorder"
    requires_logging_directory = False
    told: list[Any] = []  # noqa: RUF012

    def __init__(self, project: str) -> None:
        super().__init__()
        self.told.append(("project", project))

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.told.append(("recipe", values["steps"]))

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.told.append(("log", step, sorted(values)))

    def log_images(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.told.append(("images", step, values["samples"].ndim))

    def finish(self) -> None:
        self.told.append(("finish",))


class Failing(Recorder):
    name = "failing"

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        raise ConnectionError("no network")


def test_figures_and_samples_go_to_trackers_and_one_that_fails_ends_no_run(
    tmp_path: Path, tokenizer_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "failing", Failing)
    Recorder.told.clear()
    said: list[str] = []
    options = {"tracker": ["recorder", "failing"], "tracker_project": "mine", "steps": 2}
    train(tokenizer_recipe(tmp_path, **options), device="cpu", say=said.append)
    told = Recorder.told
    assert told.count(("project", "mine")) == 2
    assert ("recipe", 2) in told
    steps, names = (
        {t[1] for t in told if t[0] == "log"},
        {n for t in told if t[0] == "log" for n in t[2]},
    )
    assert steps == {2}
    assert {"train/loss", "validation/psnr"} <= names
    assert ("images", 2, 4) in told
    assert told[-1] == ("finish",)
    assert sum("failing cannot be written to (no network)" in line for line in said) == 1
    assert not (tmp_path / "tensorboard").exists()


def test_a_tracker_that_is_not_there_is_named(tmp_path: Path, tokenizer_recipe: Any) -> None:
    with pytest.raises(FlexvarError, match=r"there is no 'wandbb'. Did you mean 'wandb'"):
        train(tokenizer_recipe(tmp_path, tracker="wandbb"), device="cpu", say=str)
    assert tokenizer_recipe(tmp_path, tracker="none").trackers == ()
    assert tokenizer_recipe(tmp_path, tensorboard=True).trackers == ("tensorboard",)
