"""What a PNG of flexvar says of how it was made -> the call that makes it again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

# What settings may ask for, as they come from a file of anybody's: pixels of a side, scales, and
# tokens of all scales (a picture of 4096 px has 65,536 at its last one).
MOST_SIDE, MOST_STEPS, MOST_TOKENS = 8192, 256, 2**18


def model_of(settings: dict[str, Any], given: str | None, picture: Path) -> str:
    """The model to load: the one given, else the recorded one if it is here.

    Nothing is looked up on a hub because a picture says so. Raises `FlexvarError` where the
    recorded model is not here.
    """
    from flexvar.checkpoint import CONFIG
    from flexvar.errors import FlexvarError
    from flexvar.locate import bundled_names
    from flexvar.text import printable

    if given is not None:
        return given
    name = settings.get("checkpoint")
    if not isinstance(name, str) or not name:
        raise FlexvarError(
            f"{picture} does not say which checkpoint made it; name one: --model DIR."
        )
    with suppress(OSError, ValueError):  # no name that the system takes
        if name in bundled_names() or (Path(name) / CONFIG).is_file():
            return name
    raise FlexvarError(
        f"{picture} was made by {printable(name, most=80)!r}, which is not here; say where it is: "
        "--model DIR."
    )


def adapters_of(settings: dict[str, Any], picture: Path) -> list[str]:
    """The adapters that a picture was made with. Raises `FlexvarError` where one is not here."""
    from flexvar.adapters import OWN_CONFIG, parse_adapter
    from flexvar.errors import FlexvarError, shown

    found = settings.get("adapters", [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise FlexvarError(f"{picture} names adapters in a way that flexvar does not.")
    for text in found:
        with suppress(OSError, ValueError, RuntimeError):  # no name that the system takes
            if (Path(parse_adapter(text)[0]).expanduser() / OWN_CONFIG).is_file():
                continue
        raise FlexvarError(
            f"{picture} was made with the adapter {shown(text)}, which is not here; say where it "
            "is: --adapter DIR:SHARE."
        )
    return found


def call_of(settings: dict[str, Any], pipe: Any, picture: Path) -> dict[str, Any]:
    """The keywords of the call that made a picture.

    Raises `FlexvarError` for an edit, whose source is not in the file, and for settings that no
    picture of flexvar has.
    """
    from flexvar.components.conditioner import takes
    from flexvar.errors import FlexvarError
    from flexvar.text import printable
    from flexvar.values import whole

    if "task" in settings:
        raise FlexvarError(
            f"{picture} is an edit ({settings['task']}); the picture it was made from is not in "
            "it. Run the edit again with its settings (seed, label, steps)."
        )
    try:
        word = "label" if takes(pipe.model.conditioner) == "label" else "prompt"
        other = {"label": "prompt", "prompt": "label"}[word]
        value = settings[word] if word in settings else settings.get(other)
        height, width = (whole("size", side) for side in settings["size"])
        steps = [(whole("steps", h), whole("steps", w)) for h, w in settings["steps"]]
        call: dict[str, Any] = {
            f"{word}s": [value],
            "size": (height, width),
            "steps": steps,
            "seed": whole("seed", settings["seed"]),
            "first_index": [whole("index", settings["index"])],
            "any_size": True,
        }
    except (KeyError, TypeError, ValueError) as error:
        why = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise FlexvarError(
            f"{picture} carries settings that are not those of a generated picture: "
            f"{printable(why.rstrip('.'), most=200)}."
        ) from None
    tokens = sum(max(0, h) * max(0, w) for h, w in steps)
    if max(height, width) > MOST_SIDE or len(steps) > MOST_STEPS or tokens > MOST_TOKENS:
        raise FlexvarError(
            f"{picture} asks for {height}x{width} pixels in {len(steps)} steps of {tokens:,} "
            f"tokens in all; at most {MOST_SIDE} pixels a side, {MOST_STEPS} steps and "
            f"{MOST_TOKENS:,} tokens are made because a picture says so."
        )
    if settings.get("negative") is not None:
        call["negative"] = settings["negative"]
    sampler = settings.get("sampler", "standard")
    chosen = pipe.chosen({"sampler": sampler})
    return call | {
        "sampler": sampler,
        **{name: settings.get(name) for name in chosen.options if settings.get(name) is not None},
    }


def differences(settings: dict[str, Any], pipe: Any) -> list[str]:
    """What is not as it was when a picture was made: weights, version, precision."""
    from flexvar import __version__

    found = []
    weights = pipe.origin.get("weights")
    if "weights" in settings and settings["weights"] != weights:
        found.append("the weights are others than those that made the picture")
    if settings.get("flexvar") != __version__:
        found.append(f"it was made by flexvar {settings.get('flexvar')}, this is {__version__}")
    dtype = str(pipe.dtype).removeprefix("torch.")
    for what, now in (("dtype", dtype), ("device", str(pipe.device))):
        if settings.get(what) not in (None, now):
            found.append(f"it was made in {what} {settings[what]}, this is {now}")
    return found
