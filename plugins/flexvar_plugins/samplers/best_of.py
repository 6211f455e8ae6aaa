"""Several draws per scale, of which the best stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, field_serializer, model_validator

from flexvar.config import ComponentConfig
from flexvar.errors import FlexvarError
from flexvar.layout import Layout
from flexvar_plugins.samplers.standard import StandardConfig, StandardSampler

if TYPE_CHECKING:
    from torch import Tensor

    from flexvar.components import Candidate


class BestOfConfig(StandardConfig):
    """Options of ``standard``, and how many draws there are of which scales."""

    candidates: int = Field(default=4, ge=1, le=64, description="Draws per scale.")
    up_to_side: int | None = Field(
        default=None,
        ge=1,
        description="Larger grids are drawn once; all grids several times unless given.",
    )
    verifier: Callable[[Any], Any] | None = Field(
        default=None,
        description="A function of pictures (B,3,H,W) in [0,1] that gives a number for each, the "
        "higher the better; the likelihood of the tokens unless given. In Python alone.",
    )

    # A file holds its name alone, and nothing that a file names is ever called.
    @field_serializer("verifier", when_used="json-unless-none")
    def _by_name(self, verifier: Callable[[Any], Any]) -> str:
        return str(getattr(verifier, "__qualname__", type(verifier).__qualname__))

    @model_validator(mode="after")
    def _draws(self) -> Self:
        if self.soft:
            raise ValueError("soft has no several draws to choose from; leave one of them off")
        return self


class BestOfSampler(StandardSampler):
    """``standard``, drawn several times per scale; what scores best stays, image by image.

    By the likelihood of the tokens under the guided logits, before temperature and filters, or by
    a verifier of pictures: search at the time of sampling, as for TTS-VAR (arXiv 2507.18537).
    The first draw is that of ``standard`` with the same seed.
    """

    Config: ClassVar[type[ComponentConfig]] = BestOfConfig

    @property
    def _options(self) -> BestOfConfig:
        assert isinstance(self.config, BestOfConfig)
        return self.config

    def candidates(self, layout: Layout, step: int) -> int:
        """Draws of a step: one where the likeliest tokens are taken."""
        limit = self._options.up_to_side
        inside = limit is None or max(layout[step]) <= limit
        return self._options.candidates if inside and self.draws(layout, step) else 1

    def score(self, candidate: Candidate) -> Tensor:
        """How good each image is, (B,)."""
        if self._options.verifier is None:
            assert candidate.logits is not None
            chosen = candidate.logits.log_softmax(dim=-1).gather(-1, candidate.tokens[..., None])
            return chosen.flatten(1).sum(dim=1)
        images_B3HW = candidate.tokenizer.decode(candidate.latent_BChw)
        score = self._options.verifier(images_B3HW.add(1).div(2).clamp(0, 1))
        if tuple(score.shape) != (len(images_B3HW),):
            raise FlexvarError(
                f"verifier: gave a tensor of shape {tuple(score.shape)} for {len(images_B3HW)} "
                f"images; expected ({len(images_B3HW)},), one number for each."
            )
        return score.to(images_B3HW.device)
