"""The zero-shot tasks: the methods `flexvar.Pipeline` has beside generating.

They share these keywords. label: a class number or name, or None for no class; one for all
pictures or one each. prompt: words instead, for a model that is conditioned on them; likewise
pictures or one each. rule: which cells of a scale are generated, see
`flexvar.editing.known.cells_to_generate`; ``area`` unless given. blend: put the known pixels
back, on by default; off, the tokenizer's picture of them stays. feather: pixels of the known part
over which it fades into the generated one; by default half a latent cell, 0 is a hard edge. size:
(height, width) in pixels that the model works at, multiples of the stride; by default the
picture's own, see `flexvar.editing.canvas.model_size`. steps: as in a call. num:
results per picture. any_size: on by default, as a picture has the size it has; off, a model made
for one list of grids refuses others. max_side: longest side of a picture in pixels that is taken.
The rest - the sampler and its options, ``preset`` to ``on_scale`` - is as in a call. Results
have the size of the picture or canvas, the seeds and settings of `Pipeline.__call__`, and carry
the known tokens.

Pictures are Pillow images of any mode, paths, uint8 arrays, or tensors in [0,1]; a list, or a
(B,3,H,W) tensor, is a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from flexvar import conditions, resolve
from flexvar.components.conditioner import takes
from flexvar.editing import canvas, inputs
from flexvar.editing import known as edits
from flexvar.editing.canvas import Fill
from flexvar.editing.inputs import MAX_SIDE
from flexvar.errors import FlexvarError
from flexvar.generation.known import Known
from flexvar.layout import Grid, Layout
from flexvar.metrics import likelihood as scoring
from flexvar.resolve import Edit, Label, Steps, Task
from flexvar.result import Result, pictures
from flexvar.session import Session
from flexvar.values import whole

Labels = Label | Sequence[Label]


def inpaint(self: Session, image: Any, mask: Any, label: Labels = None, **options: Any) -> Result:
    """Pictures with new pixels where the mask is 255, of a class.

    mask: a picture, path, array or tensor of the picture's size, 255 (or True) where to
    generate; one for all pictures or one each. A mask that keeps everything gives the picture
    back, with a warning. The other keywords: see `flexvar.editing.tasks`.
    Raises `FlexvarError` for anything that cannot be.
    """
    self.check_keywords("inpaint", options, Edit.__annotations__)
    options = resolve.numbers(options)
    own, stored = inputs.read_pictures(image, options.get("max_side", MAX_SIDE))
    masks = inputs.read_masks(mask, (own.shape[-2], own.shape[-1]), len(own))
    filled = canvas.fill_in(own, masks)
    return _with_hole(self, "inpaint", own, filled, masks, label, options, stored)


def edit(
    self: Session,
    image: Any,
    box: Sequence[int] | Sequence[Sequence[int]],
    label: Labels = None,
    **options: Any,
) -> Result:
    """Pictures with something of another class in a box: class-conditional editing.

    box: (left, top, right, bottom) in pixels, as Pillow has them; one for all or one each. The
    other keywords: see `flexvar.editing.tasks`.
    Raises `FlexvarError` for anything that cannot be.
    """
    self.check_keywords("edit", options, Edit.__annotations__)
    options = resolve.numbers(options)
    own, stored = inputs.read_pictures(image, options.get("max_side", MAX_SIDE))
    masks = inputs.box_masks(box, (own.shape[-2], own.shape[-1]), len(own))
    filled = canvas.fill_in(own, masks)
    return _with_hole(self, "edit", own, filled, masks, label, options, stored)


def outpaint(
    self: Session,
    image: Any,
    ratio: float | tuple[float, float] | None = None,
    label: Labels = None,
    *,
    margins: int | tuple[int, int, int, int] | None = None,
    fill: Fill = "reflect",
    **options: Any,
) -> Result:
    """Pictures continued over their borders.

    ratio: how many times as high and as wide the result is, the picture in its centre: (1, 2) is
    twice as wide. margins: or the pixels themselves, (top, right, bottom, left) or one number.
    fill: what stands in the margins when the known part is encoded, see
    `flexvar.editing.canvas.grow`. The other keywords: see `flexvar.editing.tasks`.
    Raises `FlexvarError` for anything that cannot be, a canvas smaller than the picture too.
    """
    self.check_keywords("outpaint", options, Edit.__annotations__)
    options = resolve.numbers(options)
    max_side = options.get("max_side", MAX_SIDE)
    image_B3HW, stored = inputs.read_pictures(image, max_side)
    height, width = image_B3HW.shape[-2:]
    top, right, bottom, left = canvas.margins_of((height, width), ratio, margins)
    inputs.check_side(top + height + bottom, left + width + right, max_side, "the canvas")
    own = canvas.grow(image_B3HW, (top, right, bottom, left), fill)
    masks = torch.ones(len(own), *own.shape[-2:], dtype=torch.bool, device=own.device)
    masks[:, top : top + height, left : left + width] = False
    corner = (top, left)
    return _with_hole(self, "outpaint", own, own, masks, label, options, stored, corner)


def expand(self: Session, image: Any, label: Labels = None, **options: Any) -> Result:
    """Pictures made twice as wide, the picture in the centre (FlexVAR, arXiv 2502.20313).

    `outpaint` with the ratio (1, 2). The other keywords: see `flexvar.editing.tasks`.
    """
    self.check_keywords("expand", options, Edit.__annotations__)
    options = resolve.numbers(options)
    return outpaint(self, image, (1, 2), label, **options)


def refine(
    self: Session,
    image: Any,
    size: tuple[int, int] | int,
    label: Labels = None,
    *,
    start: int | None = None,
    encode_at: Literal["target", "own"] = "target",
    **options: Any,
) -> Result:
    """Larger pictures of small ones: coarse scales from the picture, the finer ones generated.

    size: (height, width) in pixels of the result, multiples of the stride. start: the first
    step, counted from 0, that is generated; by default the first whose grid is larger than the
    picture's own. encode_at: ``target`` encodes the picture enlarged to the result's size;
    ``own`` at its own size, as published for FlexVAR, which the residual tokenizer cannot. The
    other keywords: see `flexvar.editing.tasks`.
    Raises `FlexvarError` for a size that is not larger, or of another shape than the picture.
    """
    self.check_keywords("refine", options, Task.__annotations__)
    options = resolve.numbers(options)
    size = _sides(size)
    start = None if start is None else whole("start", start)
    max_side = options.get("max_side", MAX_SIDE)
    image_B3HW, stored = inputs.read_pictures(image, max_side)
    inputs.check_side(*size, max_side, "size")
    stride = self.tokenizer.space.stride
    any_size = options.get("any_size", True)
    height, width = image_B3HW.shape[-2:]
    _check_refined((height, width), size, stride, start)
    layout = self.layout(size, options.get("steps"), any_size=any_size)
    own = Grid(*(max(1, round(side / stride)) for side in (height, width)))
    if start is None:
        start = edits.first_larger(layout, own)
        if start == len(layout):
            raise FlexvarError(
                f"refine: {size[0]}x{size[1]} is no larger than the picture, {height}x{width}; "
                "ask for a larger size, or say at which step to start: start=3."
            )
    if not 0 < start < len(layout):
        raise FlexvarError(
            f"start: got {start}; the {len(layout)} steps {layout} can be generated from step 1 "
            f"to {len(layout) - 1} on."
        )
    if encode_at == "own":
        given = Layout(layout.grids[:start])
        maps = edits.encoder(self.tokenizer, given, self.device, own)(image_B3HW)
        edits.check_scales_stand_alone(self.tokenizer, maps, layout)
    elif encode_at == "target":
        maps = edits.encoder(self.tokenizer, layout, self.device)(image_B3HW)
    else:
        raise FlexvarError(f"encode_at: got {encode_at!r}; expected 'target' or 'own'.")
    known = edits.known_scales(maps, layout, start)
    report = {"task": "refine", "start": start, "encode_at": encode_at}
    images_B3HW, result = _run(self, layout, known, label, options, report)
    made = _pictures(images_B3HW, options, stored)
    return Result(made, *result, origin=self.origin)


def regenerate(
    self: Session,
    maps: Sequence[Tensor],
    start: int,
    label: Labels = None,
    **options: Any,
) -> Result:
    """Other pictures with the same coarse scales: those before ``start`` are kept.

    maps: token maps of a result, (B,h,w) int64 per scale. start: the first step, counted from 0,
    that is generated anew, with this call's seed. The other keywords: see
    `flexvar.editing.tasks`; the steps are those of the maps.
    Raises `FlexvarError` for a step that there is not.
    """
    self.check_keywords("regenerate", options, Task.__annotations__)
    options = resolve.numbers(options)
    start = whole("start", start)
    maps = [torch.as_tensor(map_Bhw) for map_Bhw in maps]
    layout = Layout.of(*((map_Bhw.shape[1], map_Bhw.shape[2]) for map_Bhw in maps))
    if not 0 < start < len(layout):
        raise FlexvarError(
            f"start: got {start}; of the {len(layout)} steps {layout}, 1 to {len(layout) - 1} can "
            "be the first that is generated anew."
        )
    known = edits.known_scales(tuple(m.to(self.device) for m in maps), layout, start)
    report = {"task": "regenerate", "start": start}
    images_B3HW, result = _run(self, layout, known, label, options, report)
    output = options.get("output", "pil")
    return Result(pictures(images_B3HW, output), *result, origin=self.origin)


def score(
    self: Session,
    image: Any,
    labels: Labels = None,
    *,
    prompts: Any = None,
    size: tuple[int, int] | int | None = None,
    steps: Steps | None = None,
    any_size: bool = True,
    max_side: int = MAX_SIDE,
) -> scoring.Scores:
    """Log-likelihoods of pictures, (B, classes, K) in nats: by picture, class and scale.

    labels: class numbers or names, all unless given. prompts: words instead, of a model that is
    conditioned on them: which of these is the picture of? It is the model's own distribution,
    without guidance or filters, of the tokens the tokenizer gives the picture. The other keywords:
    see `flexvar.editing.tasks`.
    """
    image_B3HW = inputs.read_images(image, max_side)
    if labels is None and prompts is None:
        if takes(self.model.conditioner) == "prompt" and self.class_names is None:
            raise FlexvarError("score: give the prompts to choose between, prompts=[...].")
        labels = list(range(self.model.num_classes))
    values = self.values(labels, prompts)
    layout = _layout(self, image_B3HW, size, steps, any_size)
    maps = edits.encoder(self.tokenizer, layout, self.device)(image_B3HW)
    model = resolve.model_for(self.model, layout) if any_size else self.model
    nats_BNK = scoring.nats(model, self.tokenizer, maps, values, layout)
    names = conditions.named(model.conditioner, values, self.class_names)
    return scoring.Scores(nats_BNK, tuple(next(iter(names.values()))), layout)


def classify(self: Session, image: Any, labels: Labels = None, **options: Any) -> Any:
    """The class under which a picture is likeliest; a list of them for a batch of pictures.

    A zero-shot classifier: `score`, which the keywords go to, summed over the scales.
    """
    best = score(self, image, labels, **options).best
    many = isinstance(image, list | tuple) or (isinstance(image, Tensor) and image.ndim == 4)
    return best if many else best[0]


def _with_hole(
    pipe: Session,
    task: str,
    own_B3HW: Tensor,
    filled_B3HW: Tensor,
    generate_BHW: Tensor,
    label: Labels,
    options: Mapping[str, Any],
    stored: Sequence[inputs.Stored | None],
    corner: tuple[int, int] = (0, 0),
) -> Result:
    """The pictures with their holes generated, at their own size, the rest put back."""
    any_size = options.get("any_size", True)
    rule, blend = options.get("rule", "area"), options.get("blend", True)
    layout = _layout(pipe, own_B3HW, options.get("size"), options.get("steps"), any_size)
    encode = edits.encoder(pipe.tokenizer, layout, pipe.device)
    known = edits.known_tokens(encode, own_B3HW, filled_B3HW, generate_BHW, layout, rule)
    if not bool(generate_BHW.any()):
        resolve.warn("The mask keeps everything: there is nothing to generate.")
    elif all(bool(keep.all()) for keep in known.keep):
        resolve.warn(
            f"Under the rule {rule!r} the mask touches too little of any cell of the latent to "
            "generate one; rule='any' would."
        )
    feather = options.get("feather")
    if feather is None:
        cell = own_B3HW.shape[-2] / layout.last.h, own_B3HW.shape[-1] / layout.last.w
        feather = max(1, round(min(cell) / 2))
    if feather < 0:
        raise FlexvarError(f"feather: got {feather}; expected pixels, 0 for a hard edge.")
    report = {"task": task, "rule": rule, "blend": blend, "feather": feather}
    images_B3HW, result = _run(pipe, layout, known, label, options, report)
    num = options.get("num", 1)
    images_B3HW = canvas.resize(images_B3HW, (own_B3HW.shape[-2], own_B3HW.shape[-1]))
    if blend:
        own, mask = (x.repeat_interleave(num, 0) for x in (own_B3HW, generate_BHW))
        own, mask = own.to(images_B3HW.device), mask.to(images_B3HW.device)
        images_B3HW = canvas.paste(own, images_B3HW, mask, feather)
    result[1]["size"] = list(images_B3HW.shape[-2:])
    known_BHW = canvas.feathered(generate_BHW, feather)[:, 0] == 0 if blend else None
    made = _pictures(images_B3HW, options, stored, known_BHW, corner)
    return Result(made, *result, origin=pipe.origin)


def _pictures(
    images_B3HW: Tensor,
    options: Mapping[str, Any],
    stored: Sequence[inputs.Stored | None],
    known_BHW: Tensor | None = None,
    corner: tuple[int, int] = (0, 0),
) -> Any:
    """What a result holds: pictures in the profiles of their own, or the tensor in sRGB."""
    made = pictures(images_B3HW, options.get("output", "pil"))
    if isinstance(made, Tensor):
        return made
    each = len(made) // len(stored)
    for place, image in enumerate(made):
        if (own := stored[place // each]) is not None:
            known_HW = None if known_BHW is None else known_BHW[place // each]
            made[place] = inputs.in_own_colors(image, own, known_HW, corner)
    return made


def _run(
    pipe: Session,
    layout: Layout,
    known: Known,
    label: Labels,
    options: Mapping[str, Any],
    report: Mapping[str, Any],
) -> tuple[Tensor, tuple[tuple[Tensor, ...], dict[str, Any], Known]]:
    """Images (B,3,H,W), and what a result says beside them: maps, settings, known tokens."""
    num, count = options.get("num", 1), len(known.maps[0])
    if num < 1:
        raise FlexvarError(f"num: got {num}; expected at least 1 image per picture.")
    values = pipe.values(label, options.get("prompt"))
    if len(values) not in (1, count):
        what = "label" if options.get("prompt") is None else "prompt"
        raise FlexvarError(
            f"{what}: {len(values)} {what}s for {count} pictures; give one, or one each."
        )
    values = [value for value in values * (count // len(values)) for _ in range(num)]
    if num > 1:
        maps, keep = (
            tuple(map_Bhw.repeat_interleave(num, 0) for map_Bhw in part)
            for part in (known.maps, known.keep)
        )
        known = Known(maps, keep)
    any_size = options.get("any_size", True)
    images_B3HW, generated, settings = pipe.sample(
        values, layout, options, known=known, any_size=any_size
    )
    return images_B3HW, (generated.maps, {**settings, **report}, known)


def _layout(
    pipe: Session,
    image_B3HW: Tensor,
    size: tuple[int, int] | int | None,
    steps: Steps | None,
    any_size: bool,
) -> Layout:
    """The layout a picture is worked on at."""
    if size is None and (steps is None or isinstance(steps, int)):
        own = image_B3HW.shape[-2], image_B3HW.shape[-1]
        size = canvas.model_size(own, pipe.size, pipe.tokenizer.space.stride)
    return pipe.layout(size, steps, any_size=any_size)


def _sides(size: Any) -> tuple[int, int]:
    """A size that has to be given, as (height, width)."""
    sides = resolve.sides(size)
    if sides is None:
        raise FlexvarError("size: got None; expected a number or (height, width).")
    return sides


def _check_refined(
    own: tuple[int, int], size: tuple[int, int], stride: int, start: int | None
) -> None:
    """Raise unless a size has the shape of the picture, and is larger if nothing else is said."""
    asked, has = (f"{height}x{width}" for height, width in (size, own))
    better = canvas.refined_size(own, size, stride)
    proposed = "" if better is None else f" {better[0]}x{better[1]} is larger and has its shape."
    if not canvas.alike(own, size, stride):
        raise FlexvarError(
            f"size: {asked} has another shape than the picture, {has}, which would be stretched;"
            f"{proposed}"
        )
    if start is None and not canvas.larger(own, size, stride):
        raise FlexvarError(
            f"refine: {asked} is no larger than the picture, {has}; ask for a larger size, or say "
            f"at which step to start: start=3.{proposed}"
        )
