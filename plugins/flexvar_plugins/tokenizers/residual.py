"""VAR's tokenizer: every scale is what the coarser ones left over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from flexvar.components import Facts, TokenizerOutput
from flexvar.errors import FlexvarError
from flexvar.layout import Grid, Layout
from flexvar_plugins.tokenizers.base import CnnTokenizer
from flexvar_plugins.tokenizers.cnn import SMALL, CnnConfig


class ResidualConfig(CnnConfig):
    """Options of `ResidualTokenizer`; the defaults are those of VAR's released tokenizer.

    refiners: how many convolutions φ the scales share. refiner_strength: share of the
    convolution in φ(x) = (1 - s) x + s conv(x).
    """

    vocab_size: int = Field(default=4096, ge=1)
    channels: int = 160
    latent_channels: int = Field(default=32, ge=1)
    projection_kernel: int = Field(default=3, ge=1)
    refiners: int = Field(default=4, ge=1)
    refiner_strength: float = Field(default=0.5, ge=0, le=1)


def refiner_index(step: int, steps: int, refiners: int) -> int:
    """Which φ a scale takes: the nearest of ``refiners`` ticks to k/(K-1).

    The ticks and their ties are those of VAR's code: float64, the first of equal distances.
    float32 or exact fractions choose otherwise, which breaks released weights. One scale alone
    stands at 1.
    """
    edge = 1 / 3 / refiners if refiners == 4 else 1 / 2 / refiners
    ticks = np.linspace(edge, 1 - edge, refiners)
    place = step / (steps - 1) if steps > 1 else 1.0
    return int(np.argmin(np.abs(ticks - place)))


class ResidualSumTokenizer(CnnTokenizer):
    """Each scale quantizes, at its grid, what the scales before it did not explain.

    The codes of a scale are added, at the last grid, to a running latent, so a layout has to end
    at the latent's own grid. A subclass says which tokens a part has (``nearest``), what its
    codes add (``contribution``), and what the next scale sees (``resize``).
    """

    def nearest(self, part_BChw: Tensor) -> Tensor:
        """The tokens (B,h,w) or (B,h,w,G) of what is left over, at a scale's grid."""
        raise NotImplementedError

    def contribution(self, code_BChw: Tensor, layout: Layout, step: int) -> Tensor:
        """What the codes of a scale add to the latent, at the last grid."""
        raise NotImplementedError

    def scale_losses(self, part_BChw: Tensor) -> dict[str, Tensor]:
        """More losses of a scale, by name; none unless a subclass has some."""
        del part_BChw
        return {}

    def sized(self, latent_BChw: Tensor, grid: Grid, mode: str) -> Tensor:
        """A latent at another grid."""
        return F.interpolate(latent_BChw, size=tuple(grid), mode=mode)

    def forward(
        self, image_B3HW: Tensor, grids: Sequence[Grid], *, quantize: bool = True
    ) -> TokenizerOutput:
        """One reconstruction, of all scales together; losses averaged over the scales.

        After each scale the running latent is compared with the encoder's (VAR's code).
        Raises `FlexvarError` unless the grids end at the latent's own.
        """
        latent_BChw = self.features(image_B3HW)
        layout = Layout(tuple(grids))
        self._check_last(latent_BChw, layout)
        target = latent_BChw.detach()
        maps, vectors, pulled, committed, others = [], [], [], [], []
        total: Tensor | None = None
        # The pyramid is in fp32 throughout: rounding would add up over the scales.
        with torch.autocast(target.device.type, enabled=False):
            for step, grid in enumerate(layout):
                rest = latent_BChw if total is None else latent_BChw - total.detach()
                part = self.sized(rest, grid, "area")
                vectors.append(part.detach())
                maps.append(self.nearest(vectors[-1]))
                total = self.fold(total, self.lookup(maps[-1]), layout, step)
                pulled.append(F.mse_loss(total, target))
                committed.append(F.mse_loss(latent_BChw, total.detach()))
                others.append(self.scale_losses(part))
        assert total is not None
        straight = latent_BChw + (total - latent_BChw).detach() if quantize else latent_BChw
        kept = 1.0 if quantize else 0.0

        def mean(losses: list[Tensor]) -> Tensor:
            return torch.stack(losses).mean() * kept

        return TokenizerOutput(
            reconstructions=(self.decode(straight),),
            maps=tuple(maps),
            vectors=tuple(vectors),
            codebook_loss=None if self.codes is None else mean(pulled),
            commitment_loss=mean(committed),
            losses={name: mean([losses[name] for losses in others]) for name in others[0]},
        )

    def quantize(self, latent_BChw: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        """One int64 map per grid. Raises unless the layout ends at the latent's grid."""
        self._check_last(latent_BChw, layout)
        maps = []
        rest = latent_BChw.float()
        for step, size in enumerate(layout):
            part = rest if size == layout.last else self.sized(rest, size, "area")
            maps.append(self.nearest(part))
            rest = rest - self.contribution(self.lookup(maps[-1]), layout, step)
        return tuple(maps)

    def next_map(
        self, latent_BChw: Tensor, folded_BChw: Tensor | None, layout: Layout, step: int
    ) -> Tensor:
        """The map of a scale if the coarser ones had come out as ``folded_BChw``."""
        self._check_last(latent_BChw, layout)
        rest = latent_BChw.float() if folded_BChw is None else latent_BChw.float() - folded_BChw
        size = layout[step]
        return self.nearest(rest if size == layout.last else self.sized(rest, size, "area"))

    def fold(
        self, latent_BChw: Tensor | None, code_BChw: Tensor, layout: Layout, step: int
    ) -> Tensor:
        """The running latent, at the last grid, with this scale's codes added."""
        code = self.contribution(code_BChw, layout, step)
        return code if latent_BChw is None else latent_BChw + code

    @staticmethod
    def _check_last(latent_BChw: Tensor, layout: Layout) -> None:
        grid = Grid(*latent_BChw.shape[-2:])
        if layout.last != grid:
            raise FlexvarError(
                f"The residual tokenizer's layout has to end at the latent's own grid {grid}, "
                f"not at {layout.last}: {layout}."
            )


class ResidualTokenizer(ResidualSumTokenizer):
    """VAR's: codes resized bicubically to the last grid and refined by φ.

    See VAR, arXiv 2404.02905, algorithms 1 and 2.
    """

    Config = ResidualConfig
    contract_options = (
        SMALL,
        {**SMALL, "refiners": 2, "refiner_strength": 0.3, "projection_kernel": 1},
    )

    def __init__(self, config: ResidualConfig, *, facts: Facts) -> None:
        super().__init__(config, facts=facts, normalise=False)
        self.refiner_strength = config.refiner_strength
        self.refiners = nn.ModuleList(
            nn.Conv2d(config.code_dim, config.code_dim, 3, padding=1)
            for _ in range(config.refiners)
        )

    def nearest(self, part_BChw: Tensor) -> Tensor:
        """The nearest codes (B,h,w)."""
        return self.codebook.nearest(part_BChw)

    def resize(self, latent_BChw: Tensor, grid: Grid) -> Tensor:
        """The input of a grid's scale: the running latent, area-resized."""
        return self.sized(latent_BChw, grid, "area")

    def contribution(self, code_BChw: Tensor, layout: Layout, step: int) -> Tensor:
        """The codes at the last grid, resized bicubically and refined."""
        if tuple(code_BChw.shape[-2:]) != layout.last:
            code_BChw = F.interpolate(code_BChw, size=tuple(layout.last), mode="bicubic")
        refiner = self.refiners[refiner_index(step, len(layout), len(self.refiners))]
        assert isinstance(refiner, nn.Conv2d)
        # fp32 whatever the weights: rounding here would add up over the scales.
        weight, bias = refiner.weight.float(), refiner.bias
        assert bias is not None
        refined = F.conv2d(code_BChw, weight, bias.float(), padding=1)
        share = self.refiner_strength
        return code_BChw * (1 - share) + refined * share
