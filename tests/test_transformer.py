"""The transformer: kernels against the plain reference, the published sizes, drop-path."""

import pytest
import torch
from flexvar_plugins.backbones import attention
from helpers import TINY, shake

from flexvar import FlexvarError, Layout, Pipeline
from flexvar.footprint import Counter

GRIDS = [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]


def test_scales_without_a_mask_are_block_causal_attention():
    layout, generator = Layout.of(1, (2, 3), 4), torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, layout.tokens, 3, 8, generator=generator).unbind(0)
    ours = attention.over_scales(attention.eager, q, k, v, layout, 0.3)
    scale_of = torch.cat([torch.full((g.cells,), n) for n, g in enumerate(layout)])
    mask = scale_of[:, None] >= scale_of[None]
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * 0.3
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    torch.testing.assert_close(ours, torch.einsum("bhqk,bkhd->bqhd", weights, v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sdpa_agrees_with_the_reference_both_ways(dtype):
    layout = Layout.of(1, 2, (3, 5))
    torch.manual_seed(0)
    inputs = [torch.randn(2, layout.tokens, 3, 16, dtype=dtype) for _ in range(3)]
    results = []
    for kernel in (attention.eager, attention.sdpa):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = attention.over_scales(kernel, *leaves, layout, 0.5)
        out.float().square().sum().backward()
        results.append([out, *(leaf.grad for leaf in leaves)])
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def test_two_products_around_a_softmax_agree_with_the_reference():
    torch.manual_seed(0)
    for length, keys in ((40, 90), (3, 5)):
        q, k = (
            torch.nn.functional.normalize(torch.randn(2, n, 3, 16), dim=-1) for n in (length, keys)
        )
        v = torch.randn(2, keys, 3, 16)
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
            given = [x.to(dtype) for x in (q * 8, k, v)]
            found = attention.products(*given, 0.5)
            assert found.shape == q.shape
            expected = attention.eager(*given, 0.5)
            torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_of_the_scores_of_a_large_picture_few_are_held_at_a_time(monkeypatch):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, 3, 8) for n in (300, 400, 400))
    whole = attention.products(q, k, v, 0.25)
    # Several heads at a time, one, and a part of the queries of one.
    for most in (2 * 300 * 400, 300 * 400, 7 * 400, 1):
        monkeypatch.setattr(attention, "MOST_SCORES", most)
        with Counter() as count:
            found = attention.products(q, k, v, 0.25)
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)
        # Scores and their softmax; q, k and v by heads, and the result while it is joined.
        assert count.peak < 4 * 2 * most + 8 * v.nbytes


def test_scores_are_rounded_where_they_are_small_and_nothing_else(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    pipe, layout, label = shake(Pipeline.from_config(TINY)), Layout.of(1, 2), torch.tensor([0])

    def kernels():
        with torch.inference_mode():
            return pipe.model.start(label, layout).backbone.attends

    assert kernels() == [attention.sdpa] * 2
    pipe.to("bf16")
    with torch.no_grad():
        for block, scale in zip(pipe.model.backbone.blocks, (8.0, 20.0), strict=True):
            block.attention.log_scale.fill_(scale).log_()
    assert kernels() == [attention.products, attention.sdpa]
    assert pipe.model.start(label, layout).backbone.attends == [attention.sdpa] * 2
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert kernels() == [attention.sdpa] * 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_flash_agrees_with_the_reference_both_ways():
    if attention.probe_flash().function is None:
        pytest.skip(f"flash-attn is not here: {attention.probe_flash().reason}")
    layout = Layout.of(1, 2, (3, 5))
    inputs = [torch.randn(2, layout.tokens, 4, 64, device="cuda") for _ in range(3)]
    results = []
    for kernel, dtype in ((attention.eager, torch.float32), (attention.flash, torch.bfloat16)):
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        out = attention.over_scales(kernel, *leaves, layout, 0.125)
        out.float().square().sum().backward()
        results.append([out.float(), *(leaf.grad.float() for leaf in leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-2, rtol=5e-2)


def test_implementations():
    cpu = torch.device("cpu")
    assert attention.choose("auto", cpu, torch.float32) == "sdpa"
    assert attention.choose("eager", cpu, torch.float32) == "eager"
    assert "CUDA only" in attention.why_not_flash(cpu, torch.bfloat16)
    assert "fp16 and bf16, the model is in float32" in attention.why_not_flash(
        torch.device("cuda"), torch.float32
    )


def test_a_named_kernel_that_is_absent():
    if attention.probe_flash().function is not None:
        pytest.skip("flash-attn is here")
    config = {**TINY, "backbone": {**TINY["backbone"], "implementation": "flash"}}
    with pytest.raises(FlexvarError, match="'flash' needs flash-attn.*Install it: pip install"):
        Pipeline.from_config(config)


def test_eager_and_sdpa_give_the_same_logits():
    logits = []
    for implementation in ("eager", "sdpa"):
        config = {**TINY, "backbone": {**TINY["backbone"], "implementation": implementation}}
        pipe = shake(Pipeline.from_config(config))
        assert pipe.model.backbone.implementation() == implementation
        inputs = torch.randn(2, 19, 8, generator=torch.Generator().manual_seed(0))
        logits.append(pipe.model(torch.tensor([0, 1]), inputs, Layout.of(1, 2, (3, 5))))
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("depth", "flexvar", "var"),
    [(16, 315.6, 310.3), (20, 607.5, 600.9), (24, 1041.3, 1033.4), (30, 2019.9, 2010.0)],
)
def test_published_parameter_counts(depth, flexvar, var):
    base = {"backbone": {"name": "transformer", "depth": depth}, "num_classes": 1000}
    fixed = {
        "position": {"name": "per_scale", "grids": GRIDS},
        "schedule": {"name": "explicit", "grids": GRIDS},
    }
    with torch.device("meta"):
        pipes = [
            Pipeline.from_config({"tokenizer": "multiscale", **base}),
            Pipeline.from_config({"tokenizer": "residual", **base, **fixed}),
        ]
    for pipe, millions in zip(pipes, (flexvar, var), strict=True):
        count = sum(p.numel() for p in pipe.model.parameters()) / 1e6
        assert abs(count / millions - 1) < 1e-3
        assert pipe.size == (256, 256)


def test_published_initialisation():
    config = {**TINY, "backbone": {"name": "transformer", "depth": 4, "width": 256}}
    model = Pipeline.from_config(config).model
    std = (1 / 256 / 3) ** 0.5
    block = model.backbone.blocks[0]
    rows = block.modulation.weight.unflatten(0, (6, 256))
    expected = {
        model.token_embedding.weight: std,
        model.class_embedding.weight: std,
        model.head.logits.weight: std * 0.02,
        model.head.modulation.weight: std * 0.5,
        block.attention.qkv.weight: std,
        block.attention.out.weight: std / 8**0.5,
        block.mlp_in.weight: std,
        block.mlp_out.weight: std / 8**0.5,
        rows[:2]: std * 1e-3,
        rows[2:]: std * 0.5,
    }
    for weight, wanted in expected.items():
        assert abs(weight.std().item() / wanted - 1) < 0.06
    torch.testing.assert_close(block.attention.log_scale.exp(), torch.full((4,), 4.0))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()


def test_drop_path_drops_whole_branches_in_training_only():
    config = {**TINY, "backbone": {**TINY["backbone"], "drop_path": 0.9}}
    pipe = shake(Pipeline.from_config(config))
    model, layout = pipe.model, Layout.of(1, 2)
    inputs, labels = torch.randn(8, 4, 8), torch.arange(8) % 5
    assert [block.drop_path for block in model.backbone.blocks] == [0, 0.9]
    still = model(labels, inputs, layout)
    assert torch.equal(still, model(labels, inputs, layout))
    model.train()
    try:
        torch.manual_seed(0)
        moved = model(labels, inputs, layout)
    finally:
        model.eval()
    assert not torch.allclose(still, moved)


def test_the_search_for_codes_is_chunked_and_exact(monkeypatch):
    from flexvar_plugins.tokenizers import codebook

    book = codebook.Codebook(300, 7, normalise=False)
    torch.nn.init.normal_(book.weight)
    latent = torch.randn(2, 7, 9, 5)
    whole = book.nearest(latent)
    monkeypatch.setattr(codebook, "CHUNK_NUMBERS", 300 * 4)
    assert torch.equal(book.nearest(latent), whole)
    distance = torch.cdist(latent.permute(0, 2, 3, 1).flatten(0, 2), book.weight)
    assert torch.equal(distance.argmin(1).view(2, 9, 5), whole)


def test_refiners_are_shared_with_the_published_ties():
    from flexvar_plugins.tokenizers.residual import refiner_index

    assert [refiner_index(k, 5, 4) for k in range(5)] == [0, 1, 2, 2, 3]
    assert [refiner_index(k, 10, 4) for k in range(10)] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert refiner_index(0, 1, 4) == 3


def test_the_residual_tokenizer_ends_at_the_latents_own_grid():
    pipe = Pipeline.from_config({**TINY, "tokenizer": {**TINY["tokenizer"], "name": "residual"}})
    with pytest.raises(FlexvarError, match="has to end at the latent's own grid 4x6, not at 4x4"):
        pipe.tokenizer.encode(torch.zeros(1, 3, 16, 24), Layout.of(1, 4))
    with pytest.raises(FlexvarError, match="An image of 18x16 pixels is no whole number of cells"):
        pipe.tokenizer.encode(torch.zeros(1, 3, 18, 16), Layout.of(1, 4))
    maps = pipe.tokenizer.encode(torch.zeros(1, 3, 16, 24), Layout.of((4, 6)))
    assert tuple(maps[0].shape) == (1, 4, 6)
