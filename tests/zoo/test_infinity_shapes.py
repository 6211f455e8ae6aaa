"""Infinity files of other depths, widths, bits, chunks and ratios against a plain reference."""

from __future__ import annotations

import json
from pathlib import Path

import infinity_reference as reference
import pytest
import torch
import torch.nn.functional as F
from helpers import GOLDEN
from infinity_reference import Shape
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from flexvar import Pipeline
from flexvar.convert import convert
from flexvar.scales import Scales
from flexvar.sequence import targets, teacher_forcing

SHAPES = {
    "tall": Shape(16, "1 2 3 5x4 10x8 15x12 20x16", (70, 56), depth=4, chunks=2, every_chunk=True),
    "wide": Shape(20, "1 2 2x6 3x9 5x15 7x21 9x27", (37, 111), width=48, heads=3, text=192,
                  widths=(32, 32)),
    "patches": Shape(8, "1 2 3x2 6x4 9x6 15x10 21x14", (78, 52), patch=2, width=96, heads=2,
                     depth=3, chunks=3, widths=(32, 32), blocks=2),
    "64 bits": Shape(64, "1 2 4 6 8 12 16", (64, 64), heads=1, depth=1),
}  # fmt: skip
TOLERANCE = 2e-4


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A shape, its files, and the pipeline of the checkpoint that they became."""
    shape: Shape = request.param
    folder = tmp_path_factory.mktemp("released")
    vae, model = reference.random_files(shape)
    torch.save({"vae": vae}, folder / "vae.pth")
    if shape.chunks == 1:
        torch.save(model, folder / "model.pth")
        path = folder / "model.pth"
    else:
        index = {}
        for number in range(3):
            part = dict(list(model.items())[number::3])
            save_file(part, folder / f"{number}.safetensors")
            index |= dict.fromkeys(part, f"{number}.safetensors")
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps({"weight_map": index}))
    options = ["pixels=0.06M", f"level_every_chunk={'true' if shape.every_chunk else 'false'}"]
    converted = convert(tokenizer=folder / "vae.pth", model=path, options=options)
    pipe = Pipeline.from_pretrained(converted.save_pretrained(folder / "checkpoint"))
    return shape, vae, model, pipe


def small_t5(folder: Path, channels: int) -> Path:
    """The directory of a text encoder of the kind that Infinity reads, of six words."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")

    words = ["<pad>", "</s>", "<unk>", "a", "red", "house"]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    config = transformers.T5Config(
        vocab_size=6, d_model=channels, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.T5EncoderModel(config).save_pretrained(folder)
    return folder


def test_words_are_read_by_t5_and_its_memory_is_given_back(tmp_path: Path) -> None:
    shape = SHAPES["tall"]
    encoder = small_t5(tmp_path / "t5", shape.text)
    vae, model = reference.random_files(shape)
    save_file(vae, tmp_path / "vae.safetensors")
    save_file(model, tmp_path / "model.safetensors")
    pipe = convert(
        tokenizer=tmp_path / "vae.safetensors",
        model=tmp_path / "model.safetensors",
        options=["pixels=0.06M", f"text_encoder={encoder}"],
    )
    import transformers
    from flexvar_plugins.conditioners import encoders

    ids = transformers.AutoTokenizer.from_pretrained(encoder)("a red house", return_tensors="pt")
    t5 = transformers.T5EncoderModel.from_pretrained(encoder, dtype=torch.bfloat16)
    with torch.no_grad():
        hidden = t5(ids["input_ids"]).last_hidden_state[0].float()
    features, mask, _ = pipe.model.conditioner.collate(["a red house"])
    assert torch.equal(features[0, : len(hidden)], hidden)
    assert int(mask.sum()) == len(hidden)
    assert encoders._hidden_states.cache_info().currsize == 0
    with pytest.warns(UserWarning, match=r"has 40 tokens; the first 12 are taken"):
        pipe.model.conditioner.collate(["house " * 40])
    frozen = pipe.model.conditioner.encoder()
    assert frozen.size == 2 * sum(weight.numel() for weight in t5.parameters())
    assert pipe(prompts="a red house", size=shape.size, seed=0).images[0].size == shape.size[::-1]


@pytest.fixture(scope="module")
def text() -> Tensor:
    return torch.randn(7, 192, generator=torch.Generator().manual_seed(3))


def picture(shape: Shape) -> Tensor:
    noise = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return F.interpolate(noise, shape.size, mode="bicubic").clamp(-1, 1)


def cells(shape: Shape, maps) -> list[Tensor]:
    """Bits (B,d,h,w) of the tokenizer's grids."""
    return [F.pixel_shuffle(one.movedim(-1, 1).float(), shape.patch) for one in maps]


def test_the_random_files_have_the_released_names() -> None:
    _, model = reference.random_files(SHAPES["tall"])
    golden = load_file(GOLDEN / "infinity_patchify" / "transformer.safetensors")
    assert reference.names_of(golden) - reference.names_of(model) == {
        "block.sa.zero_k_bias", "block.ca.zero_k_bias",
    }  # fmt: skip


@torch.no_grad()
def test_bits_logits_and_pictures(made, text: Tensor) -> None:
    shape, vae, model, pipe = made
    layout, prompt = pipe.layout(shape.size), text[:, : shape.text]
    assert list(layout) == shape.scales
    features = reference.encode(vae, shape, picture(shape))
    latent = F.pixel_unshuffle(features, shape.patch)
    torch.testing.assert_close(pipe.tokenizer.features(picture(shape)), latent, atol=1e-4, rtol=0)
    # Of the same features, so that rounding decides no bit.
    maps, expected = pipe.tokenizer.quantize(latent, layout), reference.bits_of(shape, features)
    for found, bits in zip(cells(shape, maps), expected, strict=True):
        assert torch.equal(found, bits)
    inputs = reference.inputs_of(shape, expected)
    ours = teacher_forcing(pipe.tokenizer, maps, layout)
    torch.testing.assert_close(ours, inputs, atol=1e-4, rtol=0)
    logits = pipe.model(pipe.model.conditioner.collate([prompt]), ours, layout)
    found = reference.logits_of(model, shape, prompt[None], inputs)
    torch.testing.assert_close(logits, found, atol=TOLERANCE, rtol=TOLERANCE)
    total = reference.sums(shape, expected)[-1]
    ours = pipe.tokenizer.decode(F.pixel_unshuffle(total, shape.patch))
    torch.testing.assert_close(ours, reference.decode(vae, shape, total), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("where", ["none", "logits", "block"])
@torch.no_grad()
def test_likeliest_samples(made, text: Tensor, where: str) -> None:
    """What is drawn scale by scale is what the reference finds likeliest under that context."""
    shape, _, model, pipe = made
    prompt, cfg = text[:, : shape.text], 1.0 if where == "none" else 3.0
    inside = {"sampler": "block_guidance", "guidance_blocks": (-1,)} if where == "block" else {}
    result = pipe(
        prompts=[prompt], size=shape.size, top_k=1, guidance=cfg, output="tensor", **inside,
        guidance_schedule="constant",
    )  # fmt: skip
    drawn = cells(shape, result.maps)
    both = torch.cat([prompt[None], reference.null_of(model, prompt[None])])
    logits = reference.logits_of(
        model, shape, both, reference.inputs_of(shape, drawn).expand(2, -1, -1),
        guided=-1 if where == "block" else None, cfg=cfg,
    )  # fmt: skip
    # The last block's output is guided, and what the head makes of it by the prompt.
    guided = logits[0] if where == "block" else cfg * logits[0] + (1 - cfg) * logits[1]
    margin = guided[..., 1] - guided[..., 0]
    sure = margin.abs() > 1e-2
    assert sure.float().mean() > 0.97
    assert torch.equal((margin > 0)[sure], (targets(result.maps)[0] == 1)[sure])


def test_editing_and_views(made, text: Tensor) -> None:
    shape, _, _, pipe = made
    (height, width), prompt = shape.size, text[:, : shape.text]
    image = Image.new("RGB", (width, height), (200, 60, 20))
    mask = Image.new("L", (width, height))
    mask.paste(255, (0, 0, width // 2, height))
    painted = pipe.inpaint(image, mask, prompt=prompt, seed=0)
    assert painted.images[0].size == (width, height)
    finer = pipe.refine(image.resize((width // 2, height // 2)), shape.size, prompt=prompt, seed=0)
    assert finer.images[0].size == (width, height)
    if shape.reference == (64, 64):
        wider = pipe.outpaint(image, margins=8, prompt=prompt, seed=0, any_size=True)  # fmt: skip
        assert wider.images[0].size == (width + 16, height + 16)
    views = Scales()
    pipe(prompts=[prompt], size=shape.size, seed=0, on_scale=views)
    (steps,) = views.pictures(pipe)
    assert len(steps) == len(shape.scales)
