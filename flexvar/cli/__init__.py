"""The command line: one file per command, each light until its command runs."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from flexvar import __version__
from flexvar.cli.convert import convert
from flexvar.cli.data import data
from flexvar.cli.demo import demo
from flexvar.cli.doctor import doctor
from flexvar.cli.edit import edit
from flexvar.cli.evaluate import evaluate
from flexvar.cli.export import export
from flexvar.cli.generate import generate
from flexvar.cli.grid import grid
from flexvar.cli.plugins import plugins
from flexvar.cli.pull import pull
from flexvar.cli.sampling import with_sampler
from flexvar.cli.show import show
from flexvar.cli.train import train
from flexvar.cli.web import web
from flexvar.errors import FlexvarError, cut, is_out_of_memory, one_line
from flexvar.text import printable

# Those that generate, and so have the options of a sampler.
SAMPLING = (generate, edit, grid, evaluate)


def application(arguments: Sequence[str] = ()) -> typer.Typer:
    """All commands; the one that the arguments name has the options of its sampler.

    Only that one, as they are read from a plugin, which ``flexvar --help`` does not wait for.
    """
    app = typer.Typer(
        name="flexvar",
        help="Generate images by next-scale prediction, from swappable parts.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    named = next((one for one in arguments if not one.startswith("-")), None)
    for generating in SAMPLING:
        own = arguments if generating.__name__ == named else None
        app.command()(with_sampler(generating, own))
    for command in (pull, convert, export, demo, web, data, show, plugins, doctor):
        app.command()(command)
    app.command(no_args_is_help=True)(train)
    app.callback()(_options)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flexvar {__version__}")
        raise typer.Exit


def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
    verbose: bool = typer.Option(
        False, "--verbose", "-v", help="Log what is chosen and why, to standard error."
    ),
) -> None:
    if verbose:
        import logging

        logging.basicConfig(format="%(name)s: %(message)s", stream=sys.stderr)
        logging.getLogger("flexvar").setLevel(logging.INFO)


def main(arguments: list[str] | None = None) -> Any:
    """Run a command. A user's mistake ends with its message on standard error and exit code 2."""
    import warnings

    # The place in flexvar's source that warns says nothing to who runs a command.
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        # A terminal without the letters of a class name shows their numbers.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    from flexvar.ops.memory import keep_freed_memory

    keep_freed_memory()
    try:
        given = sys.argv[1:] if arguments is None else arguments
        app = application(given)
        _say_repeats(app, given)
        return app(arguments)
    except OSError as error:
        # Of a file that we name it is said where it is written; this is standard output above all.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        _say(f"Error: output cannot be written: {error.strerror}.", typer.colors.RED)
        sys.exit(2)
    except FlexvarError as error:
        _say(f"Error: {error}", typer.colors.RED)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        why = one_line(cut(str(error), 300)) or "no more is said"
        _say(
            f"Error: memory ran out ({why}). Ask for less at once: a smaller --size, --batch or "
            "batch_size, fewer processes, or --dtype bf16.",
            typer.colors.RED,
        )
        sys.exit(2)


def _say_repeats(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Say of an option that stands there twice, though it takes one value, that the last counts."""
    options = [one.partition("=")[0] for one in arguments if one.startswith("--")]
    if len(options) == len(set(options)):
        return
    named = next((one for one in arguments if not one.startswith("-")), None)
    command = getattr(typer.main.get_command(app), "commands", {}).get(named)
    for parameter in command.params if command is not None else ():
        if getattr(parameter, "multiple", False) or getattr(parameter, "is_flag", False):
            continue
        names = [name for name in parameter.opts if name.startswith("--")]
        count = sum(one in names for one in options)
        if count > 1:
            _show_warning(f"{names[0]} is given {count} times; it takes one value, the last one.")


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    _say(f"Warning: {message}", typer.colors.YELLOW)


def _say(text: str, color: str) -> None:
    """A message on standard error; what it quotes of files and names steers no terminal."""
    plain = False if os.environ.get("NO_COLOR") else None
    typer.secho(printable(text, lines=True), fg=color, err=True, color=plain)
