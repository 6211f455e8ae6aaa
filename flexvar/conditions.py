"""What a user asks images to be of: labels or prompts -> the values that a conditioner collates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from flexvar.components.conditioner import class_number, takes
from flexvar.errors import FlexvarError
from flexvar.values import plain


def class_numbers(labels: Any, count: int, names: Sequence[str] | None) -> list[int]:
    """Class numbers of labels given as numbers, names or None (the null label, ``count``).

    Raises `FlexvarError` for a class there is not, with the nearest name.
    """
    labels = plain(labels)
    many = isinstance(labels, Iterable) and not isinstance(labels, str)
    listed = list(labels) if many else [labels]
    if not listed:
        raise FlexvarError("labels: there is none; give a class number or name per image.")
    return [class_number(label, count, names) for label in listed]


def values(
    conditioner: object, labels: Any, prompts: Any, count: int, names: Sequence[str] | None
) -> list[Any]:
    """What images are to be of, a value each; see `flexvar.session.Session.values`."""
    kind = takes(conditioner)
    if labels is not None and prompts is not None:
        raise FlexvarError(
            f"labels ({_shown(labels)}) and prompts ({_shown(prompts)}) are two names for what "
            "images are to be of; give one of them."
        )
    if labels is None and prompts is None:
        return [None]
    if kind == "label":
        if prompts is not None:
            some = ", ".join((names or [])[:10]) or f"the numbers 0 to {count - 1}"
            raise FlexvarError(
                f"prompts: got {_shown(prompts)}; this model knows classes, not words. Give "
                f"labels instead ({some}{', ...' if names and len(names) > 10 else ''})."
            )
        found = class_numbers(labels, count, names)
        return [None if number == count else number for number in found]
    given = _listed(prompts if labels is None else labels)
    if not given:
        raise FlexvarError("prompts: there is none; give what each image is to be of.")
    if kind == "prompt" and labels is not None:
        if names is None:
            raise FlexvarError(
                f"labels: got {_shown(labels)}; this model is conditioned on words and has no "
                'classes. Give prompts instead, for example prompts=["a cat"].'
            )
        try:
            numbers = [class_number(label, count, names) for label in given]
        except FlexvarError as error:
            raise FlexvarError(f"{error} Words of any other kind go into prompts.") from None
        return [None if number == count else names[number] for number in numbers]
    if kind == "nothing" and any(value is not None for value in given):
        raise FlexvarError(
            f"{'labels' if prompts is None else 'prompts'}: got "
            f"{_shown(labels if prompts is None else prompts)}; this model was trained without any "
            "condition. Leave them out."
        )
    return given


def negatives(given: Sequence[Any], count: int) -> list[Any]:
    """One negative prompt per image, of one or as many. Raises `FlexvarError` otherwise."""
    if len(given) not in (1, count):
        raise FlexvarError(f"negative: {len(given)} for {count} images; give one, or one each.")
    return list(given) * (count // len(given))


def named(conditioner: object, given: Sequence[Any], names: Sequence[str] | None) -> dict[str, Any]:
    """What images are of, for their settings: labels, or prompts."""
    if takes(conditioner) == "label":
        return {"labels": [None if v is None else names[v] if names else v for v in given]}
    return {"prompts": [_described(value) for value in given]}


def named_negative(negative: Any) -> dict[str, Any]:
    """The negative prompts, for the settings; nothing without any."""
    if negative is None:
        return {}
    return {"negative": [_described(value) for value in _listed(negative)]}


def _described(value: Any) -> Any:
    """A value as it stands in the settings of a picture; a digest of what is no text."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    tensor = value if isinstance(value, Tensor) else None
    data = tensor.detach().cpu().float().numpy().tobytes() if tensor is not None else None
    if data is None:
        data = value.tobytes() if hasattr(value, "tobytes") else str(value).encode()
    shape = "x".join(map(str, getattr(value, "shape", getattr(value, "size", ())) or ()))
    return f"{type(value).__name__.lower()} {shape} {hashlib.sha256(data).hexdigest()[:12]}"


def _listed(given: Any) -> list[Any]:
    """One value alone, or each of several."""
    return list(given) if isinstance(given, list | tuple | range) else [given]


def _shown(given: Any) -> str:
    text = ", ".join(str(_described(value)) for value in _listed(given))
    return text if len(text) <= 80 else text[:77] + "..."


def caption_of(value: Any, names: Sequence[str] | None) -> str:
    """What stands below a picture of a condition: a class by its first name, words, or nothing."""
    if isinstance(value, str):
        return " ".join(value.split())
    if value is None or isinstance(value, bool) or not isinstance(value, int):
        return ""
    return names[value].partition(",")[0] if names and 0 <= value < len(names) else str(value)
