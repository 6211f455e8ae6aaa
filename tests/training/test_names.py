"""Class names that are no text, steer terminals, or are markup: in everything that is shown."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

from PIL import Image

from benchmarks.harness.report import html, markdown
from benchmarks.harness.suite import Section, Table
from flexvar import Pipeline
from flexvar.cli.show import describe, lines
from flexvar.config import parse
from flexvar.data import DataConfig, open_data
from flexvar.evaluation.offline import config_for
from flexvar.training import ModelRecipe, train
from flexvar.web.demo import Demo, page

from .conftest import model_options

NAMES = [b"caf\xe9", b"<i>&|*x*", b"red\x1b[31m", "日本 \u202e".encode()]
SHOWN = ["<i>&|*x*", r"caf\xe9", r"red\x1b[31m", r"日本 \u202e"]


def check(text: str, *, markup: bool = False) -> None:
    """All of it can be written, steers nothing, and is no markup of its own."""
    text.encode()
    for char in text:
        assert char == "\n" or unicodedata.category(char) not in ("Cc", "Cs"), repr(char)
    assert "\u202e" not in text
    if markup:
        assert "<i>" not in text


def test_class_names_of_any_kind_are_shown(tmp_path: Path, trained_tokenizer: Path) -> None:
    root = os.fsencode(tmp_path / "pictures")
    for name in NAMES:
        os.makedirs(os.path.join(root, name))
        for number in range(3):
            path = os.path.join(root, name, b"%d.png" % number)
            with open(path, "wb") as file:
                Image.new("RGB", (16, 16), (80 * number, 9, 9)).save(file, "PNG")
    data = {"source": str(tmp_path / "pictures"), "size": 16}
    assert open_data(DataConfig(**data)).class_names == tuple(SHOWN)
    assert open_data(DataConfig(classes=(SHOWN[2], SHOWN[1]), **data)).num_classes == 2

    out = tmp_path / "run"
    options = model_options(
        trained_tokenizer, out, data=data, steps=2, validate_every=2, sample_every=2, save_every=1
    )
    said: list[str] = []
    train(parse(ModelRecipe, options), say=said.append)
    train(parse(ModelRecipe, {**options, "steps": 3}), resume=True, say=said.append)
    check("\n".join(said))
    found = {path.name: path for path in out.rglob("*") if path.is_file()}
    for name in ("recipe.yaml", "log.jsonl", "config.json", "README.md"):
        check(found[name].read_text("utf-8"), markup=name == "README.md")

    pipe = Pipeline.from_pretrained(found["config.json"].parent)
    assert pipe.class_names == tuple(SHOWN)
    check(repr(pipe))
    facts = describe(pipe, "model")
    check("\n".join(lines(facts)))
    check(json.dumps(facts))
    against = open_data(config_for(pipe, DataConfig(**data), (16, 16)))
    assert against.class_names == pipe.class_names
    demo = Demo(pipe)
    demo.add("<i>", "\udce9", demo.each)
    check(page("\udce9 <i>", [("caf\udce9 <i>", demo)]), markup=True)
    result = pipe(SHOWN[1], seed=0)
    check(repr(result))

    table = Table(("case", "what"), [[f"{name}\udce9\x1b", "a | b"] for name in SHOWN])
    parts = [("m\udce9<i>", [("s", [Section("*t* <i>\udce9", "text", tables=[table])])])]
    info = {"m\udce9<i>": {"CPU": "<i>\x1b"}}
    check(html(parts, info), markup=True)
    text, _ = markdown(parts, info)
    check(text)
    assert r"## m\\xe9\<i\>" in text
