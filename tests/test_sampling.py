"""Guidance, filters and draws, against the definitions written out plainly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexvar.generation import draw, seeds
from flexvar.generation.draw import guide
from flexvar.layout import Layout
from flexvar.model import ModulatedHead


def plain_filter(logits, top_k, top_p):
    """Top-k, then the published top-p: drop the least likely up to 1 - p in total."""
    logits = logits.clone()
    if top_k:
        kth = logits.sort(descending=True).values[..., min(top_k, logits.shape[-1]) - 1, None]
        logits[logits < kth] = -torch.inf
    if top_p < 1:
        values, order = logits.sort(dim=-1)
        drop = values.softmax(-1).cumsum(-1) <= 1 - top_p
        drop[..., -1] = False
        logits[drop.scatter(-1, order, drop)] = -torch.inf
    return logits


@settings(deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([0, 1, 5, 40, 2000]),
    st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]),
    st.sampled_from([0.1, 3.0]),
)
def test_filters_are_the_published_ones(seed, top_k, top_p, spread):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 1500, generator=generator, dtype=torch.float64) * spread
    ours = draw.filter_logits(logits, top_k=top_k, top_p=top_p)
    assert torch.equal(ours.isinf(), plain_filter(logits, top_k, top_p).isinf())
    assert torch.equal(ours[~ours.isinf()], logits[~ours.isinf()])


def test_nothing_to_filter_gives_the_logits_themselves():
    logits = torch.randn(1, 2, 7)
    assert draw.filter_logits(logits) is logits
    assert draw.filter_logits(logits, top_k=900) is logits


def test_draws_follow_the_distribution():
    logits = torch.tensor([[0.1, 0.0, 0.4, 0.2, 0.3]]).log()
    numbers = (torch.arange(10000) + 0.5) / 10000
    tokens = draw.draw(logits.expand(1, 10000, 5), numbers[None])
    share = torch.bincount(tokens.flatten(), minlength=5) / 10000
    torch.testing.assert_close(share, logits[0].exp(), atol=2e-4, rtol=0)


@given(st.integers(0, 10**6))
def test_a_token_without_probability_is_never_drawn(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 64, 33, generator=generator)
    logits[torch.rand(logits.shape, generator=generator) < 0.7] = -torch.inf
    logits[..., 5] = 0
    edge = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    numbers = torch.rand(1, 64, generator=generator)
    numbers[:, ::2], numbers[:, 1::4] = edge, 0.0
    tokens = draw.draw(logits, numbers)
    assert logits.gather(-1, tokens[..., None]).isfinite().all()


def test_guidance_weights():
    ten, twelve = Layout.of(*range(1, 11)).grids, Layout.of(*range(1, 12), 23).grids
    weight = draw.guidance_weight
    assert [weight("ramp", 3.0, ten, k) for k in (0, 3, 9)] == [0, 1, 3]
    assert weight("ramp10", 9.0, twelve, 10) == 10  # past ten steps the ramp goes on
    assert weight("ramp10", 9.0, twelve, 11) == 9  # a side over 16 takes all of it
    assert weight("constant", 3.0, ten, 0) == 2
    one = Layout.of(1).grids
    assert weight("ramp", 3.0, one, 0) == weight("ramp10", 3.0, one, 0) == 3
    cond, uncond = torch.randn(2, 1, 4, 9)
    torch.testing.assert_close(
        draw.guide(cond, uncond, weight("constant", 3.0, ten, 0)), uncond + 3 * (cond - uncond)
    )


def test_keys_of_seeds():
    assert seeds.seed_keys(7, 2) == [(7, 0), (7, 1)]
    assert seeds.seed_keys(7, 2, first_index=4) == [(7, 4), (7, 5)]
    assert seeds.seed_keys([7, 9], 2) == [(7, 0), (9, 0)]
    first, again, other = seeds.uniforms(seeds.generators([(7, 0), (7, 0), (7, 1)]), 5)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert seeds.generators([(-1, 0)])


def test_soft_weights_sharpen_with_the_scale():
    # Close enough that no weight rounds to 1; the sharpening is certain without noise only.
    logits = torch.randn(1, 4, 50, generator=torch.Generator().manual_seed(0)) * 0.05
    noise = seeds.gumbels(seeds.generators([(0, 0)]), 4, 50)
    for gumbel in (noise, torch.zeros_like(noise)):
        weights = [draw.soft_weights(logits, gumbel, ratio) for ratio in (0.0, 0.5, 1.0)]
        for one in weights:
            torch.testing.assert_close(one.sum(-1), torch.ones(1, 4))
    peaks = [one.max(-1).values for one in weights]
    assert (peaks[0] < peaks[1]).all()
    assert (peaks[1] < peaks[2]).all()
    assert noise.isfinite().all()


@pytest.mark.parametrize("top_p", [0.3, 0.99])
def test_flat_distributions_need_the_whole_vocabulary(top_p):
    logits = torch.zeros(1, 1, 3000) + torch.arange(3000) * 1e-4
    kept = draw.filter_logits(logits, top_p=top_p).isfinite()
    assert torch.equal(kept, plain_filter(logits.double(), 0, top_p).isfinite())


def test_guidance_before_the_head_is_guidance_of_its_logits() -> None:
    torch.manual_seed(0)
    head = ModulatedHead(16, 30).eval()
    features = torch.randn(2, 5, 16)
    with torch.no_grad():
        guided = head(guide(features[:1], features[1:], 1.7))
        expected = guide(head(features[:1]), head(features[1:]), 1.7)
    torch.testing.assert_close(guided, expected, atol=1e-5, rtol=1e-5)
