"""Which invariants are tried with which parts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from typing import Any, Literal, get_args

from flexvar.contract import (
    conditioners,
    models,
    objectives,
    positions,
    samplers,
    schedules,
    tokenizers,
)
from flexvar.contract.combination import Combination
from flexvar.contract.measure import ContractViolation
from flexvar.contract.variant import Options, Variant, variants
from flexvar.errors import FlexvarError, PluginError
from flexvar.plugin import KINDS, Kind, Registry, default_registry
from flexvar.plugin.registry import FIRST_PARTY

OF_MODELS = (
    models.backbone_is_what_it_says,
    models.step_equals_forward,
    models.no_later_scale_is_seen,
    models.rows_are_independent,
    models.calls_leave_no_state,
    models.saved_weights_are_the_same,
    models.moves_between_precisions,
    models.gradients_reach_every_weight,
    models.accepted_angles_are_used,
)
OF_DRAWING = (samplers.tokens_do_not_depend_on_the_batch, samplers.known_tokens_win)
OF_OBJECTIVES = (
    objectives.pairs_fit_their_layout,
    objectives.a_model_that_knows_the_answer_has_no_loss,
    objectives.pairs_follow_the_seed,
)
# Kinds whose components are tried in every combination.
COMBINED: tuple[Kind, ...] = ("tokenizer", "backbone", "position", "schedule")
Partners = Literal["first-party", "installed"]
# The entry point of the parts that every installation has.
BUILTIN = "builtin"
ALONE: dict[Kind, tuple[Callable[[Any], None], ...]] = {
    "tokenizer": (
        tokenizers.encoding_is_deterministic,
        tokenizers.maps_fit_their_layout,
        tokenizers.folds_to_the_last_grid,
        tokenizers.images_are_independent,
        tokenizers.tokenizer_keeps_no_state,
        tokenizers.tokenizer_moves_between_precisions,
        tokenizers.training_pass_is_whole,
        tokenizers.next_maps_follow_the_context,
    ),
    "backbone": (),
    "position": (positions.positions_tell_cells_apart, positions.unknown_layouts_are_refused),
    "schedule": (
        schedules.leads_to_the_asked_grid,
        schedules.too_many_steps_are_refused,
        schedules.random_lists_follow_the_seed,
    ),
    "sampler": (samplers.guidance_is_known_beforehand, samplers.process_keeps_rows_apart),
    "conditioner": (
        conditioners.gives_what_it_says,
        conditioners.null_is_the_same_whatever_it_is_made_of,
        conditioners.padding_and_neighbours_change_nothing,
        conditioners.what_it_does_not_know_is_refused,
        conditioners.gradients_reach_its_weights,
        conditioners.conditioner_moves_between_precisions,
    ),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One invariant of one part or combination; ``str`` is its name in a test report."""

    parts: str
    invariant: Callable[[Any], None] = field(repr=False)
    subject: Any = field(repr=False)

    def __str__(self) -> str:
        return f"{self.invariant.__name__}-{self.parts}"

    def run(self) -> None:
        """Raise `ContractViolation` if the invariant does not hold, or cannot be tried."""
        head = f"{self.invariant.__name__.replace('_', ' ')}: {self.parts}: "
        try:
            self.invariant(self.subject)
        except ContractViolation as violation:
            raise ContractViolation(f"{head}{violation}") from None
        except Exception as error:
            raise ContractViolation(f"{head}{type(error).__name__}: {error}") from error


def cases(
    kind: Kind | None = None,
    name: str | None = None,
    *,
    registry: Registry | None = None,
    options: Options | None = None,
    random_layouts: int = 3,
    partners: Partners = "first-party",
) -> list[Case]:
    """All cases of a component, of all of a kind, or of all there are.

    options: of the component, instead of its ``contract_options``. random_layouts: how many
    beside the fixed ones. partners: what it is tried with: what every flexvar has and what comes
    with it in its own distribution, or all that is installed.
    Raises `FlexvarError` for a component that cannot be had or refuses its options. A partner of
    which that is true, or which breaks the contract itself, is left out with a warning.
    """
    registry = registry or default_registry()
    if kind is None and (name is not None or options is not None):
        raise FlexvarError("contract: a name or options need a kind, " + " or ".join(KINDS) + ".")
    if options is not None and name is None:
        raise FlexvarError("contract: options are of one component; give its name.")
    if partners not in get_args(Partners):
        ways = " or ".join(map(repr, get_args(Partners)))
        raise FlexvarError(f"contract: partners={partners!r}; expected {ways}.")
    found: dict[str, Case] = {}
    for one in (kind,) if kind else (*COMBINED, "conditioner", "sampler", "objective"):
        names = registry.names(one) if name is None else [name]
        for part in (v for n in names for v in _variants(registry, one, n, options, name)):
            pool = _pool(part, partners, registry)
            for case in _cases_of(part, pool, registry, random_layouts):
                found.setdefault(str(case), case)
    return list(found.values())


def check(
    kind: Kind,
    name: str,
    *,
    registry: Registry | None = None,
    options: Options | None = None,
    random_layouts: int = 3,
    partners: Partners = "first-party",
) -> None:
    """Run all cases of a component. Raises `ContractViolation` that lists those that fail."""
    tried = cases(
        kind,
        name,
        registry=registry,
        options=options,
        random_layouts=random_layouts,
        partners=partners,
    )
    violations: list[ContractViolation] = []
    for case in tried:
        try:
            case.run()
        except ContractViolation as violation:
            violations.append(violation)
    if violations:
        rows = "\n".join(f"  {violation}" for violation in violations)
        raise ContractViolation(
            f"{kind} {name!r} breaks {len(violations)} of {len(tried)} cases:\n{rows}"
        ) from violations[0].__cause__


def _variants(
    registry: Registry, kind: Kind, name: str, options: Options | None, asked: str | None
) -> list[Variant]:
    """The variants of a component; one that was not asked for by name only warns."""
    try:
        return variants(registry, kind, name, options)
    except FlexvarError as error:
        if asked is not None:
            raise
        warnings.warn(f"The contract goes without {kind} {name!r}: {error}", stacklevel=4)
        return []


def _pool(part: Variant, partners: Partners, registry: Registry) -> dict[Kind, list[Variant]]:
    """Whom a part is tried with, by kind: the built-in parts first.

    A further variant of a component, and a part of the zoo, meet one position embedding of each
    sort instead of all.
    """
    own = registry.find(part.kind, part.name).distribution
    found: dict[Kind, list[Variant]] = {}
    for kind in COMBINED:
        found[kind] = _builtin(registry, kind)
        for name in registry.names(kind):
            its = registry.find(kind, name)
            if its.plugin == BUILTIN and its.distribution == FIRST_PARTY:
                continue
            wanted = partners == "installed" or (its.distribution == own != FIRST_PARTY)
            if wanted and (kind, name) != (part.kind, part.name):
                found[kind] += _sound(registry, kind, name)
    its = registry.find(part.kind, part.name)
    further = its.distribution == FIRST_PARTY and its.plugin != BUILTIN
    if further or part.label != part.name:
        sorts = {getattr(one.cls, "provides", None): one for one in reversed(found["position"])}
        found["position"] = list(sorts.values())[::-1]
    return found


@cache
def _builtin_of(registry: Registry, kind: Kind) -> tuple[Variant, ...]:
    names = [p.component.name for p in registry.components if p.kind == kind]
    its = {n: registry.find(kind, n) for n in dict.fromkeys(names)}
    mine = [n for n, p in its.items() if (p.distribution, p.plugin) == (FIRST_PARTY, BUILTIN)]
    return tuple(variants(registry, kind, name)[0] for name in sorted(mine))


def _builtin(registry: Registry, kind: Kind) -> list[Variant]:
    """The first variant of every part that flexvar itself brings."""
    return list(_builtin_of(registry, kind))


@cache
def _sound(registry: Registry, kind: Kind, name: str) -> tuple[Variant, ...]:
    """A partner's first variant, if it keeps the contract itself with the built-in parts.

    Else a broken neighbour, which happens to be installed, would turn sound components red.
    """
    try:
        part = variants(registry, kind, name)[0]
    except FlexvarError as error:
        warnings.warn(f"The contract goes without {kind} {name!r}: {error}", stacklevel=5)
        return ()
    trusted = {one: _builtin(registry, one)[:2] for one in COMBINED}
    for case in _cases_of(part, trusted, registry, 0):
        try:
            case.run()
        except ContractViolation as violation:
            warnings.warn(
                f"The contract goes without {kind} {name!r}, which breaks it: {violation}",
                stacklevel=5,
            )
            return ()
    return (part,)


# What a part is tried with that is no backbone, position or schedule itself.
USUAL: tuple[tuple[Kind, str], ...] = (
    ("backbone", "transformer"),
    ("position", "learned2d"),
    ("schedule", "ladder"),
)


def _named(pool: dict[Kind, list[Variant]], kind: Kind, name: str) -> Variant:
    return next((one for one in pool[kind] if one.name == name), pool[kind][0])


def _cases_of(
    part: Variant, pool: dict[Kind, list[Variant]], registry: Registry, random_layouts: int
) -> list[Case]:
    found = [Case(part.label, invariant, part) for invariant in ALONE.get(part.kind, ())]
    if part.kind in ("sampler", "conditioner"):
        for tokenizer in pool["tokenizer"] if part.kind == "sampler" else pool["tokenizer"][:1]:
            backbone, position, schedule = (_named(pool, kind, name) for kind, name in USUAL)
            whole = Combination(backbone, position, tokenizer, schedule, registry, random_layouts)
            if part.kind == "sampler":
                drawing = samplers.Drawing(part, whole)
                found += [Case(str(drawing), invariant, drawing) for invariant in OF_DRAWING]
            else:
                reading = conditioners.Reading(part, whole)
                found.append(Case(str(reading), conditioners.a_model_reads_it, reading))
    if part.kind == "objective":
        pairs = [objectives.Training(part, tokenizer) for tokenizer in pool["tokenizer"]]
        return [Case(str(two), invariant, two) for two in pairs for invariant in OF_OBJECTIVES]
    if part.kind not in COMBINED:
        return found
    pool = {**pool, part.kind: [part]}
    for kind, members in pool.items():
        if not members:
            raise PluginError(
                f"contract: there is no {kind} to try {part.kind} {part.name!r} with."
            )
    for backbone, position, tokenizer in product(
        pool["backbone"], pool["position"], pool["tokenizer"]
    ):
        whole = Combination(
            backbone, position, tokenizer, pool["schedule"][0], registry, random_layouts
        )
        if not whole.fits:
            found.append(Case(str(whole), models.misfits_are_refused, whole))
            continue
        if part.kind != "schedule":
            found += [Case(str(whole), invariant, whole) for invariant in OF_MODELS]
        found += [
            Case(f"{whole}+{schedule}", models.generates, replace(whole, schedule=schedule))
            for schedule in pool["schedule"]
        ]
    return found
