"""Writes the reference pages from the code when the documentation is built (mkdocs-gen-files).

Commands from typer, components and their options from every installed `Config`, recipes from their
files; nothing on these pages is written by hand.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import click
import mkdocs_gen_files
import typer

from flexvar.cli import application
from flexvar.plugin import KINDS, default_registry
from flexvar.plugin.options import options_of


def cell(value: object) -> str:
    """Text for a cell of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def commands() -> str:
    """Every command with its arguments and options."""
    lines = ["# Commands", ""]
    names = list(typer.main.get_command(application()).commands)  # type: ignore[attr-defined]
    for one in names:
        # A command that generates has the options of its sampler only where it is named.
        group: Any = typer.main.get_command(application([one]))
        name, command = f"flexvar {one}", group.commands[one]
        lines += [f"## {name}", "", inspect.cleandoc(command.help or ""), ""]
        lines += ["| option | meaning | default |", "|---|---|---|"]
        for parameter in command.params:
            names = ", ".join(f"`{one}`" for one in parameter.opts) or f"`{parameter.name}`"
            if isinstance(parameter, click.Argument) or not parameter.opts[0].startswith("-"):
                names = f"`{(parameter.name or '').upper()}`"
            shown = getattr(parameter, "show_default", None)
            default = shown if isinstance(shown, str) else parameter.default
            told = "" if default in (None, False) or callable(default) else default
            meaning = getattr(parameter, "help", "") or ""
            lines.append(f"| {names} | {cell(meaning)} | {cell(told)} |")
        lines.append("")
    return "\n".join(lines)


def components() -> str:
    """Every component of every installed plugin with the options of its Config."""
    registry = default_registry()
    lines = ["# Components and their options", ""]
    for kind in KINDS:
        lines += [f"## {kind}", ""]
        for provided in registry.components:
            if provided.kind != kind:
                continue
            name = registry.name_of(provided)
            lines += [f"### {name}", "", cell(provided.component.summary) + ".", ""]
            cls = registry.load(kind, name)
            config = cls.Config
            if options := options_of(config):
                lines += ["| option | type | default | meaning |", "|---|---|---|---|"]
            for one in options:
                default = f"`{cell(one.default)}`" if one.default else ""
                lines.append(
                    f"| `{one.name}` | {cell(one.type)} | {default} | {cell(one.meaning)} |"
                )
            lines.append("")
    return "\n".join(lines)


def recipes() -> str:
    """Every recipe that comes along, whole."""
    lines = ["# Recipes", "", "`flexvar train tokenizer|model NAME key=value ...`", ""]
    for path in sorted(Path("flexvar/recipes").glob("*.yaml")):
        lines += [f"## {path.stem}", "", "```yaml", path.read_text("utf-8").rstrip(), "```", ""]
    return "\n".join(lines)


PYTHON = {
    "Pipeline": ["flexvar.pipeline.Pipeline", "flexvar.session.Session", "flexvar.result.Result"],
    "Editing": ["flexvar.editing.tasks"],
    "Values": ["flexvar.layout", "flexvar.config", "flexvar.errors"],
    "What each kind of component must do": [
        "flexvar.components.tokenizer",
        "flexvar.components.backbone",
        "flexvar.components.position",
        "flexvar.components.schedule",
        "flexvar.components.conditioner",
        "flexvar.components.sampler",
        "flexvar.components.objective",
        "flexvar.components.facts",
    ],
    "Model and training inputs": ["flexvar.model", "flexvar.sequence"],
    "Hooks": ["flexvar.plugin.hookspecs", "flexvar.plugin.component"],
    "Contract": ["flexvar.contract"],
}


def python() -> str:
    """The public names by mkdocstrings."""
    lines = ["# Python", ""]
    for title, modules in PYTHON.items():
        lines += [f"## {title}", ""]
        for module in modules:
            lines += [f"::: {module}", "    options:", "      heading_level: 3", ""]
    return "\n".join(lines)


sys.path.insert(0, str(Path(__file__).parent))
import figures  # noqa: E402
import notebooks  # noqa: E402

with mkdocs_gen_files.open("figures.md", "w") as file:
    file.write(figures.page())
# Where a repository is browsed a notebook is shown as it is; here its page is.
with mkdocs_gen_files.open("index.md", "w") as file:
    file.write(Path("docs/index.md").read_text("utf-8").replace(".ipynb)", ".md)"))
for path in sorted(Path("docs/notebooks").glob("*.ipynb")):
    text, pictures = notebooks.page(notebooks.read(path), path.stem)
    with mkdocs_gen_files.open(f"notebooks/{path.stem}.md", "w") as file:
        file.write(text)
    for name, data in pictures.items():
        with mkdocs_gen_files.open(f"notebooks/{name}", "wb") as file:
            file.write(data)
for page, text in {
    "commands": commands,
    "components": components,
    "recipes": recipes,
    "python": python,
}.items():
    with mkdocs_gen_files.open(f"reference/{page}.md", "w") as file:
        file.write(text())
