"""AdamW with the published groups, the learning rate over a run, and averaged weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from flexvar.errors import FlexvarError
from flexvar.training.recipe import OptimiserConfig

# What the papers' code leaves out of weight decay beside biases and 1-D parameters: tables of
# positions and steps, the start vector, shared AdaLN's offsets, QK-norm's scale.
NO_DECAY = ("position.", "start_embedding", "modulation_offset", "log_scale", "codebook.")


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies to a parameter: to matrices and kernels, by the papers."""
    if parameter.ndim <= 1 or name.endswith("bias"):
        return False
    return not any(part in name for part in NO_DECAY)


def adamw(
    module: nn.Module,
    config: OptimiserConfig,
    learning_rate: float | None = None,
    *,
    fused: bool = False,
) -> torch.optim.AdamW:
    """AdamW over a module's trainable parameters, in a group with and one without decay.

    fused: a step is a few launches that read and write everything once, for a GPU.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for name, p in named if decays(name, p)],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for name, p in named if not decays(name, p)], "weight_decay": 0.0},
    ]
    rate = config.learning_rate if learning_rate is None else learning_rate
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=rate, betas=config.betas, fused=fused or None
    )


def keep_fused(optimiser: torch.optim.Optimizer, *, fused: bool) -> None:
    """Let a step be done as here, whatever the machine did whose state was just taken over."""
    for group in optimiser.param_groups:
        group["fused"] = fused or None
    for parameter, state in optimiser.state.items():
        if isinstance(count := state.get("step"), Tensor):
            state["step"] = count.to(parameter.device if fused else "cpu")


def peak_rate(config: OptimiserConfig, images_per_step: int) -> float:
    """The peak learning rate for so many images per step, over all processes."""
    if config.reference_batch is None:
        return config.learning_rate
    return config.learning_rate * images_per_step / config.reference_batch


def rate_factor(config: OptimiserConfig, step: int, steps: int) -> float:
    """The learning rate at ``step`` of ``steps`` over the peak.

    Linear warm-up from ``warmup_factor``, flat, linear to ``final`` at the last step (VAR's
    ``lin0``).
    """
    warmup = round(config.warmup * steps)
    if step < warmup:
        return config.warmup_factor + (1 - config.warmup_factor) * step / warmup
    passed = (step - warmup) / max(1, steps - 1 - warmup)
    if passed <= config.flat or config.flat == 1:
        return 1.0
    return config.final + (1 - config.final) * (1 - passed) / (1 - config.flat)


def freeze(module: nn.Module, names: Sequence[str]) -> int:
    """Keep parameters as they are, and return how many tensors they are.

    names: beginnings of names up to a dot, or patterns with ``*``, ``?`` and ``[...]``.
    Raises `FlexvarError` for one that fits none.
    """
    frozen = set()
    for wanted in names:
        found = [
            (name, p)
            for name, p in module.named_parameters()
            if f"{name}.".startswith(f"{wanted}.") or fnmatchcase(name, wanted)
        ]
        if not found:
            known = dict.fromkeys(n.split(".")[0] for n, _ in module.named_parameters())
            raise FlexvarError(
                f"freeze: no parameter is called {wanted!r}. There are {', '.join(known)}."
            )
        for name, parameter in found:
            parameter.requires_grad_(False)
            frozen.add(name)
    return len(frozen)


class Ema:
    """An exponential moving average of a module's parameters, in fp32.

    The decay rises as (1 + n) / (10 + n), so that the first weights are soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().float().clone() for name, p in self._named(module)}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module's parameters; step: how many updates came before."""
        decay = min(self.decay, (1 + step) / (10 + step))
        named = self._named(module)
        mine = [_local(self.weights[name]) for name, _ in named]
        torch._foreach_lerp_(mine, [_local(p.detach()).float() for _, p in named], 1 - decay)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over saved averages."""
        load_tensors(self.weights, weights)

    @staticmethod
    def _named(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def _local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that may be sharded."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def load_tensors(into: Mapping[str, Tensor], full: Mapping[str, Tensor]) -> None:
    """Copy full tensors by name into tensors that may be sharded, on any device."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    for name, tensor in into.items():
        value = full[name].to(tensor.device, tensor.dtype)
        if isinstance(tensor, DTensor):
            value = distribute_tensor(value, tensor.device_mesh, tensor.placements)
        tensor.copy_(value)
