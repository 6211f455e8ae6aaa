"""Checked requests -> jobs: what the worker does for each."""

from __future__ import annotations

import base64
import secrets
import warnings
from collections.abc import Callable
from typing import Any

from PIL import Image
from torch import Tensor

from flexvar.components.conditioner import takes
from flexvar.editing import known as edits
from flexvar.errors import FlexvarError
from flexvar.images import encode_png, to_tensor
from flexvar.layout import Layout
from flexvar.metrics import likelihood
from flexvar.pipeline import Pipeline
from flexvar.result import Result
from flexvar.web import requests
from flexvar.web.studio import Job, Picture, Studio, memory_mb, resized, small_file

Work = Callable[[Job], dict[str, Any]]


def generation(studio: Studio, request: requests.Generate) -> Work:
    """The work of a generation. Raises `FlexvarError` for what cannot be, before it is queued."""
    pipe = studio.pipe(request.model)
    requests.check_size(request.size)
    begun = None
    if request.start is not None:
        begun = studio.pictures.get(request.start.picture)
        if begun is None:
            raise FlexvarError("start: this picture is no longer here; make it again first.")
        if request.start.scale + 1 >= len(begun.layout):
            raise FlexvarError("start: no scale is left to generate; keep fewer of them.")
        if request.size is not None and request.size != tuple(begun.settings["size"]):
            raise FlexvarError("start: going on from a picture keeps its size.")
    layout = begun.layout if begun else pipe.layout(request.size, request.steps, warn=False)
    stride = pipe.tokenizer.space.stride
    requests.check_size((layout.last.h * stride, layout.last.w * stride))
    _check(pipe, request)

    def work(job: Job) -> dict[str, Any]:
        options = _options(pipe, request, job, layout)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if begun is None:
                options |= {_word(pipe) + "s": [request.value], "size": request.size}
                result = pipe(steps=request.steps, **options)
            else:
                assert request.start is not None
                options[_word(pipe)] = request.value
                result = pipe.regenerate(begun.maps, request.start.scale + 1, **options)
        return _kept(studio, pipe, result, layout, job)

    return work


def edit(studio: Studio, request: requests.Edit) -> Work:
    """The work of an edit. Raises `FlexvarError` for what cannot be, before it is queued."""
    pipe = studio.pipe(request.model)
    requests.check_size(request.size)
    image = requests.picture(request.image)
    mask = None if request.mask is None else requests.picture(request.mask, "mask")
    wanted = {"inpaint": mask, "edit": request.box, "outpaint": request.margins}
    if request.task in wanted and wanted[request.task] is None:
        name = {"inpaint": "mask", "edit": "box", "outpaint": "margins"}[request.task]
        raise FlexvarError(f"{name}: {request.task} needs one.")
    if request.task == "refine" and request.size is None:
        raise FlexvarError("size: refine needs one.")
    if request.margins is not None:
        top, right, bottom, left = request.margins
        requests.check_size((image.height + top + bottom, image.width + left + right))
    _check(pipe, request)

    def work(job: Job) -> dict[str, Any]:
        options = _options(pipe, request, job, None) | {"steps": request.steps}
        options[_word(pipe)] = request.value
        if request.task != "refine":
            options["size"] = request.size
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if request.task == "inpaint":
                result = pipe.inpaint(image, mask, **options)
            elif request.task == "edit":
                assert request.box is not None
                result = pipe.edit(image, request.box, **options)
            elif request.task == "outpaint":
                result = pipe.outpaint(image, margins=request.margins, **options)
            else:
                assert request.size is not None
                result = pipe.refine(image, request.size, **options)
        layout = Layout.of(*((m.shape[1], m.shape[2]) for m in result.maps))
        found = _kept(studio, pipe, result, layout, job)
        said = [str(w.message) for w in caught if "keeps everything" in str(w.message)]
        return found | {"warnings": said}

    return work


def score(studio: Studio, request: requests.Score) -> Work:
    """The work of asking what a model thinks of a picture: nats per cell, likeliest values."""
    pipe = studio.pipe(request.model)
    image = requests.picture(request.image)
    values = list(request.values)
    if not values and pipe.class_names is None:
        raise FlexvarError("values: give the prompts or classes that are to be compared.")

    def work(job: Job) -> dict[str, Any]:
        size = pipe.size
        asked: dict[str, Any] = {_word(pipe) + "s": values} if values else {}
        scores = pipe.score(resized(image, size), size=size, **asked)
        order = scores.total_BN[0].argsort(descending=True)[:10].tolist()
        listed = [
            {
                "value": scores.labels[n],
                "nats": round(float(scores.total_BN[0, n]), 2),
                "share": round(float(scores.probability_BN[0, n]), 4),
            }
            for n in order
        ]
        layout = scores.layout
        encode = edits.encoder(pipe.tokenizer, layout, pipe.device)
        maps = encode(to_tensor(resized(image, size)).add(1).div(2)[None])
        best = {_word(pipe) + "s": [scores.labels[order[0]]]}
        inputs = pipe.collate(pipe.values(**best))
        cells = likelihood.cell_nats(pipe.model, pipe.tokenizer, maps, inputs, layout)
        heat = [
            {"grid": list(grid), "nats": [[round(v, 3) for v in row] for row in cell[0].tolist()]}
            for grid, cell in zip(layout, cells, strict=True)
        ]
        return {"best": listed, "heat": heat, "size": list(size)}

    return work


def _check(pipe: Pipeline, request: requests.Making) -> None:
    """Raise for a value or an option that the model does not know, before the request waits."""
    pipe.collate(pipe.values(**{_word(pipe) + "s": [request.value]}))
    pipe.check_keywords("options", request.options, ())
    pipe.chosen(request.options)


def _word(pipe: Pipeline) -> str:
    """What a call calls its condition."""
    return "label" if takes(pipe.model.conditioner) == "label" else "prompt"


def _options(
    pipe: Pipeline, request: requests.Making, job: Job, layout: Layout | None
) -> dict[str, Any]:
    """Keywords of a call: the sampler's options, the seed, and previews as scales are done."""
    seed = request.seed if request.seed is not None else secrets.randbelow(2**31)

    def after_scale(step: int, latent_BChw: Tensor, maps: tuple[Tensor, ...]) -> None:
        pictures = pipe.decode(latent_BChw[: requests.MOST_IMAGES])
        files = [base64.b64encode(small_file(one)).decode("ascii") for one in pictures]
        grid = list(maps[-1].shape[1:3])
        total = None if layout is None else len(layout)
        job.tell("scale", step=step, grid=grid, steps=total, previews=files)

    found: dict[str, Any] = {
        **request.options,
        "seed": seed,
        "num": request.num,
        # Without previews nothing looks at single scales, and a graph may run all of them.
        "on_scale": after_scale if request.previews else None,
        "progress": False,
    }
    if request.negative:
        found["negative"] = request.negative
    return found


def _kept(
    studio: Studio, pipe: Pipeline, result: Result, layout: Layout, job: Job
) -> dict[str, Any]:
    """Remember the pictures of a result; what its last event says of them."""
    pictures = []
    for index, image in enumerate(result.images):
        settings = result.image_settings(index)
        one = Picture(
            id=secrets.token_hex(8),
            png=encode_png(image, settings),
            settings=settings,
            layout=layout,
            maps=tuple(map_Bhw[index : index + 1].cpu() for map_Bhw in result.maps),
        )
        studio.keep(one)
        pictures.append(
            {"id": one.id, "url": f"/pictures/{one.id}.png", "settings": settings, **_size(image)}
        )
    return {
        "pictures": pictures,
        "layout": [list(grid) for grid in layout],
        "memory_mb": memory_mb(pipe.device),
    }


def _size(image: Image.Image) -> dict[str, int]:
    return {"width": image.width, "height": image.height}
