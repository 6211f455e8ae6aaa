"""Adapters: small changes to a model, trained by LoRA, put into its weights when it is loaded.

A directory holds peft's two files, ``adapter_config.json`` and ``adapter_model.safetensors``, and
``flexvar.json`` and ``flexvar.safetensors`` with the model they are for, the classes and their
condition. Nothing beside torch and safetensors is needed to read them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flexvar.build import build
from flexvar.errors import CheckpointError, FlexvarError
from flexvar.files import read_json, whole_file, write_json
from flexvar.session import Session
from flexvar.weights import digest

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OWN_CONFIG, OWN_WEIGHTS = "flexvar.json", "flexvar.safetensors"
PREFIX = "base_model.model."
S = TypeVar("S", bound=Session)


@dataclass(frozen=True)
class Adapter:
    """What LoRA learned for one model.

    pairs: name of a matrix -> A (r,in) and B (out,r), of which scale * B A is added to it. table:
    condition of the classes, the null label's last, (classes + 1, D), if they were trained.
    base: `weights_digest` of the model. class_names: those of training.
    """

    base: str
    source: str
    scale: float
    pairs: Mapping[str, tuple[Tensor, Tensor]]
    table: Tensor | None
    class_names: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """How many numbers it consists of."""
        count = sum(a.numel() + b.numel() for a, b in self.pairs.values())
        return count + (0 if self.table is None else self.table.numel())

    def save(self, directory: Path, options: Mapping[str, Any]) -> None:
        """Write the files; options: peft's, as its config has them."""
        tensors = {}
        for name, (a, b) in self.pairs.items():
            module = name.removesuffix(".weight")
            tensors[f"{PREFIX}{module}.lora_A.weight"] = a.contiguous()
            tensors[f"{PREFIX}{module}.lora_B.weight"] = b.contiguous()
        with whole_file(directory / PEFT_WEIGHTS) as temporary:
            save_file(tensors, temporary)
        own = {} if self.table is None else {"table": self.table.contiguous()}
        with whole_file(directory / OWN_WEIGHTS) as temporary:
            save_file(own, temporary)
        write_json(directory / PEFT_CONFIG, dict(options))
        write_json(
            directory / OWN_CONFIG,
            {
                "base": self.base,
                "source": self.source,
                "scale": self.scale,
                "class_names": list(self.class_names),
            },
        )


def load_adapter(directory: str | Path) -> Adapter:
    """Read an adapter. Raises `FlexvarError` for a directory that holds none, or a broken one."""
    directory = Path(directory).expanduser()
    own = read_json(directory / OWN_CONFIG)
    if own is None:
        raise FlexvarError(
            f"{directory} holds no adapter of flexvar: {OWN_CONFIG} is not there. A run with lora "
            "writes one to OUT/adapter."
        )
    try:
        tensors = load_file(directory / PEFT_WEIGHTS)
        table = load_file(directory / OWN_WEIGHTS).get("table")
        modules = [
            n.removesuffix(".lora_A.weight") for n in tensors if n.endswith(".lora_A.weight")
        ]
        pairs = {
            f"{module.removeprefix(PREFIX)}.weight": (
                tensors[f"{module}.lora_A.weight"].float(),
                tensors[f"{module}.lora_B.weight"].float(),
            )
            for module in modules
        }
        return Adapter(
            base=str(own["base"]),
            source=str(own["source"]),
            scale=float(own["scale"]),
            pairs=pairs,
            table=table,
            class_names=tuple(map(str, own["class_names"])),
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"The adapter in {directory} cannot be read ({error}).") from None


def weights_digest(model: nn.Module) -> str:
    """A text that changes with any weight of a model."""
    text = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        text.update(name.encode())
        text.update(tensor.detach().float().cpu().contiguous().view(torch.uint8).numpy())
    return text.hexdigest()[:32]


@torch.no_grad()
def merged(
    weights: Mapping[str, Tensor], adapters: Sequence[tuple[Adapter, float]]
) -> dict[str, Tensor]:
    """Weights with ``weight * scale * B A`` of each adapter added, in fp32.

    Raises `FlexvarError` for a matrix that the model does not have.
    """
    result = dict(weights)
    for adapter, share in adapters:
        for name, (a, b) in adapter.pairs.items():
            if name not in result or result[name].shape != (b.shape[0], a.shape[1]):
                raise FlexvarError(f"The adapter changes {name}, which the model does not have.")
            change = (b.to(result[name].device) @ a.to(result[name].device)) * adapter.scale
            result[name] = result[name] + share * change
    return result


def parse_adapter(text: str) -> tuple[str, float]:
    """Directory and weight of ``DIR`` or ``DIR:0.7``. Raises `FlexvarError` for nan and inf."""
    directory, colon, share = text.rpartition(":")
    if colon and not Path(text).exists():
        try:
            return directory, _share(directory, float(share))
        except FlexvarError:
            raise
        except ValueError:
            pass
    return text, 1.0


def _share(directory: str | Path, share: float) -> float:
    if not math.isfinite(share):
        raise FlexvarError(f"The share of the adapter {directory} is {share}; expected a number.")
    return float(share)


@torch.no_grad()
def adapt(pipe: S, adapters: Sequence[tuple[str | Path, float]]) -> S:
    """A pipeline with adapters put into its weights, each with its share.

    Its classes are those of the model and, after them, those that the adapters add; of a class that
    both know, the adapter's condition counts, in its share. Its pictures name the adapters.
    Raises `FlexvarError` for an adapter of another model.
    """
    exact = pipe
    if pipe.dtype != torch.float32:
        if pipe.source is None:
            raise FlexvarError("adapt: the weights are rounded; adapt the model in fp32 first.")
        # Adapters are of the exact weights.
        exact = type(pipe).from_pretrained(pipe.source, registry=pipe.registry)
    own = weights_digest(exact.model)
    loaded, named, digests = [], [], {}
    for number, (directory, share) in enumerate(adapters):
        adapter = load_adapter(directory)
        if adapter.base != own:
            raise FlexvarError(
                f"The adapter {directory} was made for other weights, those of {adapter.source}; "
                f"load it with that model."
            )
        loaded.append((adapter, _share(directory, share)))
        named.append(f"{directory}:{share:g}")
        digests[f"adapter {number}"] = _digest(Path(directory).expanduser())
    weights = merged({k: v.cpu().float() for k, v in exact.model.state_dict().items()}, loaded)
    config = exact.config.model
    table = f"{exact.model._conditioner}.weight"
    if any(adapter.table is not None for adapter, _ in loaded):
        known = config.class_names or tuple(map(str, range(exact.model.num_classes)))
        names, rows = _classes(known, weights[table], loaded)
        weights[table] = rows
        config = config.model_copy(update={"num_classes": len(names), "class_names": names})
    parts = build(config)
    assert parts.model is not None
    parts.model.load_state_dict(weights)
    parts.model.eval()
    fresh = replace(parts, tokenizer=exact.tokenizer)
    # No file holds these weights, so that none is their source.
    result = replace(
        exact,
        parts=fresh,
        config=exact.config.model_copy(update={"model": config}),
        settings=pipe.settings,
        sampler=pipe.sampler,
        source=None,
        fused=pipe.fused,
        _exact=[],
    )
    origin = pipe.origin
    result.__dict__["origin"] = {
        **origin,
        "weights": {**origin.get("weights", {}), **digests},
        "adapters": named,
    }
    return result.to(pipe.device, pipe.dtype)


def _digest(directory: Path) -> str:
    """The first digits of an adapter's SHA-256."""
    both = [digest(directory / name) for name in (PEFT_WEIGHTS, OWN_WEIGHTS)]
    return hashlib.sha256("".join(both).encode()).hexdigest()[:16]


def _classes(
    names: Sequence[str], table_VD: Tensor, loaded: Sequence[tuple[Adapter, float]]
) -> tuple[tuple[str, ...], Tensor]:
    rows = dict(zip(names, table_VD[:-1], strict=True))
    null = table_VD[-1].clone()
    for adapter, share in loaded:
        if adapter.table is None:
            continue
        for name, row in zip(adapter.class_names, adapter.table[:-1], strict=True):
            before = rows.get(name)
            rows[name] = row if before is None else torch.lerp(before, row, share)
        null = null + share * (adapter.table[-1] - table_VD[-1])
    return tuple(rows), torch.stack([*rows.values(), null])
