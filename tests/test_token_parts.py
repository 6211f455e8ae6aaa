"""Tokens of several parts: maps, targets, losses."""

from __future__ import annotations

import math

import pytest
import torch

from flexvar import FlexvarError, Layout
from flexvar.metrics.token_loss import scale_figures, token_losses
from flexvar.sequence import check_maps, split, targets

LAYOUT = Layout.of(1, (2, 3))


def maps(groups: int) -> list[torch.Tensor]:
    shape = () if groups == 1 else (groups,)
    return [torch.randint(2, (4, *grid, *shape)) for grid in LAYOUT]


@pytest.mark.parametrize("groups", [1, 3])
def test_targets_and_maps_are_inverse(groups: int) -> None:
    own = maps(groups)
    tokens = targets(own)
    assert tokens.shape == ((4, 7) if groups == 1 else (4, 7, 3))
    assert all(torch.equal(a, b) for a, b in zip(own, split(tokens, LAYOUT), strict=True))


def test_a_tokens_loss_is_the_sum_over_its_parts() -> None:
    tokens = torch.randint(2, (4, 7, 32))
    fresh = token_losses(torch.zeros(4, 7, 32, 2), tokens)
    assert fresh.shape == (4, 7)
    torch.testing.assert_close(fresh, torch.full((4, 7), 32 * math.log(2)))
    sure = 50.0 * torch.nn.functional.one_hot(tokens, 2)
    assert float(token_losses(sure, tokens).max()) < 1e-6
    one = token_losses(sure[:, :, 0], tokens[..., 0])
    assert one.shape == (4, 7)
    wrong = tokens.clone()
    wrong[..., :8] = 1 - wrong[..., :8]
    figures = scale_figures(fresh, sure, wrong, LAYOUT)
    assert float(figures["accuracy"]) == pytest.approx(0.75)


def test_maps_of_another_number_of_parts_are_refused() -> None:
    check_maps(maps(1), LAYOUT, 1)
    check_maps(maps(3), LAYOUT, 3)
    check_maps(maps(3), LAYOUT)
    with pytest.raises(
        FlexvarError, match=r"shape \(4, 1, 1, 3\) for tokens of 1 part; .*\(B,h,w\)"
    ):
        check_maps(maps(3), LAYOUT, 1)
    with pytest.raises(FlexvarError, match=r"for tokens of 3 parts; expected \(B,h,w,3\)"):
        check_maps(maps(1), LAYOUT, 3)
    with pytest.raises(FlexvarError, match="several parts"):
        check_maps([maps(1)[0], maps(3)[1]], LAYOUT)
    with pytest.raises(FlexvarError, match="sizes 1x1, 2x3 are not those"):
        check_maps(maps(3), Layout.of(1, 2))
