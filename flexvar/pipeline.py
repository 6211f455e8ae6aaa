"""Pipeline: what a user holds - a model, its tokenizer, and how to sample it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from flexvar import images, resolve
from flexvar.editing import inputs, tasks
from flexvar.errors import FlexvarError
from flexvar.generation.choice import Wanted
from flexvar.generation.loop import OnScale
from flexvar.layout import Layout
from flexvar.resolve import Label, Steps
from flexvar.result import Result as Result
from flexvar.result import pictures
from flexvar.sequence import fold_scales
from flexvar.session import Session
from flexvar.values import whole


@dataclass(repr=False)
class Pipeline(Session):
    """Generates images; made by `from_pretrained` or `from_config`.

    ::

        pipe = Pipeline.from_pretrained("checkpoint/")
        pipe(labels=[3, 7], size=(96, 64), steps=9, guidance=2.0, seed=0).images[0].save("a.png")
    """

    def __call__(
        self,
        labels: Label | Sequence[Label] = None,
        *,
        prompts: Any = None,
        negative: Any = None,
        size: tuple[int, int] | int | None = None,
        steps: Steps | None = None,
        sampler: Wanted | None = None,
        preset: str | None = None,
        seed: int | Sequence[int] | None = None,
        num: int = 1,
        first_index: int | Sequence[int] = 0,
        output: Literal["pil", "tensor"] = "pil",
        images_per_call: int | None = None,
        on_scale: OnScale | None = None,
        progress: bool | None = None,
        tile: int | None = None,
        any_size: bool = False,
        **options: Any,
    ) -> Result:
        """Images of the given classes, or of words.

        labels: class numbers or names, one image each; None is no class at all. prompts: words,
        for a model that is conditioned on them, or what else its conditioner takes; a model of
        words that knows classes by name takes labels too. negative: what guidance leads away
        from, one for all images or one each. num: images per label or prompt.
        size: (height, width) in pixels, multiples of the stride; that of training unless
        given. steps: a number, or the grids themselves. preset: which of the checkpoint's stored
        ways to sample. sampler: another than the preset's: a name, or a mapping with its name and
        options. options: those of the sampler, here and there; of ``standard`` they are guidance,
        guidance_schedule, temperature, top_k, top_p and soft, see `SamplingSettings`; what is not
        given comes from the preset. seed: one number, or one
        per image; drawn and reported unless given. The same seed gives the same image whatever
        the batch: image i of one seed has the key (seed, first_index + i), so that a long list
        can be made in parts. output: "pil", or "tensor" for (B,3,H,W) in [0,1].
        images_per_call, on_scale: see `flexvar.generation.loop.generate`. progress: a bar over
        the scales; by default on a terminal. tile: see `decode`. any_size: also sizes and steps
        that a model with positions for one list of grids was not made for, by interpolation.
        Raises `FlexvarError` for anything that cannot be.
        """
        num = whole("num", num)
        if num < 1:
            raise FlexvarError(f"num: got {num}; expected at least 1 image per label.")
        values = [value for value in self.values(labels, prompts) for _ in range(num)]
        options |= {
            "negative": negative,
            "sampler": sampler,
            "preset": preset,
            "seed": seed,
            "first_index": first_index,
            "output": output,
            "images_per_call": images_per_call,
            "on_scale": on_scale,
            "progress": progress,
            "tile": tile,
        }
        self.check_keywords("Pipeline", options)
        options = resolve.numbers(options)
        layout = self.layout(size, steps, any_size=any_size)
        images_B3HW, generated, report = self.sample(values, layout, options, any_size=any_size)
        made = pictures(images_B3HW, output)
        return Result(made, generated.maps, report, origin=self.origin)

    # Zero-shot tasks, in editing/tasks.py.
    inpaint = tasks.inpaint
    outpaint = tasks.outpaint
    expand = tasks.expand
    refine = tasks.refine
    regenerate = tasks.regenerate
    edit = tasks.edit
    score = tasks.score
    classify = tasks.classify

    @torch.inference_mode()
    def reconstruct(
        self,
        image: Any,
        *,
        steps: Steps | None = None,
        output: Literal["pil", "tensor"] = "pil",
        max_side: int = inputs.MAX_SIDE,
    ) -> Any:
        """The image after tokenizer and back: how good a picture could get.

        image: a picture, its path, a uint8 array, or a (3,H,W) or (B,3,H,W) tensor in [0,1] or
        of uint8. A picture is resized to the nearest multiples of the stride; a tensor has to
        have such sides. steps: of the layout it is encoded at, as in a call. max_side: longest
        side in pixels that is taken.
        """
        stride = self.tokenizer.space.stride
        if isinstance(image, Tensor):
            values = inputs.read_images(image, max_side) * 2 - 1
        else:
            image = inputs.open_picture(image, max_side)
            width, height = (max(1, round(side / stride)) * stride for side in image.size)
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.LANCZOS)
            values = images.to_tensor(image)[None]
        values = values.to(self.device)
        layout = self.layout((values.shape[-2], values.shape[-1]), steps, warn=False)
        # One by one on a CPU, so that a picture is the same to the bit whatever its batch.
        share = 1 if self.device.type == "cpu" else len(values)
        result = torch.cat([self._and_back(part, layout) for part in values.split(share)])
        if output == "tensor":
            return result
        pictures = [images.to_pil(one) for one in result]
        return pictures if isinstance(image, Tensor) and image.ndim == 4 else pictures[0]

    def _and_back(self, image_B3HW: Tensor, layout: Layout) -> Tensor:
        maps = self.tokenizer.encode(image_B3HW, layout)
        *_, latent = fold_scales(self.tokenizer, maps, layout)
        return self.decode(latent)
