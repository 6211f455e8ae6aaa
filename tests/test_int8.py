"""Linear layers in int8: the product is its definition, and a pipeline goes there and back."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from helpers import TINY, shake

from flexvar import FlexvarError, Layout, Pipeline
from flexvar.evaluation.sampler import weights_digest
from flexvar.footprint import footprint
from flexvar.ops import int8, linear
from flexvar.ops.linear import Linear

HERE = pytest.mark.skipif(bool(int8.why_not()), reason=f"no int8 here: {int8.why_not()}")


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return shake(Pipeline.from_config(TINY)).to(dtype="int8")


@HERE
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 24), (2, 7, 24), (3, 100), (2, 0, 24)])
# In bf16 the product is rounded, and its sum with the bias: each by 2^-9, of up to 30.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 8e-3)], ids=["fp32", "bf16"]
)
def test_the_product_is_its_definition(
    shape: tuple[int, ...], bias: bool, gelu: bool, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape).to(dtype) * 3
    weight, offset = torch.randn(40, shape[-1]), torch.randn(40).to(dtype)
    with torch.inference_mode():
        made = int8.product(x, int8.pack(weight), offset if bias else None, gelu=gelu)
    expected = int8.plain(x, weight, offset if bias else None, gelu=gelu)
    assert made.dtype == dtype
    assert made.shape == (*shape[:-1], 40)
    torch.testing.assert_close(made, expected, atol=tolerance * 30, rtol=tolerance)


def test_rounding_uses_all_steps_and_is_within_half_of_one() -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        size = torch.tensor([1e-6, 1e-3, 1.0, 1e3, 0.0])[:, None]
        x = (torch.randn(5, 300) * size).to(dtype)
        values, step = int8.rounded(x)
        assert values.dtype == torch.int8
        assert values[:4].abs().amax(1).tolist() == pytest.approx([126.5] * 4, abs=0.51)
        error = (values * step.float() - x.float()).abs()
        assert bool((error <= 0.5001 * step.float()).all())
        assert not values[4].any()


@HERE
def test_a_token_is_the_same_whoever_stands_beside_it() -> None:
    torch.manual_seed(0)
    x, packed = torch.randn(9, 64), int8.pack(torch.randn(48, 64))
    x[4] *= 1000
    with torch.inference_mode():
        together = int8.product(x, packed, None)
        assert torch.equal(together[3:4], int8.product(x[3:4], packed, None))


@HERE
def test_weights_are_packed_whatever_their_order() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(9, 64), torch.randn(48, 64)
    with torch.inference_mode():
        expected = int8.product(x, int8.pack(weight), None)
        turned = weight.t().contiguous().t()
        assert torch.equal(int8.product(x, int8.pack(turned), None), expected)
        assert torch.equal(int8.product(x.t().contiguous().t(), int8.pack(weight), None), expected)
    assert int8.pack(torch.nn.Parameter(weight)).digest == int8.pack(turned).digest


@HERE
def test_only_the_backbones_layers_are_in_int8(pipe: Pipeline) -> None:
    assert repr(pipe).startswith("Pipeline(cpu, int8)")
    for part in pipe.model.backbone.modules():
        if isinstance(part, Linear):
            assert part.packed is not None
            assert part.weight.dtype == torch.int8
    assert pipe.model.head.logits.weight.dtype == int8.rest()
    assert pipe.model.dtype == int8.rest()
    assert pipe.tokenizer.codebook.weight.dtype == torch.float32


@HERE
def test_pictures_in_int8_are_finite_and_follow_the_seed_alone(pipe: Pipeline) -> None:
    assert pipe.to(dtype="int8") is pipe
    both = pipe([0, 1], size=(16, 24), seed=[3, 4], output="tensor")
    alone = copy.deepcopy(pipe)([1], size=(16, 24), seed=[4], output="tensor")
    assert both.images.isfinite().all()
    assert torch.equal(both.images[1:], alone.images)
    assert both.settings["dtype"] == "int8"


@HERE
@pytest.mark.parametrize("backbone", ["transformer", "mamba", "mvar", "delta"])
def test_logits_are_near_those_of_fp32(backbone: str) -> None:
    config = {**TINY, "backbone": {"name": backbone, "depth": 2, "width": 64}}
    pipe = shake(Pipeline.from_config(config))
    layout, labels = Layout.of(1, 2, 3), torch.tensor([0, 1])
    torch.manual_seed(0)
    inputs = torch.randn(2, layout.tokens - 1, pipe.model.facts.code_dim)
    with torch.inference_mode():
        exact = pipe.model(labels, inputs, layout)
        found = pipe.to("int8").model(labels, inputs, layout)
    assert found.dtype == torch.float32
    # 3 % of the logits' own size: 127 steps in every product, and bf16 around them.
    assert float((found - exact).square().mean().sqrt() / exact.std()) < 0.03
    assert not torch.equal(found, exact)


@HERE
def test_back_from_int8_the_weights_are_exact(tmp_path: Path) -> None:
    pipe = shake(Pipeline.from_config(TINY))
    exact = {name: tensor.clone() for name, tensor in pipe.model.state_dict().items()}
    pipe.save_pretrained(tmp_path / "model")
    for one in (pipe, Pipeline.from_pretrained(tmp_path / "model")):
        for way in ("bf16", "int8", "bf16", "int8", "fp32"):
            one.to(dtype=way)
        for name, tensor in one.model.state_dict().items():
            assert torch.equal(tensor, exact[name]), name
    loaded = Pipeline.from_pretrained(tmp_path / "model", dtype="int8")
    result, again = (p([0], size=16, seed=0) for p in (loaded, pipe.to("int8")))
    assert result.images[0].tobytes() == again.images[0].tobytes()
    assert weights_digest(loaded) == weights_digest(pipe)
    with torch.no_grad():
        pipe.to("fp32").model.backbone.blocks[0].mlp_in.weight[0, 0] += 1
    assert weights_digest(loaded) != weights_digest(pipe.to("int8"))


@HERE
def test_weights_that_were_changed_before_int8_do_not_come_back_as_the_files(
    tmp_path: Path,
) -> None:
    shake(Pipeline.from_config(TINY)).save_pretrained(tmp_path / "model")
    pipe = Pipeline.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        pipe.model.backbone.blocks[0].mlp_in.weight[0, 0] += 1
    pipe.to("int8")
    for wanted in ("fp32", "bf16"):
        with pytest.raises(FlexvarError, match="rounded to int8 and changed since they were load"):
            pipe.to(wanted)
    assert repr(pipe).startswith(f"Pipeline({tmp_path / 'model'}, cpu, int8)")
    assert pipe([0], size=16, seed=0, output="tensor").images.isfinite().all()


@HERE
def test_asked_for_again_or_refused_a_pipeline_stays_what_it_is(pipe: Pipeline) -> None:
    once = pipe([0], size=16, seed=0, output="tensor").images
    assert torch.equal(pipe.to("cpu:0")([0], size=16, seed=0, output="tensor").images, once)
    other = Pipeline.from_config(TINY)
    other.parts.model.backbone = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(FlexvarError, match="has no layer that can be in int8"):
        other.to("int8")
    assert other.dtype == torch.float32
    with torch.device("meta"):
        shapes = Pipeline.from_config(TINY, dtype="int8")
    assert {p.dtype for p in shapes.to("fp32").model.parameters()} == {torch.float32}


@HERE
def test_what_cannot_be_done_in_int8_says_so(pipe: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(FlexvarError, match=r"save_pretrained: this model is in int8.*to\('fp32'\)"):
        pipe.save_pretrained(tmp_path / "model")
    with pytest.raises(FlexvarError, match="push_to_hub: this model is in int8"):
        pipe.push_to_hub("someone/model")
    with pytest.raises(FlexvarError, match="load_state_dict: this model is in int8.*in fp32"):
        pipe.model.load_state_dict(pipe.model.state_dict())
    with pytest.raises(FlexvarError, match=r"pickle: a model in int8 .*to\('fp32'\)"):
        pickle.dumps(pipe.model)
    layout = Layout.of(1, 2)
    with pytest.raises(FlexvarError, match="a model in int8 cannot be trained"):
        pipe.model(torch.tensor([0]), torch.zeros(1, 4, 8), layout)
    assert pipe.compile().reason == "blocks in int8 cannot be compiled"
    with pytest.warns(UserWarning, match="Blocks in int8 cannot be compiled; they run as they are"):
        assert not pipe.compile("regions").regions
    other = torch.nn.Sequential(torch.nn.Linear(2, 2))
    from flexvar.ops.linear import to_int8

    with pytest.raises(FlexvarError, match=r"Sequential has no layer that can be in int8"):
        to_int8(other)


def test_where_there_is_no_product_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FlexvarError, match="int8 is of a CPU, the model is on cuda:0; take bf16"):
        int8.check(torch.device("cuda:0"))

    def missing(*_: object) -> torch.Tensor:
        raise AttributeError("'_OpNamespace' 'onednn' object has no attribute 'qlinear_pointwise'")

    monkeypatch.setattr(int8, "_product", missing)
    int8.why_not.cache_clear()
    try:
        with pytest.raises(FlexvarError, match=r"has no operator of oneDNN for it .*Take fp32"):
            Pipeline.from_config(TINY, dtype="int8")
        # As on a machine that has the operator, whichever this one is.
        monkeypatch.setattr(int8, "_pack", lambda weight: weight)
        monkeypatch.setattr(int8, "_product", lambda x, *_: torch.zeros(64, 256))
        int8.why_not.cache_clear()
        assert int8.why_not() == "oneDNN's product of integers overflows on this CPU"
        monkeypatch.setattr(int8, "_product", lambda x, weight, *_: int8.plain(x, weight, None))
        for times, why in ((1.1, "oneDNN has no fast product of integers for this CPU"), (0.9, "")):
            taken = iter([1.0, times * int8.SLOW])
            monkeypatch.setattr(int8, "_seconds", lambda run, taken=taken: next(taken))
            int8.why_not.cache_clear()
            assert int8.why_not() == why
    finally:
        int8.why_not.cache_clear()


def test_memory_counts_a_byte_for_each_weight_in_int8() -> None:
    with torch.device("meta"):
        pipe = Pipeline.from_config(TINY, dtype="int8")
    layout = Layout.of(1, 2)
    weights = footprint(pipe, layout).weights["model"]
    layers = [m for m in pipe.model.backbone.modules() if isinstance(m, Linear)]
    assert weights["int8"] == sum(layer.weight.numel() for layer in layers) > 0


def test_memory_counts_the_copies_in_onednns_order(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        pipe = Pipeline.from_config(TINY)
    before = footprint(pipe, Layout.of(1, 2))
    monkeypatch.setattr(linear, "LEAST_WEIGHT", 64 * 64)
    found = footprint(pipe, Layout.of(1, 2))
    large = [
        m
        for m in pipe.model.modules()
        if isinstance(m, Linear) and m.weight.numel() >= 64 * 64 and linear._fused_dtypes()
    ]
    assert (before.ordered, found.ordered) == (0, sum(m.weight.nbytes for m in large))
    assert found.peak - before.peak == found.ordered
    assert found.device_peak == before.device_peak
    assert any("weights again" in line for line in found.lines()) == bool(large)
