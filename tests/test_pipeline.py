"""The pipeline: the same image whatever the batch, sizes, labels, presets, precision."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from helpers import TINY, TINY_CNN, shake
from PIL import Image

from flexvar import FlexvarError, Layout, Pipeline
from flexvar.images import read_settings

SAMPLING = {"guidance": 2.0, "top_k": 20, "top_p": 0.9}


def tokens(result, index=0):
    return [map_Bhw[index].tolist() for map_Bhw in result.maps]


@pytest.mark.parametrize("family", ["multiscale", "residual"])
def test_an_image_is_the_same_alone_in_a_batch_and_in_any_order(family):
    config = {
        **TINY,
        "tokenizer": {"name": family, **TINY_CNN},
        "backbone": {"name": "transformer", "depth": 3, "width": 256},
    }
    pipe = shake(Pipeline.from_config(config))
    labels, seeds = [0, 1, 2, 3, 4, 0, 1, 2], list(range(10, 18))
    batch = pipe(labels, size=(24, 40), seed=seeds, **SAMPLING)
    for index in (0, 3, 7):
        alone = pipe(labels[index], size=(24, 40), seed=[seeds[index]], **SAMPLING)
        assert tokens(alone) == tokens(batch, index)
        assert alone.images[0].tobytes() == batch.images[index].tobytes()
    back = pipe(labels[::-1], size=(24, 40), seed=seeds[::-1], **SAMPLING)
    assert [tokens(back, 7 - i) for i in range(8)] == [tokens(batch, i) for i in range(8)]


def test_one_seed_for_a_list_made_in_parts(tiny):
    whole = tiny([0, 1, 2], size=16, seed=3, **SAMPLING)
    part = tiny([2], size=16, seed=3, first_index=2, **SAMPLING)
    assert tokens(part) == tokens(whole, 2)
    assert whole.image_settings(2) == part.image_settings(0)
    assert tokens(tiny([0], size=16, seed=3, **SAMPLING)) == tokens(whole)
    assert tokens(tiny([0], size=16, seed=4, **SAMPLING)) != tokens(whole)


def test_another_process_gives_the_same_tokens(tiny, tiny_dir: Path):
    script = (
        "import json, sys; from flexvar import Pipeline\n"
        f"pipe = Pipeline.from_pretrained({str(tiny_dir)!r})\n"
        f"r = pipe(['cat', 4], size=(16, 24), seed=5, **{SAMPLING!r})\n"
        "print(json.dumps([m.tolist() for m in r.maps]))"
    )
    runs = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", script], capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(2)
    ]
    here = tiny([2, 4], size=(16, 24), seed=5, **SAMPLING)
    assert runs[0] == runs[1] == [m.tolist() for m in here.maps]


def test_images_per_call_changes_only_rounding(tiny):
    one = tiny([0, 1, 2], size=16, seed=0, output="tensor", images_per_call=1, top_k=1)
    all_at_once = tiny([0, 1, 2], size=16, seed=0, output="tensor", images_per_call=3, top_k=1)
    torch.testing.assert_close(one.images, all_at_once.images, atol=1e-4, rtol=0)


def test_sizes_and_steps(tiny):
    result = tiny(["cat"], size=(24, 40), steps=4, seed=0)
    assert result.images[0].size == (40, 24)
    assert len(result.maps) == 4
    assert tuple(result.maps[-1].shape) == (1, 6, 10)
    explicit = tiny([2], steps=[1, (2, 3), (4, 4)], seed=0, output="tensor")
    assert explicit.images.shape == (1, 3, 16, 16)
    assert explicit.images.min() >= 0
    assert explicit.images.max() <= 1
    assert tiny([None], size=4, seed=0).settings["labels"] == [None]


def test_num_and_callbacks(tiny):
    seen = []
    result = tiny(
        ["ant", "dog"],
        num=2,
        size=16,
        steps=3,
        seed=0,
        on_scale=lambda step, latent, maps: seen.append((step, latent.shape[-1], len(maps))),
    )
    assert result.settings["labels"] == ["ant", "ant", "dog", "dog"]
    assert seen == [(0, 1, 1), (1, 2, 2), (2, 4, 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (18, 16)}, "18 is no multiple of the stride 4; the nearest is 16 or 20"),
        ({"size": (0, 16)}, "0 is no multiple of the stride 4; the nearest is 4"),
        ({"size": 16, "steps": [1, 2]}, "size 16x16 is a 4x4 latent, but steps ends at 2x2"),
        ({"steps": 99}, "at most 31 steps"),
        ({"steps": 0}, "steps: got 0"),
        ({"top_k": -1}, "top_k: got -1; expected greater than or equal to 0"),
        ({"temperature": 0}, "temperature: got 0"),
        (
            {"guidance_schedule": "slope"},
            "guidance_schedule: got 'slope'; expected 'ramp', 'ramp10'",
        ),
        ({"preset": "best"}, "preset: there is no 'best'. Presets: default"),
        ({"output": "jpg"}, "output: got 'jpg'"),
        ({"num": 0}, "num: got 0"),
        ({"seed": [1, 2]}, "seed: 2 seeds for 1 images"),
    ],
)
def test_what_cannot_be(tiny, arguments, message):
    with pytest.raises(FlexvarError, match=message):
        tiny([0], **{"seed": 0, **arguments})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([5], "label: got 5; this model has 5 classes, 0 to 4"),
        ([-1], "label: got -1"),
        (["cta"], "there is no class 'cta'. Did you mean 'cat'\\? Classes: ant, bee, cat"),
        ([], "labels: there is none"),
    ],
)
def test_labels_that_are_none(tiny, labels, message):
    with pytest.raises(FlexvarError, match=message):
        tiny(labels, seed=0)


def test_settings_travel_in_the_file_and_make_the_image_again(tiny, tmp_path):
    result = tiny(["cat", 4], size=(16, 24), steps=4, seed=11, **SAMPLING)
    paths = result.save(tmp_path / "new" / "folder")
    stored = read_settings(paths[1])
    assert stored["label"] == "eel"
    assert [path.name for path in paths] == ["00000.png", "00001.png"]
    again = tiny(
        [stored["label"]],
        steps=[tuple(grid) for grid in stored["steps"]],
        seed=stored["seed"],
        first_index=stored["index"],
        **{key: stored[key] for key in ("guidance", "guidance_schedule", "top_k", "top_p")},
    )
    assert again.images[0].tobytes() == Image.open(paths[1]).tobytes()
    assert not list((tmp_path / "new" / "folder").glob("*.tmp"))


def test_a_size_that_no_memory_holds_is_refused_at_once(tiny):
    with pytest.raises(FlexvarError, match=r"size 1000000x1000000: .* at most 4,194,304 can be"):
        tiny([0], size=1_000_000)


def test_a_trained_size_warns_once_outside(tiny_dir, tmp_path):
    import shutil

    folder = tmp_path / "trained"
    shutil.copytree(tiny_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    config["trained"] = {"size": [16, 16], "steps": [3, 4]}
    config["presets"] = {"greedy": {"top_k": 1}}
    (folder / "config.json").write_text(json.dumps(config))
    pipe = Pipeline.from_pretrained(folder, preset="greedy")
    assert pipe.size == (16, 16)
    assert pipe.settings.top_k == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe([0], seed=0)
        pipe([0], size=(8, 32), steps=4, seed=0)  # twice or half a side is near
    with pytest.warns(UserWarning, match="48x48 px is far from the size this model was trained at"):
        pipe([0], size=48, steps=4, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe([0], size=48, steps=4, seed=0)


def test_bf16_holds_the_weights_and_keeps_the_codebook():
    pipe = Pipeline.from_config(TINY).to(dtype="bf16")
    assert pipe.model.token_embedding.weight.dtype == torch.bfloat16
    assert pipe.tokenizer.codebook.weight.dtype == torch.float32
    result = pipe([0, 1], size=16, seed=0, output="tensor")
    assert result.images.dtype == torch.float32
    assert result.images.isfinite().all()
    logits = pipe.model(torch.tensor([0]), torch.zeros(1, 4, 8), Layout.of(1, 2))
    assert logits.dtype == torch.float32


def test_soft_codes_and_greedy_sides(tiny):
    soft = tiny([0], size=16, seed=0, soft=True, top_k=10, output="tensor")
    assert soft.images.isfinite().all()
    assert not torch.equal(
        soft.images, tiny([0], size=16, seed=0, top_k=10, output="tensor").images
    )
    from flexvar import SamplingSettings

    tiny.config.presets["sides"] = SamplingSettings(draw_sides=(1, 2))
    try:
        one, other = (tiny([0], size=16, steps=4, seed=s, preset="sides") for s in (0, 1))
    finally:
        del tiny.config.presets["sides"]
    assert one.settings["draw_sides"] == [1, 2]
    if tokens(one)[:2] == tokens(other)[:2]:
        assert tokens(one) == tokens(other)


def test_soft_codes_of_the_likeliest_token_are_its_own(tiny):
    soft, hard = (
        tiny([0], size=16, seed=0, top_k=1, soft=soft, output="tensor") for soft in (True, False)
    )
    assert torch.equal(soft.images, hard.images)


def test_reconstruct(tiny, tmp_path):
    picture = Image.radial_gradient("L").resize((50, 38))
    result = tiny.reconstruct(picture)
    assert result.size == (48, 40) or result.size == (52, 40)
    picture.save(tmp_path / "a.png")
    assert tiny.reconstruct(tmp_path / "a.png").tobytes() == result.tobytes()
    batch = tiny.reconstruct(torch.rand(2, 3, 16, 24), output="tensor")
    assert batch.shape == (2, 3, 16, 24)
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(FlexvarError, match="b.png cannot be read as a picture"):
        tiny.reconstruct(tmp_path / "b.png")
    with pytest.raises(FlexvarError, match="There is no picture"):
        tiny.reconstruct(tmp_path / "c.png")


def test_random_weights_follow_the_seed():
    one, same, other = (Pipeline.from_config(TINY, seed=s) for s in (0, 0, 1))
    weights = [p.model.head.logits.weight for p in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    state = torch.random.get_rng_state()
    Pipeline.from_config(TINY, seed=3)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"backbone": {"name": "transfomer"}},
            "Unknown backbone 'transfomer'. Did you mean 'trans",
        ),
        (
            {"backbone": {"name": "transformer", "depth": "two"}},
            "backbone.depth: got 'two'; expected",
        ),
        (
            {"backbone": {"name": "transformer", "depth": True}},
            "depth: got True; expected a number",
        ),
        ({"backbone": {"name": "transformer", "depth": "2"}}, "depth: got '2'; expected a number"),
        ({"backbone": {"name": "transformer", "depht": 2}}, "did you mean 'depth'"),
        (
            {"backbone": {"name": "transformer", "width": 65, "num_heads": 2}},
            "no multiple of num_heads",
        ),
        (
            {"tokenizer": {"name": "multiscale", "channels": 40}},
            "channels is 40, expected a multiple of 32",
        ),
        ({"tokenizer": {"nam": "multiscale"}}, "tokenizer.name: missing"),
        ({"position": {"name": "per_scale"}}, "position.grids: missing"),
        ({"num_classes": 0}, "num_classes: got 0"),
        ({"num_classes": 4}, "5 class names for 4 classes"),
        ({"colour": "red"}, "colour: unknown option"),
    ],
)
def test_configs_that_are_wrong(change, message):
    with pytest.raises(FlexvarError, match=message):
        Pipeline.from_config({**TINY, **change})


def test_a_config_in_a_file(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(
        "tokenizer: {name: multiscale, channels: 32, channel_multipliers: [1, 1], vocab_size: 9}\n"
        "backbone: {name: transformer, depth: 1}\nnum_classes: 3\n"
    )
    assert Pipeline.from_config(path).size == (32, 32)
    with pytest.raises(FlexvarError, match="Cannot read the config"):
        Pipeline.from_config(tmp_path / "none.yaml")
    path.write_text("a: [1\n")
    with pytest.raises(FlexvarError, match="is not valid YAML"):
        Pipeline.from_config(path)


def test_parts_that_do_not_fit():
    from flexvar import Component, Registry, hookimpl

    class Plugin:
        @hookimpl
        def flexvar_backbones(self):
            yield Component(name="deaf", target="test_pipeline:Deaf")

    registry = Registry()
    registry.add(Plugin())
    config = {**TINY, "backbone": {"name": "deaf"}, "position": {"name": "rotary2d"}}
    with pytest.raises(
        FlexvarError, match="position 'rotary2d' gives rotate positions, which backbone"
    ):
        Pipeline.from_config(config, registry=registry)


def _deaf():
    from flexvar import ComponentConfig, PrefixBackbone

    class Deaf(PrefixBackbone):
        class Config(ComponentConfig):
            width: int = 32
            head_dim: int = 32

    return Deaf


Deaf = _deaf()
