"""The playground's server: routes, limits and who may ask (Starlette)."""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request as Http
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flexvar import __version__
from flexvar.errors import FlexvarError
from flexvar.images import read_settings
from flexvar.web import making, openai, requests
from flexvar.web.answers import Json
from flexvar.web.docs import documentation
from flexvar.web.models import describe
from flexvar.web.page import page
from flexvar.web.studio import Job, QueueFullError, Studio

LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "flexvar-token"
STATIC = {
    "playground.css": "text/css",
    "playground.js": "text/javascript",
    "canvas.js": "text/javascript",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Guard:
    """Refuses who may not ask, before anything is read: host, origin, token, size of the body."""

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...] | None, token: str | None) -> None:
        # hosts: None is any, where the token alone says who may ask.
        self.app, self.hosts, self.token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Http(scope)
        refusal = self._refusal(request)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > requests.MOST_BYTES:
                raise TooLargeError
            return message

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        try:
            await self.app(scope, bounded, with_headers)
        except TooLargeError:
            await _error(413, "The request is too large.")(scope, receive, send)

    def _refusal(self, request: Http) -> Response | None:
        host = request.headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            return _error(421, f"This server does not answer for the host {host[:100]!r}.")
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return _error(403, "A page of another origin may not ask this server.")
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > requests.MOST_BYTES:
            return _error(413, f"The request is larger than {requests.MOST_BYTES:,} bytes.")
        if self.token is not None:
            given = request.query_params.get("token") or request.cookies.get(COOKIE) or ""
            scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() == "bearer":
                given = bearer
            if not secrets.compare_digest(given.encode(), self.token.encode()):
                return _error(401, "The token is missing or wrong; it was printed at the start.")
        return None


class TooLargeError(Exception):
    """More bytes came than a request may have."""


def create(studio: Studio, *, host: str = "127.0.0.1", token: str | None = None) -> Starlette:
    """The application over a studio's models.

    host: the name or address it is reached under, beside the loopback's own. token: asked of
    every request if given.
    """
    anywhere = host in ("0.0.0.0", "::")
    if anywhere and token is None:
        raise FlexvarError(f"A server on {host} needs a token.")
    hosts = None if anywhere else (*LOOPBACK, host.strip("[]").lower())
    routes = [
        Route("/", _page(studio, token)),
        Route("/static/{name}", _static),
        Route("/docs", _docs(studio)),
        Route("/pictures/{id}.png", _picture(studio)),
        Route("/api/models", _models(studio)),
        Route("/api/generate", _submit(studio, requests.Generate, making.generation), methods=POST),
        Route("/api/edit", _submit(studio, requests.Edit, making.edit), methods=POST),
        Route("/api/score", _submit(studio, requests.Score, making.score), methods=POST),
        Route("/api/jobs/{id}/events", _events(studio)),
        Route("/api/jobs/{id}", _cancel(studio), methods=["DELETE"]),
        Route("/api/settings", _settings, methods=POST),
        Route("/v1/models", openai.models(studio)),
        Route("/v1/images/generations", openai.generations(studio), methods=POST),
        Route("/v1/images/edits", openai.edits(studio), methods=POST),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=hosts, token=token)],
        exception_handlers={
            FlexvarError: _refused,
            ValidationError: _invalid,
            404: _not_found,
            405: _not_allowed,
        },
    )


POST = ["POST"]
Handler = Callable[[Http], Awaitable[Response]]


def _page(studio: Studio, token: str | None) -> Handler:
    async def handler(request: Http) -> Response:
        head = (
            "<link rel='icon' href='data:,'>"
            "<link rel='stylesheet' href='/static/playground.css'>"
            "<script defer src='/static/canvas.js'></script>"
            "<script defer src='/static/playground.js'></script>"
        )
        body = resources.files("flexvar.web").joinpath("static/playground.html").read_text("utf-8")
        response = HTMLResponse(page("flexvar playground", body, head=head))
        if token is not None:
            response.set_cookie(COOKIE, token, httponly=True, samesite="strict")
        return response

    return handler


async def _static(request: Http) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        return _error(404, "There is no such file.")
    data = resources.files("flexvar.web").joinpath("static", name).read_bytes()
    return Response(data, media_type=STATIC[name])


def _docs(studio: Studio) -> Handler:
    async def handler(request: Http) -> Response:
        style = "<link rel='stylesheet' href='/static/playground.css'>"
        body = f"<main class='docs'>{documentation(studio)}</main>"
        return HTMLResponse(page("flexvar HTTP interface", body, head=style))

    return handler


def _picture(studio: Studio) -> Handler:
    async def handler(request: Http) -> Response:
        found = studio.pictures.get(request.path_params["id"])
        if found is None:
            return _error(404, "This picture is no longer here.")
        return Response(found.png, media_type="image/png")

    return handler


def _models(studio: Studio) -> Handler:
    async def handler(request: Http) -> Response:
        found = [describe(name, pipe) for name, pipe in studio.pipelines.items()]
        limits = {
            "side": requests.MOST_SIDE,
            "pixels": requests.MOST_PIXELS,
            "images": requests.MOST_IMAGES,
        }
        return Json({"flexvar": __version__, "models": found, "limits": limits})

    return handler


def _submit(
    studio: Studio, schema: type[BaseModel], work_of: Callable[[Studio, Any], making.Work]
) -> Handler:
    async def handler(request: Http) -> Response:
        asked = schema.model_validate_json(await request.body())
        # Decoding an upload takes time that other requests should not wait for.
        work = await run_in_threadpool(work_of, studio, asked)
        return Json({"job": studio.submit(work).id}, status_code=202)

    return handler


def _job(studio: Studio, request: Http) -> Job | None:
    return studio.jobs.get(request.path_params["id"])


def _events(studio: Studio) -> Handler:
    async def handler(request: Http) -> Response:
        job = _job(studio, request)
        if job is None:
            return _error(404, "There is no such job.")

        async def stream() -> Any:
            async for event in job.follow():
                yield f"data: {json.dumps(event)}\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    return handler


def _cancel(studio: Studio) -> Handler:
    async def handler(request: Http) -> Response:
        job = _job(studio, request)
        if job is None:
            return _error(404, "There is no such job.")
        studio.cancel(job)
        return Json({"cancelled": job.id})

    return handler


async def _settings(request: Http) -> Response:
    """The settings that an uploaded PNG of flexvar carries."""
    data = await request.body()
    requests.picture_of(data)
    return Json(read_settings(io.BytesIO(data)))


def _error(status: int, message: str) -> Json:
    return Json({"error": {"message": message}}, status_code=status, headers=HEADERS)


async def _refused(request: Http, error: Exception) -> Response:
    return _error(429 if isinstance(error, QueueFullError) else 400, str(error))


async def _invalid(request: Http, error: Exception) -> Response:
    assert isinstance(error, ValidationError)
    lines = [
        f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    return _error(422, "; ".join(lines[:8]))


async def _not_found(request: Http, error: Exception) -> Response:
    return _error(404, "There is nothing here; the interface is described at /docs.")


async def _not_allowed(request: Http, error: Exception) -> Response:
    return _error(405, "This address takes another method; see /docs.")


def _name(host: str) -> str:
    """The host of a Host header without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host
