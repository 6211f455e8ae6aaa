"""The models that suites measure: any backbone by its name, with weights that matter."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.harness.suite import parse_backbone
from flexvar import Layout, Pipeline
from flexvar.components.implementation import Kernel
from flexvar.layout import Grid
from flexvar.ops.precision import parse_dtype
from flexvar.plugin import Registry, default_registry

NUM_CLASSES = 1000
# What plain implementations are called, whose definition the others are held against.
PLAIN = ("eager", "reference")
# Implementations that are kernels for CUDA alone, for backbones that say no more than a name.
GPU_ONLY = ("flash", "kernels", "fla")
# Sides of the latent of the papers' 256 px list; other lists come from the ladder schedule.
LAYOUT_256 = Layout.of(1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def backbone_spec(
    name: str,
    depth: int,
    *,
    width: int | None = None,
    registry: Registry | None = None,
    **options: Any,
) -> dict[str, Any]:
    """What a config says of a backbone: depth and width where it has such options.

    name: with options behind it, if there are any. width: 64 * depth unless given, as the
    papers'. All else are the component's own defaults.
    Raises `PluginError` for an unknown name.
    """
    name, own = parse_backbone(name)
    fields = (registry or default_registry()).load("backbone", name).Config.model_fields
    wanted = {"depth": depth, "width": width or 64 * depth}
    given = {option: value for option, value in wanted.items() if option in fields}
    return {"name": name, **given, **options, **own}


def kernels(name: str) -> tuple[Kernel, ...]:
    """The implementations a backbone says it has; none if it does not say."""
    offered = getattr(_class(name), "kernels", None)
    return tuple(offered()) if offered is not None else ()


def _class(name: str) -> Any:
    return default_registry().load("backbone", parse_backbone(name)[0])


def plain_of(name: str) -> str | None:
    """The name of a backbone's plain implementation, if it has one."""
    named = [kernel.name for kernel in kernels(name)]
    return next((plain for plain in PLAIN if plain in named), None)


def automatic(name: str, device: str, dtype: str) -> str | None:
    """The implementation that a backbone takes by itself on a device, if it says."""
    decides = getattr(_class(name), "auto", None)
    return decides(torch.device(device), parse_dtype(dtype)) if callable(decides) else None


def counted(description: dict[str, Any]) -> dict[str, Any]:
    """The same config with the implementation left to the backbone: its FLOPs are counted so.

    What a row has to do does not depend on how it is done.
    """
    backbone = {k: v for k, v in description["backbone"].items() if k != "implementation"}
    return {**description, "backbone": backbone}


def config(backbone: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """A model config around a backbone: FlexVAR's parts, 1000 classes."""
    return {
        "tokenizer": {"name": "multiscale"},
        "backbone": backbone,
        "num_classes": NUM_CLASSES,
        **parts,
    }


def pipeline(description: dict[str, Any], *, seed: int, device: str) -> Pipeline:
    """A pipeline in fp32 on a device, its weights moved away from their fresh values."""
    with torch.device(device):
        pipe = Pipeline.from_config(description, seed=seed, device=device)
    stir(pipe.model, seed)
    return pipe


@torch.no_grad()
def stir(module: nn.Module, seed: int) -> None:
    """Move all weights by a share of a linear layer's usual ones, in place, on their device.

    A fresh network is close to the identity - its gates start at 1e-3 - and any two ways to
    compute it would agree.
    """
    for parameter in module.parameters():
        if not parameter.is_floating_point():
            continue
        source = torch.Generator(parameter.device).manual_seed(seed)
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
        noise = torch.randn(parameter.shape, generator=source, device=parameter.device)
        parameter.add_(noise * min(max(fan_in**-0.5, 0.02), 0.5) / 2)
        seed += 1


def layout_of(pixels: int, stride: int = 16) -> Layout:
    """The list of grids of a square size in pixels: the papers', or the ladder's."""
    side = pixels // stride
    if side == LAYOUT_256.last.h:
        return LAYOUT_256
    from flexvar_plugins.schedules.ladder import Ladder, LadderConfig

    from flexvar.components import Facts

    return Ladder(LadderConfig(), facts=Facts(1, 1, 1, 1, 1)).grids(Grid(side, side))


def implementation(pipe: Pipeline) -> str | None:
    """What runs with the weights as they are, if the backbone says."""
    says = getattr(pipe.model.backbone, "implementation", None)
    return str(says()) if callable(says) else None
