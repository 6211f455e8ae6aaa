"""What an application sets around flexvar changes no number and breaks no call."""

import contextlib
import io
import sys
import warnings

import pytest
import torch
from helpers import TINY, TINY_CNN, shake
from PIL import Image

from flexvar import Pipeline

PARTS = [
    ("multiscale", "transformer", "rotary2d"),
    ("residual", "mamba", "sinusoidal2d"),
    ("multiscale", "transformer", "learned2d"),
]


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    # The stand-in for a GPU as default device: whatever lands there has no numbers.
    "device": lambda: torch.device("meta"),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


def work(pipe):
    """The bytes of all that a pipeline is asked for."""
    picture = Image.radial_gradient("L").resize((20, 12)).convert("RGB")
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (2, 2, 10, 9))
    images = []
    for way in ({"top_k": 20}, {"soft": True}, {"top_p": 0.9}, {"sampler": "best_of"}):
        images += pipe([0, None], size=(12, 20), steps=3, seed=0, guidance=2.0, **way).images
    images += pipe([1], size=(12, 20), steps=3, seed=0, tile=8).images
    images += pipe.inpaint(picture, mask, 1, seed=0, steps=3).images
    images += pipe.outpaint(picture, (1, 1.5), 1, seed=0, steps=3, fill="smooth").images
    images += pipe.edit(picture, (0, 0, 8, 8), 1, seed=0, steps=3).images
    images += pipe.refine(picture, (24, 40), 1, seed=0).images
    images.append(pipe.reconstruct(picture))
    scores = pipe.score(picture, [0, 1], steps=3).total_BN
    return [image.tobytes() for image in images] + [scores.numpy().tobytes()]


@pytest.mark.parametrize("parts", PARTS, ids="-".join)
def test_calls_give_the_same_under_any_settings(parts):
    tokenizer, backbone, position = parts
    config = {
        **TINY,
        "tokenizer": {"name": tokenizer, **TINY_CNN},
        "backbone": {"name": backbone, "depth": 2, "width": 64},
        "position": position,
    }
    pipe = shake(Pipeline.from_config(config, seed=1))
    expected = work(pipe)
    for name, setting in SETTINGS.items():
        with setting():
            assert work(pipe) == expected, name


@pytest.mark.parametrize("setting", SETTINGS)
def test_models_are_made_and_loaded_the_same_under_any_settings(setting, tmp_path):
    expected = Pipeline.from_config(TINY, seed=3)
    folder = expected.save_pretrained(tmp_path / "model")
    with SETTINGS[setting]():
        loaded = Pipeline.from_pretrained(folder)
        # Under ``with torch.device("meta")`` a new model has no numbers, and is meant to have none.
        made = [] if setting == "device" else [Pipeline.from_config(TINY, seed=3)]
    for pipe in (loaded, *made):
        for one, other in zip(pipe.parts.modules(), expected.parts.modules(), strict=True):
            for (name, weight), right in zip(
                one.named_parameters(), other.parameters(), strict=True
            ):
                assert weight.dtype == torch.float32, name
                assert torch.equal(weight, right), name
        # Weights of inference mode could not be changed or moved any more.
        pipe.to("cpu", "bf16").to(dtype="fp32")
        pipe.model.start_embedding.data.add_(1)


@pytest.mark.parametrize("closed", [True, False])
def test_a_closed_standard_error_stops_nothing(tiny, monkeypatch, closed):
    pipe = Pipeline(tiny.parts, tiny.config)
    expected = pipe([0], size=16, seed=0, output="tensor").images
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream if closed else None)
    for progress in (None, True):
        found = pipe([0], size=16, seed=0, output="tensor", progress=progress).images
        assert torch.equal(found, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        pipe.inpaint(torch.zeros(3, 8, 8), torch.zeros(8, 8), 0, seed=0)
