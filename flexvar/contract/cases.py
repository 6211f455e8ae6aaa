"""Which invariants are tried with which parts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from flexvar.contract import models, positions, schedules, tokenizers
from flexvar.contract.combination import Combination
from flexvar.contract.measure import ContractViolation
from flexvar.contract.variant import Options, Variant, partners, variants
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
# Kinds whose components are tried in every combination.
COMBINED: tuple[Kind, ...] = ("tokenizer", "backbone", "position", "schedule")
ALONE: dict[Kind, tuple[Callable[[Any], None], ...]] = {
    "tokenizer": (
        tokenizers.encoding_is_deterministic,
        tokenizers.maps_fit_their_layout,
        tokenizers.folds_to_the_last_grid,
        tokenizers.images_are_independent,
        tokenizers.tokenizer_keeps_no_state,
        tokenizers.tokenizer_moves_between_precisions,
    ),
    "backbone": (),
    "position": (positions.positions_tell_cells_apart, positions.unknown_layouts_are_refused),
    "schedule": (
        schedules.leads_to_the_asked_grid,
        schedules.too_many_steps_are_refused,
        schedules.random_lists_follow_the_seed,
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
) -> list[Case]:
    """All cases of a component, of all of a kind, or of all there are.

    options: of the component, instead of its ``contract_options``. random_layouts: how many
    beside the fixed ones.
    Raises `FlexvarError` for a component that cannot be had or refuses its options; a partner
    of which that is true is left out with a warning.
    """
    registry = registry or default_registry()
    if kind is None and (name is not None or options is not None):
        raise FlexvarError("contract: a name or options need a kind, " + " or ".join(KINDS) + ".")
    if options is not None and name is None:
        raise FlexvarError("contract: options are of one component; give its name.")
    everything = {one: partners(registry, one) for one in COMBINED}
    own = {FIRST_PARTY} | ({registry.find(kind, name).distribution} if kind and name else set())
    pool = {
        one: [part for part in members if _is_sound(part, own, everything, registry)]
        for one, members in everything.items()
    }
    found: dict[str, Case] = {}
    for one in (kind,) if kind else COMBINED:
        names = [part.name for part in everything[one]] if name is None else [name]
        for part in (v for n in names for v in variants(registry, one, n, options)):
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
) -> None:
    """Run all cases of a component. Raises `ContractViolation` that lists those that fail."""
    tried = cases(kind, name, registry=registry, options=options, random_layouts=random_layouts)
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


def _is_sound(
    part: Variant, own: set[str], pool: dict[Kind, list[Variant]], registry: Registry
) -> bool:
    """Whether a partner may judge others: one that is not one's own keeps the contract itself.

    Else a broken neighbour, which happens to be installed, would turn sound components red.
    """

    def distribution(one: Variant) -> str:
        return registry.find(one.kind, one.name).distribution

    if distribution(part) in own:
        return True
    trusted = {
        kind: [one for one in members if distribution(one) == FIRST_PARTY]
        for kind, members in pool.items()
    }
    for case in _cases_of(part, trusted, registry, 0):
        try:
            case.run()
        except ContractViolation as violation:
            warnings.warn(
                f"The contract goes without {part.kind} {part.name!r}, which breaks it: "
                f"{violation}",
                stacklevel=4,
            )
            return False
    return True


def _cases_of(
    part: Variant, pool: dict[Kind, list[Variant]], registry: Registry, random_layouts: int
) -> list[Case]:
    found = [Case(part.label, invariant, part) for invariant in ALONE[part.kind]]
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
