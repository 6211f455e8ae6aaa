"""What the environment says of a run: taken, set aside with a word, or refused; never silently."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from flexvar.errors import FlexvarError

# What accelerate would read before what it is told, with what holds instead.
SET_ASIDE = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "accumulate",
    "ACCELERATE_MIXED_PRECISION": "precision",
    "ACCELERATE_GRADIENT_CLIPPING": "optimiser.clip",
    "ACCELERATE_DYNAMO_BACKEND": "eager",
}
NOT_SET = frozenset({"", "no", "1", "none"})
REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
OF_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def processes() -> int:
    """How many processes the launcher started, 1 without a launcher.

    Raises `FlexvarError` for what is left over of a launcher, which would train alone as one of
    many, or wait for the others without end.
    """
    there = {name: os.environ[name] for name in OF_LAUNCHER if os.environ.get(name)}
    size = there.get("WORLD_SIZE", "1")
    try:
        count = int(size)
    except ValueError:
        raise FlexvarError(
            f"WORLD_SIZE={size} in the environment is no number of processes; unset it."
        ) from None
    if count == 1:
        return 1
    missing = [name for name in OF_LAUNCHER if name not in there]
    if missing:
        left = " ".join(f"{name}={value}" for name, value in there.items())
        raise FlexvarError(
            f"The environment says {left}, as if {count} processes were launched, but not "
            f"{', '.join(missing)}, which a launcher sets. To run alone: unset "
            f"{' '.join(there)}. For several processes start with `torchrun` or `accelerate "
            "launch`."
        )
    return count


@contextmanager
def own_numbers(precision: str) -> Iterator[list[str]]:
    """Within, accelerate sees nothing that would change numbers; lines that say what is set aside.

    precision: the recipe's, so that a launcher's that agrees needs no word.

    Raises `FlexvarError` for what a run cannot do.
    """
    for name, what in REFUSED.items():
        if os.environ.get(name, "false").lower() in ("1", "true"):
            raise FlexvarError(
                f"{name} asks for {what}, which flexvar does not train with; unset it. Several "
                "processes and FSDP2 (`accelerate launch --use_fsdp --fsdp_version 2`) work."
            )
    taken = {name: os.environ.pop(name) for name in SET_ASIDE if name in os.environ}
    try:
        yield [
            f"{name}={value} is set aside: the recipe decides ({SET_ASIDE[name]})"
            for name, value in taken.items()
            if value.lower() not in NOT_SET | {precision}
        ]
    finally:
        os.environ.update(taken)
