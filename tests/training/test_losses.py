"""Losses: values, smallest resolutions, what the log says."""

from __future__ import annotations

import math

import pytest
import torch

import flexvar
from flexvar import FlexvarError
from flexvar.metrics.picture import psnr, ssim
from flexvar.plugin import Registry, default_registry
from flexvar.training.adversarial import PatchDiscriminator, discriminator_loss, generator_loss
from flexvar.training.losses import WeightedLosses, resized, skipped_grids
from flexvar.training.recipe import AdversarialConfig, LossSpec


def build(*names: str) -> WeightedLosses:
    return WeightedLosses([LossSpec(name=name) for name in names])


@pytest.mark.parametrize("name", ["l1", "l2", "laplacian", "ssim"])
def test_equal_pictures_have_no_loss(name: str) -> None:
    image = torch.rand(2, 3, 17, 24) * 2 - 1
    total, values = build(name)([image], [image])
    assert float(total) == pytest.approx(0, abs=1e-5)
    assert values.keys() == {name}


def test_pixel_losses_are_means() -> None:
    zero, half = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5)
    assert float(build("l1")([zero], [half])[0]) == pytest.approx(0.5)
    assert float(build("l2")([zero], [half])[0]) == pytest.approx(0.25)


def test_laplacian_minds_detail_more_than_l1_does() -> None:
    target = torch.zeros(1, 3, 32, 32)
    stripes = 0.1 * torch.tensor([1.0, -1.0]).repeat(16).expand(1, 3, 32, 32)
    flat = torch.full((1, 3, 32, 32), 0.1)
    losses = build("laplacian")
    assert float(losses([stripes], [target])[0]) >= float(losses([flat], [target])[0]) - 1e-6
    mixed = losses([stripes + flat], [target])[0]
    assert float(mixed) == pytest.approx(0.2, rel=0.05)


def test_sums_over_the_sizes_that_can_have_it() -> None:
    small, large = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 16, 16)
    losses = WeightedLosses([LossSpec(name="l1", weight=2.0), LossSpec(name="ssim")])
    targets = [torch.ones_like(small), torch.ones_like(large)]
    total, values = losses([small, large], targets)
    assert float(values["l1"]) == pytest.approx(2.0)
    assert 0 < float(values["ssim"]) < 1  # of the large one alone
    assert float(total) == pytest.approx(4.0 + float(values["ssim"]))


def test_the_log_says_which_grids_go_without() -> None:
    assert build("l1").check((64, 64), 8) == []
    assert build("laplacian").check((64, 64), 8) == [
        "loss laplacian needs 16 px: latents below 2 cells (16 px) go without it"
    ]


def test_a_loss_below_its_resolution_is_refused() -> None:
    with pytest.raises(FlexvarError, match="laplacian needs pictures of at least 16 px.*8x8"):
        build("laplacian").check((8, 8), 4)
    with pytest.raises(FlexvarError, match="adversarial needs pictures of at least 24"):
        skipped_grids("adversarial", 24, (16, 16), 8)


def test_an_unknown_loss_names_the_choices() -> None:
    with pytest.raises(FlexvarError, match=r"losses\.0: Unknown loss 'vgg'.*laplacian"):
        build("vgg")
    with pytest.raises(FlexvarError, match=r"losses\.1: l1 stands twice"):
        build("l1", "l1")
    spec = LossSpec(name="laplacian", options={"level": 2})
    with pytest.raises(FlexvarError, match=r"losses\.0\.options\.level.*did you mean 'levels'"):
        WeightedLosses([spec])


def test_lpips_without_weights_is_an_error(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(FlexvarError, match="trunk: missing"):
        build("lpips")
    options = {"trunk": "nowhere.pth", "linear": "nowhere.pth"}
    with pytest.raises(FlexvarError, match="trunk: 'nowhere.pth' is no file"):
        WeightedLosses([LossSpec(name="lpips", options=options)])


class Edges(flexvar.Loss):
    """A third party's loss: horizontal edges."""

    class Config(flexvar.ComponentConfig):
        gain: float = 1.0

    smallest = 2

    def forward(self, image_B3HW, target_B3HW):  # type: ignore[no-untyped-def]
        return self.config.gain * (image_B3HW - target_B3HW).diff(dim=-1).abs().mean()


class EdgesPlugin:
    @staticmethod
    @flexvar.hookimpl
    def flexvar_losses():  # type: ignore[no-untyped-def]
        yield flexvar.Component(name="edges", target=f"{__name__}:Edges")
        yield flexvar.Component(name="odd", target=f"{__name__}:build")


def test_a_third_partys_loss_is_named_like_any_other() -> None:
    registry = Registry()
    registry.add(EdgesPlugin, name="edges", distribution="flexvar-edges")
    specs = [
        LossSpec(name="l1"),
        LossSpec(name="flexvar-edges/edges", weight=0.5, options={"gain": 2.0}),
    ]
    flat, steps = torch.zeros(1, 3, 4, 4), torch.tensor([0.0, 1.0, 0.0, 1.0]).expand(1, 3, 4, 4)
    total, values = WeightedLosses(specs, registry)([steps], [flat])
    assert values == {"l1": 0.5, "flexvar-edges/edges": 2.0}
    assert float(total) == 0.5 + 0.5 * 2.0
    with pytest.raises(FlexvarError, match=r"losses\.0\.options\.gane.*did you mean 'gain'"):
        WeightedLosses([LossSpec(name="edges", options={"gane": 1})], registry)
    with pytest.raises(FlexvarError, match="loss 'odd' is .* expected a subclass of flexvar.Loss"):
        WeightedLosses([LossSpec(name="odd")], registry)


def test_every_loss_states_its_smallest_size() -> None:
    for name in ("l1", "l2", "laplacian", "ssim"):
        cls = default_registry().load("loss", name)
        part = cls(cls.Config())
        side = part.smallest
        assert part(torch.zeros(1, 3, side, side), torch.ones(1, 3, side, side)).isfinite()


def test_ssim_and_psnr_are_per_picture() -> None:
    target = torch.rand(2, 3, 16, 16) * 2 - 1
    image = target.clone()
    image[1] += 0.2
    assert ssim(image, target).shape == (2,)
    assert float(ssim(image, target)[0]) == pytest.approx(1)
    assert float(psnr(target * 0, target * 0 + 0.2)[0]) == pytest.approx(-20 * math.log10(0.1))


def test_targets_are_antialiased() -> None:
    stripes = torch.tensor([1.0, -1.0]).repeat(16).expand(1, 3, 32, 32)
    assert resized(stripes, (32, 32)) is stripes
    assert float(resized(stripes, (12, 8))[..., 1:-1].abs().max()) < 0.1


def test_the_discriminator_takes_its_smallest_size() -> None:
    judge = PatchDiscriminator(AdversarialConfig(layers=2, channels=8))
    small, large = judge(
        [torch.zeros(2, 3, judge.smallest, judge.smallest + 3), torch.zeros(1, 3, 40, 40)]
    )
    assert small.shape[:3] == (2, 1, 1)
    assert large.shape[0] == 1
    with pytest.raises(RuntimeError):
        judge([torch.zeros(1, 3, 7, 7)])


def test_hinge_losses() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
    assert float(discriminator_loss(real, fake)) == pytest.approx(0.5 * (0.5 + 1.0))
    assert float(generator_loss(fake)) == pytest.approx(1.0)
