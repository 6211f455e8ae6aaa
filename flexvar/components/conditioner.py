"""What a conditioner must do: labels, prompts or pictures -> the vectors a model reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from flexvar.config import ComponentConfig
from flexvar.errors import FlexvarError
from flexvar.values import whole


@dataclass(frozen=True, slots=True)
class Condition:
    """What a model is conditioned on; D is the backbone's width.

    pooled_BD: one vector per image, for AdaLN and the first token. tokens_BTD: a sequence that
    cross-attention reads, if there is one. mask_BT: bool, True where there is a token; None is
    everywhere.
    """

    pooled_BD: Tensor
    tokens_BTD: Tensor | None = None
    mask_BT: Tensor | None = None


class FrozenEncoder(NamedTuple):
    """A network that features come from and that is no part of a checkpoint.

    source: its name or directory. size: bytes of its weights in memory; None if that cannot be
    told here. released: whether they are given back before the model runs.
    """

    source: str
    size: int | None
    released: bool


@runtime_checkable
class Conditioner(Protocol):
    """What an image is to be of -> `Condition`. An ``nn.Module``.

    ``gives`` is ``{"pooled"}``, or ``{"pooled", "tokens"}`` if it gives a sequence too.
    ``collate`` makes batch-first tensors (one, or a tuple of them) of one value per image on the
    CPU; None is no condition; it raises a `FlexvarError` for a value it does not know. ``null``
    gives inputs of the same shapes without a condition in any row, the same whatever it is made
    of. Neither touches a weight, so that both work while the weights are sharded. ``forward``
    takes what either of them gave, on the model's device.

    Optional: ``takes``, what the values are: "label" (class numbers or names), "prompt" (words),
    "image" or "nothing" - training takes them from the data by it, and a user who gives the wrong
    kind is told so; without it anything goes to ``collate``. ``state_name``, the name of its
    weights in a checkpoint, "conditioner" unless given. ``initialise()``, called once when a model
    is made with fresh weights. ``settled(config, facts)``, a class method: the options with
    everything that a checkpoint has to record filled in. ``encoder()``, the `FrozenEncoder` that it
    has beside its weights, or None, for plans of memory. ``contract_values``, two values - or a
    function of the ``Config`` that gives them - to try it with, for one that takes neither labels
    nor words.
    """

    Config: ClassVar[type[ComponentConfig]]
    gives: ClassVar[frozenset[str]]

    def collate(self, values: Sequence[Any]) -> Any: ...

    def null(self, inputs: Any) -> Any: ...

    def forward(self, inputs: Any) -> Condition: ...


def each(function: Callable[..., Tensor], *inputs: Any) -> Any:
    """A function over the tensors of a conditioner's inputs, which are one tensor or a tuple."""
    if isinstance(inputs[0], tuple):
        return tuple(function(*parts) for parts in zip(*inputs, strict=True))
    return function(*inputs)


def rows(inputs: Any) -> int:
    """How many images a conditioner's inputs are for."""
    first: Tensor = inputs[0] if isinstance(inputs, tuple) else inputs
    return len(first)


def takes(conditioner: object) -> str | None:
    """What the values of a conditioner are, "label", "prompt", "image" or "nothing"; None: unsaid.

    It may be a class.
    """
    found: str | None = getattr(conditioner, "takes", None)
    return found


def class_number(label: Any, count: int, names: Sequence[str] | None) -> int:
    """The number of a class given as a number or name, or None for no class: ``count``.

    A name may list synonyms, ``tench, Tinca tinca``: each of them will do, in any case, where it
    is one class's alone.
    Raises `FlexvarError` for a class there is not, with the nearest name.
    """
    if label is None:
        return count
    if isinstance(label, str) and names is not None and label in names:
        return names.index(label)
    if isinstance(label, str) and re.fullmatch(r"-?[0-9]{1,18}", label):
        label = int(label)
    if isinstance(label, str):
        if names is None:
            raise FlexvarError(
                f"label: got {label!r}; this model has no class names, only the numbers 0 to "
                f"{count - 1}."
            )
        wanted = " ".join(label.split()).casefold()
        synonyms = [[part.strip().casefold() for part in (n, *n.split(","))] for n in names]
        found = [number for number, called in enumerate(synonyms) if wanted in called]
        if len(found) == 1:
            return found[0]
        if found:
            choices = ", ".join(f"{number} ({names[number]})" for number in found)
            raise FlexvarError(f"label: {label!r} is a name of several classes; say {choices}.")
        words = {word: names[number] for number, own in enumerate(synonyms) for word in own}
        near = [words[word] for word in get_close_matches(wanted[:100], words, n=1)]
        hint = f" Did you mean {near[0]!r}?" if near else ""
        some = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise FlexvarError(f"label: there is no class {label!r}.{hint} Classes: {some}.")
    number = whole("label", label)
    if not 0 <= number < count:
        raise FlexvarError(f"label: got {label}; this model has {count} classes, 0 to {count - 1}.")
    return number
