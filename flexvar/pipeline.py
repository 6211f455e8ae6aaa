"""Pipeline: what a user holds - a model, its tokenizer, and how to sample it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from flexvar import __version__, editing, images, request, tiles
from flexvar.errors import FlexvarError
from flexvar.generate import Generated, Known, OnScale, generate
from flexvar.layout import Grid, Layout
from flexvar.loaded import Loaded
from flexvar.request import Label, Sampling, Steps
from flexvar.result import Result as Result
from flexvar.result import pictures
from flexvar.sampling import generators


@dataclass
class Pipeline(Loaded):
    """Generates images; made by `from_pretrained` or `from_config`.

    ::

        pipe = Pipeline.from_pretrained("checkpoint/")
        pipe(labels=[3, 7], size=(96, 64), steps=9, guidance=2.0, seed=0).images[0].save("a.png")
    """

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
        tile: int | None = None,
        any_size: bool = False,
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
        the scales; by default on a terminal. tile: see `decode`. any_size: also sizes and steps
        that a model with positions for one list of grids was not made for, by interpolation.
        Raises `FlexvarError` for anything that cannot be.
        """
        if num < 1:
            raise FlexvarError(f"num: got {num}; expected at least 1 image per label.")
        numbers = [n for n in self.label_numbers(labels) for _ in range(num)]
        options = Sampling(
            guidance=guidance,
            guidance_schedule=guidance_schedule,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            soft=soft,
            preset=preset,
            seed=seed,
            first_index=first_index,
            output=output,
            images_per_call=images_per_call,
            on_scale=on_scale,
            progress=progress,
            tile=tile,
        )
        layout = self.layout(size, steps, any_size=any_size)
        images_B3HW, generated, report = self.sample(numbers, layout, options, any_size=any_size)
        return Result(pictures(images_B3HW, output), generated.maps, report)

    def sample(
        self,
        numbers: Sequence[int],
        layout: Layout,
        options: Sampling,
        *,
        known: Known | None = None,
        any_size: bool = False,
    ) -> tuple[Tensor, Generated, dict[str, Any]]:
        """Images (B,3,H,W) in [0,1] of class numbers, their tokens, and the settings of both.

        What `__call__` and all editing come down to. known: tokens that are given.
        """
        output = options.get("output", "pil")
        if output not in ("pil", "tensor"):
            raise FlexvarError(f"output: got {output!r}; expected 'pil' or 'tensor'.")
        name, on_scale = options.get("preset"), options.get("on_scale")
        base = self.settings if name is None else request.preset(self.config, name)
        settings = request.sampling_settings(options, base)
        keys = request.image_keys(options.get("seed"), len(numbers), options.get("first_index", 0))
        model = request.model_for(self.model, layout) if any_size else self.model
        if model is not self.model:
            self._warn_once(
                "positions",
                f"The positions of {layout} are interpolated: this model "
                "was trained for its own list of grids alone.",
            )
        with request.progress_bar(len(layout), options.get("progress")) as advance:

            def after_scale(step: int, latent_BChw: Tensor, maps: tuple[Tensor, ...]) -> None:
                advance()
                if on_scale is not None:
                    on_scale(step, latent_BChw, maps)

            generated = generate(
                model,
                self.tokenizer,
                torch.tensor(numbers, device=self.device),
                layout,
                settings,
                generators(keys),
                known=known,
                images_per_call=options.get("images_per_call"),
                on_scale=after_scale,
            )
            images_B3HW = self.decode(generated.latent_BChw, tile=options.get("tile"))
        report = {
            "flexvar": __version__,
            "model": self.config.model.backbone.name if self.config.model.backbone else None,
            "labels": [self.label_name(number) for number in numbers],
            "size": list(images_B3HW.shape[-2:]),
            "steps": [list(grid) for grid in layout],
            **json.loads(settings.model_dump_json(exclude_none=True)),
            "seeds": [list(key) for key in keys],
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        return images_B3HW, generated, report

    # Zero-shot tasks, in editing.py.
    inpaint = editing.inpaint
    outpaint = editing.outpaint
    expand = editing.expand
    refine = editing.refine
    edit = editing.edit
    score = editing.score
    classify = editing.classify

    @torch.inference_mode()
    def decode(self, latent_BChw: Tensor, *, tile: int | None = None) -> Tensor:
        """Images (B,3,H,W), fp32 in [0,1], of folded latents.

        tile: side in pixels of the tiles that a large picture is decoded in, in bounded memory;
        0 is never, None is `flexvar.tiles.TILE` from `flexvar.tiles.WHOLE` pixels on.
        """
        # One by one on a CPU: no slower, and the memory of one image.
        share = 1 if latent_BChw.device.type == "cpu" else len(latent_BChw)
        parts = [tiles.decode(self.tokenizer, part, tile) for part in latent_BChw.split(share)]
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
        return request.label_numbers(labels, self.model.num_classes, self.class_names)

    def label_name(self, number: int) -> Label:
        """The name of a class number, or the number if there are no names; None for no class."""
        if number == self.config.model.num_classes:
            return None
        return self.class_names[number] if self.class_names else number

    def layout(
        self,
        size: tuple[int, int] | int | None = None,
        steps: Steps | None = None,
        *,
        warn: bool = True,
        any_size: bool = False,
    ) -> Layout:
        """The grids of a size in pixels and a number of steps, or the ones given as ``steps``.

        any_size: also for a model that was made for one list of grids.
        Raises `FlexvarError` for a size that is no multiple of the stride (naming the two
        nearest), and for steps that cannot be. Outside the sizes and step counts of training it
        warns once.
        """
        stride = self.tokenizer.space.stride
        if isinstance(size, int):
            size = (size, size)
        schedule = self.parts.schedule
        layout = request.layout_of(
            None if size is None else request.cells(size, stride),
            steps,
            usual=Grid(*(side // stride for side in self.size)),
            known=self.known_layouts,
            schedule=request.any_layout(schedule) if any_size else schedule,
            stride=stride,
        )
        if warn:
            found = request.outside_training(layout, self.config.trained, stride)
            for topic, message in found.items():
                self._warn_once(topic, message)
        return layout

    def _warn_once(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            request.warn(message)
