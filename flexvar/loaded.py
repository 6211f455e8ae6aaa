"""What a pipeline holds: a model, its tokenizer and settings; loaded, saved, moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import nn

from flexvar import checkpoint, request
from flexvar.build import Parts, build
from flexvar.checkpoint import CheckpointConfig
from flexvar.config import ModelConfig, load_yaml, parse
from flexvar.errors import FlexvarError
from flexvar.generate import SamplingSettings
from flexvar.layout import Grid, Layout
from flexvar.model import NextScaleModel
from flexvar.plugin import Registry
from flexvar.precision import cast as cast_weights
from flexvar.precision import parse_device, parse_dtype
from flexvar.protocols import PositionEmbedding, Tokenizer

# Cells a side of a model that says nothing of its size: 256 px at stride 16, as both papers.
USUAL_SIDE = 16


@dataclass
class Loaded:
    """The parts of a checkpoint or config; `flexvar.Pipeline` is what can be asked of them."""

    parts: Parts
    config: CheckpointConfig
    settings: SamplingSettings
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    _warned: set[str] = field(default_factory=set, repr=False)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = torch.float32,
        preset: str = "default",
        registry: Registry | None = None,
    ) -> Self:
        """The pipeline of a checkpoint directory, a bundled name or a hub id, in eval mode.

        preset: which of the checkpoint's stored sampling settings to take.
        Raises `FlexvarError` for a checkpoint that is missing, broken, or does not fit.
        """
        config, parts = checkpoint.load(source, registry)
        return cls(parts, config, request.preset(config, preset)).to(device, dtype)

    @classmethod
    def from_config(
        cls,
        config: ModelConfig | Mapping[str, Any] | str | Path,
        *,
        seed: int = 0,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = torch.float32,
        registry: Registry | None = None,
    ) -> Self:
        """A pipeline with random weights, the same for the same seed.

        config: a `ModelConfig`, the same as a mapping, or the path of a YAML file. Under ``with
        torch.device("meta"):`` it takes no memory.
        Raises `FlexvarError` for a config that is wrong, with the path of the option.
        """
        if isinstance(config, str | Path):
            config = load_yaml(config)
        model_config = parse(ModelConfig, config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parts = build(model_config, registry)
        for module in parts.modules():
            module.eval()
        pipe = cls(parts, CheckpointConfig(model=model_config), SamplingSettings())
        meta = any(p.is_meta for module in parts.modules() for p in module.parameters())
        return pipe.to(device or ("meta" if meta else "cpu"), dtype)

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write a checkpoint directory that `from_pretrained` reads."""
        return checkpoint.save(directory, self.config, self.parts)

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Upload the checkpoint to a hub repository; options go to ``HfApi.create_repo``."""
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repository, exist_ok=True, **options)
        with tempfile.TemporaryDirectory() as folder:
            path = self.save_pretrained(Path(folder) / repository.split("/")[-1])
            return str(api.upload_folder(repo_id=repository, folder_path=str(path)))

    def to(
        self,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> Self:
        """Move the weights, in place; ``device`` may be a name, "auto", or None to stay.

        In bf16 or fp16 the weights are held so; what has to be exact stays in fp32.
        """
        self.device = parse_device(device) if device is not None else self.device
        self.dtype = parse_dtype(dtype) if dtype is not None else self.dtype
        for module in self.parts.modules():
            module.to(self.device)
            cast_weights(module, self.dtype)
        if isinstance(self.tokenizer, nn.Module) and self.device.type != "meta":
            # Convolutions run faster with channels last, on CPUs in bf16 twice as fast.
            self.tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return self.parts.tokenizer

    @property
    def model(self) -> NextScaleModel:
        """The prediction model. Raises `FlexvarError` if this is a tokenizer alone."""
        if self.parts.model is None:
            raise FlexvarError(
                "This checkpoint is a tokenizer alone; it reconstructs images but has no model to "
                "generate them."
            )
        return self.parts.model

    def describe(self) -> list[str]:
        """What the pipeline is made of, a line per part."""
        config, space = self.config.model, self.tokenizer.space
        lines = [
            f"tokenizer  {config.tokenizer.name}: stride {space.stride}, {space.vocab_size} codes "
            f"of {space.code_dim} numbers"
        ]
        if config.backbone is not None:
            known = ("depth", "width", "num_heads")
            options = config.backbone.options
            sizes = ", ".join(f"{key} {options[key]}" for key in known if key in options)
            count = sum(p.numel() for p in self.model.parameters()) / 1e6
            lines += [
                f"backbone   {config.backbone.name}: {sizes or 'its defaults'}",
                f"position   {config.position.name}",
                f"schedule   {config.schedule.name}",
                f"classes    {config.num_classes}",
                f"parameters {count:.1f} M",
                f"size       {self.size[0]}x{self.size[1]} px",
            ]
        return lines

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name per class, if the checkpoint has them."""
        return self.config.model.class_names

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels that an image has unless told: that of training."""
        if self.config.trained is not None:
            return self.config.trained.size
        known = self.known_layouts
        last = known[0].last if known else Grid(USUAL_SIDE, USUAL_SIDE)
        stride = self.tokenizer.space.stride
        return last.h * stride, last.w * stride

    @property
    def known_layouts(self) -> tuple[Layout, ...]:
        """The only layouts that the position embedding knows; empty if it takes any."""
        if self.parts.model is None:
            return ()
        return cast(PositionEmbedding, self.parts.model.position).layouts or ()
