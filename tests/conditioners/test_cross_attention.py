"""The transformer reads the words of a prompt: at once and scale by scale, cached, masked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import TINY, shake

from flexvar import FlexvarError, Layout, Pipeline
from flexvar.sequence import teacher_forcing

WORDS = {"name": "text", "encoder": "embeddings", "channels": 6, "width": 32, "num_heads": 2,
         "max_tokens": 5}  # fmt: skip
LAYOUT = Layout.of(1, 2, (3, 5))


def pipeline(*, cross: bool = True, shaken: bool = True, **changes: Any) -> Pipeline:
    backbone = {"name": "transformer", "depth": 2, "width": 64, "num_heads": 2}
    if cross:
        backbone["cross_attention"] = True
    config = {"tokenizer": TINY["tokenizer"], "backbone": backbone, "conditioner": WORDS}
    pipe = Pipeline.from_config(config | changes)
    return shake(pipe) if shaken else pipe


def prompts(seed: int = 0) -> list[Any]:
    source = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 6, generator=source) for n in (3, 5)] + [None]


def asked(pipe: Pipeline) -> tuple[Any, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    maps = [torch.randint(61, (3, *grid), generator=source) for grid in LAYOUT]
    return pipe.collate(prompts()), teacher_forcing(pipe.tokenizer, maps, LAYOUT)


@torch.no_grad()
def test_scale_by_scale_is_all_at_once() -> None:
    pipe = pipeline()
    condition, inputs_BLC = asked(pipe)
    at_once = pipe.model(condition, inputs_BLC, LAYOUT)
    state = pipe.model.start(condition, LAYOUT)
    steps = [pipe.model.step(None, state)]
    steps += [pipe.model.step(inputs_BLC[:, p.start - 1 : p.stop - 1], state)
              for p in LAYOUT.slices[1:]]  # fmt: skip
    gap = (torch.cat(steps, 1) - at_once).abs().max() / at_once.abs().max()
    assert gap < 1e-5
    for row in range(3):
        alone = pipe.model(
            pipe.collate(prompts()[row : row + 1]), inputs_BLC[row : row + 1], LAYOUT
        )
        assert (alone[0] - at_once[row]).abs().max() / at_once.abs().max() < 1e-5


@torch.no_grad()
def test_a_fresh_one_changes_nothing() -> None:
    with_it, without = pipeline(shaken=False), pipeline(cross=False, shaken=False)
    weights = with_it.model.state_dict()
    without.model.load_state_dict({k: weights[k] for k in without.model.state_dict()})
    for one in (with_it, without):
        one.model.head.logits.weight.mul_(50)
    condition, inputs_BLC = asked(with_it)
    logits = [one.model(condition, inputs_BLC, LAYOUT) for one in (with_it, without)]
    assert torch.equal(*logits)


@torch.no_grad()
def test_words_matter_beside_the_pooled_vector_and_padding_does_not() -> None:
    pipe = pipeline()
    backbone: Any = pipe.model.backbone
    condition = pipe.model.conditioner(asked(pipe)[0])  # type: ignore[operator]
    x_BLD = torch.randn(3, LAYOUT.tokens, 64, generator=torch.Generator().manual_seed(2))
    position = pipe.model.position(LAYOUT)
    position = type(position)(rotate_LR=position.rotate_LR)
    before = backbone(x_BLD, condition, LAYOUT, position)
    for where, changes in ((condition.mask_BT, True), (~condition.mask_BT, False)):
        moved = condition.tokens_BTD + where[..., None] * 2.0
        other = type(condition)(condition.pooled_BD, moved, condition.mask_BT)
        after = backbone(x_BLD, other, LAYOUT, position)
        assert torch.allclose(after, before, atol=1e-6) != changes


@torch.no_grad()
def test_what_a_condition_says_is_read_once() -> None:
    pipe = pipeline()
    condition, inputs_BLC = asked(pipe)
    calls = []
    backbone: Any = pipe.model.backbone
    for block in backbone.blocks:
        block.cross.key_value.register_forward_hook(lambda *_: calls.append(1))
    state = pipe.model.start(condition, LAYOUT)
    pipe.model.step(None, state)
    pipe.model.step(inputs_BLC[:, :4], state)
    assert len(calls) == 2


def test_gradients_reach_the_words_and_every_weight() -> None:
    pipe = pipeline()
    condition, inputs_BLC = asked(pipe)
    logits = pipe.model(condition, inputs_BLC, LAYOUT)
    logits.square().mean().backward()
    without = [n for n, p in pipe.model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_generates_and_guides() -> None:
    pipe = pipeline()
    given: dict[str, Any] = {"size": (16, 24), "seed": 0, "guidance": 3.0, "output": "tensor"}
    made = pipe(prompts=prompts(), **given).images
    alone = pipe(prompts=prompts()[1], **{**given, "first_index": 1}).images
    assert torch.equal(made[1], alone[0])


def test_a_conditioner_without_tokens_is_refused() -> None:
    with pytest.raises(FlexvarError, match=r"'transformer' is to read tokens .*'label' does not"):
        pipeline(conditioner="label")


def test_mamba_takes_the_pooled_vector() -> None:
    backbone = {"name": "mamba", "depth": 1, "width": 64}
    pipe = pipeline(backbone=backbone)
    assert pipe.model.facts.reads_tokens is False
    assert len(pipe(prompts=prompts(), size=16, seed=0).images) == 3
    with pytest.raises(FlexvarError, match="cross_attention: unknown option"):
        pipeline(backbone=backbone | {"cross_attention": True})
