"""Work shared out between processes: who is left behind, what is raised."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from flexvar.evaluation.processes import Died, World, launched, shared_out


def square(number: int) -> Callable[[Any], Any]:
    """Begins a worker that squares, refuses 3, and dies of 5."""

    def work(task: int) -> int:
        if task == 3:
            raise ValueError("three")
        if task == 5:
            os._exit(9)
        return task * task

    return work


def test_tasks_are_done_once_each() -> None:
    assert sorted(shared_out(square, [1, 2, 4, 6, 7], 2)) == [1, 4, 16, 36, 49]


@pytest.mark.parametrize(("tasks", "error"), [([1, 3], ValueError), ([1, 5], Died)])
def test_what_goes_wrong_is_raised_and_nobody_is_left(tasks: list[int], error: type) -> None:
    import multiprocessing

    with pytest.raises(error):
        list(shared_out(square, tasks, 2))
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("left", [{"WORLD_SIZE": "4"}, {"WORLD_SIZE": "2", "RANK": "1"}])
def test_what_is_left_of_a_launcher_counts_as_none(
    monkeypatch: pytest.MonkeyPatch, left: dict[str, str]
) -> None:
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    with launched() as world:
        assert world == World(0, 1, 0)
