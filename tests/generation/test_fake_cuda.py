"""On a GPU: no mixed devices, and nothing between host and device inside the loop.

Tensors of a GPU are fake here, so that it shows without one (`benchmarks.harness.fake_cuda`).
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from flexvar_plugins.backbones import scan_paths
from helpers import TINY
from PIL import Image

from benchmarks.harness.fake_cuda import Launches, fake_cuda, hollow
from flexvar import Layout
from flexvar.generation import graphs
from flexvar.generation.known import Known
from flexvar.generation.loop import advance, begin
from flexvar.generation.plan import plan
from flexvar.generation.seeds import generators, seed_keys
from flexvar.sequence import teacher_forcing

LAYOUT = Layout.of(1, 2, (3, 5))
BACKBONES = {
    "transformer": {**TINY["backbone"], "depth": 1},
    "mamba": {"name": "mamba", "depth": 1, "width": 32, "state_size": 8},
}
SAMPLERS = {
    "top_k and top_p": {"top_k": 20, "top_p": 0.9},
    "top_p alone": {"top_p": 0.9},
    "likeliest": {"top_k": 1},
    "no guidance": {"guidance": 0.0},
    "best_of": {"sampler": "best_of"},
    "interval": {"sampler": "interval"},
    "masked": {"sampler": "masked"},
}


@pytest.fixture(scope="module", params=BACKBONES)
def pipe(request):
    pipe = hollow(TINY | {"backbone": BACKBONES[request.param]})
    with fake_cuda(pipe):
        yield pipe


def share_of(pipe, options, known=None):
    sampler = pipe.chosen({"guidance": 2.0, **options}).build(pipe.model.facts)
    inputs, sources = pipe.collate([1, 2]), generators(seed_keys(0, 2))
    args = pipe.model.conditioner, pipe.tokenizer, inputs, LAYOUT, sampler, sources
    (share,) = plan(*args, known=known)
    return sampler, share


def run(pipe, sampler, share):
    """The whole loop and the decoder, with what they ran and copied."""
    progress = begin(pipe.model, share)
    with Launches() as count:
        for _ in LAYOUT:
            advance(pipe.model, pipe.tokenizer, sampler, share, progress)
        image = pipe.decode(progress.latent_BChw)
    assert image.shape == (2, 3, 12, 20)
    assert image.device.type == "cuda"
    return count


@pytest.mark.parametrize("name", SAMPLERS)
@torch.inference_mode()
def test_nothing_is_copied_inside_the_loop(pipe, name):
    count = run(pipe, *share_of(pipe, SAMPLERS[name]))
    assert count.total > 100
    assert not count.copies


@torch.inference_mode()
def test_known_tokens_stay_on_the_device(pipe):
    maps = tuple(torch.zeros(2, *grid, dtype=torch.int64) for grid in LAYOUT)
    keep = tuple(torch.full((2, *grid), step == 1) for step, grid in enumerate(LAYOUT))
    sampler, share = share_of(pipe, {"top_k": 20}, Known(maps, keep))
    assert share.setup.asked == (True, False, True)
    assert not run(pipe, sampler, share).copies


@torch.inference_mode()
def test_only_the_noise_of_mean_codes_is_copied(pipe):
    count = run(pipe, *share_of(pipe, {"soft": True}))
    assert count.copies == {"to_device": len(LAYOUT)}


@torch.inference_mode()
def test_nothing_stands_in_the_way_of_a_graph(pipe):
    sampler, share = share_of(pipe, {"top_k": 20, "top_p": 0.9})
    progress = begin(pipe.model, share)  # copies index tables, once for a layout
    with graphs._Outside(strict=True, brought=graphs.tensors(share)) as outside:
        for _ in LAYOUT:
            advance(pipe.model, pipe.tokenizer, sampler, share, progress)
        pipe.decode(progress.latent_BChw)
    # What has to stay: the weights that were read, and index tables.
    weights = {graphs._address(one) for m in pipe.parts.modules() for one in m.parameters()}
    assert len(weights & outside.found.keys()) > 20
    assert graphs._address(share.uniform) not in outside.found


def test_every_task_runs_there(pipe):
    picture = Image.radial_gradient("L").resize((20, 12)).convert("RGB")
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (2, 2, 10, 9))
    given = {"seed": 0, "output": "tensor"}
    for result in (
        pipe([0, None], size=(12, 20), steps=3, **given),
        pipe([1], size=(12, 20), steps=3, tile=8, **given),
        pipe.inpaint(picture, mask, 1, steps=3, **given),
        pipe.outpaint(picture, (1, 1.5), 1, steps=3, fill="smooth", **given),
        pipe.edit(picture, (0, 0, 8, 8), 1, steps=3, **given),
        pipe.refine(picture, (24, 40), 1, **given),
    ):
        assert result.images.shape[1] == 3
    assert pipe.score(picture, [0, 1], steps=3).total_BN.shape == (1, 2)
    assert pipe.reconstruct(torch.zeros(1, 3, 12, 20), output="tensor").shape == (1, 3, 12, 20)


def test_a_batch_of_training_is_computed_there(pipe):
    """Encoder, inputs, forward pass and loss; torch's backward pass wants a real device."""
    image_B3HW = torch.zeros(2, 3, 12, 20, device="cuda:0")
    with Launches() as count, torch.autocast("cuda", torch.bfloat16):
        with torch.no_grad():
            maps = pipe.tokenizer.encode(image_B3HW, LAYOUT)
            inputs_BLC = teacher_forcing(pipe.tokenizer, maps, LAYOUT)
        logits_BLV = pipe.model(pipe.collate([1, 2]), inputs_BLC, LAYOUT)
        tokens_BL = torch.cat([one.flatten(1) for one in maps], dim=1)
        loss = F.cross_entropy(logits_BLV.flatten(0, 1), tokens_BL.flatten())
    assert loss.device.type == "cuda"
    # The labels, and index tables of a layout at their first use.
    assert count.copies["to_device"] <= 2
    assert not count.copies["to_host"]


def test_a_read_of_the_device_and_a_mixed_device_are_seen(pipe):
    there = torch.ones(3, device="cuda:0")
    with pytest.raises(Exception, match="local_scalar_dense"):
        bool(there.sum() > 0)
    with pytest.raises(RuntimeError, match="at least two devices"):
        _ = there + torch.ones(3)
    with Launches() as count:
        there.cpu()
        torch.ones(3).to("cuda:0")
    assert count.copies == {"to_host": 1, "to_device": 1}


def test_fake_index_tables_are_not_kept(pipe):
    grids = Layout.of(1, 7).grids
    device = torch.device("cuda:0")
    before = len(scan_paths._tables.kept)
    scan_paths.gathers(scan_paths.ZIGZAG8[:2], grids, device)
    assert len(scan_paths._tables.kept) == before
