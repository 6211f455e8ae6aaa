"""Checkpoints: saved whole, loaded checked, refused with a reason."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from flexvar import FlexvarError, Pipeline
from flexvar.locate import bundled_names


@pytest.fixture
def folder(tiny_dir, tmp_path):
    return shutil.copytree(tiny_dir, tmp_path / "copy")


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_the_same_weights_and_images_after_save_and_load(tiny, tiny_dir):
    pipe = Pipeline.from_pretrained(tiny_dir)
    for ours, theirs in zip(tiny.parts.modules(), pipe.parts.modules(), strict=True):
        for (name, one), (again, two) in zip(
            ours.state_dict().items(), theirs.state_dict().items(), strict=True
        ):
            assert name == again
            assert torch.equal(one, two)
    assert not pipe.model.training
    assert pipe.class_names == tiny.class_names
    one, two = (p(["bee"], size=16, seed=1).images[0].tobytes() for p in (tiny, pipe))
    assert one == two
    assert sorted(p.name for p in tiny_dir.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.safetensors",
    ]


def test_weights_saved_in_bf16_come_back_in_fp32(tmp_path):
    from helpers import TINY

    pipe = Pipeline.from_config(TINY, dtype="bf16")
    pipe.save_pretrained(tmp_path / "half")
    assert Pipeline.from_pretrained(tmp_path / "half").model.dtype == torch.float32
    again = Pipeline.from_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    assert again.model.dtype == torch.bfloat16


def test_positions_without_weights_load(tmp_path):
    from helpers import TINY

    for name in ("sinusoidal2d", "rotary2d"):
        pipe = Pipeline.from_config({**TINY, "position": {"name": name}})
        pipe.save_pretrained(tmp_path / name)
        again = Pipeline.from_pretrained(tmp_path / name)
        assert tuple(again([0], size=16, seed=0).maps[-1].shape) == (1, 4, 4)


def test_missing(tmp_path):
    with pytest.raises(FlexvarError, match="There is no checkpoint nowhere: give a directory with"):
        Pipeline.from_pretrained("nowhere")
    with pytest.raises(FlexvarError, match=r"is no checkpoint: it has no config\.json"):
        Pipeline.from_pretrained(tmp_path)
    with pytest.raises(FlexvarError, match="is a file; a checkpoint is a directory"):
        Pipeline.from_pretrained(__file__)
    assert isinstance(bundled_names(), list)


def test_a_hub_id_that_cannot_be_had(monkeypatch):
    import huggingface_hub

    def refuse(*_, **options):
        raise OSError("no route to the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(FlexvarError, match="no directory someone/something here.*no route"):
        Pipeline.from_pretrained("someone/something")


def test_a_hub_id_in_the_cache_needs_no_network(monkeypatch, tiny_dir):
    import huggingface_hub

    asked = []

    def cached(repository, *, local_files_only=False, **_):
        asked.append(local_files_only)
        return str(tiny_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    Pipeline.from_pretrained("someone/tiny")
    assert asked == [True]


def test_truncated(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(FlexvarError, match=r"model\.safetensors is truncated or no safetensors"):
        Pipeline.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FlexvarError, match=r"is incomplete: it has no model\.safetensors"):
        Pipeline.from_pretrained(folder)


def test_weights_of_another_depth(folder):
    edit(folder, lambda c: c["model"]["backbone"].update(depth=5))
    with pytest.raises(FlexvarError) as caught:
        Pipeline.from_pretrained(folder)
    message = str(caught.value)
    assert "These look like depth 2; the config says 5." in message
    assert "missing (36):" in message
    assert "backbone.blocks.2.mlp_in.bias" in message


def test_weights_of_another_width_and_number_of_classes(folder):
    def change(config):
        config["model"]["backbone"].update(width=128, num_heads=2)
        config["model"].update(num_classes=7, class_names=None)

    edit(folder, change)
    with pytest.raises(FlexvarError) as caught:
        Pipeline.from_pretrained(folder)
    assert "These look like width 64; the config says 128." in str(caught.value)
    assert "These look like num_classes 5; the config says 7." in str(caught.value)
    assert "class_embedding.weight: file (6, 64), config (8, 128)" in str(caught.value)


def test_unexpected_weights(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "extra": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(FlexvarError, match=r"unexpected \(1\):\n    extra"):
        Pipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"]["backbone"].update(name="transfomer"), "Did you mean 'transformer'"),
        (
            lambda c: c["model"]["backbone"].update(depth=[2]),
            r"config\.json, model: backbone\.depth: got",
        ),
        (lambda c: c["model"].update(colour=1), r"config\.json:\nmodel\.colour: unknown option"),
        (lambda c: c.update(format_version=2), "has format version 2; .* Upgrade flexvar"),
        (lambda c: c.pop("model"), "model: missing"),
    ],
)
def test_configs_that_are_wrong(folder, change, message):
    edit(folder, change)
    with pytest.raises(FlexvarError, match=message):
        Pipeline.from_pretrained(folder)


def test_a_config_that_is_no_json(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(FlexvarError, match=r"config\.json cannot be read"):
        Pipeline.from_pretrained(folder)


def test_an_interrupted_save_leaves_the_old_checkpoint(tiny, folder, monkeypatch):
    from flexvar import checkpoint

    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(tensors, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(KeyboardInterrupt):
        tiny.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_shared_weights_are_written_once_and_stay_shared(tmp_path):
    from helpers import TINY

    from flexvar import Component, Registry, hookimpl

    class Plugin:
        @hookimpl
        def flexvar_backbones(self):
            yield Component(name="tied", target="test_checkpoint:Tied")

    def registry():
        result = Registry()
        result.add(Plugin())
        return result

    config = {**TINY, "backbone": {"name": "tied"}}
    pipe = Pipeline.from_config(config, registry=registry())
    pipe.save_pretrained(tmp_path / "tied")
    again = Pipeline.from_pretrained(tmp_path / "tied", registry=registry())
    assert again.model.backbone.one.weight is again.model.backbone.two.weight
    assert torch.equal(again.model.backbone.two.weight, pipe.model.backbone.two.weight)
    assert "backbone.two.weight" not in load_file(tmp_path / "tied" / "model.safetensors")


def _tied():
    from flexvar import PrefixBackbone

    class Tied(PrefixBackbone):
        def __init__(self, config, *, facts):
            super().__init__(config, facts=facts)
            self.one = torch.nn.Linear(config.width, config.width)
            self.two = torch.nn.Linear(config.width, config.width)
            self.two.weight = self.one.weight

        def forward(self, x_BLD, cond_BD, layout, position):
            return self.two(self.one(x_BLD))

    return Tied


Tied = _tied()
