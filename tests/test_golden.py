"""The published implementations' numbers, from their weights: tokens exact, floats within 1e-4."""

import warnings

import pytest
import torch
from helpers import Golden

from flexvar.sequence import targets, teacher_forcing

TOLERANCE = {"atol": 1e-4, "rtol": 0}


@torch.no_grad()
def test_features_and_codes(golden: Golden):
    tokenizer, io = golden.pipe.tokenizer, golden.io
    maps = tokenizer.encode(io["image"], golden.layout)
    assert torch.equal(targets(maps), io["train.tokens"])
    if "vae.latent" in io:
        torch.testing.assert_close(tokenizer.features(io["image"]), io["vae.latent"], **TOLERANCE)
    for map_Bhw, grid in zip(maps, golden.layout, strict=True):
        name = f"vae.multiscale_quant.{grid.h}"
        if name in io:
            torch.testing.assert_close(tokenizer.lookup(map_Bhw), io[name], **TOLERANCE)


@torch.no_grad()
def test_teacher_forcing_and_logits(golden: Golden):
    pipe, io, layout = golden.pipe, golden.io, golden.layout
    inputs = teacher_forcing(pipe.tokenizer, pipe.tokenizer.encode(io["image"], layout), layout)
    torch.testing.assert_close(inputs, io["train.input"], **TOLERANCE)
    logits = pipe.model(io["labels"], inputs, layout)
    torch.testing.assert_close(logits, io["train.logits"], **TOLERANCE)


@torch.no_grad()
def test_reconstructions(golden: Golden):
    tokenizer, io, layout = golden.pipe.tokenizer, golden.io, golden.layout
    latent, checked = None, 0
    for step, map_Bhw in enumerate(tokenizer.encode(io["image"], layout)):
        latent = tokenizer.fold(latent, tokenizer.lookup(map_Bhw), layout, step)
        name = f"vae.recon.{layout[step].h}"
        if name in io:
            picture = tokenizer.decode(latent)
            # VAR's decoder clamps, ours leaves that to the pipeline.
            picture = picture if golden.name == "flexvar" else picture.clamp(-1, 1)
            torch.testing.assert_close(picture, io[name], **TOLERANCE)
            checked += 1
    assert checked


@pytest.mark.parametrize(
    ("rule", "schedule"), [("var_cfg", "ramp"), ("var_cfg", "ramp10"), ("llamagen_cfg", "constant")]
)
def test_greedy_samples(golden: Golden, rule: str, schedule: str):
    io = golden.io
    if f"sample.{rule}.image" not in io:
        assert golden.name != "flexvar"  # the published VAR has one rule of guidance
        return
    sides = golden.config.get("infer_scales", golden.config["scales"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer steps than in training
        result = golden.pipe(
            labels=io["labels"].tolist(),
            steps=[(side, side) for side in sides],
            guidance=golden.config["cfg"],
            guidance_schedule=schedule,
            top_k=1,
            output="tensor",
        )
    for step, map_Bhw in enumerate(result.maps):
        assert torch.equal(map_Bhw.flatten(1), io[f"sample.{rule}.tokens.{step}"])
    expected = io[f"sample.{rule}.image"]
    if golden.name == "flexvar":
        expected = expected.clamp(-1, 1).add(1).div(2)
    torch.testing.assert_close(result.images, expected, **TOLERANCE)


def test_guided_logits(golden: Golden):
    """The logits themselves, step by step, along the published tokens."""
    from flexvar.generation.draw import guidance_weight, guide
    from flexvar.layout import Layout

    io, pipe = golden.io, golden.pipe
    sides = golden.config.get("infer_scales", golden.config["scales"])
    layout = Layout.of(*sides)
    null = torch.full_like(io["labels"], pipe.model.num_classes)
    state = pipe.model.start(torch.cat([io["labels"], null]), layout)
    latent, inputs, checked = None, None, 0
    with torch.inference_mode():
        for step, grid in enumerate(layout):
            doubled = None if inputs is None else torch.cat([inputs, inputs])
            cond, uncond = pipe.model.step(doubled, state).chunk(2)
            weight = guidance_weight("ramp", golden.config["cfg"], layout.grids, step)
            name = f"sample.var_cfg.logits.{step}"
            if name in io:
                torch.testing.assert_close(guide(cond, uncond, weight), io[name], **TOLERANCE)
                checked += 1
            tokens = io[f"sample.var_cfg.tokens.{step}"].unflatten(1, grid)
            latent = pipe.tokenizer.fold(latent, pipe.tokenizer.lookup(tokens), layout, step)
            if step + 1 < len(layout):
                inputs = pipe.tokenizer.resize(latent, layout[step + 1]).flatten(2).mT
    assert checked
