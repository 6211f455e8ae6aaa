"""Pictures, masks and sizes that people edit: profiles, arrays, paint on transparent ground."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.append(str(Path(__file__).parent / "data"))
from pictures import noise
from profiles import DISPLAY_P3, profile

from flexvar import FlexvarError, Pipeline
from flexvar.editing import canvas, inputs

P3 = profile(DISPLAY_P3, 2.2)


def test_known_pixels_and_profile_come_back(tiny: Pipeline, tmp_path: Path) -> None:
    noise(32, 32).save(tmp_path / "in.png", icc_profile=P3)
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[8:20, 8:20] = 255
    result = tiny.inpaint(tmp_path / "in.png", mask, label=1, seed=0, feather=0, num=2)
    for path in result.save(tmp_path / "out"):
        with Image.open(path) as saved:
            assert saved.info["icc_profile"] == P3
            found = np.asarray(saved)
        own = np.asarray(noise(32, 32))
        assert np.array_equal(found[mask == 0], own[mask == 0])
        assert not np.array_equal(found[mask > 0], own[mask > 0])


def test_out_painting_keeps_the_profile(tiny: Pipeline, tmp_path: Path) -> None:
    noise(16, 16).save(tmp_path / "in.png", icc_profile=P3)
    image = tiny.outpaint(tmp_path / "in.png", (1, 2), 1, seed=0, feather=0).images[0]
    assert image.info["icc_profile"] == P3
    assert np.array_equal(np.asarray(image)[:, 8:24], np.asarray(noise(16, 16)))
    tensor = tiny.outpaint(tmp_path / "in.png", (1, 2), 1, seed=0, output="tensor").images
    assert tensor.shape == (1, 3, 16, 32)


def test_a_picture_without_profile_gets_none(tiny: Pipeline) -> None:
    image = tiny.edit(noise(32, 32), (0, 0, 16, 16), 1, seed=0).images[0]
    assert "icc_profile" not in image.info


@pytest.mark.parametrize(
    "convert",
    [
        lambda a: a,
        lambda a: np.moveaxis(a, 2, 0),
        lambda a: torch.from_numpy(a),
        lambda a: torch.from_numpy(a).permute(2, 0, 1),
        lambda a: torch.from_numpy(a).permute(2, 0, 1)[None],
        lambda a: a.astype(np.float32) / 255,
        lambda a: np.moveaxis(a, 2, 0).astype(np.float64) / 255,
        lambda a: torch.from_numpy(a).permute(2, 0, 1).float() / 255,
    ],
)
def test_arrays_and_tensors_of_every_layout_are_the_same_picture(convert: object) -> None:
    values = np.asarray(noise(16, 24)).copy()
    expected = torch.from_numpy(values).permute(2, 0, 1)[None].float() / 255
    assert torch.allclose(inputs.read_images(convert(values)), expected)  # type: ignore[operator]


@pytest.mark.parametrize(
    "grey",
    [
        lambda a: a,
        lambda a: a[:, :, None],
        lambda a: a[None],
        lambda a: torch.from_numpy(a)[None],
        lambda a: torch.from_numpy(a)[:, :, None],
        lambda a: torch.from_numpy(a),
    ],
)
def test_one_channel_is_grey(grey: object) -> None:
    values = np.arange(16 * 24, dtype=np.uint16).reshape(16, 24).astype(np.uint8)
    found = inputs.read_images(grey(values))  # type: ignore[operator]
    assert found.shape == (1, 3, 16, 24)
    assert torch.equal(found[0, 2] * 255, torch.from_numpy(values).float())


def test_reconstruct_takes_bytes_and_bounds_the_side(tiny: Pipeline) -> None:
    values = np.asarray(noise(32, 32)).copy()
    expected = np.asarray(tiny.reconstruct(Image.fromarray(values)))
    tensor = torch.from_numpy(values).permute(2, 0, 1)
    for source in (values, np.moveaxis(values, 2, 0), tensor, tensor.float() / 255):
        assert np.abs(np.asarray(tiny.reconstruct(source)).astype(int) - expected).max() <= 1
    with pytest.raises(FlexvarError, match="32x32 pixels are more than 16 a side"):
        tiny.reconstruct(values, max_side=16)
    with pytest.raises(FlexvarError, match=r"got values from -1 to 1 .*expected \[0,1\]"):
        tiny.reconstruct(torch.tensor([-1.0, 1.0]).expand(3, 2, 2))


@pytest.mark.parametrize("color", [(0, 0, 0), (200, 30, 40), (90, 90, 90)])
def test_dark_paint_on_transparent_ground_is_what_is_generated(color: tuple[int, ...]) -> None:
    mask = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    mask.paste((*color, 255), (4, 4, 8, 10))
    with pytest.warns(UserWarning, match="what is painted is generated"):
        found = inputs.read_masks(mask, (16, 16), 1)
    assert int(found.sum()) == 4 * 6
    assert bool(found[0, 4:10, 4:8].all())


def test_white_paint_on_transparent_ground_is_as_ever() -> None:
    mask = Image.new("RGBA", (16, 16), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (4, 4, 8, 10))
    mask.paste((9, 9, 9, 255), (12, 12, 16, 16))
    assert int(inputs.read_masks(mask, (16, 16), 1).sum()) == 4 * 6


def test_sizes_that_are_proposed_for_refining_will_do() -> None:
    for own in ((64, 64), (200, 300), (96, 128), (17, 400), (128, 160)):
        for size in ((128, 160), (128, 128), (64, 256), (8, 8), (512, 512)):
            for stride in (8, 16):
                better = canvas.refined_size(own, size, stride)
                assert better is not None
                assert better[0] % stride == better[1] % stride == 0
                assert canvas.alike(own, better, stride)
                assert canvas.larger(own, better, stride)


def test_the_size_that_refine_proposes_is_taken(tiny: Pipeline) -> None:
    import re

    image = noise(40, 60)
    for asked in ((32, 32), (16, 24), (40, 60)):
        with pytest.raises(FlexvarError, match="is larger and has its shape") as refused:
            tiny.refine(image, asked, 1, seed=0)
        height, width = re.search(r"(\d+)x(\d+) is larger", str(refused.value)).groups()  # type: ignore[union-attr]
        made = tiny.refine(image, (int(height), int(width)), 1, seed=0).images[0]
        assert made.size == (int(width), int(height))
