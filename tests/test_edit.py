"""Editing: what is kept and what is generated, for any mask, size, tokenizer and backbone."""

import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command
from helpers import TINY, TINY_CNN, Golden, shake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from flexvar import FlexvarError, Grid, Layout, Pipeline
from flexvar.editing import canvas as canvases
from flexvar.editing import inputs
from flexvar.editing.known import cells_to_generate, encoder
from flexvar.images import read_settings

SAMPLING = {"guidance": 2.0, "top_k": 20, "top_p": 0.9}
QUICK = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
COMBINATIONS = [
    (tokenizer, backbone)
    for tokenizer in ("multiscale", "residual")
    for backbone in ("transformer", "mamba")
]


@cache
def pipe_of(tokenizer: str, backbone: str) -> Pipeline:
    config = {
        **TINY,
        "tokenizer": {"name": tokenizer, **TINY_CNN},
        "backbone": {"name": backbone, "depth": 2, "width": 64},
    }
    return shake(Pipeline.from_config(config, seed=2))


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """Waves of random colours: something to see at every scale."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def mask_of(height: int, width: int, box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", (width, height))
    left, top, right, bottom = box
    ImageDraw.Draw(mask).rectangle((left, top, right - 1, bottom - 1), fill=255)
    return mask


@st.composite
def masks(draw, most: int = 30):
    """A mask of some size: noise, or a few boxes."""
    height, width = draw(st.integers(1, most)), draw(st.integers(1, most))
    source = np.random.default_rng(draw(st.integers(0, 2**16)))
    if draw(st.booleans()):
        return source.random((height, width)) < draw(st.floats(0, 1))
    mask = np.zeros((height, width), dtype=bool)
    for _ in range(draw(st.integers(0, 3))):
        y, x = source.integers(height), source.integers(width)
        mask[y : y + source.integers(1, height + 1), x : x + source.integers(1, width + 1)] = True
    return mask


# Masks and cells.


@given(masks(), st.integers(1, 12), st.integers(1, 12))
@settings(deadline=None)
def test_the_rules_for_cells(mask, h, w):
    grid, pixels = Grid(h, w), torch.from_numpy(mask)[None]
    found = {rule: cells_to_generate(pixels, grid, rule)[0] for rule in ("any", "area", "all")}
    height, width = mask.shape
    for row in range(h):
        for column in range(w):
            cell = mask[
                row * height // h : -(-(row + 1) * height // h),
                column * width // w : -(-(column + 1) * width // w),
            ]
            assert bool(found["any"][row, column]) == bool(cell.any())
            assert bool(found["all"][row, column]) == bool(cell.all())
            assert bool(found["area"][row, column]) == bool(cell.mean() > 0.5)


def test_a_rule_there_is_not():
    with pytest.raises(FlexvarError, match="rule: got 'most'; expected any, area, all"):
        cells_to_generate(torch.zeros(1, 4, 4, dtype=torch.bool), Grid(2, 2), "most")


@given(masks())
@settings(deadline=None)
def test_filling_in_changes_the_hole_only_and_stays_in_range(mask):
    image = torch.rand(1, 3, *mask.shape, generator=torch.Generator().manual_seed(0))
    unknown = torch.from_numpy(mask)[None]
    filled = canvases.fill_in(image, unknown)
    assert torch.equal(filled[:, :, ~unknown[0]], image[:, :, ~unknown[0]])
    assert filled.isfinite().all()
    if not mask.all():
        known = image[:, :, ~unknown[0]]
        assert filled.min() >= known.min() - 1e-5
        assert filled.max() <= known.max() + 1e-5
    # What stands in the hole has no say.
    other = torch.where(unknown[:, None], 1 - image, image)
    torch.testing.assert_close(canvases.fill_in(other, unknown), filled)


@given(masks(), st.integers(0, 9))
@settings(deadline=None)
def test_pasting_leaves_the_hole_generated_and_the_rest_original(mask, feather):
    generate = torch.from_numpy(mask)[None]
    source = torch.Generator().manual_seed(1)
    original, generated = (torch.rand(1, 3, *mask.shape, generator=source) for _ in range(2))
    result = canvases.paste(original, generated, generate, feather)
    assert torch.equal(result[:, :, generate[0]], generated[:, :, generate[0]])
    reach = 2 * ((feather + 1) // 2)
    near = torch.nn.functional.max_pool2d(generate[None].float(), 2 * reach + 1, 1, reach)[0] > 0
    far = ~near[0]
    assert torch.equal(result[:, :, far], original[:, :, far])


@pytest.mark.parametrize(
    "make",
    [
        lambda a: Image.fromarray(a),
        lambda a: Image.fromarray(a).convert("RGB"),
        lambda a: Image.fromarray(a).convert("1"),
        lambda a: Image.fromarray(a.astype(np.uint16) * 257),
        lambda a: a,
        lambda a: a > 127,
        lambda a: a.astype(np.float32) / 255,
        lambda a: torch.from_numpy(a),
        lambda a: torch.from_numpy(a)[None, None],
        lambda a: np.stack([a, a, a], axis=2),
        lambda a: Image.merge("LA", [Image.new("L", a.shape[::-1], 255), Image.fromarray(a)]),
    ],
)
def test_masks_of_any_kind(make):
    array = np.zeros((6, 10), dtype=np.uint8)
    array[2:4, 3:9] = 255
    found = inputs.read_masks(make(array), (6, 10), 2)
    assert torch.equal(found, torch.from_numpy(array > 127)[None].expand(2, -1, -1))


def test_a_mask_is_thresholded(tmp_path):
    values = np.array([[0, 127, 128, 255]], dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "mask.png")
    for mask in (values, Image.fromarray(values), tmp_path / "mask.png"):
        assert inputs.read_masks(mask, (1, 4), 1).tolist() == [[[False, False, True, True]]]


@pytest.mark.parametrize("fill", ["reflect", "edge", "smooth"])
def test_canvases(fill):
    image = torch.rand(2, 3, 5, 4)
    grown = canvases.grow(image, (3, 11, 0, 6), fill)
    assert grown.shape == (2, 3, 8, 21)
    assert torch.equal(grown[:, :, 3:, 6:10], image)
    if fill == "reflect":
        assert torch.equal(grown[:, :, 3:, 10:14], image.flip(3))
        assert torch.equal(grown[:, :, 3:, 14:18], image)
    assert canvases.grow(torch.rand(1, 3, 1, 1), (2, 2, 2, 2), fill).shape == (1, 3, 5, 5)


@given(st.integers(1, 8000), st.integers(1, 8000), st.sampled_from([4, 8, 16]))
def test_the_size_a_picture_is_edited_at(height, width, stride):
    size = canvases.model_size((height, width), (64, 96), stride)
    assert all(side % stride == 0 and side > 0 for side in size)
    if 2048 <= height * width <= 9 * 64 * 96 - 1:
        assert all(
            abs(a - b) <= max(stride / 2, stride - b)
            for a, b in zip(size, (height, width), strict=True)
        )
    # Never more than nine times the trained area, but for the cell that every side has.
    assert size[0] * size[1] <= 9 * 64 * 96 + stride * (sum(size) + stride)


# All masks, sizes, tokenizers and backbones.


@pytest.mark.parametrize(("tokenizer", "backbone"), COMBINATIONS)
@QUICK
@given(masks(), st.sampled_from(["any", "area", "all"]), st.integers(0, 99), st.booleans())
def test_a_kept_token_is_never_changed(tokenizer, backbone, mask, rule, seed, soft):
    pipe = pipe_of(tokenizer, backbone)
    height, width = mask.shape
    size = (-(-height // 4) * 4, -(-width // 4) * 4)
    image = photo(height, width, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these masks keep everything
        result = pipe.inpaint(
            image, mask, 1, rule=rule, size=size, seed=seed, soft=soft, **SAMPLING
        )
    layout = Layout(tuple(Grid(*grid) for grid in result.settings["steps"]))
    own = encoder(pipe.tokenizer, layout, pipe.device)(inputs.read_images(image))
    pixels = torch.from_numpy(mask)[None]
    for found, given_, keep, mine, grid in zip(
        result.maps, result.known.maps, result.known.keep, own, layout, strict=True
    ):
        assert torch.equal(keep, ~cells_to_generate(pixels, grid, rule))
        assert torch.equal(found[keep], given_[keep])
        untouched = ~cells_to_generate(pixels, grid, "any")
        assert bool(keep[untouched].all())
        assert torch.equal(found[untouched], mine[untouched])
    assert result.images[0].size == (width, height)


@pytest.mark.parametrize(("tokenizer", "backbone"), COMBINATIONS)
@QUICK
@given(st.tuples(st.integers(1, 6), st.integers(1, 6)), st.integers(0, 99), st.booleans())
def test_keep_all_and_generate_all(tokenizer, backbone, grid, seed, soft):
    pipe = pipe_of(tokenizer, backbone)
    size = grid[0] * 4, grid[1] * 4
    image, options = photo(*size, seed), {"seed": seed, "size": size, "soft": soft, **SAMPLING}
    with pytest.warns(UserWarning, match="The mask keeps everything"):
        kept = pipe.inpaint(image, np.zeros(size, dtype=np.uint8), 1, **options)
    layout = Layout(tuple(Grid(*one) for one in kept.settings["steps"]))
    own = pipe.tokenizer.encode(inputs.read_images(image) * 2 - 1, layout)
    assert all(torch.equal(a, b) for a, b in zip(kept.maps, own, strict=True))
    assert kept.images[0].tobytes() == image.tobytes()
    made = pipe.inpaint(image, np.full(size, 255, dtype=np.uint8), 1, **options)
    plain = pipe(1, **options)
    assert all(torch.equal(a, b) for a, b in zip(made.maps, plain.maps, strict=True))
    assert made.images[0].tobytes() == plain.images[0].tobytes()


# The tasks.


def test_half_precision():
    pipe = Pipeline.from_config(TINY).to(dtype="bf16")
    result = pipe.inpaint(photo(16, 24), mask_of(16, 24, (0, 0, 8, 16)), 1, soft=True, seed=0)
    assert result.images[0].size == (24, 16)
    assert pipe.refine(photo(8, 8), 16, 1, seed=0, tile=4).images[0].size == (16, 16)
    assert pipe.score(photo(16, 24)).nats_BNK.dtype == torch.float32


@pytest.mark.parametrize("grid", [(5, 5), (3, 7), (9, 14)])
def test_released_layouts_take_every_task(golden: Golden, grid):
    pipe, (h, w) = golden.pipe, grid
    height, width = h * 16, w * 16
    image = photo(height, width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # most of these sizes are outside of training
        results = {
            "inpaint": pipe.inpaint(
                image, mask_of(height, width, (16, 0, 48, height)), 3, size=(height, width), seed=0
            ),
            "edit": pipe.edit(image, (0, 0, width // 2, height), 3, size=(height, width), seed=0),
            "outpaint": pipe.outpaint(
                image.resize((width - 16, height - 16)),
                label=3,
                margins=(16, 8, 0, 8),
                size=(height, width),
                seed=0,
            ),
            "refine": pipe.refine(image.resize((width // 2, height // 2)), (height, width), 3,
                                  seed=0),
        }  # fmt: skip
        expanded = pipe.expand(image, 3, seed=0)
        scores = pipe.score(image, [3, 4], size=(height, width))
    for task, result in results.items():
        assert result.settings["task"] == task
        assert tuple(result.maps[-1].shape) == (1, h, w)
        assert result.images[0].size == (width, height)
        assert any(bool((~keep).any()) for keep in result.known.keep)
        for found, given_, keep in zip(
            result.maps, result.known.maps, result.known.keep, strict=True
        ):
            assert torch.equal(found[keep], given_[keep])
    assert expanded.images[0].size == (2 * width, height)
    assert scores.nats_BNK.shape == (1, 2, len(scores.layout))
    assert scores.nats_BNK.isfinite().all()


def test_inpainting_pastes_the_known_pixels_back(tiny):
    image, mask = photo(24, 40), mask_of(24, 40, (8, 4, 24, 20))
    hole = np.asarray(mask) > 0
    hard = tiny.inpaint(image, mask, "cat", feather=0, seed=0, **SAMPLING)
    assert np.array_equal(np.asarray(hard.images[0])[~hole], np.asarray(image)[~hole])
    off = tiny.inpaint(image, mask, "cat", blend=False, seed=0, **SAMPLING)
    assert not np.array_equal(np.asarray(off.images[0])[~hole], np.asarray(image)[~hole])
    assert np.array_equal(np.asarray(off.images[0])[hole], np.asarray(hard.images[0])[hole])
    soft = tiny.inpaint(image, mask, "cat", seed=0, **SAMPLING)
    assert soft.settings["feather"] == 2
    assert soft.settings["size"] == [24, 40]
    assert np.array_equal(np.asarray(soft.images[0])[:, 28:], np.asarray(image)[:, 28:])
    boxed = tiny.edit(image, (8, 4, 24, 20), "cat", seed=0, **SAMPLING)
    assert boxed.images[0].tobytes() == soft.images[0].tobytes()


def test_what_is_to_go_does_not_come_back(tiny):
    """Neither the tokens nor the picture depend on what stood in cells with some of the hole."""
    image, mask = photo(16, 16), mask_of(16, 16, (3, 3, 13, 13))
    painted = image.copy()
    painted.paste((255, 0, 255), (3, 3, 13, 13))
    maps = [tiny.inpaint(one, mask, 2, seed=0, rule="all").known for one in (image, painted)]
    for one, other, keep in zip(maps[0].maps, maps[1].maps, maps[0].keep, strict=True):
        touched = cells_to_generate(
            torch.from_numpy(np.asarray(mask) > 0)[None], Grid(*one.shape[1:]), "any"
        )
        assert torch.equal(one[keep & touched], other[keep & touched])


def test_batches_are_what_each_picture_is_alone(tiny):
    pictures = [photo(16, 24, seed) for seed in range(3)]
    masks_ = [mask_of(16, 24, (4 * n, 0, 4 * n + 12, 16)) for n in range(3)]
    batch = tiny.inpaint(pictures, masks_, ["ant", "bee", 2], seed=[4, 5, 6], **SAMPLING)
    assert batch.settings["labels"] == ["ant", "bee", "cat"]
    for n in range(3):
        alone = tiny.inpaint(pictures[n], masks_[n], n, seed=[4 + n], **SAMPLING)
        assert alone.images[0].tobytes() == batch.images[n].tobytes()
    several = tiny.inpaint(pictures[0], masks_[0], 0, seed=4, num=2, **SAMPLING)
    assert several.images[0].tobytes() == batch.images[0].tobytes()
    assert several.images[1].tobytes() != batch.images[0].tobytes()
    tensor = inputs.read_images(pictures)
    one_mask = tiny.inpaint(tensor, masks_[0], 1, seed=0, output="tensor", **SAMPLING)
    assert one_mask.images.shape == tensor.shape
    assert torch.equal(one_mask.images[:, :, :, 16:], tensor[:, :, :, 16:])


def test_outpainting(tiny):
    image = photo(16, 16)
    wide = tiny.outpaint(image, (1, 2), "cat", feather=0, seed=0, **SAMPLING).images[0]
    assert wide.size == (32, 16)
    assert wide.crop((8, 0, 24, 16)).tobytes() == image.tobytes()
    assert tiny.expand(image, "cat", feather=0, seed=0, **SAMPLING).images[0] == wide
    result = tiny.outpaint(image, label=1, margins=(4, 8, 0, 0), feather=0, seed=0)
    assert result.images[0].size == (24, 20)
    assert result.images[0].crop((0, 4, 16, 20)).tobytes() == image.tobytes()
    assert tiny.outpaint(image, 1.5, 1, seed=0).images[0].size == (24, 24)


@pytest.mark.parametrize("tokenizer", ["multiscale", "residual"])
def test_refining_keeps_the_coarse_scales(tokenizer):
    pipe = pipe_of(tokenizer, "transformer")
    result = pipe.refine(photo(12, 20), (24, 40), 2, seed=0, **SAMPLING)
    start = result.settings["start"]
    assert [h <= 3 and w <= 5 for h, w in result.settings["steps"]] == [
        bool(keep.all()) for keep in result.known.keep
    ]
    assert start == sum(bool(keep.all()) for keep in result.known.keep) > 2
    assert result.images[0].size == (40, 24)
    earlier = pipe.refine(photo(12, 20), (24, 40), 2, start=2, seed=0, **SAMPLING)
    assert all(torch.equal(a, b) for a, b in zip(earlier.maps[:2], result.maps[:2], strict=True))
    if tokenizer == "multiscale":
        own = pipe.refine(photo(12, 20), (24, 40), 2, encode_at="own", seed=0)
        small = pipe.tokenizer.encode(
            inputs.read_images(photo(12, 20)) * 2 - 1, Layout(own_grids(own)[:start])
        )
        assert all(torch.equal(a, b) for a, b in zip(own.maps[:start], small, strict=True))
    else:
        with pytest.raises(FlexvarError, match="encode_at='own' takes|has to end at the latent"):
            pipe.refine(photo(12, 20), (24, 40), 2, encode_at="own", seed=0)


def own_grids(result):
    return tuple(Grid(*grid) for grid in result.settings["steps"])


def test_scores(tiny):
    picture = photo(16, 24)
    scores = tiny.score([picture, photo(16, 24, 1)], size=(16, 24))
    assert scores.nats_BNK.shape == (2, 5, len(scores.layout))
    assert scores.labels == ("ant", "bee", "cat", "dog", "eel")
    # Once more by hand: the probability of each token, one scale after the other.
    maps = tiny.tokenizer.encode(inputs.read_images(picture) * 2 - 1, scores.layout)
    state, inputs_BLC, latent = tiny.model.start(torch.tensor([2]), scores.layout), None, None
    with torch.inference_mode():
        for step, map_Bhw in enumerate(maps):
            logits = tiny.model.step(inputs_BLC, state).log_softmax(-1)
            nats = logits.gather(2, map_Bhw.flatten(1)[..., None]).sum()
            torch.testing.assert_close(scores.nats_BNK[0, 2, step], nats, atol=1e-3, rtol=1e-4)
            latent = tiny.tokenizer.fold(
                latent, tiny.tokenizer.lookup(map_Bhw), scores.layout, step
            )
            if step + 1 < len(maps):
                inputs_BLC = tiny.tokenizer.resize(latent, scores.layout[step + 1]).flatten(2).mT
    torch.testing.assert_close(scores.probability_BN.sum(1), torch.ones(2))
    best = tiny.score(picture, ["bee", "dog"])
    assert tiny.classify(picture, ["bee", "dog"]) == best.best[0]
    assert tiny.classify([picture], ["bee", "dog"]) == best.best
    assert tiny.score(picture, [None, 3]).labels == (None, "dog")


# Pictures of any kind, and bad input.


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16", "F"])
def test_pictures_of_any_mode(tiny, mode):
    grey = photo(14, 18).convert("L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        image = (grey if mode in ("F", "LA") else photo(14, 18)).convert(mode)
    result = tiny.inpaint(image, mask_of(14, 18, (0, 0, 9, 14)), 1, seed=0).images[0]
    assert (result.mode, result.size) == ("RGB", (18, 14))
    if mode == "I;16":
        right = np.asarray(result.convert("L"))[:, 13:]
        assert np.array_equal(right, np.asarray(grey)[:, 13:])


def test_a_picture_of_one_pixel(tiny):
    dot = Image.new("RGB", (1, 1), (10, 200, 30))
    assert tiny.inpaint(dot, Image.new("L", (1, 1), 255), 1, seed=0).images[0].size == (1, 1)
    assert tiny.outpaint(dot, label=1, margins=3, seed=0).images[0].size == (7, 7)
    assert tiny.refine(dot, 8, 1, seed=0).images[0].size == (8, 8)
    assert tiny.score(dot).nats_BNK.isfinite().all()


def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded(tiny, tmp_path, monkeypatch):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "large.png")
    Image.new("1", (20_000, 200)).save(tmp_path / "long.png")
    monkeypatch.setattr(inputs.images, "open_image", lambda *_: pytest.fail("was decoded"))
    with pytest.raises(FlexvarError, match="large.png: 400000000 pixels are more than Pillow"):
        tiny.inpaint(tmp_path / "large.png", None, 1)
    with pytest.raises(FlexvarError, match="long.png: 200x20000 pixels are more than 8192 a side"):
        tiny.score(tmp_path / "long.png")
    with pytest.raises(FlexvarError, match="1x30 pixels are more than 20 a side"):
        tiny.outpaint(Image.new("L", (30, 1)), (2, 1), 1, max_side=20)
    with pytest.raises(FlexvarError, match="the canvas: 8x40 pixels are more than 32 a side"):
        tiny.outpaint(Image.new("L", (20, 8)), (1, 2), 1, max_side=32)
    with pytest.raises(FlexvarError, match="size: 16384x16384 pixels are more than 8192"):
        tiny.refine(Image.new("L", (64, 64)), 16384, 1)


def test_a_mask_that_touches_too_little(tiny):
    mask = mask_of(16, 16, (5, 0, 6, 16))
    with pytest.warns(UserWarning, match="rule='any' would"):
        result = tiny.inpaint(photo(16, 16), mask, 1, size=16, seed=0)
    assert result.images[0].size == (16, 16)


HALF = mask_of(16, 16, (0, 0, 8, 16))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.inpaint(photo(16, 16), mask_of(8, 16, (0, 0, 4, 4)), 1),
         "mask: 8x16 pixels \\(height x width\\) for a picture of 16x16"),
        (lambda p: p.inpaint([photo(16, 16)] * 3, [HALF] * 2, 1), "mask: 2 masks for 3 pictures"),
        (lambda p: p.inpaint([photo(16, 16), photo(8, 16)], HALF, 1), "share a size, got 16x16, 8"),
        (lambda p: p.inpaint([], HALF, 1), "image: there is none"),
        (lambda p: p.inpaint(photo(16, 16), HALF, [1, 2]), "label: 2 labels for 1 pictures"),
        (lambda p: p.inpaint(photo(16, 16), HALF, "cta"), "no class 'cta'. Did you mean 'cat'"),
        (lambda p: p.inpaint(photo(16, 16), HALF, 1, rule="most"), "rule: got 'most'"),
        (lambda p: p.inpaint(photo(16, 16), HALF, 1, feather=-1), "feather: got -1"),
        (lambda p: p.inpaint(photo(16, 16), HALF, 1, size=18), "18 is no multiple of the stride 4"),
        (lambda p: p.inpaint(photo(16, 16), HALF, 1, num=0), "num: got 0"),
        (lambda p: p.inpaint(photo(16, 16), HALF, 1, output="jpg"), "output: got 'jpg'"),
        (lambda p: p.inpaint(3, HALF, 1), "image: got int; expected a picture"),
        (lambda p: p.inpaint(photo(16, 16), 3, 1), "mask: .* for a picture of 16x16|mask: got int"),
        (lambda p: p.inpaint(torch.zeros(2, 16, 16), HALF, 1), "expected \\(3,H,W\\)"),
        (lambda p: p.inpaint(torch.full((3, 16, 16), 255.0), HALF, 1), "expected \\[0,1\\]"),
        (lambda p: p.inpaint("nowhere.png", HALF, 1), "There is no picture nowhere.png"),
        (lambda p: p.inpaint(__file__, HALF, 1), "cannot be read as a picture"),
        (lambda p: p.edit(photo(16, 16), (0, 0, 17, 8), 1), "box: 0,0,17,8 .* does not lie in"),
        (lambda p: p.edit(photo(16, 16), (8, 0, 8, 8), 1), "does not lie in"),
        (lambda p: p.edit(photo(16, 16), (8, 0, 8), 1), "expected left, top, right, bottom"),
        (lambda p: p.edit(photo(16, 16), [(0, 0, 8, 8)] * 2, 1), "box: 2 boxes for 1 pictures"),
        (lambda p: p.outpaint(photo(16, 16), (1, 0.5), 1), "ratio: 1:0.5 would make the canvas sm"),
        (lambda p: p.outpaint(photo(16, 16), (1, 1), 1), "no larger than the picture, 16x16"),
        (lambda p: p.outpaint(photo(16, 16), label=1), "either ratio or margins"),
        (lambda p: p.outpaint(photo(16, 16), 2, 1, margins=4), "either ratio or margins"),
        (lambda p: p.outpaint(photo(16, 16), label=1, margins=-4), "margins: got -4"),
        (lambda p: p.outpaint(photo(16, 16), label=1, margins=(1, 2)), "margins: got \\(1, 2\\)"),
        (lambda p: p.outpaint(photo(16, 16), 2, 1, fill="blue"), "fill: got 'blue'"),
        (lambda p: p.refine(photo(16, 16), (34, 32), 1), "34 is no multiple.*nearest is 32 or 36"),
        (lambda p: p.refine(photo(16, 16), 16, 1), "16x16 is no larger than the picture, 16x16"),
        (lambda p: p.refine(photo(16, 16), (16, 64), 1), r"another shape .*x\d+ is larger and has"),
        (lambda p: p.refine(photo(16, 16), 32, 1, start=0), "start: got 0; the 8 steps"),
        (lambda p: p.refine(photo(16, 16), 32, 1, start=8), "can be generated from step 1 to 7"),
        (lambda p: p.refine(photo(16, 16), 32, 1, encode_at="home"), "encode_at: got 'home'"),
        (lambda p: p.score(photo(16, 16), ["cow"]), "there is no class 'cow'"),
    ],
)  # fmt: skip
def test_bad_input(tiny, call, message):
    with pytest.raises(FlexvarError, match=message):
        call(tiny)


def test_a_misspelt_keyword(tiny):
    with pytest.raises(TypeError, match="unexpected keyword argument 'gidance'. Did you mean 'gui"):
        tiny.inpaint(photo(16, 16), HALF, 1, gidance=2)
    with pytest.raises(TypeError, match="refine.. got an unexpected keyword argument 'rule'"):
        tiny.refine(photo(16, 16), 32, 1, rule="any")


# The command.


def run(*arguments, code=0):
    done = command("flexvar", "edit", *arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def inside(*arguments, code=0):
    """As `run`, in this process: a fresh one spends seconds on importing torch."""
    from flexvar.cli import main

    with warnings.catch_warnings(), pytest.raises(SystemExit) as stop:
        main(["edit", *map(str, arguments)])
    assert stop.value.code == code


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    photo(15, 22).save(folder / "a.png")
    photo(16, 16).save(folder / "b.jpg")
    mask_of(15, 22, (4, 4, 14, 15)).save(folder / "m.png")
    (folder / "text.png").write_text("no picture")
    return folder


def test_the_command_inpaints_as_python_does(tiny, tiny_dir, files, tmp_path):
    done = run("inpaint", "--model", tiny_dir, "--image", files / "a.png", "--mask",
               files / "m.png", "--label", "cat", "--seed", 7, "--num", 2, "--top-k", 20,
               "--rule", "any", "--feather", 0, "--out", tmp_path)  # fmt: skip
    assert "2 images in" in done.stdout
    assert "15x22 px (seed 7)" in done.stdout
    expected = tiny.inpaint(
        files / "a.png", files / "m.png", 2, num=2, seed=7, top_k=20, rule="any", feather=0
    )
    for n in range(2):
        assert Image.open(tmp_path / f"0000{n}.png").tobytes() == expected.images[n].tobytes()
    stored = read_settings(tmp_path / "00001.png")
    assert (stored["task"], stored["rule"], stored["index"]) == ("inpaint", "any", 1)


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        (["outpaint", "--ratio", "1:2"], [(44, 15), (32, 16)]),
        (["outpaint", "--margins", "4,0,0,2", "--fill", "edge"], [(24, 19), (18, 20)]),
        (["edit", "--box", "0,0,8,8", "--no-blend"], [(22, 15), (16, 16)]),
    ],
)
def test_the_command_takes_pictures_of_several_sizes(tiny_dir, files, tmp_path, arguments, sizes):
    inside(*arguments, "--model", tiny_dir, "--image", files / "a.png", "--image", files / "b.jpg",
           "--label", "none", "--out", tmp_path)  # fmt: skip
    assert [Image.open(tmp_path / f"0000{n}.png").size for n in range(2)] == sizes


def test_the_command_refines(tiny_dir, files, tmp_path):
    inside("refine", "--model", tiny_dir, "--image", files / "b.jpg", "--size", "32", "--label", 1,
           "--start", 3, "--out", tmp_path)  # fmt: skip
    assert Image.open(tmp_path / "00000.png").size == (32, 32)


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        ("inpaint", ["--mask", "m.png", "--image", "none.png"], "There is no picture"),
        ("inpaint", ["--mask", "m.png", "--image", "b.jpg", "--label", "1", "--label", "2"],
         "--label: 2 for 1 pictures"),
        ("inpaint", ["--image", "a.png"], "inpaint needs --mask"),
        ("inpaint", ["--image", "a.png", "--mask", "m.png", "--label="], "no class ''|number|''"),
        ("inpaint", ["--image", "text.png", "--mask", "m.png"], "cannot be read as a picture"),
        ("inpaint", ["--image", "b.jpg", "--mask", "m.png"], "mask: 15x22 pixels"),
        ("edit", ["--image", "a.png", "--box", "0,0,8"], "--box: got '0,0,8'"),
        ("edit", ["--image", "a.png", "--box", "0,0,80,8"], "does not lie in the picture"),
        ("outpaint", ["--image", "a.png"], "either --ratio or --margins"),
        ("outpaint", ["--image", "a.png", "--ratio", "wide"], "--ratio: got 'wide'"),
        ("outpaint", ["--image", "a.png", "--ratio", "1:0.5"], "smaller than the picture"),
        ("outpaint", ["--image", "a.png", "--margins", "a"], "--margins: got 'a'"),
        ("refine", ["--image", "b.jpg"], "refine needs --size"),
        ("refine", ["--image", "b.jpg", "--size", "30x32"], "nearest is 28 or 32"),
        ("refine", ["--image", "b.jpg", "--size", "32", "--mask", "m.png"], "--mask belongs to in"),
    ],
)  # fmt: skip
def test_bad_arguments(tiny_dir, files, tmp_path, task, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(files)
    label = [] if any(a.startswith("--label") for a in arguments) else ["--label", "cat"]
    inside(task, "--model", tiny_dir, *arguments, *label, "--out", tmp_path, code=2)
    assert any(part in capsys.readouterr().err.replace("\n", " ") for part in message.split("|"))
    assert not list(tmp_path.iterdir())


def test_bad_arguments_as_a_process(tiny_dir, files):
    done = run("inpaint", "--model", tiny_dir, "--image", files / "a.png", "--mask",
               files / "m.png", code=2)  # fmt: skip
    assert "There is no label" in done.stderr
    done = run("inpant", "--model", tiny_dir, "--image", files / "a.png", code=2)
    assert "inpant" in done.stderr
    assert "Example: flexvar edit inpaint" in run("--help").stdout.replace("\n", " ")


def test_the_editing_suite_measures_any_checkpoint(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from benchmarks.harness.suite import Options
    from benchmarks.suites import editing, editing_tasks
    from flexvar.checkpoint import Trained

    pytest.importorskip("sklearn")
    pipe = shake(Pipeline.from_config({**TINY, "num_classes": 10, "class_names": None}))
    pipe.config = pipe.config.model_copy(update={"trained": Trained(size=(16, 16))})
    folder = pipe.save_pretrained(tmp_path / "model")
    out = tmp_path / "measured"
    cases = editing.cases(Options(quick=True, model=str(folder), data="digits"))
    assert [case.name.split(":")[0] for case in cases] == [
        "score", "inpaint", "inpaint", "refine", "generate", "generate",
    ]  # fmt: skip
    assert all(case.settings["model"] == str(folder) for case in cases)
    found = {
        case.name: editing_tasks.measure(case.name, str(folder), "digits", 4, out) for case in cases
    }
    assert all(found.values())
    assert list(found[cases[-1].name]) == ["4"]
    assert (out / "editing-steps-plot.png").exists()
