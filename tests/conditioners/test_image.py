"""The image conditioner: pictures in any form, no picture, what is none, and generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY, shake
from PIL import Image

from flexvar import FlexvarError, Pipeline


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    backbone = {"name": "transformer", "depth": 1, "width": 64, "cross_attention": True}
    conditioner = {"name": "image", "size": 16, "levels": 2, "channels": 8}
    config = {"tokenizer": TINY["tokenizer"], "backbone": backbone, "conditioner": conditioner}
    return shake(Pipeline.from_config(config))


def test_pictures_in_any_form_are_the_same_condition(pipe: Pipeline, tmp_path: Path) -> None:
    picture = Image.effect_noise((20, 30), 90).convert("RGB")
    picture.save(tmp_path / "a.png")
    tensor = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    tensor = tensor.view(30, 20, 3).permute(2, 0, 1) / 255
    pixels, given = pipe.collate([picture, tmp_path / "a.png", tensor, None])
    assert given.flatten().tolist() == [True, True, True, False]
    assert torch.equal(pixels[0], pixels[1])
    assert torch.allclose(pixels[0], pixels[2], atol=1e-5)
    null = pipe.model.conditioner.null((pixels, given))
    assert all(torch.equal(a, b[:1]) for a, b in zip(pipe.collate([None]), null, strict=True))


@torch.no_grad()
def test_no_picture_is_one_condition_and_pixels_behind_it_change_nothing(pipe: Pipeline) -> None:
    conditioner: Any = pipe.model.conditioner
    pixels, given = pipe.collate([None, None])
    pixels[1] += 0.5
    found = conditioner((pixels, given))
    assert torch.equal(found.pooled_BD[0], found.pooled_BD[1])
    assert torch.equal(found.tokens_BTD[0], found.tokens_BTD[1])
    assert found.mask_BT.sum(1).tolist() == [1, 1]


def test_generates_from_pictures(pipe: Pipeline) -> None:
    pictures = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    given: dict[str, Any] = {"size": 16, "seed": 0, "output": "tensor", "top_k": 1}
    made = pipe(prompts=[*pictures, None], guidance=2.0, **given)
    assert not torch.equal(made.maps[-1][0], made.maps[-1][1])
    assert made.settings["prompts"][0].startswith("image 8x8 ")
    assert made.settings["prompts"][2] is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "got 3; this model takes pictures"),
        (torch.zeros(4, 4), r"tensor of shape \(4, 4\); this model takes pictures"),
        ("nowhere.png", "nowhere.png"),
    ],
)
def test_what_is_no_picture_is_refused(pipe: Pipeline, value: Any, message: str) -> None:
    with pytest.raises(FlexvarError, match=message):
        pipe(prompts=[value])
