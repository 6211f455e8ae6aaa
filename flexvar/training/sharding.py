"""Weights sharded over processes (FSDP2): block by block, in fp32, whatever the launcher says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from accelerate import Accelerator


def sharding_asked() -> bool:
    """Whether the launcher asked for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")


def units(module: nn.Module) -> list[nn.Module]:
    """The parts that are gathered one at a time: of the classes in ``_no_split_modules``.

    The name is transformers' and accelerate's; any submodule may have it, as the backbones do.
    """
    names: set[str] = set()
    for part in module.modules():
        names |= set(getattr(part, "_no_split_modules", None) or ())
    return [part for part in module.modules() if type(part).__name__ in names]


def shard(module: nn.Module, accelerator: Accelerator) -> None:
    """Shard a module's parameters over the processes, each of its `units` by itself, in place.

    accelerate would cast all that it gathers and all that comes out to bf16, logits, decay rates
    and norms included. Here weights are gathered as they are, in fp32, and autocast decides what
    is computed in bf16, as it does in one process; so do gradients meet in fp32. On CPUs
    accelerate shards nothing at all, and would silently take DistributedDataParallel.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device, plugin = accelerator.device, getattr(accelerator.state, "fsdp_plugin", None)
    options: dict[str, Any] = {"mesh": init_device_mesh(device.type, (accelerator.num_processes,))}
    offload = getattr(plugin, "cpu_offload", None)
    if device.type != "cpu" and offload:
        options["offload_policy"] = offload
    else:
        module.to(device)
    again = getattr(plugin, "reshard_after_forward", True)
    for unit in units(module):
        fully_shard(unit, **options, reshard_after_forward=again is not False)
    fully_shard(module, **options)
