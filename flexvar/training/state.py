"""What a checkpoint holds of a run, and how a run takes it over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from flexvar.errors import FlexvarError
from flexvar.text import printable
from flexvar.training.recipe import TrainRecipe
from flexvar.training.run import FORMAT
from flexvar.training.stage import full_tensors
from flexvar.training.words import some

if TYPE_CHECKING:
    from flexvar.training.loop import Loop

# What may change when a run goes on: nothing that the weights depend on but its length.
FREE = frozenset(
    {
        "out", "steps", "stop_after", "batch_size", "accumulate", "workers", "log_every",
        "validate_every", "sample_every", "save_every", "keep", "validation_images",
        "tensorboard", "tracker", "tracker_project",
        "memorisation", "patience", "presets", "sample_labels", "samples_per_label", "start_from",
    }
)  # fmt: skip


def state_of(loop: Loop) -> dict[str, Any]:
    """All that a run needs to go on; every process has to ask.

    What is random in a step follows from seed and step, and so do the batches.
    """
    stage = loop.stage
    return {
        "format": FORMAT,
        "stage": stage.name,
        "step": loop.step,
        "recipe": stage.recipe.model_dump_json(),
        "images_per_step": loop.images_per_step,
        "classes": list(stage.train_data.class_names),
        "pictures": len(stage.train_data),
        "best": loop.best,
        "best_step": loop.best_step,
        "players": {name: p.state(loop.accelerator) for name, p in stage.players.items()},
        "ema": None if loop.ema is None else full_tensors(loop.ema.weights),
        "more": stage.state(),
    }


def take_over(loop: Loop, state: Mapping[str, Any]) -> None:
    """Bring a run to where it was.

    Raises `FlexvarError` if the state is of the other stage, recipe, classes or tokenizer.
    """
    stage = loop.stage
    if state["stage"] != stage.name:
        raise FlexvarError(
            f"{loop.run.path} holds a run of stage {state['stage']}, not {stage.name}; "
            "choose another --out."
        )
    check_same(stage.recipe, state, loop.images_per_step)
    if (before := json.loads(state["recipe"])["steps"]) != stage.recipe.steps:
        now = stage.recipe.steps
        loop.say(f"steps: {before} before, {now} now; the learning rate follows the new number")
    _check_data(loop, state)
    stage.load_state(state["more"])
    for name, player in stage.players.items():
        player.load(state["players"][name], loop.accelerator)
    if loop.ema is not None:
        loop.ema.load(state["ema"])
    loop.step = int(state["step"])
    _take_over_best(loop, state["best"], state.get("best_step"))


def _check_data(loop: Loop, state: Mapping[str, Any]) -> None:
    data = loop.stage.train_data
    if (classes := _classes(state)) not in (None, list(data.class_names)):
        raise FlexvarError(
            f"The run cannot go on with other classes: there were {len(classes)} "
            f"({some(classes)}), now {data.num_classes} ({some(data.class_names)}). Bring the "
            "old ones back, or start a new run with another --out."
        )
    if (pictures := state.get("pictures")) not in (None, len(data)):
        loop.say(
            f"Warning: there were {pictures} pictures to train on, now there are {len(data)}; "
            "the run goes on with these, but not as it would have."
        )


def _classes(state: Mapping[str, Any]) -> list[str] | None:
    """The classes of a state; names that are no text are as they can be shown since."""
    found = state.get("classes")
    return None if found is None else [printable(name) for name in found]


def _take_over_best(loop: Loop, value: float | None, step: int | None) -> None:
    """The best checkpoint so far, if it is still there.

    The state is right: best.json may be older, if the run was killed before it was written, or
    name a checkpoint after the one that the run goes on from.
    """
    if value is not None and step in loop.run.steps():
        loop.best, loop.best_step = value, step
        loop.run.set_best(step, value)
    else:
        loop.best = loop.best_step = None
        loop.run.forget_best()


def _with_defaults(now: BaseModel, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Stored options; those that came after the run began at their defaults, as it began."""
    result = dict(stored)
    for name, option in type(now).model_fields.items():
        value = getattr(now, name)
        if name not in stored and not option.is_required():
            default = {name: option.get_default(call_default_factory=True)}
            dumped = now.model_copy(update=default).model_dump(mode="json")
            # A component is written with its options beside its name.
            result |= {name: dumped[name]} if name in dumped else {}
        elif isinstance(value, BaseModel) and isinstance(stored.get(name), Mapping):
            result[name] = _with_defaults(value, stored[name])
    return result


def check_same(recipe: TrainRecipe, before: Mapping[str, Any], images_per_step: int) -> None:
    """Raise `FlexvarError` naming what differs unless a run can go on with this recipe.

    before: a state, whose ``recipe`` is JSON.
    """
    stored = json.loads(before["recipe"])
    now = _flat(recipe.model_dump(mode="json"))
    then = _flat(_with_defaults(recipe, stored))
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
