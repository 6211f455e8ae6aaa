"""One function as a command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from flexvar.errors import FlexvarError


def run(function: Callable[..., Any]) -> None:
    """Run it with the arguments given; a user's mistake is a message and exit code 2."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(function)
    execute(app)


def execute(app: typer.Typer) -> None:
    """Run an application; a user's mistake is a message and exit code 2."""
    try:
        app()
    except FlexvarError as error:
        typer.secho(f"Error: {error}", fg=typer.colors.RED, err=True)
        raise SystemExit(2) from None
