"""Converters by hook: which weights of a file are taken, and what a plugin's converter gets."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flexvar_plugins.released import convert
from helpers import GOLDEN
from safetensors.torch import load_file

import flexvar
from flexvar import Component, FlexvarError, Registry, hookimpl
from flexvar.components import Converted

ROOT = Path(flexvar.__file__).parent


@pytest.fixture(scope="module")
def files():
    folder = GOLDEN / "flexvar"
    return load_file(folder / "tokenizer.safetensors"), load_file(
        folder / "transformer.safetensors"
    )


def write(path, data):
    torch.save(data, path)
    return path


def scaled(state, by):
    return {name: tensor * by for name, tensor in state.items()}


@pytest.mark.parametrize(
    "nest",
    [
        lambda raw, ema: {"state_dict": raw, "state_dict_ema": ema},
        lambda raw, ema: {"model": raw, "model_ema": ema, "epoch": 3},
        lambda raw, ema: {"trainer": {"net": raw, "modelEMA": {"module": ema}}},
        lambda raw, ema: {
            "state_dict": {
                **{f"model.{k}": v for k, v in raw.items()},
                **{f"ema_model.module.{k}": v for k, v in ema.items()},
            }
        },
        lambda raw, ema: {
            **{f"model.{k}": v for k, v in raw.items()},
            **{f"model_ema.{k.replace('.', '')}": v for k, v in ema.items()},
            "model_ema.decay": torch.tensor(0.99),
        },
    ],
    ids=["state_dict_ema", "model_ema", "nested", "prefixes", "without dots"],
)
def test_averaged_weights_are_taken_unless_the_raw_ones_are_asked_for(tmp_path, files, nest):
    tokenizer, model = files
    path = write(tmp_path / "m.pth", nest(model, scaled(model, 0.5)))
    first = write(tmp_path / "t.pth", tokenizer)
    plain = convert(tokenizer=first, model=write(tmp_path / "p.pth", model))
    key = "token_embedding.weight"
    wanted = plain.model.state_dict()[key]
    with pytest.warns(UserWarning, match="holds the model twice: .* --weights raw takes the other"):
        pipe = convert(tokenizer=first, model=path)
    assert torch.equal(pipe.model.state_dict()[key], wanted * 0.5)
    for weights, by in (("ema", 0.5), ("raw", 1)):
        pipe = convert(tokenizer=first, model=path, weights=weights)
        assert torch.equal(pipe.model.state_dict()[key], wanted * by)


def test_weights_that_are_not_there(tmp_path, files):
    path = write(tmp_path / "t.pth", {"model": files[0]})
    with pytest.raises(FlexvarError, match="holds no averaged weights, only raw"):
        convert(tokenizer=path, weights="ema")
    path = write(tmp_path / "e.pth", {"ema": files[0]})
    with pytest.raises(FlexvarError, match="holds no raw weights, only averaged ones \\(in ema"):
        convert(tokenizer=path, weights="raw")


def test_an_average_without_what_is_not_trained_is_filled_up(tmp_path, files):
    tokenizer, _ = files
    ema = {k: v * 2 for k, v in tokenizer.items() if not k.startswith("decoder.conv_in")}
    path = write(tmp_path / "t.pth", {"model": tokenizer, "ema": ema})
    pipe = convert(tokenizer=path, weights="ema")
    assert pipe.parts.model is None


@pytest.mark.parametrize("where", ["blocks.{}._checkpoint_wrapped_module.", "blocks.{}.module."])
def test_wrappers_within_names(tmp_path, files, where):
    tokenizer, model = files
    import re

    inner = {
        re.sub(r"^blocks\.(\d+)\.", lambda m: where.format(m[1]), f"{name}"): tensor
        for name, tensor in model.items()
    }
    wrapped = {f"module.{name}": tensor for name, tensor in inner.items()}
    first = write(tmp_path / "t.pth", tokenizer)
    pipe = convert(tokenizer=first, model=write(tmp_path / "m.pth", wrapped))
    assert len(pipe.model.backbone.blocks) == 2


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.empty(8, 8, device="meta"), "has a shape but no values"),
        (torch.zeros(1).expand(2**40, 32), "claim .* bytes, far more than the file"),
        (torch.eye(4).to_sparse(), "sparse, quantized or complex"),
        (torch.zeros(4, 4, dtype=torch.complex64), "sparse, quantized or complex"),
        (torch.zeros(0), "unexpected shape|cannot be built|incomplete|do not fit"),
        (torch.zeros(()), "unexpected shape"),
    ],
)
def test_tensors_that_no_weights_are(tmp_path, files, tensor, message):
    tokenizer = {**files[0], "quantize.embedding.weight": tensor}
    with pytest.raises(FlexvarError, match=message):
        convert(tokenizer=write(tmp_path / "t.pth", tokenizer))


def test_files_that_contain_themselves(tmp_path, files):
    data = {"model": files[0]}
    data["again"] = data
    assert convert(tokenizer=write(tmp_path / "t.pth", data)).parts.model is None


class Acme:
    Config = flexvar.ComponentConfig
    reads = "Acme's models"

    def __init__(self, config):
        self.config = config

    @classmethod
    def part(cls, state):
        return "tokenizer" if "acme.codes" in state else None

    def convert(self, tokenizer, model):
        from helpers import TINY

        from flexvar import Pipeline

        assert model is None
        pipe = Pipeline.from_config({"tokenizer": TINY["tokenizer"]})
        weights = pipe.tokenizer.state_dict()
        weights["codebook.weight"] = tokenizer["acme.codes"]
        return Converted({"tokenizer": TINY["tokenizer"]}, weights)


class Broken(Acme):
    @classmethod
    def part(cls, state):
        raise RuntimeError("confused")


def registry(**targets):
    class Plugin:
        @hookimpl
        def flexvar_converters(self):
            for name, target in targets.items():
                yield Component(name=name, target=f"test_converters:{target}")

    result = Registry()
    result.add(Plugin())
    return result


def test_a_plugins_converter_reads_its_files(tmp_path, files):
    codes = torch.randn(61, 8)
    save = {"module.acme.codes": codes}
    path = write(tmp_path / "acme.pth", save)
    found = registry(acme="Acme", broken="Broken", gone="Gone")
    with pytest.warns(UserWarning, match="converter 'gone' of local cannot be imported"):
        pipe = flexvar.convert.convert(tokenizer=path, registry=found)
    assert torch.equal(pipe.tokenizer.codes, codes)
    with pytest.raises(FlexvarError, match="no tokenizer of a known layout. Known: .*VAR, FlexVAR"):
        flexvar.convert.convert(tokenizer=path)
    with pytest.raises(FlexvarError, match="Several converters .* --converter acme or twin"):
        flexvar.convert.convert(tokenizer=path, registry=registry(acme="Acme", twin="Acme"))
    flexvar.convert.convert(
        tokenizer=path, registry=registry(acme="Acme", twin="Acme"), converter="twin"
    )
    with pytest.raises(FlexvarError, match="colour: unknown option"):
        flexvar.convert.convert(
            tokenizer=path, registry=registry(acme="Acme"), options=["colour=1"]
        )


def test_the_core_names_no_model_and_imports_no_plugin():
    for path in ROOT.rglob("*.py"):
        assert "flexvar_plugins" not in path.read_text(encoding="utf-8"), path
    code = (
        "import sys, flexvar.convert, flexvar.checkpoint; "
        "sys.exit(any(name.startswith('flexvar_plugins') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
