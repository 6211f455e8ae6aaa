"""What a user asks for, resolved: labels, sizes and steps, seeds, sampling settings, progress."""

from __future__ import annotations

import copy
import secrets
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from torch import nn

from flexvar.checkpoint import CheckpointConfig, Trained
from flexvar.components import PositionEmbedding, StepSchedule
from flexvar.editing.known import Rule
from flexvar.errors import FlexvarError, KeywordError, PluginError, shown
from flexvar.generation.choice import SamplerChoice, Wanted, of_spec
from flexvar.generation.loop import OnScale
from flexvar.generation.seeds import seed_keys
from flexvar.layout import Grid, Layout
from flexvar.model import NextScaleModel
from flexvar.plugin import Registry
from flexvar.values import plain, scalar, whole

Label = int | str | None
Steps = int | Sequence[int | tuple[int, int]]
Output = Literal["pil", "tensor"]


class Sampling(TypedDict, total=False):
    """Keywords of every call that generates, as `flexvar.Pipeline.__call__` explains them.

    The options of the sampler in force are keywords besides.
    """

    negative: Any
    sampler: Wanted | None
    preset: str | None
    seed: int | Sequence[int] | None
    first_index: int | Sequence[int]
    output: Output
    images_per_call: int | None
    on_scale: OnScale | None
    progress: bool | None
    tile: int | None


class Task(Sampling, total=False):
    """Keywords of every zero-shot task besides; `flexvar.editing.tasks` explains them."""

    prompt: Any
    steps: Steps | None
    num: int
    any_size: bool
    max_side: int


class Edit(Task, total=False):
    """Keywords of tasks with a mask besides; `flexvar.editing.tasks` explains them."""

    size: tuple[int, int] | int | None
    rule: Rule
    blend: bool
    feather: int | None


# Names that no sampler's option can have: the keywords of calls and tasks.
KEYWORDS = frozenset({*Edit.__annotations__, "labels", "label", "prompts", "image", "mask", "box"})


# Words of other libraries -> what the same is called here.
ELSEWHERE = {
    "guidance_scale": "It is called guidance here; guidance=0 is off.",
    "num_inference_steps": "It is called steps here: how many grids lead to the size.",
    "generator": "Images are made by seed=, one number or one per image.",
    "num_images_per_prompt": "It is called num here.",
    "height": "It is called size=(height, width) here.",
    "width": "It is called size=(height, width) here.",
    "output_type": "It is called output here: 'pil' or 'tensor'.",
    "class_labels": "It is called labels here.",
    "negative_prompt": "Guidance is against no condition at all.",
}


def check_keywords(
    name: str, options: Mapping[str, Any], known: Iterable[str], sampler: SamplerChoice
) -> None:
    """Raise `KeywordError` for a keyword that is none of a call's, nor an option of its sampler."""
    choices = [*known, *sampler.options]
    for option in options:
        if option not in choices:
            near = get_close_matches(option, choices, n=1)
            hint = f". Did you mean {near[0]!r}?" if near else "."
            hint = f". {ELSEWHERE[option]}" if option in ELSEWHERE else hint
            raise KeywordError(
                f"{name}() got an unexpected keyword argument {option!r}{hint} Options of the "
                f"sampler {sampler.name!r}: {', '.join(sampler.options)}."
            )


# Pixels of a side, and tokens of all scales, beyond which nothing is begun.
MOST_SIDE, MOST_TOKENS = 2**20, 2**22
# Keywords of calls that are whole numbers.
_COUNTS = ("num", "images_per_call", "tile", "feather", "max_side")


def numbers(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of a call with the counts among them as Python's own numbers; None stays.

    Raises `FlexvarError` for one that is no whole number.
    """
    given = dict(options)
    for name in _COUNTS:
        if given.get(name) is not None:
            given[name] = whole(name, given[name])
    for name in ("blend", "any_size", "progress"):
        if name in given:
            given[name] = scalar(given[name])
    return given


def sides(size: Any) -> tuple[int, int] | None:
    """A size as (height, width) in pixels: one number or two, of any library; None stays.

    Raises `FlexvarError` for anything else.
    """
    if size is None:
        return None
    size = plain(size)
    listed = [size, size] if not isinstance(size, list | tuple) else list(size)
    listed = listed * 2 if len(listed) == 1 else listed
    if len(listed) != 2:
        raise FlexvarError(f"size: got {shown(size)}; expected a number or (height, width).")
    height, width = (whole("size", side) for side in listed)
    if max(height, width) > MOST_SIDE:
        raise FlexvarError(
            f"size: got {shown(size)}; expected at most {MOST_SIDE:,} pixels a side."
        )
    return height, width


def preset(config: CheckpointConfig, name: str, registry: Registry) -> SamplerChoice:
    """The sampler and options of a checkpoint's preset.

    Raises `FlexvarError` if there is none of the name, or its sampler or options are not known.
    """
    if not isinstance(name, str):
        raise FlexvarError(f"preset: got {shown(name)}; expected a name.")
    if name in config.presets:
        return of_spec(config.presets[name], registry, path=f"presets.{name}")
    if name == "default":
        return of_spec("standard", registry)
    choices = ", ".join(sorted({"default", *config.presets}))
    raise FlexvarError(f"preset: there is no {name!r}. Presets: {choices}.")


def sampler(options: Mapping[str, Any], base: SamplerChoice, registry: Registry) -> SamplerChoice:
    """``base`` with what a call's options give instead; those that are the call's own are left.

    Raises `FlexvarError` for a sampler or an option there is not, or whose name a call has too.
    """
    taken = KEYWORDS
    given = {name: value for name, value in options.items() if name not in taken}
    result = base.changed(options.get("sampler"), given, registry)
    clashes = sorted(taken & set(result.options))
    if clashes:
        raise PluginError(
            f"sampler {result.name!r}: its options {', '.join(clashes)} are keywords of every "
            "call already; only a change of that plugin can tell them apart."
        )
    return result


def image_keys(
    seed: int | Sequence[int] | None, count: int, first_index: int | Sequence[int]
) -> list[tuple[int, int]]:
    """The key (seed, index) of each image; a seed is drawn unless given.

    first_index: of the first image, or the index of each. Raises `FlexvarError` for a list of
    another length.
    """
    seed = secrets.randbelow(2**31) if seed is None else plain(seed)
    each: list[Any] | None = None
    if isinstance(seed, Iterable) and not isinstance(seed, str):
        each = list(seed)
    first_index = plain(first_index)
    if isinstance(first_index, Sequence) and not isinstance(first_index, str):
        seeds = [seed] * count if each is None else each
        for name, found in (("first_index", first_index), ("seed", seeds)):
            if len(found) != count:
                raise FlexvarError(f"{name}: {len(found)} for {count} images; give one each.")
        pairs = zip(seeds, first_index, strict=True)
        return [(whole("seed", one), whole("first_index", index)) for one, index in pairs]
    first_index = whole("first_index", first_index)
    if each is None:
        return seed_keys(whole("seed", seed), count, first_index=first_index)
    seeds = [whole("seed", one) for one in each]
    if len(seeds) != count:
        raise FlexvarError(f"seed: {len(seeds)} seeds for {count} images.")
    return seed_keys(seeds, count, first_index=first_index)


def cells(size: tuple[int, int], stride: int) -> Grid:
    """The latent grid of a size in pixels.

    Raises `FlexvarError` for a side that is no multiple of the stride, with the two nearest.
    """
    for side in size:
        if side < 1 or side % stride:
            below, above = side // stride * stride, (side // stride + 1) * stride
            nearest = f"{below} or {above}" if below > 0 else f"{max(above, stride)}"
            raise FlexvarError(
                f"size {size[0]}x{size[1]}: {side} is no multiple of the stride {stride}; the "
                f"nearest is {nearest}."
            )
    return Grid(size[0] // stride, size[1] // stride)


def layout_of(
    last: Grid | None,
    steps: Steps | None,
    *,
    usual: Grid,
    known: Sequence[Layout],
    schedule: StepSchedule,
    stride: int,
) -> Layout:
    """The grids up to ``last`` in so many steps, or the ones given as ``steps``.

    last: None for the grid that explicit steps end at, or ``usual``. known: layouts of the
    model's own, which go before those of the schedule.
    Raises `FlexvarError` for steps that cannot be.
    """
    steps = plain(steps)
    if steps is not None and not isinstance(steps, list | tuple):
        steps = whole("steps", steps)
        if steps < 1:
            raise FlexvarError(f"steps: got {steps}; expected at least 1.")
    if steps is not None and not isinstance(steps, int):
        try:
            layout = Layout.of(*(s if isinstance(s, int) else (s[0], s[1]) for s in steps))
        except (TypeError, IndexError):
            raise FlexvarError(
                f"steps: got {shown(steps)}; expected a number, or the grids, such as 1,2,4,(4,6)."
            ) from None
        if last is not None and layout.last != last:
            raise FlexvarError(
                f"size {last.h * stride}x{last.w * stride} is a {last} latent, but steps ends at "
                f"{layout.last}."
            )
        layout.check_for_model()
        return layout
    last = last or usual
    own = [one for one in known if one.last == last]
    if own and steps in (None, len(own[0])):
        return own[0]
    return schedule.grids(last, steps=steps)


def any_layout(part: Any) -> Any:
    """A position embedding or schedule that takes any layout, if it has a way to; else itself."""
    return part.any_layout() if hasattr(part, "any_layout") else part


def model_for(model: NextScaleModel, layout: Layout) -> NextScaleModel:
    """The model, sharing its weights, with positions for a layout it may not know.

    The same object if it knows the layout, or has no way to take another.
    """
    position = cast(PositionEmbedding, model.position)
    if position.layouts is None or layout in position.layouts:
        return model
    free = any_layout(position)
    if free is position:
        return model
    result = copy.copy(model)
    # copy.copy shares the table of submodules; in a table of its own one can be another.
    result._modules = {**model._modules, "position": cast(nn.Module, free)}
    return result


def outside_training(
    layout: Layout, trained: Trained | None, stride: int, asked: Collection[str]
) -> dict[str, str]:
    """What there is to warn of, by topic: a size or number of steps the model never met.

    asked: of "size" and "steps", what was said; a default never warns, nor does a size with
    sides of half to twice those of training.
    """
    if trained is None:
        return {}
    found = {}
    height, width = (side * stride for side in layout.last)
    known = (trained.size, *(trained.other_sizes or ()))
    near = any(h <= 2 * height <= 4 * h and w <= 2 * width <= 4 * w for h, w in known)
    if "size" in asked and not near:
        found["size"] = (
            f"{height}x{width} px is far from the size this model was trained at, "
            f"{trained.size[0]}x{trained.size[1]}; quality falls with the distance, and "
            "wavy textures appear from about three times the side on."
        )
    usual = trained.steps
    if "steps" in asked and usual is not None and not usual[0] <= len(layout) <= usual[1]:
        found["steps"] = (
            f"{len(layout)} steps are outside the {usual[0]} to {usual[1]} this "
            "model was trained with."
        )
    return found


def check_tokens(layout: Layout, stride: int) -> None:
    """Raise `FlexvarError` for a layout that no memory holds, before anything is made for it."""
    if layout.tokens > MOST_TOKENS:
        height, width = (side * stride for side in layout.last)
        raise FlexvarError(
            f"size {height}x{width}: its {len(layout)} steps have {layout.tokens:,} tokens; at "
            f"most {MOST_TOKENS:,} can be. Choose a smaller size."
        )


def warn(message: str) -> None:
    """Warn at the line outside of flexvar that led here, however deep it went.

    A standard error that is closed, as in a service, is no reason to stop.
    """
    package, level, frame = str(Path(__file__).parent), 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    try:
        warnings.warn(message, stacklevel=level)
    except ValueError:
        if sys.stderr is not None and not sys.stderr.closed:
            raise


@contextmanager
def progress_bar(steps: int, wanted: bool | None) -> Iterator[Callable[[], None] | None]:
    """A bar over the scales on standard error; a function that moves it by one, or None.

    wanted: None is where there is a terminal. None comes out where there is no bar.
    """
    stream = sys.stderr
    usable = stream is not None and not stream.closed
    if not usable or not (stream.isatty() if wanted is None else wanted):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("scales"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scales", total=steps)
        yield lambda: bar.advance(task)
