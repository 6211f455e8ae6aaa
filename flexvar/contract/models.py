"""What a model has to do, whatever backbone, position embedding and tokenizer it is made of."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from flexvar import checkpoint
from flexvar.build import Parts, plan
from flexvar.checkpoint import CheckpointConfig
from flexvar.components import Backbone, Condition, Position, PositionEmbedding
from flexvar.contract.combination import NUM_CLASSES, Combination, Trial, model_of
from flexvar.contract.measure import (
    BF16_TOLERANCE,
    LAYOUTS,
    LEAK_TOLERANCE,
    STEP_TOLERANCE,
    ContractViolation,
    alike,
    demand,
    demand_members,
    equal_within,
    global_seed,
    unchanged,
)
from flexvar.contract.tokenizers import parts_of
from flexvar.errors import FlexvarError
from flexvar.layout import Grid, Layout
from flexvar.metrics.token_loss import token_losses
from flexvar.model import NextScaleModel
from flexvar.ops import precision
from flexvar.pipeline import Pipeline
from flexvar.sequence import targets, teacher_forcing

# Last grids that a combination generates.
GENERATED = (Grid(4, 4), Grid(3, 5))


def _spare(combination: object) -> float:
    """What a combination says of rounding that decides a route; 0 for who says nothing."""
    return float(getattr(combination, "spare", 0.0))


def by_steps(model: NextScaleModel, trial: Trial, labels_B: Tensor, inputs: Tensor) -> list[Tensor]:
    """Logits scale by scale."""
    state = model.start(labels_B, trial.layout)
    return [
        model.step(inputs[:, trial.part(scale)] if scale else None, state)
        for scale in range(len(trial.layout))
    ]


@torch.no_grad()
def step_equals_forward(combination: Combination) -> None:
    """Logits scale by scale are those of all scales at once, for every layout."""
    model, trials = combination.open()
    for trial in trials:
        whole = model(trial.labels_B, trial.inputs_BLC, trial.layout)
        scale_of_all = float(whole.abs().max())
        steps = by_steps(model, trial, trial.labels_B, trial.inputs_BLC)
        for scale, (part, logits) in enumerate(zip(trial.layout.slices, steps, strict=True)):
            what = f"{trial.where(scale)}: the logits of step and of forward"
            equal_within(
                logits,
                whole[:, part],
                STEP_TOLERANCE,
                what,
                scale=scale_of_all,
                spare=_spare(combination),
            )


@torch.no_grad()
def no_later_scale_is_seen(combination: Combination) -> None:
    """Other inputs of a scale leave the logits of all scales before it as they are."""
    model, trials = combination.open()
    for trial in trials:
        before = model(trial.labels_B, trial.inputs_BLC, trial.layout)
        size = float(before.abs().max())
        for scale in range(1, len(trial.layout)):
            inputs = trial.inputs_BLC.clone()
            inputs[:, trial.part(scale)] += trial.noise(inputs[:, trial.part(scale)])
            after = model(trial.labels_B, inputs, trial.layout)
            for earlier, part in enumerate(trial.layout.slices[:scale]):
                what = f"{trial.where(earlier)}: the logits before and after scale {scale} changed"
                equal_within(after[:, part], before[:, part], LEAK_TOLERANCE, what, scale=size)


@torch.no_grad()
def rows_are_independent(combination: Combination) -> None:
    """An image's logits do not depend on the others of its batch, nor on its place there."""
    model, trials = combination.open()
    order, spare = torch.tensor([2, 0, 1]), _spare(combination)
    for trial in trials[: len(LAYOUTS)]:
        labels, inputs, layout = trial.labels_B, trial.inputs_BLC, trial.layout
        whole = model(labels, inputs, layout)
        ways = {"forward": whole, "step": torch.cat(by_steps(model, trial, labels, inputs), 1)}
        turned = model(labels[order], inputs[order], layout)
        stepped = torch.cat(by_steps(model, trial, labels[order], inputs[order]), 1)
        for way, found in (("forward", turned), ("step", stepped)):
            what = f"layout {layout}, {way}: the logits in another order of rows"
            equal_within(found, ways[way][order], STEP_TOLERANCE, what, spare=spare)
        what = f"layout {layout}: the logits of a row alone and in its batch"
        alone = model(labels[:1], inputs[:1], layout)
        equal_within(alone, whole[:1], STEP_TOLERANCE, what, spare=spare)
        # In training mode too, where statistics of the batch would come in; the same seed
        # drops the same paths.
        others = inputs.clone()
        others[1:] += trial.noise(others[1:])
        other_labels = torch.cat([labels[:1], labels[1:].flip(0)])
        for mode in (False, True):
            model.train(mode)
            logits = []
            for now in ((labels, inputs), (other_labels, others)):
                with global_seed(0):
                    logits.append(model(*now, layout)[:1])
            model.eval()
            name = "training" if mode else "eval"
            what = f"layout {layout}, {name} mode: the logits of a row when other rows change"
            equal_within(logits[1], logits[0], LEAK_TOLERANCE, what)


@torch.no_grad()
def saved_weights_are_the_same(combination: Combination) -> None:
    """A checkpoint that is saved and loaded gives the same logits and the same pictures."""
    parts = combination.build()
    with tempfile.TemporaryDirectory() as folder:
        config = CheckpointConfig(model=combination.config)
        checkpoint.save(folder, config, parts, combination.registry)
        with global_seed(1):
            _, loaded = checkpoint.load(folder, combination.registry)
    for trial in combination.trials(parts):
        logits = [
            model_of(one)(trial.labels_B, trial.inputs_BLC, trial.layout) for one in (parts, loaded)
        ]
        what = f"layout {trial.layout}: the logits before saving and after loading"
        equal_within(logits[1], logits[0], LEAK_TOLERANCE, what)
    space = parts.tokenizer.space
    index = (torch.arange(6 * space.groups) % space.vocab_size).view(1, 2, 3, *parts_of(space))
    pictures = [one.tokenizer.decode(one.tokenizer.lookup(index)) for one in (parts, loaded)]
    what = "the decoded pictures before saving and after loading"
    equal_within(pictures[1], pictures[0], LEAK_TOLERANCE, what)


@torch.no_grad()
def moves_between_precisions(combination: Combination) -> None:
    """bf16 logits are finite and near fp32's, by forward and by step; fp32 comes back."""
    model, trials = combination.open()
    for trial in trials[: len(LAYOUTS)]:
        what = f"layout {trial.layout}: "
        now = trial.labels_B, trial.inputs_BLC, trial.layout
        exact = model(*now)
        precision.cast(model, torch.bfloat16)
        alike(model(*now), exact, BF16_TOLERANCE, what + "the bf16 and fp32 logits of forward")
        steps = torch.cat(by_steps(model, trial, trial.labels_B, trial.inputs_BLC), 1)
        alike(steps, exact, BF16_TOLERANCE, what + "the bf16 and fp32 logits of step")
        precision.cast(model, torch.float32)
        alike(model(*now), exact, BF16_TOLERANCE, what + "the logits after bf16 and back to fp32")


def gradients_reach_every_weight(combination: Combination) -> None:
    """The cross-entropy of the logits has a gradient for every trainable weight.

    Those of a backbone that accepts tokens have one at least where a condition has some.
    """
    model, trials = combination.open()
    accepts: frozenset[str] = getattr(model.backbone, "accepts", frozenset())
    for trial in trials[: len(LAYOUTS)]:
        logits = model(trial.labels_B, trial.inputs_BLC, trial.layout)
        torch.autograd.backward(token_losses(logits, trial.tokens).mean())
        if "tokens" in accepts:
            x_BLD = trial.noise(torch.empty(2, trial.layout.tokens, model.facts.width), 1.0)
            condition = Condition(x_BLD[:, 0], trial.noise(torch.empty(2, 3, x_BLD.shape[2]), 1.0))
            found = model.position(trial.layout)
            position = Position(rotate_LR=found.rotate_LR)
            model.backbone(x_BLD, condition, trial.layout, position).sin().sum().backward()
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        demand(weight.grad is not None, f"no gradient reaches {name}")
        assert weight.grad is not None
        demand(bool(weight.grad.isfinite().all()), f"the gradient of {name} is not finite")
        demand(bool(weight.grad.any()), f"the gradient of {name} is zero everywhere")


@torch.no_grad()
def calls_leave_no_state(combination: Combination) -> None:
    """Two generations that take turns are each as if alone; no attribute is changed by a call."""
    model, trials = combination.open()
    for trial in trials[: len(LAYOUTS)]:
        labels, inputs = trial.labels_B, trial.inputs_BLC
        other = labels.flip(0), inputs + trial.noise(inputs)
        with unchanged(model=model):
            alone = [by_steps(model, trial, *now) for now in ((labels, inputs), other)]
            model(labels, inputs, trial.layout)
            states = [model.start(now, trial.layout) for now in (labels, other[0])]
            for scale in range(len(trial.layout)):
                for number, given in enumerate((inputs, other[1])):
                    part = given[:, trial.part(scale)] if scale else None
                    found, expected = model.step(part, states[number]), alone[number][scale]
                    what = f"{trial.where(scale)}: the logits alone and with a generation between"
                    equal_within(found, expected, LEAK_TOLERANCE, what)


@torch.no_grad()
def accepted_angles_are_used(combination: Combination) -> None:
    """A backbone that accepts rotary positions gives something else for other angles."""
    parts = combination.build()
    backbone, width = model_of(parts).backbone, model_of(parts).facts.width
    for trial in combination.trials(parts):
        position = model_of(parts).position(trial.layout)
        # One token turns against nothing.
        if position.rotate_LR is None or trial.layout.tokens < 2:
            continue
        x_BLD = trial.noise(torch.empty(1, trial.layout.tokens, width), 1.0)
        now = x_BLD, x_BLD[:, 0], trial.layout
        other = Position(rotate_LR=position.rotate_LR + trial.noise(position.rotate_LR))
        same = backbone(*now, Position(rotate_LR=position.rotate_LR))
        demand(
            not torch.equal(backbone(*now, other), same),
            f"layout {trial.layout}: the backbone accepts rotary positions, but other angles "
            "change nothing",
        )


def backbone_is_what_it_says(combination: Combination) -> None:
    """The backbone has all that its protocol names, and the widths that its options say."""
    model = model_of(combination.build())
    backbone, facts = model.backbone, model.facts
    demand(isinstance(backbone, nn.Module), "the backbone is no torch.nn.Module")
    demand_members(backbone, Backbone)
    found = cast(Backbone, backbone).width, cast(Backbone, backbone).head_dim
    demand(
        found == (facts.width, facts.head_dim),
        f"the backbone's width and head_dim are {found}, its Config says "
        f"{(facts.width, facts.head_dim)}",
    )


def misfits_are_refused(combination: Combination) -> None:
    """`flexvar.build.plan` refuses positions that the backbone ignores, naming both."""
    try:
        plan(combination.config, combination.registry)
    except FlexvarError as error:
        names = combination.backbone.name, combination.position.name
        demand(all(name in str(error) for name in names), f"the refusal names not both: {error}")
        return
    raise ContractViolation("parts that do not fit were not refused")


@torch.no_grad()
def generates(combination: Combination) -> None:
    """The pipeline draws pictures of every size the schedule takes; the likeliest tokens are
    those that forward finds likeliest; the same seed gives the same maps.
    """
    parts = combination.build()
    pipe = Pipeline(
        parts, CheckpointConfig(model=combination.config), {"guidance": 0.0, "top_k": 1}
    )
    stride = parts.tokenizer.space.stride
    # Mean codes are made of tokens of one part.
    mixtures = (True,) if parts.tokenizer.space.groups == 1 else ()
    known = cast(PositionEmbedding, model_of(parts).position).layouts
    lasts = [layout.last for layout in known] if known else GENERATED
    done = 0
    for last in lasts:
        size = (last.h * stride, last.w * stride)
        try:
            layout = pipe.layout(size)
        except FlexvarError:
            # A schedule with a list of its own; what it refuses is tested on itself.
            continue
        done += 1
        result = pipe([0, None], size=size, seed=0, output="tensor", progress=False)
        _check_greedy(parts, layout, result.maps)
        found = tuple(result.images.shape)
        demand(found == (2, 3, *size), f"layout {layout}: images of shape {found}")
        drawn = [
            pipe([0, 1], size=size, seed=3, guidance=2.0, top_k=0, soft=soft, progress=False).maps
            for soft in (False, False, *mixtures)
        ]
        same = all(torch.equal(*two) for two in zip(drawn[0], drawn[1], strict=True))
        demand(same, f"layout {layout}: the same seed gave other maps")
    demand(done > 0, f"schedule {combination.schedule.name!r} takes none of the sizes tried")


def _check_greedy(parts: Parts, layout: Layout, maps: Sequence[Tensor]) -> None:
    model = model_of(parts)
    labels_B = torch.tensor([0, NUM_CLASSES])
    logits = model(labels_B, teacher_forcing(parts.tokenizer, maps, layout), layout)
    chosen = logits.gather(-1, targets(maps)[..., None])[..., 0]
    what = f"layout {layout}: the likeliest logits of forward and those of the tokens generated"
    equal_within(chosen, logits.amax(-1), STEP_TOLERANCE, what, scale=float(logits.abs().max()))
