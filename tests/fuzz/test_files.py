"""Mutated files of every format: each is read, or refused by a message; nothing else escapes."""

import json
import shutil
import warnings

import pytest
import torch
from flexvar_plugins.released import convert
from helpers import GOLDEN, TINY
from mutations import bytes_changed, try_all, values_changed
from safetensors.torch import load_file, save_file

from flexvar import Pipeline
from flexvar.config import load_yaml, override
from flexvar.training.recipe import load_recipe


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def torch_state(random):
    """A state dict with tensors that no weights are, or structure that leads nowhere."""
    state = dict(load_file(GOLDEN / "flexvar" / "tokenizer.safetensors"))
    odd = [
        lambda t: t.to("meta"),
        lambda t: torch.zeros(1).expand(2**40, 8),
        lambda t: t.flatten(),
        lambda t: t[:0],
        lambda t: torch.zeros(()),
        lambda t: t.double(),
        lambda t: t.to(torch.float8_e4m3fn),
        lambda t: t.to(torch.complex64),
        lambda t: t.to(torch.int8),
        lambda t: t > 0,
        lambda t: torch.eye(4).to_sparse(),
        lambda t: t[None],
        lambda t: t.transpose(0, -1) if t.ndim else t,
        lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
        lambda t: t * float("nan"),
        lambda t: {"inner": t},
        lambda t: [t],
    ]
    for _ in range(random.choice((1, 2, 5))):
        name = random.choice([key for key, value in state.items() if hasattr(value, "ndim")])
        kind = random.randrange(4)
        if kind <= 1:
            state[name] = random.choice(odd)(state[name])
        elif kind == 2:
            state[random.choice(("", "a" * 3000, "encoder.down.2147483648.x", name + ".x"))] = (
                state.pop(name)
            )
        else:
            del state[name]
    data = random.choice(
        (state, {"model": state}, {"ema": state, "model": state}, {3: state}, [state], state)
    )
    if random.random() < 0.2 and isinstance(data, dict):
        data["again"] = data
    return data


@pytest.fixture(scope="module")
def pth(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pth")
    small = {
        "quantize.embedding.weight": torch.ones(8, 4),
        "encoder.conv_in.weight": torch.ones(4, 3, 3, 3),
    }
    torch.save({"model": small}, folder / "zip.pth")
    torch.save({"model": small}, folder / "old.pth", _use_new_zipfile_serialization=False)
    save_file(small, folder / "x.safetensors")
    return folder


@pytest.mark.parametrize("name", ["zip.pth", "old.pth", "x.safetensors"])
def test_changed_bytes_of_weights(pth, tmp_path, name):
    data = (pth / name).read_bytes()

    def make(random):
        path = tmp_path / name
        path.write_bytes(bytes_changed(data, random))
        return path

    try_all(300, make, lambda path: convert(tokenizer=path))


def test_odd_tensors(tmp_path):
    def make(random):
        torch.save(torch_state(random), tmp_path / "x.pth")
        return tmp_path / "x.pth"

    try_all(60, make, lambda path: convert(tokenizer=path))


@pytest.mark.parametrize("kind", ["values", "bytes"])
def test_configs(tiny_dir, tmp_path, kind):
    folder = shutil.copytree(tiny_dir, tmp_path / "model")
    text = (folder / "config.json").read_text()

    def make(random):
        if kind == "values":
            changed = json.dumps(values_changed(json.loads(text), random)).encode()
        else:
            changed = bytes_changed(text.encode(), random)
        (folder / "config.json").write_bytes(changed)
        return folder

    try_all(200, make, Pipeline.from_pretrained)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.safetensors"])
def test_checkpoints(tiny_dir, tmp_path, name):
    folder = shutil.copytree(tiny_dir, tmp_path / "model")
    data = (folder / name).read_bytes()

    def make(random):
        (folder / name).write_bytes(bytes_changed(data, random))
        return folder

    try_all(60, make, Pipeline.from_pretrained)


RECIPE = """
data: {source: photos, size: [64, 64]}
tokenizer: runs/x
backbone: &b {name: transformer, depth: 2, width: 64, num_heads: 2}
optimiser: {learning_rate: 3e-4, betas: [0.9, 0.95]}
presets: {default: {guidance: 2.0, top_k: 900}}
steps: 1_000
out: !!str runs/y
more: *b
"""


def test_yaml(tmp_path):
    def make(random):
        path = tmp_path / "x.yaml"
        path.write_bytes(bytes_changed(RECIPE.encode(), random))
        return path

    try_all(600, make, load_yaml)


def test_overrides():
    words = ["steps", "=", ".", "data", "optimiser.learning_rate", "3e-4", "{", "}", "[", "*a"]
    words += ["&a", "!!", ":", "\x00", "\ud800", "1" * 5000, "'", "-", "?", "\n", "a" * 300, "0x"]

    def make(random):
        return ["".join(random.choices(words, k=random.randrange(1, 8))) for _ in range(2)]

    base = {"steps": 3, "data": {"source": "x"}}
    try_all(600, make, lambda texts: override(base, texts))


@pytest.mark.parametrize("stage", ["tokenizer", "model"])
def test_recipes(tmp_path, stage):
    from importlib import resources

    import yaml

    folder = resources.files("flexvar") / "recipes"
    data = yaml.safe_load((folder / f"photos-{stage}.yaml").read_text("utf-8"))

    def make(random):
        path = tmp_path / "x.json"
        path.write_text(json.dumps(values_changed(data, random)))
        return path

    try_all(200, make, lambda path: load_recipe(path, stage))


def test_plans_from_changed_configs():
    def make(random):
        return values_changed(TINY, random)

    try_all(120, make, lambda config: Pipeline.from_config(config))
