"""Infinity's files -> a checkpoint that computes what the published code computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import GOLDEN
from safetensors.torch import load_file, save_file
from torch import Tensor

from flexvar import FlexvarError, Layout, Pipeline
from flexvar.build import build
from flexvar.convert import convert
from flexvar.errors import CheckpointError
from flexvar.sequence import fold_scales, targets, teacher_forcing

FOLDER = GOLDEN / "infinity_patchify"
TOKENIZER, TRANSFORMER = FOLDER / "tokenizer.safetensors", FOLDER / "transformer.safetensors"
CONFIG = json.loads((FOLDER / "config.json").read_text())
LAYOUT = Layout.of(*map(tuple, CONFIG["scales"]))
OPTIONS = ["pixels=0.06M", "level_every_chunk=true"]
SIZE = (352, 176)


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    return load_file(FOLDER / "io.safetensors")


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Of a pickle with the weights under ``vae`` and of shards with an index, saved and loaded."""
    folder = tmp_path_factory.mktemp("infinity")
    torch.save({"vae": load_file(TOKENIZER)}, folder / "infinity_vae_d14.pth")
    weights, index = load_file(TRANSFORMER), {}
    for number in range(2):
        name = f"model-{number}.safetensors"
        part = dict(list(weights.items())[number::2])
        save_file(part, folder / name)
        index |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    made = convert(
        tokenizer=folder / "infinity_vae_d14.pth",
        model=folder / "model.safetensors.index.json",
        options=OPTIONS,
    )
    return Pipeline.from_pretrained(made.save_pretrained(folder / "checkpoint"))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_tokenizer_is_infinitys(pipe: Pipeline, io: dict[str, Tensor]) -> None:
    part: Any = pipe.tokenizer
    latent_BChw = part.features(io["image"])
    close(F.pixel_shuffle(latent_BChw, 2), io["features"])
    maps = part.quantize(latent_BChw, LAYOUT)
    assert torch.equal(targets(maps), io["train.bits"].long())
    *_, folded = fold_scales(part, maps, LAYOUT)
    close(part.decode(folded).clamp(-1, 1), io["reconstruction"])


@torch.no_grad()
def test_the_logits_are_infinitys(pipe: Pipeline, io: dict[str, Tensor]) -> None:
    maps = pipe.tokenizer.quantize(pipe.tokenizer.features(io["image"]), LAYOUT)
    inputs = pipe.model.conditioner.collate([io["text"]])
    logits = pipe.model(inputs, teacher_forcing(pipe.tokenizer, maps, LAYOUT), LAYOUT)
    close(logits.flatten(2), io["train.logits"])


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("none", {"guidance": 1}),
        ("logits", {}),
        ("layer", {"sampler": "block_guidance", "guidance_blocks": (-2,)}),
    ],
)
def test_likeliest_samples_are_infinitys(
    rule: str, options: dict[str, Any], pipe: Pipeline, io: dict[str, Tensor]
) -> None:
    found: dict[str, Any] = {}
    pipe(
        prompts=[io["text"]],
        size=SIZE,
        top_k=1,
        on_scale=lambda step, latent, maps: found.update(latent=latent, maps=maps),
        **options,
    )
    cells = [F.pixel_shuffle(one.movedim(-1, 1).float(), 2) for one in found["maps"]]
    bits = torch.cat([one.flatten(2).mT for one in cells], dim=1)
    assert torch.equal(bits, io[f"sample.{rule}.bits"].float())
    close(F.pixel_shuffle(found["latent"], 2), io[f"sample.{rule}.latent"])


def test_the_checkpoint_knows_its_sizes_and_settings(
    pipe: Pipeline, recwarn: pytest.WarningsRecorder
) -> None:
    assert pipe.size == (256, 256)
    assert pipe.layout(SIZE) == LAYOUT
    assert not recwarn.list  # all shapes of the size of training are known
    assert pipe.settings.guidance_schedule == "constant"
    assert (pipe.settings.guidance, pipe.settings.temperature, pipe.settings.top_p) == (
        3.0, 0.5, 0.97,
    )  # fmt: skip


def test_it_draws_and_edits(pipe: Pipeline, io: dict[str, Tensor]) -> None:
    made = pipe(prompts=[io["text"], None], size=(144, 432), seed=1).images
    assert [one.size for one in made] == [(432, 144)] * 2
    picture = io["image"].add(1).div(2)
    mask = torch.zeros(SIZE)
    mask[:176] = 1
    for result in (
        pipe.inpaint(picture[0], mask, prompt=io["text"], seed=0),
        pipe.refine(picture[0, :, ::2, ::2], SIZE, prompt=io["text"], seed=0),
    ):
        assert result.images[0].size == (176, 352)


def test_no_words_without_an_encoder(pipe: Pipeline) -> None:
    with pytest.raises(FlexvarError, match="takes features in place of words"):
        pipe(prompts=["a cat"], size=(256, 256))


def test_long_prompts_are_cut_and_said(pipe: Pipeline) -> None:
    with pytest.warns(UserWarning, match="has 30 tokens; the first 24 are taken"):
        pipe.model.conditioner.collate([torch.randn(30, 256)])


def test_a_size_of_no_list_names_the_nearest(pipe: Pipeline) -> None:
    with pytest.raises(FlexvarError, match=r"the nearest is 16x16, 256x256 px.*any_size=True"):
        pipe.layout((272, 256))
    stretched = pipe.layout((272, 256), any_size=True, warn=False)
    assert stretched.last == (17, 16)
    assert len(stretched) == 7


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    weights = load_file(TOKENIZER)
    wider = {"encoder.conv_out.conv.weight": 0, "encoder.conv_out.conv.bias": 0,
             "decoder.conv_in.conv.weight": 1}  # fmt: skip
    for name, axis in wider.items():
        weights[name] = torch.cat([weights[name], weights[name].narrow(axis, 0, 2)], axis)
    save_file(weights, tmp_path / "d16.safetensors")
    with pytest.raises(CheckpointError, match=r"reads tokens of 56 bits, and .* makes 16 a cell"):
        convert(tokenizer=tmp_path / "d16.safetensors", model=TRANSFORMER)


def test_tokenizers_of_one_shape_are_told_apart_by_name(tmp_path: Path) -> None:
    for name, source in (("infinity_vae_d32", TOKENIZER), ("infinity_2b_reg", TRANSFORMER)):
        (tmp_path / f"{name}.safetensors").symlink_to(source)
    files = [tmp_path / f"{name}.safetensors" for name in ("infinity_vae_d32", "infinity_2b_reg")]
    with pytest.raises(CheckpointError, match=r"was trained with infinity_vae_d32reg\.pth"):
        convert(tokenizer=files[0], model=files[1])


def test_a_tokenizer_alone_converts() -> None:
    space = convert(tokenizer=TOKENIZER).tokenizer.space
    assert (space.groups, space.stride) == (56, 16)


def published(width: int, depth: int, heads: int, bits: int, patchify: int) -> dict[str, Any]:
    levels = [1, 2, 4, 4, 4][: 6 - patchify]
    return {
        "tokenizer": {
            "name": "bsq", "code_dim": bits, "patchify": patchify, "channels": 128,
            "channel_multipliers": levels, "projection_kernel": 0, "attention": False,
        },
        "backbone": {
            "name": "transformer", "width": width, "depth": depth, "num_heads": heads,
            "shared_modulation": True, "cross_attention": True, "cross_norm": True, "levels": 15,
        },
        "position": "rope2d",
        "schedule": "aspect_lists",
        "conditioner": {"name": "attention_pool", "encoder": "embeddings"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ((768, 12, 8, 16, 1), 125_148_800),
        ((2048, 32, 16, 32, 1), 2_204_564_032),
        ((3584, 40, 28, 14, 2), 8_375_791_824),
    ],
)
def test_parameters_are_as_many_as_published(sizes: tuple[int, ...], count: int) -> None:
    """125M, 2B and 8B: all weights of the transformer and of what reads the text."""
    with torch.device("meta"):
        model = build(published(*sizes)).model
    assert model is not None
    # flexvar's cross-attention has a bias of keys too, which changes no output.
    unused = sizes[0] * sizes[1]
    assert sum(one.numel() for one in model.parameters()) - unused == count


def test_level_vectors_come_once_or_before_every_chunk() -> None:
    def model(every: int | None) -> Any:
        torch.manual_seed(0)
        options = {"name": "transformer", "depth": 2, "width": 32, "num_heads": 2, "levels": 3}
        made = build({
            "tokenizer": {"name": "fsq", "channels": 32, "channel_multipliers": [1]},
            "backbone": {**options, "level_every": every}, "position": "rotary2d",
        }).model  # fmt: skip
        assert made is not None
        return made.eval()

    layout = Layout.of(1, 2, 3, 4)
    hidden: dict[int | None, list[Tensor]] = {}
    for every in (None, 1):
        part = model(every)
        with torch.no_grad():
            part.backbone.level.copy_(torch.arange(3.0)[:, None].expand(-1, 32) + 1)
            for block in part.backbone.blocks:
                # A block that changes nothing lets through what was added before it.
                block.forward = lambda x, *rest: x
            x = torch.zeros(1, layout.tokens, 32)
            out = part.backbone(x, torch.zeros(1, 32), layout, part.position(layout))
        hidden[every] = [out[0, s, 0].unique() for s in layout.slices]
    assert [one.tolist() for one in hidden[None]] == [[1.0], [2.0], [3.0], [3.0]]
    assert [one.tolist() for one in hidden[1]] == [[2.0], [4.0], [6.0], [6.0]]


def test_only_a_backbone_of_blocks_is_guided_inside() -> None:
    pipe = Pipeline.from_config(
        {
            "tokenizer": {"name": "fsq", "channels": 32, "channel_multipliers": [1, 1]},
            "backbone": {"name": "transformer", "depth": 2, "width": 32, "num_heads": 2},
        }
    )
    with pytest.raises(FlexvarError, match="guidance_blocks: got -3; this model has 2 blocks"):
        pipe(size=(8, 8), sampler="block_guidance", guidance_blocks=(-3,))
    assert pipe(size=(8, 8), sampler="block_guidance", guidance_blocks=(-1,), seed=0).images
