"""Fine-tuning: what a run takes over of the model that it starts from, and what begins anew."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor

from flexvar.build import Parts
from flexvar.checkpoint import CheckpointConfig, load_weights
from flexvar.checkpoint import load as load_checkpoint
from flexvar.config import ComponentSpec
from flexvar.errors import FlexvarError
from flexvar.model import NextScaleModel
from flexvar.training.recipe import ModelRecipe

# How much alike two names have to be, of 1, to be taken for one with a slip or an ending.
ALIKE = 0.8


@dataclass(frozen=True)
class Base:
    """The model that a run starts from. source: what the recipe calls it."""

    source: str
    config: CheckpointConfig
    parts: Parts

    @property
    def model(self) -> NextScaleModel:
        """Its prediction model."""
        assert self.parts.model is not None
        return self.parts.model


def load_base(source: str) -> Base:
    """The model of a checkpoint. Raises `FlexvarError` for a tokenizer alone."""
    config, parts = load_checkpoint(source)
    if parts.model is None:
        raise FlexvarError(f"start_from: {source} is a tokenizer alone.")
    return Base(source, config, parts)


def completed(recipe: ModelRecipe, base: Base) -> ModelRecipe:
    """The recipe with what it leaves open as the model has it: parts, size, steps, presets."""
    model, trained, given = base.config.model, base.config.trained, recipe.model_fields_set
    update: dict[str, object] = {}
    if recipe.tokenizer is None:
        update["tokenizer"] = base.source
    if recipe.backbone is None:
        update["backbone"] = model.backbone
        for part in ("position", "schedule", "conditioner"):
            if part not in given and part in ModelRecipe.model_fields:
                update[part] = getattr(model, part)
    if "training_schedule" not in given:
        steps = trained.steps if trained is not None else None
        if steps is not None and steps[0] < steps[1]:
            update["training_schedule"] = ComponentSpec.model_validate(
                {"name": "random", "steps": steps[1], "drop": 0.15}
            )
        else:
            update["training_schedule"] = model.schedule
    if not recipe.presets:
        update["presets"] = dict(base.config.presets)
    if "size" not in recipe.data.model_fields_set and trained is not None:
        update["data"] = recipe.data.model_copy(update={"size": trained.size})
    return recipe.model_copy(update=update)


@torch.no_grad()
def take_over(model: NextScaleModel, base: Base, names: Sequence[str]) -> list[str]:
    """Put the base's weights into a fresh model, and say what they are.

    names: of the model's classes. A class of the base's conditioner that has the name, or nearly,
    is where a class starts from; any other starts from the mean of all. With the same classes the
    model is the base, to the bit.
    Raises `FlexvarError` if the models differ in more than their classes.
    """
    weights = dict(base.model.state_dict())
    table = f"{model._conditioner}.weight"
    state = model.state_dict()
    wanted, found = state.get(table), weights.get(table)
    lines = []
    before = base.config.model.class_names
    labels = wanted is not None and found is not None and wanted.ndim == found.ndim == 2
    if labels and tuple(before or ()) != tuple(names):
        assert wanted is not None
        assert found is not None
        if before is None and len(wanted) == len(found):
            lines.append(f"classes: those of {base.source}, by number, as it names none")
        elif wanted.shape[1] == found.shape[1]:
            sources = [nearest_name(name, before or ()) for name in names]
            weights[table] = _rows(found, [None if s is None else (before or ()).index(s)
                                           for s in sources])  # fmt: skip
            lines += _say(base.source, names, sources)
    # What a text conditioner keeps of its class names is made from them, and no weight.
    kept = f"{model._conditioner}."
    weights = {n: w for n, w in weights.items() if n in state or not n.startswith(kept)}
    weights |= {n: b for n, b in model.named_buffers() if n.startswith(kept) and n in state}
    load_weights(model, weights, f"start_from ({base.source})")
    return [*lines, f"all other weights start as those of {base.source}"] if lines else [
        f"all weights start as those of {base.source}"
    ]  # fmt: skip


def _rows(table_VD: Tensor, sources: Sequence[int | None]) -> Tensor:
    """A row per class, that of its source or the mean of all, and the null label's at the end."""
    mean_D = table_VD[:-1].mean(dim=0)
    rows = [mean_D if source is None else table_VD[source] for source in sources]
    return torch.stack([*rows, table_VD[-1]]).clone()


def nearest_name(name: str, known: Sequence[str]) -> str | None:
    """The known name that means the same: equal but for case, part of it, or nearly equal."""
    plain = {_plain(one): one for one in reversed(known)}
    wanted = _plain(name)
    if wanted in plain:
        return plain[wanted]
    words = set(wanted.split())
    within = [one for text, one in plain.items() if text and set(text.split()) <= words]
    within += [one for text, one in plain.items() if words and words <= set(text.split())]
    if within:
        return within[0]
    near = get_close_matches(wanted, list(plain), n=1, cutoff=ALIKE)
    return plain[near[0]] if near else None


def _plain(name: str) -> str:
    return " ".join(re.findall(r"\w+", name.casefold().replace("_", " ")))


def _say(source: str, names: Sequence[str], sources: Sequence[str | None]) -> list[str]:
    kept = [
        one if one == before else f"{one} (from {before})"
        for one, before in zip(names, sources, strict=True)
        if before is not None
    ]
    fresh = [one for one, before in zip(names, sources, strict=True) if before is None]
    lines = []
    if kept:
        lines.append(f"classes that start from one of {source}: {', '.join(kept)}")
    if fresh:
        lines.append(f"classes that start from the mean of all of {source}: {', '.join(fresh)}")
    return lines
