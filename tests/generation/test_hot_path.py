"""The loop computes what depends on tokens alone, and is one graph for a fixed layout."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from flexvar_plugins.backbones import scan_kernels, scan_paths
from helpers import TINY, shake
from torch.utils._python_dispatch import TorchDispatchMode

from flexvar import Layout, Pipeline
from flexvar.generation.loop import advance, begin
from flexvar.generation.plan import plan
from flexvar.generation.seeds import generators, seed_keys
from flexvar.images import to_pil, to_pils
from flexvar.layout import Grid

LAYOUT = Layout.of(1, 2, (3, 4))
BACKBONES = {
    "transformer": TINY["backbone"],
    "mamba": {"name": "mamba", "depth": 2, "width": 32, "state_size": 8},
}


class Count(TorchDispatchMode):
    """How often each operator ran."""

    def __init__(self):
        super().__init__()
        self.ran = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ran[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module", params=BACKBONES)
def pipe(request):
    return shake(Pipeline.from_config(TINY | {"backbone": BACKBONES[request.param]}, seed=1))


def share_of(pipe, seed=0, **options):
    sampler = pipe.chosen({"guidance": 2.0, "top_k": 20, "top_p": 0.9, **options}).build(
        pipe.model.facts
    )
    inputs, sources = pipe.collate([1]), generators(seed_keys(seed, 1))
    (share,) = plan(pipe.model.conditioner, pipe.tokenizer, inputs, LAYOUT, sampler, sources)
    return sampler, share


@torch.inference_mode()
def test_a_scale_computes_no_constant_of_the_weights(pipe):
    sampler, share = share_of(pipe)
    progress = begin(pipe.model, share)
    advance(pipe.model, pipe.tokenizer, sampler, share, progress)
    with Count() as count:
        pipe.model.backbone.step(torch.zeros(2, 4, pipe.model.facts.width), progress.state.backbone)
    # Biases put together, scales clamped, precisions changed, rates negated.
    for name in ("zeros_like", "clamp_max", "_to_copy", "neg"):
        assert count.ran[name] == 0, name


def test_the_loop_is_one_graph_and_a_second_picture_compiles_nothing(pipe):
    sampler, share = share_of(pipe)
    frames = []

    def counted(graph, example_inputs):
        frames.append(graph)
        return graph.forward

    def run(share, progress):
        for _ in LAYOUT:
            advance(pipe.model, pipe.tokenizer, sampler, share, progress)
        return progress.maps, progress.latent_BChw

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend=counted)
    with torch.no_grad():
        for seed in range(3):
            share = share_of(pipe, seed)[1]
            maps, latent = run(share, begin(pipe.model, share))
            again, found = compiled(share, begin(pipe.model, share))
            assert all(torch.equal(one, other) for one, other in zip(maps, again, strict=True))
            torch.testing.assert_close(found, latent)
            assert len(frames) == 1
    torch._dynamo.reset()


def test_tables_of_a_scale_are_those_of_its_grid_and_kept_by_bytes():
    paths, device = scan_paths.ZIGZAG8[:3], torch.device("cpu")
    for grid, tables in zip(LAYOUT, scan_paths.by_scale(paths, LAYOUT.grids, device), strict=True):
        alone = scan_paths.gathers(paths, (grid,), device)
        for one, other in zip(tables, alone, strict=True):
            assert (one is None) == (other is None)
            assert one is None or torch.equal(one, other)
    again = scan_paths.by_scale(paths, LAYOUT.grids, device)
    assert again[2][0] is scan_paths.by_scale(paths, LAYOUT.grids, device)[2][0]
    kept = scan_paths._Tables(most=3000)
    for side in range(4, 30):
        grids = (Grid(side, side),)
        kept.get(side, lambda g=grids: [scan_paths.between("raster", "top_right_rows", g)], device)
    assert kept.held <= max(3000, 29 * 29 * 8)
    assert list(kept.kept) == [29]


def test_the_convolution_gets_strides_of_its_own_for_one_token(monkeypatch):
    seen = []

    def function(x_BEL, weight, bias, initial_states, **options):
        seen.append(x_BEL.stride())
        return x_BEL, initial_states

    monkeypatch.setattr(scan_kernels, "probe", lambda name: scan_kernels.Package((function,)))
    wide_BLE = torch.zeros(1, 1, 30)
    scan_kernels.kernel_convolve(wide_BLE[..., 2:18], torch.zeros(16, 4), torch.zeros(16), None)
    assert seen == [(16, 1, 16)]


def test_pictures_of_a_batch_are_those_of_one(pipe):
    images = torch.rand(3, 3, 4, 5) * 1.2 - 0.1
    whole = to_pils(images)
    assert [one.tobytes() for one in whole] == [to_pil(one).tobytes() for one in images]
    expected = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert whole[1].tobytes() == expected[1].numpy().tobytes()
