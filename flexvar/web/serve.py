"""Runs the playground's server until it is stopped."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable

import uvicorn

from flexvar.errors import FlexvarError
from flexvar.pipeline import Pipeline
from flexvar.web.app import LOOPBACK, create
from flexvar.web.studio import Studio


def serve(
    pipelines: dict[str, Pipeline],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    open_browser: bool = False,
    say: Callable[[str], object] = print,
) -> None:
    """Serve the page of some models, and say its address.

    host: beyond the loopback every request needs the token that is said once. port: 0 is a free
    one. Raises `FlexvarError` where it cannot listen.
    """
    alone = host in LOOPBACK
    token = None if alone else secrets.token_urlsafe(24)
    listener = _listen(host, port)
    port = listener.getsockname()[1]
    studio = Studio(pipelines)
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{port}/" + (f"?token={token}" if token else "")
    if not alone:
        say("Anyone who has this address can draw here; keep it to yourself.")
    say(address)
    if open_browser:
        import webbrowser

        webbrowser.open(address)
    config = uvicorn.Config(
        create(studio, host=host, token=token), log_level="warning", timeout_graceful_shutdown=2
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        studio.close()
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # So that who reads the address at once waits for the server rather than being refused.
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise FlexvarError(
            f"Cannot listen on {host}:{port}: {reason}. Choose another --port, or 0 for a free one."
        ) from None
    return listener
