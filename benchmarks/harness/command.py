"""One function as a command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
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


def joined(arguments: Sequence[str], option: str) -> list[str]:
    """The arguments, with the ``key=value`` behind an option's value made a part of that value."""
    found: list[str] = []
    for argument in arguments:
        if len(found) > 1 and found[-2] == option and re.match(r"[\w.]+=", argument):
            found[-1] += f" {argument}"
        else:
            found.append(argument)
    return found
