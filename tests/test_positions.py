"""Position embeddings: the published tables, any grid, and who knows only its own list."""

import pytest
import torch
import torch.nn.functional as F
from flexvar_plugins.positions.learned2d import Learned2d
from flexvar_plugins.positions.per_scale import PerScale
from flexvar_plugins.positions.rotary2d import Rotary2d
from flexvar_plugins.positions.sinusoidal2d import Sinusoidal2d

from flexvar import Facts, FlexvarError, Layout

FACTS = Facts(vocab_size=10, code_dim=4, width=48, head_dim=24, num_classes=3)
LAYOUT = Layout.of(1, 2, (3, 5), (7, 7))


def make(cls, **options):
    return cls(cls.Config(**options), facts=FACTS)


def test_the_table_starts_with_sines_of_rows_and_cosines_of_columns():
    table = make(Learned2d, side=6).table[0]
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    for pair in (0, 5, 23):
        frequency = 10000 ** (-2 * pair / 48)
        torch.testing.assert_close(table[2 * pair], torch.sin(rows * frequency))
        torch.testing.assert_close(table[2 * pair + 1], torch.cos(columns * frequency))


@pytest.mark.parametrize("resize", ["area", "bilinear"])
def test_the_table_is_resized_to_every_grid(resize):
    position = make(Learned2d, side=6, resize=resize)
    added = position(LAYOUT).add_LD
    for part, grid in zip(LAYOUT.slices, LAYOUT, strict=True):
        expected = F.interpolate(position.table, size=tuple(grid), mode=resize)[0]
        torch.testing.assert_close(added[part].T.unflatten(1, grid), expected)


def test_a_table_may_stay_as_it_starts():
    assert not make(Learned2d, trainable=False).table.requires_grad
    assert make(Learned2d).table.requires_grad


def test_sines_agree_with_the_table_at_its_own_size():
    table, waves = make(Learned2d, side=8), make(Sinusoidal2d, extent=8)
    layout = Layout.of(8)
    torch.testing.assert_close(waves(layout).add_LD, table(layout).add_LD, atol=1e-5, rtol=0)
    assert not list(waves.parameters())
    assert waves(LAYOUT).add_LD.shape == (LAYOUT.tokens, 48)


def test_rotary_angles_span_the_same_picture_at_every_scale():
    angles = make(Rotary2d)(Layout.of(2, 4)).rotate_LR
    assert angles.shape == (20, 12)
    coarse, fine = angles[:4].unflatten(0, (2, 2)), angles[4:].unflatten(0, (4, 4))
    # The centre of a coarse cell is the mean of the four fine centres in it.
    torch.testing.assert_close(coarse[0, 1], fine[:2, 2:].mean((0, 1)))


def test_per_scale_knows_its_own_list_only():
    position = make(PerScale, grids=(1, 2, 3))
    assert position.layouts == (Layout.of(1, 2, 3),)
    added = position(Layout.of(1, 2, 3)).add_LD
    torch.testing.assert_close(added[5:], position.table[5:] + position.step[2])
    with pytest.raises(FlexvarError, match="knows no grid 4x4: it was made for 1, 2, 3"):
        position(Layout.of(1, 2, 4))
    with pytest.raises(FlexvarError, match="knows only its whole list"):
        position(Layout.of(1, 3))


def test_per_scale_for_the_ablations():
    position = make(PerScale, grids=(1, 2, 3), step_embedding=False, subsets=True)
    assert position.step is None
    torch.testing.assert_close(position(Layout.of(1, 3)).add_LD, position.table[[0, *range(5, 14)]])
