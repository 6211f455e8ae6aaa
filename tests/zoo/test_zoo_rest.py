"""The zoo's positions, schedules and samplers: what each of them is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flexvar_zoo.positions import rope2d
from flexvar_zoo.samplers.masked import MaskedSampler
from flexvar_zoo.samplers.ssg import enlarged
from flexvar_zoo.schedules.optimised import Optimised

import flexvar
from flexvar import Facts, FlexvarError, Grid, Layout, Pipeline
from flexvar.generation import engine
from flexvar.session import Session

FACTS = Facts(vocab_size=20, code_dim=4, width=64, head_dim=32, num_classes=3)
CALL: dict[str, Any] = {"size": (16, 24), "output": "tensor", "progress": False}


def position(**options: Any) -> rope2d.Rope2d:
    return rope2d.Rope2d(rope2d.Rope2dConfig(**options), facts=FACTS)


def test_rope2d_stands_at_rounded_places_of_the_reference_grid() -> None:
    cpu = torch.device("cpu")
    # 5 cells of 4 at 64 rows: 0, 12.8, 25.6 ...; at 3 of 4: 0, 1.33, 2.67; halves go to even.
    assert rope2d.places(5, 64, cpu).tolist() == [0, 13, 26, 38, 51]
    assert rope2d.places(4, 6, cpu).tolist() == [0, 2, 3, 4]
    assert rope2d.reference(Grid(24, 32), 64) == (54, 72)
    assert rope2d.reference(Grid(48, 16), 64) == (111, 37)
    angles_LR = position()(Layout.of(1, 2, 4)).rotate_LR
    assert angles_LR is not None
    # The second row of 2x2 and the third of 4x4 stand in one place, the columns likewise.
    torch.testing.assert_close(angles_LR[1 + 3], angles_LR[5 + 2 * 4 + 2])
    assert angles_LR[1 + 3, 0] == 32
    assert angles_LR[1 + 3, 8] == 32


def test_rope2d_larger_than_its_reference_slows_the_slow_channels_alone() -> None:
    large = Layout.of(1, 32)
    usual, scaled = (position(side=16, ntk=ntk)(large).rotate_LR for ntk in (False, True))
    last_row = 1 + 31 * 32
    torch.testing.assert_close(scaled[last_row, 0], usual[last_row, 0])
    torch.testing.assert_close(scaled[last_row, 7], usual[last_row, 7] / 2)


def test_optimised_keeps_its_budget_and_grows_evenly() -> None:
    def make(tokens: float) -> Optimised:
        return Optimised(Optimised.Config.model_validate({"tokens": tokens}), facts=FACTS)

    layout = make(2.66).grids(Grid(16, 16))
    assert len(layout) == 10
    assert layout.tokens <= 2.66 * 256
    cheap, rich = (make(tokens).grids(Grid(16, 16), steps=6) for tokens in (1.4, 4))
    assert cheap.tokens <= 1.4 * 256 < rich.tokens
    assert rich == Layout.of(1, 2, 3, 5, 9, 16)  # as even as six whole sides get
    with pytest.raises(FlexvarError, match=r"steps: got 12; .* at least 2 and at most 7 steps"):
        make(1.4).grids(Grid(16, 16), steps=12)


def test_enlarging_keeps_the_low_frequencies_and_what_is_even() -> None:
    small, large = Grid(3, 4), Grid(6, 7)
    x_BLD = torch.randn(2, small.cells, 5)
    y_BLD = enlarged(x_BLD, small, large)
    torch.testing.assert_close(y_BLD.mean(dim=1), x_BLD.mean(dim=1), rtol=1e-4, atol=1e-5)
    same = enlarged(x_BLD, small, small)
    torch.testing.assert_close(same, x_BLD, rtol=1e-4, atol=1e-5)
    even = torch.ones(1, small.cells, 2)
    torch.testing.assert_close(enlarged(even, small, large), torch.ones(1, large.cells, 2))


def test_samplers_that_do_nothing_give_the_standard_pictures(tiny: Pipeline) -> None:
    usual = tiny([0, 1], seed=3, **CALL).images
    for name, options in (
        ("ssg", {"sharpen": 0.0}),
        ("relay", {"from_step": 2}),  # to itself
        ("masked", {"rounds": 1}),
    ):
        other = tiny([0, 1], seed=3, sampler={"name": name, **options}, **CALL).images
        assert torch.equal(other, usual), name


@pytest.mark.parametrize("options", [{"name": "ssg", "sharpen": 2.0}, {"name": "masked"}])
def test_samplers_change_pictures_each_by_itself(tiny: Pipeline, options: dict[str, Any]) -> None:
    usual = tiny([0, 1], seed=3, **CALL).images
    both = tiny([0, 1], seed=3, sampler=options, **CALL).images
    assert not torch.equal(both, usual)
    alone = tiny([0], seed=3, sampler=options, **CALL).images
    assert torch.equal(alone, both[:1])


def test_masked_keeps_more_and_more_of_the_surest() -> None:
    sampler = MaskedSampler(MaskedSampler.Config.model_validate({"rounds": 4}), facts=FACTS)
    layout = Layout.of(1, 4)
    assert (sampler.rounds(layout, 0), sampler.rounds(layout, 1)) == (1, 4)
    logits = torch.randn(2, 16, 20)
    tokens = logits.argmax(-1)
    kept = [sampler.keep(logits, tokens, layout, 1, number) for number in range(3)]
    assert [int(one[0].sum()) for one in kept] == [1, 4, 9]
    sure = logits.log_softmax(-1).amax(-1)
    assert sure[0][kept[1][0]].min() >= sure[0][~kept[1][0]].max()


def test_relay_hands_the_fine_scales_to_another_checkpoint(tiny: Pipeline, tmp_path: Path) -> None:
    parts = tiny.config.model.model_dump()
    other = Pipeline.from_config(
        {**parts, "backbone": {"name": "transformer", "depth": 1, "width": 32, "num_heads": 2}},
        seed=5,
    )
    folder = str(other.save_pretrained(tmp_path / "finisher"))
    maps = tiny(0, seed=3, **CALL).maps
    for step in (1, 2):
        relay = {"name": "relay", "finisher": folder, "from_step": step}
        found = tiny(0, seed=3, sampler=relay, **CALL).maps
        same = [torch.equal(a, b) for a, b in zip(found, maps, strict=True)]
        assert all(same[:step])
        assert not all(same[step:])
    strange = Pipeline.from_config({**parts, "num_classes": 2, "class_names": None}, seed=5)
    folder = str(strange.save_pretrained(tmp_path / "strange"))
    with pytest.raises(FlexvarError, match="strange has num_classes 2, this model 5"):
        tiny(0, sampler={"name": "relay", "finisher": folder}, **CALL)


def test_another_checkpoint_is_moved_only_when_the_model_was(
    tiny: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tiny.save_pretrained(tmp_path / "finisher"))
    pipe = Pipeline.from_pretrained(folder)
    relay = {"name": "relay", "finisher": folder, "from_step": 1}
    pipe(0, sampler=relay, **CALL)
    (other,) = pipe._others.values()
    moved: list[Session] = []
    move = Session.to
    monkeypatch.setattr(Session, "to", lambda self, *to: moved.append(self) or move(self, *to))
    pipe(0, sampler=relay, **CALL)
    assert not moved
    pipe.to("bf16")
    pipe(0, sampler=relay, **CALL)
    assert moved == [pipe, other]
    assert other.dtype == torch.bfloat16


def test_another_checkpoint_takes_kernels_as_the_model_does(tiny: Pipeline, tmp_path: Path) -> None:
    folder = str(tiny.save_pretrained(tmp_path / "finisher"))
    pipe = Pipeline.from_pretrained(folder)
    relay = {"name": "relay", "finisher": folder, "from_step": 1}
    for on in (True, False, True):
        engine.use_kernels(pipe, on)
        pipe(0, sampler=relay, **CALL)
        (other,) = pipe._others.values()
        able = [one.fused for one in other.model.modules() if hasattr(one, "fused")]
        assert able
        assert set(able) == {on}


def test_rope2d_and_optimised_make_a_model() -> None:
    parts = {
        "tokenizer": {"name": "multiscale", "channels": 32, "channel_multipliers": [1, 1],
                      "blocks": 1, "latent_channels": 32, "vocab_size": 20, "code_dim": 4},
        "backbone": {"name": "delta", "depth": 2, "width": 32, "num_heads": 2},
        "position": "rope2d", "schedule": {"name": "optimised", "tokens": 2.0},
    }  # fmt: skip
    assert flexvar.Pipeline.from_config(parts)(0, size=32, progress=False).images[0].size == (
        32,
        32,
    )
