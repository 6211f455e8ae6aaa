"""LoRA: a run that trains small matrices beside frozen ones (arXiv 2106.09685), through peft."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from flexvar.adapters import Adapter, merged
from flexvar.errors import FlexvarError
from flexvar.model import NextScaleModel
from flexvar.ops.linear import Linear, linear
from flexvar.training.recipe import LoraOptions

NAME = "default"
A, B, KEPT = f".lora_A.{NAME}.weight", f".lora_B.{NAME}.weight", ".base_layer"


@dataclass(frozen=True)
class Lora:
    """What is known of the LoRA in a model. options: peft's config. table: the conditioner's
    weight, which is trained as it is."""

    base: str
    source: str
    scale: float
    table: str
    options: Mapping[str, Any]

    def merged(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of the model proper, with the products added."""
        proper, pairs = split(weights)
        return merged(proper, [(self._adapter(proper, pairs, ()), 1.0)])

    def save(
        self, directory: Path, weights: Mapping[str, Tensor], class_names: tuple[str, ...]
    ) -> None:
        """Write what LoRA learned, alone."""
        proper, pairs = split(weights)
        self._adapter(proper, pairs, class_names).save(directory, self.options)

    def _adapter(
        self,
        proper: Mapping[str, Tensor],
        pairs: Mapping[str, tuple[Tensor, Tensor]],
        class_names: tuple[str, ...],
    ) -> Adapter:
        table = proper.get(self.table)
        return Adapter(self.base, self.source, self.scale, pairs, table, class_names)


def add_lora(model: NextScaleModel, options: LoraOptions, *, base: str, source: str) -> Lora:
    """Put LoRA beside the matrices that the options name, and freeze all else.

    base, source: digest and name of the model. Nothing changes at first: B is zero. The condition's
    own weights, which new classes need, are trained as they are.
    Raises `FlexvarError` without peft, and where no matrix has such a name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import Linear as PeftLinear
    except ImportError as error:
        raise FlexvarError(
            f"lora: needs the package peft, which cannot be imported ({error}). "
            "pip install 'flexvar[lora]'."
        ) from None

    class LoraLinear(PeftLinear):  # type: ignore[misc]
        """The product with W + scale B A, with the bias and GELU that are part of our layers."""

        @property
        def weight(self) -> Tensor:
            return self.get_base_layer().weight + self.get_delta_weight(NAME)

        def forward(self, x: Tensor, bias: Tensor | None = None, **_: Any) -> Tensor:
            base = self.get_base_layer()
            bias = base.bias if bias is None else bias
            return linear(x, self.weight, bias, gelu=getattr(base, "gelu", False))

    alpha = options.alpha if options.alpha is not None else 2 * options.rank
    config = LoraConfig(
        r=options.rank, lora_alpha=alpha, target_modules=list(options.targets), bias="none"
    )
    config._register_custom_module({Linear: LoraLinear})
    try:
        inject_adapter_in_model(config, model, adapter_name=NAME)
    except ValueError:
        names = sorted({n.split(".")[-1] for n, m in model.named_modules() if type(m) is Linear})
        raise FlexvarError(
            f"lora.targets: the model has none of {', '.join(options.targets)}. There are "
            f"{', '.join(names)}."
        ) from None
    for parameter in getattr(model, model._conditioner).parameters():
        parameter.requires_grad_(True)
    given = {**config.to_dict(), "target_modules": sorted(options.targets)}
    plain = (str, int, float, bool, list, type(None))
    return Lora(
        base=base,
        source=source,
        scale=alpha / options.rank,
        table=f"{model._conditioner}.weight",
        options={key: value for key, value in given.items() if isinstance(value, plain)},
    )


def split(
    weights: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
    """The weights of a model with LoRA: those of the model proper, and the pairs A, B by matrix."""
    proper, pairs = {}, {}
    for name, tensor in weights.items():
        if name.endswith(A):
            module = name.removesuffix(A)
            pairs[f"{module}.weight"] = (tensor, weights[f"{module}{B}"])
        elif not name.endswith(B):
            proper[name.replace(KEPT, "")] = tensor
    return proper, pairs
