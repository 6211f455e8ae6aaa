"""Pipeline: what a user holds - a model, its tokenizer, and how to sample it."""

from __future__ import annotations

import json
import secrets
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from PIL import Image
from torch import Tensor, nn

from flexvar import __version__, checkpoint, images
from flexvar.build import Parts, build
from flexvar.checkpoint import CheckpointConfig, Trained
from flexvar.config import ModelConfig, load_yaml, parse
from flexvar.errors import FlexvarError
from flexvar.generate import OnScale, SamplingSettings, generate
from flexvar.layout import Grid, Layout
from flexvar.model import NextScaleModel
from flexvar.plugin import Registry
from flexvar.precision import cast as cast_weights
from flexvar.precision import parse_device, parse_dtype
from flexvar.protocols import PositionEmbedding, Tokenizer
from flexvar.sampling import generators, seed_keys

Label = int | str | None
Steps = int | Sequence[int | tuple[int, int]]
# Cells a side of a model that says nothing of its size: 256 px at stride 16, as both papers.
USUAL_SIDE = 16


@dataclass(frozen=True, slots=True)
class Result:
    """What a generation gave.

    images: Pillow images, or a (B,3,H,W) fp32 tensor in [0,1]. maps: the token maps per scale,
    (B,h,w) int64. settings: everything needed to make the images again.
    """

    images: Any
    maps: tuple[Tensor, ...]
    settings: dict[str, Any]

    def image_settings(self, index: int) -> dict[str, Any]:
        """The settings of one image: its own label, seed and index."""
        keep = {k: v for k, v in self.settings.items() if k not in ("labels", "seeds")}
        seed, key = self.settings["seeds"][index]
        return {**keep, "label": self.settings["labels"][index], "seed": seed, "index": key}

    def save(self, directory: str | Path, *, start: int = 0) -> list[Path]:
        """Write ``00000.png`` ... with their settings; return the paths."""
        directory = Path(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FlexvarError(f"Cannot write to {directory}: {error.strerror}.") from None
        paths = []
        for index, image in enumerate(self.images):
            if isinstance(image, Tensor):
                image = images.to_pil(image)
            paths.append(directory / f"{start + index:05d}.png")
            images.save_png(image, paths[-1], self.image_settings(index))
        return paths


@dataclass
class Pipeline:
    """Generates images; made by `from_pretrained` or `from_config`.

    ::

        pipe = Pipeline.from_pretrained("checkpoint/")
        pipe(labels=[3, 7], size=(96, 64), steps=9, guidance=2.0, seed=0).images[0].save("a.png")
    """

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
        return cls(parts, config, _preset(config, preset)).to(device, dtype)

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
        known = self._known_layouts()
        last = known[0].last if known else Grid(USUAL_SIDE, USUAL_SIDE)
        stride = self.tokenizer.space.stride
        return last.h * stride, last.w * stride

    def __call__(
        self,
        labels: Label | Sequence[Label],
        *,
        size: tuple[int, int] | int | None = None,
        steps: Steps | None = None,
        guidance: float | None = None,
        guidance_schedule: str | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        soft: bool | None = None,
        preset: str | None = None,
        seed: int | Sequence[int] | None = None,
        num: int = 1,
        first_index: int = 0,
        output: Literal["pil", "tensor"] = "pil",
        images_per_call: int | None = None,
        on_scale: OnScale | None = None,
        progress: bool | None = None,
    ) -> Result:
        """Images of the given classes.

        labels: class numbers or names, one image each; None is no class at all. num: images per
        label. size: (height, width) in pixels, multiples of the stride; that of training unless
        given. steps: a number, or the grids themselves. guidance ... soft: see
        `SamplingSettings`; what is not given comes from ``preset``. seed: one number, or one
        per image; drawn and reported unless given. The same seed gives the same image whatever
        the batch: image i of one seed has the key (seed, first_index + i), so that a long list
        can be made in parts. output: "pil", or "tensor" for (B,3,H,W) in [0,1].
        images_per_call, on_scale: see `flexvar.generate.generate`. progress: a bar over
        the scales; by default on a terminal.
        Raises `FlexvarError` for anything that cannot be.
        """
        if output not in ("pil", "tensor"):
            raise FlexvarError(f"output: got {output!r}; expected 'pil' or 'tensor'.")
        if num < 1:
            raise FlexvarError(f"num: got {num}; expected at least 1 image per label.")
        numbers = [n for n in self.label_numbers(labels) for _ in range(num)]
        layout = self.layout(size, steps)
        given: dict[str, Any] = {
            "guidance": guidance,
            "guidance_schedule": guidance_schedule,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "soft": soft,
        }
        base = self.settings if preset is None else _preset(self.config, preset)
        given = {name: value for name, value in given.items() if value is not None}
        settings = parse(SamplingSettings, {**base.model_dump(), **given})
        seed = secrets.randbelow(2**31) if seed is None else seed
        if not isinstance(seed, int) and len(seed) != len(numbers):
            raise FlexvarError(f"seed: {len(seed)} seeds for {len(numbers)} images.")
        labels_B = torch.tensor(numbers, device=self.device)
        keys = seed_keys(seed, len(numbers), first_index=first_index)
        with _progress(len(layout), progress) as advance:

            def after_scale(step: int, latent_BChw: Tensor, maps: tuple[Tensor, ...]) -> None:
                advance()
                if on_scale is not None:
                    on_scale(step, latent_BChw, maps)

            generated = generate(
                self.model,
                self.tokenizer,
                labels_B,
                layout,
                settings,
                generators(keys),
                images_per_call=images_per_call,
                on_scale=after_scale,
            )
            images_B3HW = self.decode(generated.latent_BChw)
        report = {
            "flexvar": __version__,
            "model": self.config.model.backbone.name if self.config.model.backbone else None,
            "labels": [self._label_name(number) for number in numbers],
            "size": list(images_B3HW.shape[-2:]),
            "steps": [list(grid) for grid in layout],
            **json.loads(settings.model_dump_json(exclude_none=True)),
            "seeds": [list(key) for key in keys],
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        pictures = images_B3HW if output == "tensor" else [images.to_pil(i) for i in images_B3HW]
        return Result(pictures, generated.maps, report)

    @torch.inference_mode()
    def decode(self, latent_BChw: Tensor) -> Tensor:
        """Images (B,3,H,W), fp32 in [0,1], of folded latents."""
        # One by one on a CPU: no slower, and the memory of one image.
        share = 1 if latent_BChw.device.type == "cpu" else len(latent_BChw)
        parts = [self.tokenizer.decode(part) for part in latent_BChw.split(share)]
        return torch.cat(parts).add(1).div(2).clamp(0, 1)

    @torch.inference_mode()
    def reconstruct(
        self,
        image: Image.Image | Tensor | str | Path,
        *,
        steps: Steps | None = None,
        output: Literal["pil", "tensor"] = "pil",
    ) -> Any:
        """The image after tokenizer and back: how good a picture could get.

        image: a picture, its path, or a (3,H,W) or (B,3,H,W) tensor in [0,1]. A picture is
        resized to the nearest multiples of the stride; a tensor has to have such sides.
        steps: of the layout it is encoded at, as in a call.
        """
        stride = self.tokenizer.space.stride
        if isinstance(image, str | Path):
            image = images.open_image(image)
        if isinstance(image, Image.Image):
            width, height = (max(1, round(side / stride)) * stride for side in image.size)
            image = images.to_rgb(image)
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.LANCZOS)
            values = images.to_tensor(image)[None]
        else:
            values = image.float() * 2 - 1
            values = values[None] if values.ndim == 3 else values
        values = values.to(self.device)
        layout = self.layout((values.shape[-2], values.shape[-1]), steps, warn=False)
        latent: Tensor | None = None
        for step, map_Bhw in enumerate(self.tokenizer.encode(values, layout)):
            latent = self.tokenizer.fold(latent, self.tokenizer.lookup(map_Bhw), layout, step)
        assert latent is not None
        result = self.decode(latent)
        if output == "tensor":
            return result
        pictures = [images.to_pil(one) for one in result]
        return pictures if isinstance(image, Tensor) and image.ndim == 4 else pictures[0]

    def label_numbers(self, labels: Label | Sequence[Label]) -> list[int]:
        """Class numbers of labels given as numbers, names or None (the null label).

        Raises `FlexvarError` for a class there is not, with the nearest name.
        """
        listed = [labels] if labels is None or isinstance(labels, int | str) else list(labels)
        if not listed:
            raise FlexvarError("labels: there is none; give a class number or name per image.")
        return [self._label_number(label) for label in listed]

    def _label_number(self, label: Label) -> int:
        count, names = self.model.num_classes, self.class_names
        if label is None:
            return count
        if isinstance(label, str) and names is not None and label in names:
            return names.index(label)
        if isinstance(label, str) and label.lstrip("-").isdigit():
            label = int(label)
        if isinstance(label, str):
            if names is None:
                raise FlexvarError(
                    f"label: got {label!r}; this model has no class names, only the numbers 0 to "
                    f"{count - 1}."
                )
            near = get_close_matches(label, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            some = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise FlexvarError(f"label: there is no class {label!r}.{hint} Classes: {some}.")
        if not 0 <= int(label) < count:
            raise FlexvarError(
                f"label: got {label}; this model has {count} classes, 0 to {count - 1}."
            )
        return int(label)

    def _label_name(self, number: int) -> Label:
        if number == self.config.model.num_classes:
            return None
        return self.class_names[number] if self.class_names else number

    def layout(
        self,
        size: tuple[int, int] | int | None = None,
        steps: Steps | None = None,
        *,
        warn: bool = True,
    ) -> Layout:
        """The grids of a size in pixels and a number of steps, or the ones given as ``steps``.

        Raises `FlexvarError` for a size that is no multiple of the stride (naming the two
        nearest), and for steps that cannot be. Outside the sizes and step counts of training it
        warns once.
        """
        stride = self.tokenizer.space.stride
        if isinstance(size, int):
            size = (size, size)
        last = None
        if size is not None:
            last = Grid(*(_cells(side, stride, size) for side in size))
        if steps is not None and not isinstance(steps, int):
            layout = Layout.of(*(s if isinstance(s, int) else (s[0], s[1]) for s in steps))
            if last is not None and layout.last != last:
                raise FlexvarError(
                    f"size {size[0]}x{size[1]} is a {last} latent, but steps ends at {layout.last}."
                    if size is not None
                    else ""
                )
            layout.check_for_model()
        else:
            if last is None:
                last = Grid(*(side // stride for side in self.size))
            known = [one for one in self._known_layouts() if one.last == last]
            if known and steps in (None, len(known[0])):
                layout = known[0]
            else:
                layout = self.parts.schedule.grids(last, steps=steps)
        if warn:
            self._warn_outside_training(layout)
        return layout

    def _known_layouts(self) -> tuple[Layout, ...]:
        """The only layouts that the position embedding knows; empty if it takes any."""
        if self.parts.model is None:
            return ()
        return cast(PositionEmbedding, self.parts.model.position).layouts or ()

    def _warn_outside_training(self, layout: Layout) -> None:
        trained: Trained | None = self.config.trained
        if trained is None:
            return
        stride = self.tokenizer.space.stride
        height, width = (side * stride for side in layout.last)
        if (height, width) != trained.size and "size" not in self._warned:
            self._warned.add("size")
            warnings.warn(
                f"{height}x{width} px is outside the size this model was trained at, "
                f"{trained.size[0]}x{trained.size[1]}; quality falls with the distance, and "
                "wavy textures appear from about three times the side on.",
                stacklevel=4,
            )
        if trained.steps is None:
            return
        least, most = trained.steps
        if not least <= len(layout) <= most and "steps" not in self._warned:
            self._warned.add("steps")
            warnings.warn(
                f"{len(layout)} steps are outside the {least} to {most} this model was trained "
                "with.",
                stacklevel=4,
            )


def _cells(side: int, stride: int, size: tuple[int, int]) -> int:
    if side < 1 or side % stride:
        below, above = side // stride * stride, (side // stride + 1) * stride
        nearest = f"{below} or {above}" if below > 0 else f"{max(above, stride)}"
        raise FlexvarError(
            f"size {size[0]}x{size[1]}: {side} is no multiple of the stride {stride}; the nearest "
            f"is {nearest}."
        )
    return side // stride


def _preset(config: CheckpointConfig, name: str) -> SamplingSettings:
    if name in config.presets:
        return config.presets[name]
    if name == "default":
        return SamplingSettings()
    choices = ", ".join(sorted({"default", *config.presets}))
    raise FlexvarError(f"preset: there is no {name!r}. Presets: {choices}.")


@contextmanager
def _progress(steps: int, wanted: bool | None) -> Iterator[Any]:
    """A bar over the scales on standard error; a function that moves it by one."""
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("scales"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scales", total=steps)
        yield lambda: bar.advance(task)
