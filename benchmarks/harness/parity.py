"""What has to hold before a figure is given: the contract of flexvar, and the plain way.

A backbone is held against itself - scale by scale against all at once, no later scale seen, rows
independent - and, where it has a plain implementation (``eager``, ``reference``), against that
with the same weights and inputs, in fp32 and in the dtype that is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import models
from benchmarks.harness.suite import Red
from flexvar import Layout, Pipeline
from flexvar.build import build
from flexvar.contract import ContractViolation
from flexvar.contract import models as invariants
from flexvar.contract.combination import Trial
from flexvar.contract.measure import STEP_TOLERANCE
from flexvar.model import NextScaleModel
from flexvar.ops.precision import cast, parse_dtype
from flexvar.sequence import targets, teacher_forcing

# fp32, as a share of the largest number: gradients sum over all tokens, in another order.
GRADIENT_TOLERANCE = 1e-3
# In bf16 a fast way may be this many times as far from fp32 as the plain way in bf16 is, or
# this far (root mean square, relative), whichever is more.
TIMES_PLAIN, LEAST_HALF = 2.0, 2e-3
# Longer layouts are compared at this one: attention written out takes memory by its square.
MOST_TOKENS = 700
SMALL = Layout.of(1, 2, (2, 3), (4, 5))


@dataclass(frozen=True, slots=True)
class OnDevice(Trial):
    """A trial whose noise is on its inputs' device."""

    def noise(self, like: Tensor, size: float = 3.0) -> Tensor:
        """Random numbers of a tensor's shape, the same every time."""
        source = torch.Generator().manual_seed(1)
        return (size * torch.randn(like.shape, generator=source)).to(like.device)


@dataclass(frozen=True, slots=True)
class Opened:
    """What the contract's invariants ask of a combination: a model, and what to try it with."""

    model: NextScaleModel
    trials: list[Trial]

    def open(self) -> tuple[NextScaleModel, list[Trial]]:
        """Both."""
        return self.model, self.trials


def check(pipe: Pipeline, layout: Layout, *, dtype: str = "fp32", rows: int = 3) -> dict[str, Any]:
    """What was compared, within which tolerance, and the greatest difference.

    pipe: in fp32; it is in fp32 again afterwards. layout: of the row. dtype: of the row.
    Raises `Red` with what is wrong.
    """
    layout = layout if layout.tokens <= MOST_TOKENS else models.LAYOUT_256
    small, large = (trial(pipe, one, rows) for one in (SMALL, layout))
    for invariant in (
        invariants.step_equals_forward,
        invariants.no_later_scale_is_seen,
        invariants.rows_are_independent,
    ):
        _hold(invariant, Opened(pipe.model, [small]))
    _hold(invariants.step_equals_forward, Opened(pipe.model, [large]))
    report: dict[str, Any] = {
        "compared": "step by step and all at once; no later scale seen; rows independent",
        "layout": str(layout),
        "tolerance": STEP_TOLERANCE,
    }
    plain = plain_model(pipe)
    with torch.no_grad():
        steps = torch.cat(_by_steps(pipe.model, large), 1)
        whole = _forward(pipe.model, large)
        report["greatest"] = _share(steps, whole)
        if plain is None:
            return report
        expected = _forward(plain[1], large)
        report["plain"] = plain[0]
        report["greatest"] = max(_share(steps, expected), _share(whole, expected))
        if not report["greatest"] <= STEP_TOLERANCE:
            raise Red(
                f"logits differ from {plain[0]!r} by {report['greatest']:.2g} of the largest, at "
                f"most {STEP_TOLERANCE:g} is allowed (layout {layout})",
                report,
            )
        if dtype != "fp32":
            report[dtype] = _half(pipe, plain[1], large, expected, dtype)
    return report


def check_gradients(
    pipe: Pipeline, layout: Layout, *, dtype: str = "fp32", rows: int = 2
) -> dict[str, Any]:
    """As `check`, and every weight's gradient against the plain implementation's.

    pipe: in fp32, as a model is that trains. In another ``dtype`` logits and gradients are
    compared under autocast too; an implementation that has no fp32 of its own, there alone.
    """
    spec = pipe.config.model.backbone
    assert spec is not None
    exact = spec.options.get("implementation") not in models.GPU_ONLY
    report: dict[str, Any] = {"compared": "under autocast alone"}
    if exact:
        report = check(pipe, layout)
    layout = layout if layout.tokens <= MOST_TOKENS else models.LAYOUT_256
    plain = plain_model(pipe)
    tried = trial(pipe, layout, rows)
    if exact:
        _same_gradients(pipe.model, plain, tried, report)
    if dtype != "fp32" and plain is not None:
        report[dtype] = _mixed(pipe.model, plain, tried, dtype)
    return report


def _same_gradients(
    model: NextScaleModel,
    plain: tuple[str, NextScaleModel] | None,
    tried: Trial,
    report: dict[str, Any],
) -> None:
    """Add to the report how far gradients in fp32 differ. Raises `Red` if that is too far."""
    own, _ = _gradients(model, tried)
    for name, gradient in own.items():
        if not bool(gradient.isfinite().all()):
            raise Red(f"the gradient of {name} is not finite", report)
    if plain is None:
        return
    expected, _ = _gradients(plain[1], tried)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    worst, where = 0.0, ""
    for name, gradient in expected.items():
        # A gradient that is next to nothing is compared with the others, not with itself.
        scale = max(float(gradient.abs().max()), 1e-3 * largest)
        found = float((own[name] - gradient).abs().max()) / scale
        worst, where = max((worst, where), (found, name))
    report["gradients"] = {"tolerance": GRADIENT_TOLERANCE, "greatest": worst}
    if not worst <= GRADIENT_TOLERANCE:
        raise Red(
            f"the gradient of {where} differs from {plain[0]!r} by {worst:.2g} of its largest "
            f"number, at most {GRADIENT_TOLERANCE:g} is allowed",
            report,
        )


def _mixed(
    model: NextScaleModel, plain: tuple[str, NextScaleModel], tried: Trial, dtype: str
) -> dict[str, Any]:
    """How far logits and all gradients under autocast are from the plain way's in fp32.

    The same rule as `_half`: at most twice as far as the plain way under autocast is.
    """
    exact, logits = _gradients(plain[1], tried)
    found: dict[str, Any] = {}
    ways = {"own": model, "plain": plain[1]}
    mixed = {name: _gradients(one, tried, dtype) for name, one in ways.items()}
    for what in ("logits", "gradients"):
        if what == "logits":
            own, theirs = (_rms(mixed[name][1], logits) for name in ways)
        else:
            own, theirs = (_rms(_joined(mixed[name][0]), _joined(exact)) for name in ways)
        allowed = max(LEAST_HALF, TIMES_PLAIN * theirs)
        found[what] = {"rms_to_fp32": own, "plain_rms_to_fp32": theirs, "tolerance": allowed}
        if not own <= allowed:
            raise Red(
                f"under {dtype} autocast the {what} are {own:.2g} from fp32, those of {plain[0]!r} "
                f"{theirs:.2g}; at most {allowed:.2g} is allowed",
                found,
            )
    return found


def _joined(gradients: dict[str, Tensor]) -> Tensor:
    """All gradients, each over its name's place, as one vector."""
    return torch.cat([gradients[name].flatten().float() for name in sorted(gradients)])


def plain_model(pipe: Pipeline) -> tuple[str, NextScaleModel] | None:
    """The plain implementation's name and a model of it with the same weights, if there is one."""
    spec = pipe.config.model.backbone
    assert spec is not None
    name = models.plain_of(spec.name)
    return None if name is None else (name, with_implementation(pipe, name))


def with_implementation(pipe: Pipeline, name: str) -> NextScaleModel:
    """The model by another implementation of its backbone, its weights the same tensors."""
    spec = pipe.config.model.backbone
    assert spec is not None
    described = pipe.config.model.model_dump(exclude_none=True)
    described["backbone"] = {"name": spec.name, **spec.options, "implementation": name}
    with torch.device("meta"):
        model = build(described).model
    assert model is not None
    own = pipe.model.state_dict()
    missing = model.load_state_dict(own, assign=True, strict=True)
    assert not missing.missing_keys
    for module, other in zip(model.modules(), pipe.model.modules(), strict=True):
        # What a module made for itself and no checkpoint keeps.
        for key, buffer in other.named_buffers(recurse=False):
            if key in other._non_persistent_buffers_set:
                setattr(module, key, buffer)
    return model.eval()


def trial(pipe: Pipeline, layout: Layout, rows: int) -> Trial:
    """Random maps of a layout on the pipeline's device, for so many rows, and their inputs."""
    source = torch.Generator().manual_seed(layout.tokens)
    space, device = pipe.tokenizer.space, pipe.device
    maps = [
        torch.randint(space.vocab_size, (rows, *grid), generator=source).to(device)
        for grid in layout
    ]
    null = pipe.model.num_classes
    labels = torch.tensor([0, null, *range(2, rows)][:rows], device=device).clamp(max=null)
    with torch.no_grad():
        inputs_BLC = teacher_forcing(pipe.tokenizer, maps, layout)
    return OnDevice(layout, labels, targets(maps), inputs_BLC)


def _hold(invariant: Any, opened: Opened) -> None:
    name = invariant.__name__.replace("_", " ")
    try:
        invariant(opened)
    except ContractViolation as violation:
        raise Red(f"{name}: {violation}") from None


def _half(
    pipe: Pipeline, plain: NextScaleModel, tried: Trial, exact: Tensor, dtype: str
) -> dict[str, float]:
    """How far both ways are from fp32 in another dtype. Raises `Red` if ours is too far."""
    # Kept whole: numbers that went through another dtype do not come back as they were.
    kept = [(model, model.state_dict()) for model in (pipe.model, plain)]
    try:
        cast(pipe.model, parse_dtype(dtype))
        own = _rms(torch.cat(_by_steps(pipe.model, tried), 1), exact)
        cast(plain, parse_dtype(dtype))
        theirs = _rms(_forward(plain, tried), exact)
    finally:
        for model, tensors in kept:
            cast(model, torch.float32)
            for name, tensor in model.state_dict(keep_vars=True).items():
                tensor.data = tensors[name]
    allowed = max(LEAST_HALF, TIMES_PLAIN * theirs)
    found = {"rms_to_fp32": own, "plain_rms_to_fp32": theirs, "tolerance": allowed}
    if not own <= allowed:
        raise Red(
            f"in {dtype} the logits are {own:.2g} from fp32, the plain way's {theirs:.2g}; at "
            f"most {allowed:.2g} is allowed",
            found,
        )
    return found


def _forward(model: NextScaleModel, tried: Trial) -> Tensor:
    return model(tried.labels_B, tried.inputs_BLC, tried.layout)


def _by_steps(model: NextScaleModel, tried: Trial) -> list[Tensor]:
    return invariants.by_steps(model, tried, tried.labels_B, tried.inputs_BLC)


def _share(found: Tensor, expected: Tensor) -> float:
    """The greatest difference over the largest expected number; nan counts as infinite."""
    share = float((found - expected).abs().max() / expected.abs().max())
    return share if share == share else float("inf")


def _rms(found: Tensor, exact: Tensor) -> float:
    share = float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt())
    return share if share == share else float("inf")


def _gradients(
    model: NextScaleModel, tried: Trial, dtype: str = "fp32"
) -> tuple[dict[str, Tensor], Tensor]:
    """The gradient of every weight, and the logits; under autocast in any dtype but fp32."""
    model.zero_grad(set_to_none=True)
    where = tried.inputs_BLC.device.type
    with torch.autocast(where, parse_dtype(dtype), enabled=dtype != "fp32"):
        logits_BLV = _forward(model, tried)
    F.cross_entropy(logits_BLV.flatten(0, -2), tried.tokens.flatten()).backward()
    found = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    model.zero_grad(set_to_none=True)
    return found, logits_BLV.detach()
