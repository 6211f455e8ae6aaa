"""flexvar's own kernels: what decides whether one is taken, and the kernels where Triton is."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flexvar_plugins.backbones import one_chunk, ssd
from helpers import TINY, shake

from benchmarks.harness.fake_cuda import Launches, fake_cuda, hollow
from benchmarks.harness.suite import Options
from benchmarks.suites import launches
from flexvar import FlexvarError, Pipeline
from flexvar.cli.doctor import examine
from flexvar.generation import draw, engine
from flexvar.ops import fusion, groups, heads, linear, norms

HERE = Path(__file__).parent
CPU = torch.device("cpu")
ALL = {
    "modulated_norm", "residual_norm", "store_heads", "linear_gelu", "draw_token", "norm_silu",
    "scan_convolve", "scan_chunk", "gated_norm",
}  # fmt: skip
# Bytes a thread of 16 warps over 8912 logits may lack; Triton 3.6 needs none.
SPILLS = {"draw_token": 16}
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


def ran(script: str, *arguments: str, **environment: str) -> str:
    paths = [str(HERE.parent), *sys.path]
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments],
        env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_triton
@pytest.mark.slow
def test_kernels_agree_in_tritons_interpreter():
    said = ran("interpreted.py", TRITON_INTERPRET="1")
    for name in ALL - {"linear_gelu"}:
        assert f"{name}: " in said
    assert said.count("gradients agree") == 3
    assert said.count("regions hold") == 3


@needs_triton
def test_kernels_agree_where_numbers_and_strides_are_unusual():
    said = ran("edges.py", TRITON_INTERPRET="1").split()
    assert said == [
        "tokens_stay_in_the_vocabulary",
        "moments_of_few_channels_count_once",
        "heads_of_any_strides",
    ]


@needs_triton
@pytest.mark.slow
def test_kernels_compile_for_hopper_without_spills():
    rows = json.loads(ran("compiled.py"))
    assert {row["fusion"] for row in rows} == ALL - {"linear_gelu"}
    for row in rows:
        assert row["spills"] <= SPILLS.get(row["fusion"], 0), row
        assert 0 < row["registers"] < 255, row


def test_all_kernels_are_known_and_doctor_shows_them():
    report = examine(run=True)
    assert {one["name"] for one in report["own_kernels"]} == ALL
    if not torch.cuda.is_available():
        assert report["own_kernels_note"] == "not tried: no GPU"
        assert all(one["tried"] == [] for one in report["own_kernels"])


@pytest.mark.parametrize("name", sorted(ALL - {"linear_gelu"}))
def test_fakes_of_operators_are_shaped_like_the_plain_steps(name):
    """A compiler, and a count of launches, knows a kernel by its fake alone."""
    one = fusion.KNOWN[name]
    for arguments in one.cases(torch.Generator().manual_seed(0)):
        plain = fusion.results(one, one.plain, arguments, CPU, torch.float32)
        with torch.device("meta"), torch.no_grad():
            given = [v.to("meta") if isinstance(v, torch.Tensor) else v for v in arguments]
            faked = list(one.fused(*given))
        shapes = [tuple(plain[f"result {number}"].shape) for number in range(len(faked))]
        assert [tuple(made.shape) for made in faked] == shapes
        dtypes = [plain[f"result {number}"].dtype for number in range(len(faked))]
        assert [made.dtype for made in faked] == dtypes


def test_the_plain_ways_are_those_that_run_without_kernels():
    source = torch.Generator().manual_seed(0)
    x, gate, branch, scale, shift = next(iter(norms.RESIDUAL_NORM.cases(source)))
    stream, normed = norms.residual_norm(x, gate, branch, scale, shift, fused=True)
    assert torch.equal(stream, torch.addcmul(x, gate, branch))
    assert torch.equal(normed, norms.modulated_norm(stream, scale, shift))
    *given, dim, states = next(iter(one_chunk.SCAN.cases(source)))
    y, _ = ssd.reference(one_chunk.inputs(*given, dim, states))
    torch.testing.assert_close(one_chunk.SCAN.plain(*given, dim, states)[0], y, atol=1e-5, rtol=0)


@pytest.mark.parametrize("one", [norms.NORM, norms.RESIDUAL_NORM], ids=lambda one: one.name)
def test_gradients_of_gradients_are_refused(one):
    """The kernel behind the first ones has none: they would be silently wrong."""
    with torch.device("meta"):
        given = [torch.ones(v.shape, requires_grad=True) for v in one.usual(torch.Generator())]
    made = one.fused(*given)[-1]
    (gradient,) = torch.autograd.grad(made.square().sum(), given[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def broken(x, scale, shift, dtype=None):
    return (norms._plain_norm(x, scale, shift)[0] * 1.001,)


def crashes(*given):
    raise RuntimeError("misaligned address\nat 0x1")


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        (broken, "result 0 differs in float32, case 0"),
        (lambda x, a, b: (norms._plain_norm(x, a, b.detach())[0],), "differentiated Tensor"),
        (lambda x, a, b: (norms._plain_norm(x, a, b)[0] * torch.nan,), "differs"),
        (crashes, "RuntimeError: misaligned address"),
    ],
)
def test_a_kernel_that_is_wrong_or_crashes_is_not_taken(way, reason, monkeypatch, caplog):
    monkeypatch.setattr(fusion, "KNOWN", {})
    monkeypatch.setattr(fusion, "_verdicts", {})
    one = replace(norms.NORM, fused=way)
    verdict = fusion.verdict_on(one, CPU)
    assert not verdict.agrees
    assert reason in verdict.reason
    assert "kernel modulated_norm on cpu: not taken" in caplog.text
    assert not fusion.takes(one, torch.zeros(1))
    # Tried once: what is known is not tried again.
    assert fusion.verdict_on(replace(one, fused=one.plain), CPU) is verdict


def test_wrong_gradients_alone_are_seen(monkeypatch):
    monkeypatch.setattr(fusion, "KNOWN", {})

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, scale, shift):
            return norms._plain_norm(x, scale, shift)[0]

        @staticmethod
        def backward(ctx, d_normed):
            return d_normed, d_normed.sum(1, keepdim=True), d_normed.sum(1, keepdim=True)

    verdict = fusion.compare(replace(norms.NORM, fused=lambda *a: (Wrong.apply(*a),)), CPU)
    assert "gradient" in verdict.reason
    same = fusion.compare(replace(norms.NORM, fused=norms.NORM.plain), CPU)
    assert (same.agrees, same.apart) == (True, 0.0)


def test_a_cpu_takes_no_kernel_and_gives_the_same_to_the_bit():
    pipe = shake(Pipeline.from_config(TINY, seed=1))
    other = copy.deepcopy(pipe)
    engine.use_kernels(other, True)
    assert sum(getattr(m, "fused", False) for m in other.model.modules()) > 5
    given = {"size": (12, 20), "steps": 3, "seed": 0, "output": "tensor", "top_k": 20}
    one, more = pipe([1, 3], **given), other([1, 3], **given)
    assert torch.equal(one.images, more.images)
    with pytest.raises(FlexvarError, match="kernels run on CUDA, the model is on cpu"):
        other.compile("kernels")
    other.compile("off")
    assert not any(getattr(m, "fused", False) for m in other.model.modules())


def test_compile_says_which_kernels_it_could_not_take(monkeypatch):
    """As on a GPU without Triton: nothing is taken, and it is said why."""
    pipe = Pipeline.from_config(TINY, seed=1)
    verdict = fusion.Verdict(False, "ModuleNotFoundError: No module named 'triton'")
    monkeypatch.setattr(fusion, "compare", lambda one, device: verdict)
    monkeypatch.setattr(fusion, "_verdicts", {})
    with pytest.warns(UserWarning, match="Not all kernels are taken.*No module named 'triton'"):
        on, reason = engine.kernels_on(pipe)
    assert not on
    assert "draw_token" in reason
    assert not pipe.fused


def test_compile_tries_only_what_the_model_uses(monkeypatch):
    tried = []

    def compare(one, device):
        tried.append(one.name)
        return fusion.Verdict(True, "agrees")

    monkeypatch.setattr(fusion, "compare", compare)
    monkeypatch.setattr(fusion, "_verdicts", {})
    pipe = Pipeline.from_config(TINY, seed=1)
    assert engine.kernels_on(pipe) == (True, "")
    assert set(tried) < ALL
    assert {"store_heads", "draw_token", "linear_gelu"} <= set(tried)
    assert not {"scan_convolve", "scan_chunk", "gated_norm"} & set(tried)


def taking(pipe):
    modules = [one for part in pipe.parts.modules() for one in part.modules()]
    return {type(one).__name__ for one in modules if getattr(one, "fused", False)}


def test_kernels_are_of_the_parts_that_may_take_them_in_each_precision():
    pipe = Pipeline.from_config(TINY, seed=1).to("bf16")
    pipe.tokenizer.contiguous = True  # as released tokenizers are, in fp32
    engine.use_kernels(pipe, True)
    assert {"Block", "GroupNorm"} <= taking(pipe)
    pipe.to("fp32")
    assert "Block" in taking(pipe)
    assert "GroupNorm" not in taking(pipe)


def test_heads_are_put_by_torch_into_a_cache_of_another_order(monkeypatch):
    qkv, scale, _, _, keys, values = heads._case(torch.Generator().manual_seed(0), 2, 5, 3, 8, 0)
    other = heads.Cache(*(torch.zeros(2, 3, 5, 8).transpose(1, 2) for _ in range(2)))
    with fusion.trusted("cpu"):
        q = heads.store(qkv, scale, None, other, fused=True)
    assert torch.equal(q, heads.store(qkv, scale, None, heads.Cache(keys, values)))
    assert torch.equal(other.keys_BLHd, keys)
    assert torch.equal(other.values_BLHd, values)


def test_a_sampler_that_does_more_than_filter_is_asked_itself():
    pipe = Pipeline.from_config(TINY, seed=1)
    layout = pipe.layout(12, steps=3)
    sampler = pipe.chosen({"top_k": 9, "temperature": 2.0}).build(pipe.model.facts)
    assert sampler.filters(layout, 0) == (2.0, 9, 1.0)

    class Mine(type(sampler)):
        def process(self, logits, layout, step, latent_BChw):
            return -logits

    assert Mine(sampler.config, facts=pipe.model.facts).filters(layout, 0) is None


def test_what_a_kernel_cannot_hold_is_left_to_torch():
    wide = torch.zeros(1, 1, draw.MOST_VALUES + 1)
    with fusion.trusted("cpu"):
        assert not draw.fits(wide)
        assert draw.fits(wide[..., :50])
        assert not groups._fits(torch.zeros(1, 8, 1, 1), 8)
        assert not one_chunk.takes(torch.zeros(1, one_chunk.MOST + 1, 8))
        assert not linear._one_product(torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(3))
    assert not draw.fits(wide[..., :50])


def test_a_picture_is_few_launches():
    """The papers' d16 at 256 px, one picture, counted on tensors without numbers."""
    case = next(c for c in launches.cases(Options()) if c.name.endswith("bf16, kernels"))
    assert case.settings["model"]["backbone"] | {"depth": 16} == case.settings["model"]["backbone"]
    figures = launches._run(case.settings)
    assert figures["launches"] <= 1700
    assert figures["kernels"].keys() < ALL
    assert not figures["copies"]


@pytest.mark.parametrize("name", ["transformer", "mamba"])
@torch.inference_mode()
def test_a_scale_of_two_blocks_is_few_launches(name):
    parts = {"transformer": {}, "mamba": {"backbone": {"name": "mamba", "depth": 2, "width": 32}}}
    pipe = hollow(TINY | parts[name])
    with fake_cuda(pipe), fusion.trusted("cuda:0"):
        backbone = pipe.model.backbone
        fusion.use(backbone, True)
        layout, cond_BD = pipe.layout(12, steps=2), torch.zeros(2, backbone.width, device="cuda:0")
        cond_BD = cond_BD.bfloat16()
        state = backbone.start(cond_BD, layout, pipe.model.position(layout))
        x_BLD = torch.zeros(2, 1, backbone.width, device="cuda:0", dtype=torch.bfloat16)
        with Launches() as count:
            backbone.step(x_BLD, state)
    assert count.total <= {"transformer": 17, "mamba": 22}[name]
    assert set(count.ran) & ALL
    assert heads.HEADS.name in count.ran or name == "mamba"
