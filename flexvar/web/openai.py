"""The HTTP interface in the shape that image clients know: ``/v1/images/...``.

Sizes are ``WIDTHxHEIGHT`` here, as those clients write them. A class name or number is a prompt.
"""

from __future__ import annotations

import base64
import io
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from PIL import ImageChops
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request as Http
from starlette.responses import Response

from flexvar.errors import FlexvarError
from flexvar.web import making, requests
from flexvar.web.answers import Json
from flexvar.web.studio import Job, Studio

Handler = Callable[[Http], Awaitable[Response]]
# Words of these clients that say nothing here.
IGNORED = ("user", "quality", "style", "background", "moderation", "output_format")


class Asked(BaseModel):
    """What both calls take. seed, steps and options are flexvar's own."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    model: str | None = Field(default=None, max_length=200)
    prompt: str = Field(max_length=requests.MOST_TEXT)
    n: int = Field(default=1, ge=1, le=requests.MOST_IMAGES)
    size: str | None = Field(default=None, max_length=20)
    response_format: Literal["b64_json", "url"] = "b64_json"
    seed: int | None = Field(default=None, ge=0, lt=2**53)
    steps: int | None = Field(default=None, ge=1, le=requests.MOST_STEPS)
    negative_prompt: str | None = Field(default=None, max_length=requests.MOST_TEXT)
    options: dict[str, Any] = Field(default_factory=dict, max_length=32)


def models(studio: Studio) -> Handler:
    """``GET /v1/models``."""

    async def handler(request: Http) -> Response:
        same = {"object": "model", "owned_by": "flexvar"}
        listed = [{"id": name, **same} for name in studio.pipelines]
        return Json({"object": "list", "data": listed})

    return handler


def generations(studio: Studio) -> Handler:
    """``POST /v1/images/generations`` with JSON."""

    async def handler(request: Http) -> Response:
        asked = Asked.model_validate_json(await request.body())
        wanted = requests.Generate(**_making(studio, asked), size=_size(asked.size))
        work = await run_in_threadpool(making.generation, studio, wanted)
        return await _answer(studio, request, asked, studio.submit(work))

    return handler


def edits(studio: Studio) -> Handler:
    """``POST /v1/images/edits`` with a form: image, mask, prompt.

    The mask is generated where it is transparent, or where it is white if nothing of it is.
    """

    async def handler(request: Http) -> Response:
        async with request.form(max_files=2, max_fields=16) as form:
            files, fields = {}, {}
            for name, value in form.items():
                if isinstance(value, UploadFile):
                    files[name] = await value.read()
                elif name not in IGNORED:
                    fields[name] = value
        asked = Asked.model_validate(fields)
        if "image" not in files:
            raise FlexvarError("image: give the picture to edit as a file of the form.")
        if "mask" not in files:
            raise FlexvarError("mask: give one; where it is transparent, pixels are generated.")
        wanted = requests.Edit(
            **_making(studio, asked),
            task="inpaint",
            image=_text(files["image"]),
            mask=await run_in_threadpool(_mask, files["mask"]),
            size=_size(asked.size),
        )
        work = await run_in_threadpool(making.edit, studio, wanted)
        return await _answer(studio, request, asked, studio.submit(work))

    return handler


def _making(studio: Studio, asked: Asked) -> dict[str, Any]:
    return {
        "model": asked.model or next(iter(studio.pipelines)),
        "value": asked.prompt,
        "negative": asked.negative_prompt,
        "steps": asked.steps,
        "seed": asked.seed,
        "num": asked.n,
        "options": asked.options,
        "previews": False,
    }


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None or text == "auto":
        return None
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if found is None:
        raise FlexvarError(f"size: got {text!r}; expected WIDTHxHEIGHT, for example 128x96.")
    return int(found[2]), int(found[1])


def _mask(data: bytes) -> str:
    """A mask of these clients as flexvar's: white where to generate."""
    mask = requests.picture_of(data, "mask")
    if mask.has_transparency_data:
        alpha = mask.convert("RGBA").getchannel("A")
        if alpha.tobytes().strip(b"\xff"):
            mask = ImageChops.invert(alpha)
    stream = io.BytesIO()
    mask.convert("L").save(stream, format="PNG")
    return _text(stream.getvalue())


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


async def _answer(studio: Studio, request: Http, asked: Asked, job: Job) -> Response:
    """Wait for a job; a client that goes away cancels it."""
    last: dict[str, Any] = {}
    try:
        async for event in job.follow():
            last = event
            if await request.is_disconnected():
                studio.cancel(job)
    except BaseException:
        studio.cancel(job)
        raise
    if last["event"] == "error" and last.get("ours"):
        return Json({"error": {"message": last["message"]}}, status_code=500)
    if last["event"] != "done":
        raise FlexvarError(last.get("message", "The request was cancelled."))
    data = []
    for picture in last["pictures"]:
        if asked.response_format == "url":
            data.append({"url": str(request.base_url).rstrip("/") + picture["url"]})
        else:
            data.append({"b64_json": _text(studio.pictures[picture["id"]].png)})
    return Json({"created": int(time.time()), "data": data})
