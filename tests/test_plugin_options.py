"""What `flexvar plugins NAME` says of a component, and what a checkpoint records of its parts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from helpers import TINY
from pydantic import Field

import flexvar
from flexvar import Component, ComponentConfig, FlexvarError, Pipeline, Registry
from flexvar.cli.plugins import plugins
from flexvar.contract.tokenizers import training_pass_is_whole
from flexvar.contract.variant import variants
from flexvar.plugin.options import options_of


class Small(ComponentConfig):
    """Options of a part.

    depth: blocks of it; more is slower. rows, columns: of a grid.
    """

    depth: int = Field(ge=1)
    rows: float | None = None
    columns: tuple[int, ...] = (1, 2)
    kind: Literal["a", "b"] = Field(default="a", description="Which of two.")


def test_options_have_types_defaults_and_meanings() -> None:
    found = [(one.name, one.type, one.default, one.meaning) for one in options_of(Small)]
    assert found == [
        ("depth", "int", "required", "blocks of it; more is slower."),
        ("rows", "float | None", "None", "of a grid."),
        ("columns", "list of int", "[1, 2]", "of a grid."),
        ("kind", "'a' | 'b'", "a", "Which of two."),
    ]


def test_every_option_of_the_first_party_has_a_meaning() -> None:
    registry = Registry()
    silent = []
    for part in registry.components:
        if part.kind in flexvar.plugin.KINDS and part.distribution == "flexvar":
            schema = registry.load(part.kind, part.qualified).Config
            silent += [
                f"{part.component.name}.{one.name}"
                for one in options_of(schema)
                if not one.meaning and part.kind not in ("conditioner", "tokenizer")
            ]
    assert silent == []


def test_the_command_shows_one_component(capsys: pytest.CaptureFixture[str]) -> None:
    plugins(name="backbone:delta")
    text = capsys.readouterr().out
    assert text.startswith("backbone delta (flexvar)\nGated DeltaNet")
    assert "  rule: 'chunked' | 'reference' = chunked\n      how it is computed" in text
    assert "  width: int = 1024\n      64 * depth unless given" in text
    plugins(name="ssg", as_json=True)
    (one,) = json.loads(capsys.readouterr().out)
    assert {option["name"] for option in one["options"]} >= {"sharpen", "guidance"}
    with pytest.raises(FlexvarError, match="no component 'detla'. Did you mean 'delta'"):
        plugins(name="detla")


def registry_of(**targets: str) -> Registry:
    @flexvar.hookimpl
    def flexvar_positions() -> Iterable[Component]:
        for name, target in targets.items():
            yield Component(name=name, target=target)

    registry = Registry()
    registry.add(SimpleNamespace(flexvar_positions=flexvar_positions), distribution="far-away")
    return registry


def test_a_checkpoint_records_and_names_the_distribution_of_a_strange_part(tmp_path: Path) -> None:
    target = "flexvar_plugins.positions.sinusoidal2d:Sinusoidal2d"
    parts = {**TINY, "position": "elsewhere"}
    pipe = Pipeline.from_config(parts, registry=registry_of(elsewhere=target))
    folder = pipe.save_pretrained(tmp_path / "strange")
    config = json.loads((folder / "config.json").read_text())
    assert config["distributions"] == {"position elsewhere": "far-away"}
    with pytest.raises(
        FlexvarError, match="position elsewhere: of far-away, which is not .*pip install far-away"
    ):
        Pipeline.from_pretrained(folder)
    usual = Pipeline.from_config(TINY).save_pretrained(tmp_path / "usual")
    assert "distributions" not in json.loads((usual / "config.json").read_text())


def test_a_tokenizer_without_a_training_pass_need_not_have_one() -> None:
    class Untrained(torch.nn.Module):
        pass

    variant = variants(Registry(), "tokenizer", "multiscale")[0]
    assert training_pass_is_whole(variant) is None
    from flexvar.contract import tokenizers

    assert not tokenizers._has_forward(Untrained())
    assert tokenizers._has_forward(torch.nn.Linear(1, 1))
