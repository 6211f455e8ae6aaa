"""Objectives: what the model is shown and asked for, and that training by each runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flexvar import FlexvarError, Layout
from flexvar.build import build, component
from flexvar.components import Facts, Tokenizer
from flexvar.config import ComponentSpec
from flexvar.sequence import targets, teacher_forcing
from flexvar.training import train

from .conftest import CNN, quiet

LAYOUT = Layout.of(1, 2, (3, 4))


def tokenizer(name: str) -> Any:
    torch.manual_seed(0)
    return build({"tokenizer": {"name": name, **CNN}}).tokenizer.eval()


def objective(part: Tokenizer, name: str, **options: Any) -> Any:
    space = part.space
    facts = Facts(space.vocab_size, space.code_dim, 0, 0, 0, space.groups)
    return component("objective", ComponentSpec(name=name, **options), facts)


@torch.no_grad()
def latent(part: Any) -> Tensor:
    stride = part.space.stride
    image = torch.rand(3, 3, 3 * stride, 4 * stride, generator=torch.Generator().manual_seed(1))
    return part.features(image * 2 - 1)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["multiscale", "residual"])
@torch.no_grad()
def test_cross_entropy_is_teacher_forcing(name: str) -> None:
    part = tokenizer(name)
    pairs = objective(part, "cross_entropy").pairs(part, latent(part), LAYOUT, rng())
    maps = part.quantize(latent(part), LAYOUT)
    assert torch.equal(pairs.inputs_BLC, teacher_forcing(part, maps, LAYOUT))
    assert torch.equal(pairs.targets, targets(maps))
    assert pairs.weight_BL is None


@torch.no_grad()
def test_scales_can_weigh_alike() -> None:
    part = tokenizer("multiscale")
    made = objective(part, "cross_entropy", scale_power=1)
    weight = made.pairs(part, latent(part), LAYOUT, rng()).weight_BL
    by_scale = [float(weight[:, one].sum()) for one in LAYOUT.slices]
    assert by_scale == pytest.approx([LAYOUT.tokens / 3] * 3)
    with pytest.raises(FlexvarError, match=r"objective\.scale_power: got -1"):
        objective(part, "cross_entropy", scale_power=-1)


@torch.no_grad()
def test_mistakes_enter_the_context_and_later_scales_make_them_good() -> None:
    part = tokenizer("residual")
    z, clean = latent(part), part.quantize(latent(part), LAYOUT)
    same = objective(part, "corrupted", strength=0.0).pairs(part, z, LAYOUT, rng())
    torch.testing.assert_close(same.inputs_BLC, teacher_forcing(part, clean, LAYOUT))
    assert torch.equal(same.targets, targets(clean))
    pairs = objective(part, "corrupted", strength=1.0).pairs(part, z, LAYOUT, rng(5))
    assert not torch.equal(pairs.inputs_BLC, same.inputs_BLC)
    # The first scale is asked for as it is; the others follow what was shown.
    first = LAYOUT.slices[0]
    assert torch.equal(pairs.targets[:, first], same.targets[:, first])
    assert not torch.equal(pairs.targets, same.targets)
    again = objective(part, "corrupted", strength=1.0).pairs(part, z, LAYOUT, rng(5))
    assert torch.equal(pairs.inputs_BLC, again.inputs_BLC)
    kept = objective(part, "corrupted", strength=1.0, requantize=False)
    assert torch.equal(kept.pairs(part, z, LAYOUT, rng(5)).targets, same.targets)


@torch.no_grad()
def test_only_the_first_scales_are_corrupted_if_so_asked() -> None:
    part = tokenizer("multiscale")
    z = latent(part)
    true = objective(part, "cross_entropy").pairs(part, z, LAYOUT, rng())
    pairs = objective(part, "corrupted", strength=1.0, scales=1).pairs(part, z, LAYOUT, rng(3))
    # Every scale is the full picture: the truth stays, and the third one's input is clean.
    assert torch.equal(pairs.targets, true.targets)
    assert not torch.equal(pairs.inputs_BLC[:, :4], true.inputs_BLC[:, :4])
    assert torch.equal(pairs.inputs_BLC[:, 4:], true.inputs_BLC[:, 4:])


@torch.no_grad()
def test_a_tokenizer_that_cannot_follow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    part = tokenizer("residual")
    owner = next(cls for cls in type(part).__mro__ if "next_map" in vars(cls))
    monkeypatch.delattr(owner, "next_map")
    with pytest.raises(FlexvarError, match="ResidualTokenizer depend .* no next_map"):
        objective(part, "corrupted").pairs(part, latent(part), LAYOUT, rng())


@pytest.mark.parametrize("name", ["multiscale", "residual"])
@torch.no_grad()
def test_the_student_sees_one_step_of_its_own(name: str) -> None:
    part = tokenizer(name)
    made = objective(part, "student", weight=0.5)
    pairs = made.pairs(part, latent(part), LAYOUT, rng())
    sure = 50.0 * torch.nn.functional.one_hot(pairs.targets, part.space.vocab_size)
    second = made.again(part, pairs, sure, LAYOUT, rng())
    # A model that knows the answer sees the truth again, and its second loss is zero.
    torch.testing.assert_close(second.inputs_BLC, pairs.inputs_BLC)
    assert torch.equal(second.targets, pairs.targets)
    assert second.weight_BL.tolist() == [[0.0] + [0.5] * (LAYOUT.tokens - 1)]
    wrong = sure.roll(1, dims=-1)
    second = made.again(part, pairs, wrong, LAYOUT, rng())
    assert torch.equal(second.targets, wrong.argmax(-1))
    assert not torch.equal(second.inputs_BLC, pairs.inputs_BLC)
    assert made.again(part, pairs, sure[:, :1], Layout.of(1), rng()) is None
    drawn = objective(part, "student", temperature=1.0)
    flat = torch.zeros_like(sure)
    one, other = (drawn.again(part, pairs, flat, LAYOUT, rng(n)).targets for n in (1, 2))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", ["corrupted", "student"])
def test_training_by_it_runs(name, model_recipe, trained_tokenizer, tmp_path):  # type: ignore[no-untyped-def]
    recipe = model_recipe(trained_tokenizer, tmp_path / "run", steps=2, objective=name)
    train(recipe, device="cpu", say=quiet)
    text = (tmp_path / "run" / "log.jsonl").read_text()
    assert ("second_pass" in text) == (name == "student")


def test_an_unknown_objective_is_named(model_recipe, trained_tokenizer, tmp_path):  # type: ignore[no-untyped-def]
    recipe = model_recipe(trained_tokenizer, tmp_path / "run", objective="studnt")
    with pytest.raises(FlexvarError, match="Unknown objective 'studnt'. Did you mean 'student'"):
        train(recipe, device="cpu", say=quiet)
