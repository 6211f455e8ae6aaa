"""Released files of any architecture: wrappers, buffers, shared AdaLN, tokenizers alone."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from flexvar_plugins.released import convert
from helpers import GOLDEN
from safetensors.torch import load_file

from flexvar import FlexvarError, Layout, Pipeline


def golden_files(name: str):
    folder = GOLDEN / name
    return load_file(folder / "tokenizer.safetensors"), load_file(
        folder / "transformer.safetensors"
    )


def write(path: Path, data) -> Path:
    torch.save(data, path)
    return path


@pytest.fixture
def flexvar_files(tmp_path):
    """FlexVAR's files as released: wrapped, and with buffers that are no weights."""
    tokenizer, model = golden_files("flexvar")
    tokenizer["quantize.codebook_used"] = torch.zeros(65536)
    model["attn_bias_for_masking"] = torch.zeros(1, 1, 39, 39)
    nested = {
        "trainer": {"var_wo_ddp": model, "config": {"patch_nums": (1, 2, 3, 5)}},
        "epoch": 179,
    }
    return write(tmp_path / "FlexVAE.pth", {"model": tokenizer}), write(tmp_path / "d2.pth", nested)


def same(pipe: Pipeline, other: Pipeline) -> bool:
    pairs = zip(pipe.parts.modules(), other.parts.modules(), strict=True)
    return all(
        torch.equal(a, b)
        for one, two in pairs
        for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )


def test_wrapped_files_are_the_bare_ones(flexvar_files, tmp_path):
    tokenizer, model = flexvar_files
    pipe = convert(tokenizer=tokenizer, model=model, scales=[1, 2, 3, 5])
    folder = GOLDEN / "flexvar"
    bare = convert(
        tokenizer=folder / "tokenizer.safetensors",
        model=folder / "transformer.safetensors",
        scales=[1, 2, 3, 5],
    )
    assert same(pipe, bare)
    pipe.save_pretrained(tmp_path / "out")
    assert same(Pipeline.from_pretrained(tmp_path / "out"), bare)
    assert pipe.size == (80, 80)
    assert set(pipe.config.presets) == {"default", "released"}
    assert pipe.config.presets["released"].draw_sides == (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def test_a_training_checkpoint_holds_both(tmp_path):
    tokenizer, model = golden_files("var")
    data = {"trainer": {"var_wo_ddp": model, "vae_local": tokenizer, "var_opt": {"state": {}}}}
    pipe = convert(model=write(tmp_path / "ar-ckpt-last.pth", data))
    assert pipe.layout() == Layout.of(1, 2, 3, 5)
    assert pipe.size == (80, 80)


def test_prefixes_of_wrappers(tmp_path):
    tokenizer, model = golden_files("var")
    prefixed = {f"module._orig_mod.{name}": value for name, value in model.items()}
    pipe = convert(
        tokenizer=write(tmp_path / "v.pth", tokenizer), model=write(tmp_path / "m.pth", prefixed)
    )
    assert pipe.config.model.num_classes == 10


def test_averaged_weights_come_first(tmp_path):
    tokenizer, _ = golden_files("flexvar")
    ema = {name: value + 1 for name, value in tokenizer.items()}
    pipe = convert(tokenizer=write(tmp_path / "vq.pt", {"model": tokenizer, "ema": ema}))
    assert torch.equal(pipe.tokenizer.codebook.weight, ema["quantize.embedding.weight"])


def var_like(
    depth=3, width=96, heads=4, vocab=50, classes=6, sides=(1, 2, 4), shared=True, qk=True
):
    """A transformer's state dict in VAR's layout."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.randn(shape, generator=generator) * 0.1

    length = sum(s * s for s in sides)
    state = {
        "word_embed.weight": rand(width, 32),
        "word_embed.bias": rand(width),
        "class_emb.weight": rand(classes + 1, width),
        "pos_start": rand(1, 1, width),
        "pos_1LC": rand(1, length, width),
        "lvl_embed.weight": rand(len(sides), width),
        "lvl_1L": torch.cat([torch.full((s * s,), k) for k, s in enumerate(sides)])[None],
        "head_nm.ada_lin.1.weight": rand(2 * width, width),
        "head_nm.ada_lin.1.bias": rand(2 * width),
        "head.weight": rand(vocab, width),
        "head.bias": rand(vocab),
    }
    if shared:
        state |= {
            "shared_ada_lin.1.weight": rand(6 * width, width),
            "shared_ada_lin.1.bias": rand(6 * width),
        }
    for n in range(depth):
        block = {
            "attn.mat_qkv.weight": rand(3 * width, width),
            "attn.q_bias": rand(width),
            "attn.v_bias": rand(width),
            "attn.zero_k_bias": torch.zeros(width),
            "attn.proj.weight": rand(width, width),
            "attn.proj.bias": rand(width),
            "ffn.fc1.weight": rand(2 * width, width),
            "ffn.fc1.bias": rand(2 * width),
            "ffn.fc2.weight": rand(width, 2 * width),
            "ffn.fc2.bias": rand(width),
        }
        if shared:
            block["ada_gss"] = rand(1, 1, 6, width)
        else:
            block |= {"ada_lin.1.weight": rand(6 * width, width), "ada_lin.1.bias": rand(6 * width)}
        if qk:
            block["attn.scale_mul_1H11"] = rand(1, heads, 1, 1) + 1
        state |= {f"blocks.{n}.{name}": value for name, value in block.items()}
    return state


def test_another_architecture_is_read_from_the_tensors(tmp_path):
    tokenizer, _ = golden_files("var")
    tokenizer["quantize.embedding.weight"] = torch.randn(50, 32)
    files = write(tmp_path / "v.pth", tokenizer), write(tmp_path / "m.pth", var_like())
    pipe = convert(tokenizer=files[0], model=files[1])
    options = pipe.config.model.backbone.options
    assert options == {
        "depth": 3,
        "width": 96,
        "num_heads": 4,
        "mlp_ratio": 2.0,
        "qk_norm": True,
        "shared_modulation": True,
    }
    assert pipe.config.model.num_classes == 6
    assert pipe.layout() == Layout.of(1, 2, 4)
    state = var_like()
    offset = pipe.model.backbone.blocks[1].modulation_offset
    assert torch.equal(offset, state["blocks.1.ada_gss"].view(6, 96))
    assert pipe(labels=[5], seed=0).images[0].size == (64, 64)
    plain = write(tmp_path / "p.pth", var_like(shared=False, qk=False, width=128))
    options = convert(tokenizer=files[0], model=plain).config.model.backbone.options
    assert (options["num_heads"], options["qk_norm"]) == (2, False)


def test_lists_of_scales(tmp_path):
    tokenizer, _ = golden_files("var")
    tokenizer["quantize.embedding.weight"] = torch.randn(50, 32)
    vae = write(tmp_path / "v.pth", tokenizer)

    def lists(sides, scales=None):
        state = var_like(depth=1, width=32, heads=1, sides=sides)
        del state["lvl_1L"]
        return convert(
            tokenizer=vae, model=write(tmp_path / "m.pth", state), scales=scales
        ).layout()

    published = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    assert lists(published) == Layout.of(*published)
    assert lists((1, 2, 3, 4)) == Layout.of(1, 2, 3, 4)
    # 1 + 4 + 16 + 100 + 121 = 1 + 9 + 36 + 25 ... : several lists have as many tokens.
    with pytest.raises(
        FlexvarError, match=r"cannot tell its list of scales, for example \[1, .*--scales"
    ):
        lists((1, 4, 7, 9, 14))
    assert lists((1, 4, 7, 9, 14), scales=[1, 4, 7, 9, 14]) == Layout.of(1, 4, 7, 9, 14)
    with pytest.raises(
        FlexvarError, match="has 14 tokens in 3 scales; the file has 30 in 4 scales"
    ):
        lists((1, 2, 3, 4), scales=[1, 2, 3])


@pytest.mark.parametrize("multipliers", [(1, 2, 2, 4), (1, 1, 2, 2, 4)])
def test_llamagens_tokenizers(tmp_path, multipliers):
    """VQ-8 and VQ-16: FlexVAR's layout, another stride and codebook."""
    from flexvar.build import build

    spec = {
        "name": "multiscale",
        "vocab_size": 256,
        "code_dim": 8,
        "channels": 32,
        "latent_channels": 64,
    }
    parts = build({"tokenizer": {**spec, "channel_multipliers": multipliers}})
    state = as_released(parts.tokenizer.state_dict(), len(multipliers))
    pipe = convert(tokenizer=write(tmp_path / "vq.pt", {"model": state}))
    assert pipe.config.model.tokenizer.options["channel_multipliers"] == list(multipliers)
    assert pipe.tokenizer.space.stride == 2 ** (len(multipliers) - 1)
    image = torch.rand(1, 3, 64, 32) * 2 - 1
    layout = Layout.of(
        1, (2, 1), (64 // pipe.tokenizer.space.stride, 32 // pipe.tokenizer.space.stride)
    )
    parts.tokenizer.eval()
    with torch.no_grad():
        for one, two in zip(
            parts.tokenizer.encode(image, layout), pipe.tokenizer.encode(image, layout), strict=True
        ):
            assert torch.equal(one, two)
    with pytest.raises(FlexvarError, match="This checkpoint is a tokenizer alone"):
        pipe([0])


def as_released(state, levels):
    """Our names -> FlexVAE's, the opposite of the conversion."""
    result = {"quantize.codebook_used": torch.zeros(10)}
    for name, value in state.items():
        name = name.replace("codebook.weight", "quantize.embedding.weight")
        name = name.replace("to_code.", "quant_conv.").replace("from_code.", "post_quant_conv.")
        name = name.replace(".middle.", ".mid.")
        name = name.replace(".shortcut.", ".nin_shortcut.").replace(".out.", ".proj_out.")
        parts = name.split(".")
        if "levels" in parts:
            level, place = int(parts[2]), int(parts[3])
            lowest = level == (levels - 1 if parts[0] == "encoder" else 0)
            count = 2 + (parts[0] == "decoder")
            if place == count * (2 if lowest else 1):
                kind = ["downsample" if parts[0] == "encoder" else "upsample"]
            elif lowest:
                kind = ["attn" if place % 2 else "res", str(place // 2)]
            else:
                kind = ["res", str(place)]
            name = ".".join([parts[0], "conv_blocks", parts[2], *kind, *parts[4:]])
        if ".qkv." in name:
            for letter, third in zip("qkv", value.chunk(3), strict=True):
                result[name.replace(".qkv.", f".{letter}.")] = third
        else:
            result[name] = value
    return result


class Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_would_run_code(tmp_path):
    marker = tmp_path / "it_ran"
    evil = write(tmp_path / "evil.pth", {"model": Command(marker)})
    with pytest.raises(
        FlexvarError, match=r"holds more than tensors \(posix.system\) and could run code"
    ):
        convert(tokenizer=evil)
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps({"model": Command(marker)}))
    with pytest.raises(FlexvarError, match="could run code|no PyTorch file"):
        convert(tokenizer=plain)
    assert not marker.exists()


def test_files_that_are_not_what_they_should_be(tmp_path, flexvar_files):
    tokenizer, model = flexvar_files
    cut = tmp_path / "cut.pth"
    cut.write_bytes(tokenizer.read_bytes()[:5000])
    for path, message in [
        (cut, "truncated or no PyTorch file"),
        (tmp_path / "none.pth", "There is no file"),
        (model, "holds no tokenizer"),
    ]:
        with pytest.raises(FlexvarError, match=message):
            convert(tokenizer=path)
    text = tmp_path / "text.pth"
    text.write_text("hello")
    with pytest.raises(FlexvarError, match="text.pth is truncated or no PyTorch file"):
        convert(tokenizer=text)
    with pytest.raises(FlexvarError, match="holds no transformer"):
        convert(tokenizer=tokenizer, model=tokenizer)
    with pytest.raises(FlexvarError, match="holds no tokenizer; give its file too"):
        convert(model=model)
    with pytest.raises(FlexvarError, match="Nothing to convert"):
        convert()
    var = write(tmp_path / "other.pth", var_like(depth=1))
    with pytest.raises(
        FlexvarError, match="do not belong together: the model has a vocabulary of 50"
    ):
        convert(tokenizer=tokenizer, model=var)


@pytest.mark.parametrize(
    "name", ["encoder.conv_in.weight", "quant_conv.weight", "class_emb.weight", "pos_1LC",
             "head.weight", "pos_start", "blocks.0.ffn.fc1.weight"]
)  # fmt: skip
def test_incomplete_files_name_what_they_lack(tmp_path, name):
    tokenizer, model = golden_files("flexvar")
    tokenizer.pop(name, None)
    model.pop(name, None)
    files = write(tmp_path / "t.pth", tokenizer), write(tmp_path / "m.pth", model)
    with pytest.raises(FlexvarError, match=f"is incomplete: it has no tensor '{name}'"):
        convert(tokenizer=files[0], model=files[1])


def test_a_gap_in_the_blocks(tmp_path):
    tokenizer, model = golden_files("flexvar")
    model = {key: value for key, value in model.items() if not key.startswith("blocks.0.")}
    files = write(tmp_path / "t.pth", tokenizer), write(tmp_path / "m.pth", model)
    with pytest.raises(FlexvarError, match="m.pth is incomplete: it has no tensors blocks.0"):
        convert(tokenizer=files[0], model=files[1])


def test_a_training_checkpoint_notes_its_list(tmp_path):
    import argparse

    tokenizer, _ = golden_files("var")
    tokenizer["quantize.embedding.weight"] = torch.randn(50, 32)
    state = var_like(depth=1, width=32, heads=1, sides=(1, 4, 7, 9, 14))
    del state["lvl_1L"]
    noted = {"config": {"patch_nums": (1, 4, 7, 9, 14)}, "var_wo_ddp": state}
    data = {"trainer": noted, "args": argparse.Namespace(depth=1)}
    pipe = convert(
        tokenizer=write(tmp_path / "v.pth", tokenizer), model=write(tmp_path / "m.pth", data)
    )
    assert pipe.layout() == Layout.of(1, 4, 7, 9, 14)


def test_scales_that_do_not_rise(flexvar_files):
    tokenizer, model = flexvar_files
    for scales in ([3, 2], [2, 3], [1, 2, 2]):
        with pytest.raises(FlexvarError, match="expected rising sides from 1 on"):
            convert(tokenizer=tokenizer, model=model, scales=scales)


def test_class_names_are_one_per_class(flexvar_files):
    tokenizer, model = flexvar_files
    with pytest.raises(FlexvarError, match="2 class names, but the model has 10 classes"):
        convert(tokenizer=tokenizer, model=model, class_names=["a", "b"])
    names = [f"class{number}" for number in range(10)]
    pipe = convert(tokenizer=tokenizer, model=model, class_names=names)
    assert pipe.label_numbers(["class3"]) == [3]
