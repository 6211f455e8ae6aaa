"""The Mamba backbone: state handed from scale to scale, causality, options, generation."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from flexvar_plugins.backbones import scan_kernels
from flexvar_plugins.backbones.mamba import MambaBackbone, MambaConfig, Mixer
from flexvar_plugins.backbones.scan_kernels import Package
from flexvar_plugins.backbones.scan_paths import PATHS, ZIGZAG8
from helpers import TINY, shake
from hypothesis import given, settings
from hypothesis import strategies as st

from flexvar import FlexvarError, Layout, Pipeline
from flexvar.build import build, plan
from flexvar.components import Facts, Position
from flexvar.config import parse
from flexvar.errors import PluginError
from flexvar.ops.precision import cast

FACTS = Facts(vocab_size=61, code_dim=8, width=32, head_dim=16, num_classes=5)
SMALL = {"depth": 2, "width": 32, "head_dim": 16, "state_size": 16}
NOWHERE = Position()
LAYOUTS = {
    "6 steps": Layout.of(1, 2, 3, 4, 5, 7),
    "10 steps": Layout.of(1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    "14 steps": Layout.of(*range(1, 12), 13, 14, 16),
    "rectangular": Layout.of(1, (1, 2), (2, 3), (3, 5), (5, 9)),
    "tall and odd": Layout.of(1, (3, 1), (5, 3), (11, 7)),
    "1xn": Layout.of(1, (1, 2), (1, 3), (1, 7), (1, 20)),
    "one scale": Layout.of(1),
    "one large scale": Layout.of((3, 5)),
    "scales shorter than the convolution": Layout.of(1, (1, 2), (1, 2), 1, 1, (2, 1), 3),
}


def make(seed: int = 0, **options) -> MambaBackbone:
    """A small backbone in which every part matters.

    Fresh gates of 1e-3 and steps of 1e-3 to 1e-1 would hide a wrong branch or a lost state.
    """
    torch.manual_seed(seed)
    model = MambaBackbone(parse(MambaConfig, {**SMALL, "init_gate": 1.0, **options}), facts=FACTS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.5 / max(parameter.shape[-1], 4) ** 0.5)
            if name.endswith("dt_bias"):
                parameter.add_(2)
    return model.eval()


def draw(layout: Layout, batch: int = 2, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (B,L,D) and a condition (B,D)."""
    generator = torch.Generator().manual_seed(seed)
    x_BLD = torch.randn(batch, layout.tokens, 32, generator=generator)
    return x_BLD, torch.randn(batch, 32, generator=generator)


def by_steps(model: MambaBackbone, x_BLD, cond_BD, layout: Layout) -> torch.Tensor:
    state = model.start(cond_BD, layout, NOWHERE)
    return torch.cat([model.step(x_BLD[:, part], state) for part in layout.slices], dim=1)


def assert_steps_equal_forward(model: MambaBackbone, layout: Layout, atol: float = 1e-4) -> None:
    x_BLD, cond_BD = draw(layout)
    with torch.no_grad():
        whole = model(x_BLD, cond_BD, layout, NOWHERE)
        torch.testing.assert_close(
            by_steps(model, x_BLD, cond_BD, layout), whole, atol=atol, rtol=1e-4
        )
    assert (whole - x_BLD).abs().mean() > 0.1, "the branches do nothing"


@pytest.mark.parametrize("path", PATHS)
def test_scale_by_scale_equals_all_at_once_for_every_path(path):
    model = make(paths=[path])
    for name in ("6 steps", "rectangular", "scales shorter than the convolution"):
        assert_steps_equal_forward(model, LAYOUTS[name])


@pytest.mark.parametrize("implementation", ["torch", "reference"])
@pytest.mark.parametrize("options", [{"depth": 8}, {"depth": 4, "mlp": False}], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_scale_by_scale_equals_all_at_once_for_every_layout(layout, options, implementation):
    if implementation == "reference" and layout.tokens > 200:
        pytest.skip("token by token takes long; the reference is compared in test_ssd.py")
    assert_steps_equal_forward(make(**options, implementation=implementation), layout)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=6))
def test_scale_by_scale_equals_all_at_once_for_any_grids(sizes):
    assert_steps_equal_forward(make(depth=3, paths=[0, 3, 6]), Layout.of(*sizes))


@pytest.mark.parametrize("chunk_size", [16, 32])
def test_chunks_that_end_inside_a_scale_change_nothing(chunk_size):
    x_BLD, cond_BD = draw(LAYOUTS["10 steps"])
    model, default = make(chunk_size=chunk_size), make()
    with torch.no_grad():
        torch.testing.assert_close(
            by_steps(model, x_BLD, cond_BD, LAYOUTS["10 steps"]),
            default(x_BLD, cond_BD, LAYOUTS["10 steps"], NOWHERE),
            atol=1e-4,
            rtol=1e-4,
        )


@pytest.mark.parametrize("step", range(1, 5))
def test_no_token_sees_a_later_scale(step):
    model, layout = make(depth=8), LAYOUTS["rectangular"]
    x_BLD, cond_BD = draw(layout)
    changed, start = x_BLD.clone(), layout.slices[step].start
    changed[:, start:] += torch.randn_like(changed[:, start:])
    with torch.no_grad():
        before = model(x_BLD, cond_BD, layout, NOWHERE)
        after = model(changed, cond_BD, layout, NOWHERE)
    torch.testing.assert_close(after[:, :start], before[:, :start], atol=0, rtol=0)
    assert (after[:, start:] - before[:, start:]).abs().max() > 1e-2


def test_two_layers_from_opposite_corners_see_the_whole_scale():
    model, layout = make(depth=2), Layout.of(1, (3, 4))
    x_BLD, cond_BD = draw(layout, batch=1)
    x_BLD.requires_grad_()
    for token in range(1, layout.tokens):
        y_BLD = model(x_BLD, cond_BD, layout, NOWHERE)
        (seen,) = torch.autograd.grad(y_BLD[0, token].square().sum(), x_BLD)
        assert (seen[0].abs().sum(dim=-1) > 0).all()


def test_layers_take_the_paths_in_turn():
    assert tuple(make(depth=10).paths) == (*ZIGZAG8, *ZIGZAG8[:2])
    assert tuple(make(depth=4, mlp=False).paths) == ZIGZAG8
    assert make(depth=3, paths="raster").paths == ["raster"] * 3
    assert make(depth=3, paths=["raster", 7]).paths == ["raster", ZIGZAG8[7], "raster"]


def test_paths_make_a_difference_but_not_in_a_single_cell():
    layout = LAYOUTS["rectangular"]
    x_BLD, cond_BD = draw(layout)
    with torch.no_grad():
        zigzag, raster = (
            make(paths=paths)(x_BLD, cond_BD, layout, NOWHERE) for paths in ("zigzag8", "raster")
        )
    torch.testing.assert_close(zigzag[:, :1], raster[:, :1])
    assert (zigzag - raster).abs().max() > 0.1


@pytest.mark.parametrize("mlp", [True, False])
def test_gradients_reach_every_parameter(mlp):
    model, layout = make(mlp=mlp).train(), LAYOUTS["6 steps"]
    x_BLD, cond_BD = draw(layout)
    model(x_BLD, cond_BD, layout, NOWHERE).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("implementation", ["torch", "reference"])
def test_gradients_through_the_state_equal_those_of_forward(implementation):
    model, layout = make(implementation=implementation), LAYOUTS["6 steps"]
    x_BLD, cond_BD = draw(layout)
    x_BLD.requires_grad_()
    wanted = [x_BLD, *model.parameters()]
    whole = model(x_BLD, cond_BD, layout, NOWHERE)
    cotangent = torch.randn_like(whole)
    expected = torch.autograd.grad(whole, wanted, cotangent)
    steps = by_steps(model, x_BLD, cond_BD, layout)
    for ours, theirs in zip(torch.autograd.grad(steps, wanted, cotangent), expected, strict=True):
        bound = 1e-4 * max(1.0, theirs.abs().max().item())
        assert (ours - theirs).abs().max() <= bound


def test_a_step_changes_no_tensor_of_the_state():
    model, layout = make(), LAYOUTS["6 steps"]
    x_BLD, cond_BD = draw(layout)
    state = model.start(cond_BD, layout, NOWHERE)
    with torch.no_grad():
        model.step(x_BLD[:, :1], state)
        kept = list(state.memories)
        copies = [[tensor.clone() for tensor in memory] for memory in kept]
        model.step(x_BLD[:, layout.slices[1]], state)
    for memory, copy in zip(kept, copies, strict=True):
        assert all(torch.equal(*pair) for pair in zip(memory, copy, strict=True))


def test_state_does_not_grow_with_the_layout():
    model = make()
    sizes = []
    for name in ("6 steps", "14 steps"):
        layout = LAYOUTS[name]
        x_BLD, cond_BD = draw(layout)
        state = model.start(cond_BD, layout, NOWHERE)
        with torch.no_grad():
            for part in layout.slices:
                model.step(x_BLD[:, part], state)
        tensors = [tensor for memory in state.memories for tensor in memory]
        assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in tensors)
        sizes.append([tensor.shape for tensor in tensors])
    assert sizes[0] == sizes[1]
    assert sizes[0][:2] == [(2, 3, 64 + 2 * 16), (2, 4, 16, 16)]


def test_bf16_weights_keep_rates_steps_and_state_in_fp32():
    exact, model, layout = make(), make(), LAYOUTS["6 steps"]
    cast(model, torch.bfloat16)
    for module in model.modules():
        if isinstance(module, Mixer):
            kept = {module.A_log.dtype, module.dt_bias.dtype, module.D.dtype}
            assert kept == {torch.float32}
            assert module.in_proj.weight.dtype == torch.bfloat16
    x_BLD, cond_BD = draw(layout)
    state = model.start(cond_BD.bfloat16(), layout, NOWHERE)
    with torch.no_grad():
        parts = [model.step(x_BLD[:, part].bfloat16(), state) for part in layout.slices]
        expected = exact(x_BLD, cond_BD, layout, NOWHERE)
    assert {memory.state_BHdN.dtype for memory in state.memories} == {torch.float32}
    assert {memory.tail_BTE.dtype for memory in state.memories} == {torch.bfloat16}
    # Two blocks of bf16 weights and activations; the features are about 1 to 5.
    error = (torch.cat(parts, dim=1).float() - expected).abs()
    assert error.max() < 0.15
    assert error.mean() < 0.02


def test_autocast_trains_fp32_weights():
    model, layout = make().train(), LAYOUTS["6 steps"]
    x_BLD, cond_BD = draw(layout)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_BLD = model(x_BLD, cond_BD, layout, NOWHERE)
    y_BLD.float().square().sum().backward()
    with torch.no_grad():
        error = (y_BLD.float() - model(x_BLD, cond_BD, layout, NOWHERE)).abs()
    assert error.max() < 0.15
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_initialisation_is_the_published_one():
    torch.manual_seed(0)
    model = MambaBackbone(parse(MambaConfig, {"depth": 4}), facts=FACTS)
    mixers = [module for module in model.modules() if isinstance(module, Mixer)]
    rates = torch.stack([mixer.A_log for mixer in mixers]).exp()
    assert 1 <= rates.min() < 3
    assert 14 < rates.max() <= 16
    dt = torch.nn.functional.softplus(torch.stack([mixer.dt_bias for mixer in mixers]))
    assert 0.00099 < dt.min() < 0.005
    assert 0.03 < dt.max() < 0.101
    assert all((mixer.D == 1).all() and (mixer.norm_weight == 1).all() for mixer in mixers)
    in_bound, out_bound = 1 / math.sqrt(256), 1 / math.sqrt(512) / math.sqrt(8)
    assert mixers[0].in_proj.weight.abs().max().item() == pytest.approx(in_bound, rel=0.01)
    assert mixers[0].out_proj.weight.abs().max().item() == pytest.approx(out_bound, rel=0.01)
    assert mixers[0].conv_weight.abs().max().item() == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize(("depth", "millions"), [(16, 354.0), (20, 680.9)])
def test_sizes(depth, millions):
    config = {"tokenizer": "multiscale", "backbone": {"name": "mamba", "depth": depth}}
    with torch.device("meta"):
        parts = build({**config, "num_classes": 1000})
    count = sum(parameter.numel() for parameter in parts.model.parameters())
    assert round(count / 1e6, 1) == millions


def test_drop_path_grows_with_depth_and_only_acts_in_training():
    model, layout = make(depth=3, drop_path=0.8), LAYOUTS["6 steps"]
    assert [block.drop_path for block in model.blocks] == [0, 0.4, 0.8]
    x_BLD, cond_BD = draw(layout, batch=16)
    with torch.no_grad():
        calm = model(x_BLD, cond_BD, layout, NOWHERE)
        torch.testing.assert_close(calm, model(x_BLD, cond_BD, layout, NOWHERE))
        model.train()
        assert (model(x_BLD, cond_BD, layout, NOWHERE) - calm).abs().max() > 0.1


def test_width_and_heads_follow_from_the_depth():
    config = parse(MambaConfig, {"depth": 6})
    assert (config.width, config.inner, config.head_dim, config.num_heads) == (384, 768, 64, 12)
    assert parse(MambaConfig, {"width": 48}).head_dim == 32
    assert parse(MambaConfig, {"width": 12}).head_dim == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 25}, r"inner width 50 \(expand 2 \* width 25\) is no multiple of head_dim 8"),
        ({"width": 64, "head_dim": 48}, "is no multiple of head_dim 48; choose a width"),
        ({"width": 64, "head_dim": 12}, "backbone.head_dim: got 12; .*multiple of 8"),
        ({"paths": "spiral"}, "backbone.paths: got 'spiral'; unknown scan path .* 0 to 7"),
        ({"paths": {}}, "backbone.paths: got {}; expected 'zigzag8', 'raster', or a list"),
        ({"paths": []}, "no scan path given"),
        ({"chunk_size": 48}, "backbone.chunk_size: got 48; expected a power of two"),
        ({"conv_width": 5}, "backbone.conv_width: got 5"),
        ({"implementation": "cuda"}, "backbone.implementation: got 'cuda'; expected 'auto'"),
        ({"state": 64}, "backbone.state: unknown option; did you mean 'state_size'"),
    ],
)
def test_wrong_options_are_explained(options, message):
    config = {**TINY, "backbone": {"name": "mamba", "depth": 2, **options}}
    with pytest.raises(FlexvarError, match=message):
        plan(config)


def test_rotary_positions_are_refused():
    config = {**TINY, "backbone": {"name": "mamba", **SMALL}, "position": "rotary2d"}
    with pytest.raises(FlexvarError, match="gives rotate positions, which backbone 'mamba'"):
        plan(config)


def test_absent_kernels_are_an_error_when_built(monkeypatch):
    monkeypatch.setattr(scan_kernels, "probe", lambda name: Package(reason=f"{name}: No module"))
    with pytest.raises(PluginError, match=r"'kernels' cannot be used here.*pip install.*'torch'"):
        make(implementation="kernels")


def test_the_choice_is_reported(caplog):
    scan_kernels.choose.cache_clear()
    with caplog.at_level(logging.INFO, logger="flexvar"):
        assert make().implementation() == "torch"
    assert "scan: torch (mamba-ssm runs on CUDA only, the model is on cpu)" in caplog.text
    assert make(implementation="reference").implementation() == "reference"


@pytest.mark.parametrize("position", ["learned2d", "sinusoidal2d"])
@pytest.mark.parametrize("mlp", [True, False])
def test_generates_with_state_as_by_running_the_prefix_again(position, mlp):
    backbone = {"name": "mamba", **SMALL, "mlp": mlp}
    config = {**TINY, "backbone": backbone, "position": position}
    pipe = shake(Pipeline.from_config(config, seed=1))
    size = (24, 40)
    result = pipe(labels=["cat", 3], size=size, steps=5, top_k=1, guidance=1.5, progress=False)
    layout = Layout.of(*(tuple(tokens.shape[1:]) for tokens in result.maps))
    assert layout.last == (6, 10)
    # The likeliest tokens, scale by scale, from forward alone.
    inputs = torch.zeros(4, 0, 8)
    labels = torch.tensor([2, 3, 5, 5])
    latent = None
    for step, expected in enumerate(result.maps):
        prefix = Layout(layout.grids[: step + 1])
        if latent is not None:
            resized = pipe.tokenizer.resize(latent, layout[step]).flatten(2).mT
            inputs = torch.cat([inputs, torch.cat([resized, resized])], dim=1)
        with torch.no_grad():
            logits = pipe.model(labels, inputs, prefix)[:, prefix.slices[-1]]
            cond, null = logits.chunk(2)
            weight = 1.5 * step / (len(layout) - 1)
            best, second = ((1 + weight) * cond - weight * null).topk(2).values.unbind(-1)
            chosen = ((1 + weight) * cond - weight * null).argmax(-1)
            certain = best - second > 1e-3
            assert certain.float().mean() > 0.9
            assert torch.equal(chosen[certain], expected.flatten(1)[certain])
            code = pipe.tokenizer.lookup(expected)
            latent = pipe.tokenizer.fold(latent, code, layout, step)


def test_a_checkpoint_comes_back_the_same(tmp_path):
    pipe = shake(Pipeline.from_config({**TINY, "backbone": {"name": "mamba", **SMALL}}, seed=1))
    again = Pipeline.from_pretrained(pipe.save_pretrained(tmp_path / "twin"))
    for (name, ours), theirs in zip(
        pipe.model.state_dict().items(), again.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("implementation", ["torch", "kernels", "fla"])
def test_steps_equal_forward_on_a_gpu_in_bf16(implementation):
    if reason := scan_kernels.why_not_installed(implementation):
        pytest.skip(reason)
    model, layout = make(depth=4, implementation=implementation).cuda(), LAYOUTS["10 steps"]
    x_BLD, cond_BD = (tensor.cuda() for tensor in draw(layout))
    with torch.no_grad():
        exact = make(depth=4, implementation="torch").cuda()(x_BLD, cond_BD, layout, NOWHERE)
        cast(model, torch.bfloat16)
        x_BLD, cond_BD = x_BLD.bfloat16(), cond_BD.bfloat16()
        whole = model(x_BLD, cond_BD, layout, NOWHERE)
        steps = by_steps(model, x_BLD, cond_BD, layout)
    assert (whole.float() - exact).abs().max() < 0.5
    assert (steps.float() - exact).abs().max() < 0.5
