"""What a sampler must do: say how tokens are chosen from what a model predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from flexvar.components.tokenizer import Tokenizer
from flexvar.config import ComponentConfig
from flexvar.layout import Layout


@runtime_checkable
class Predictor(Protocol):
    """What the generation loop needs of a model.

    ``start`` makes a fresh state for a layout under the inputs of a conditioner; ``features``
    takes the next scale's inputs (None for the first scale) and gives (B,h*w,D); ``head`` makes
    logits of features: (B,h*w,V), or (B,h*w,G,V) for tokens of several parts. The head is linear.
    """

    def start(self, inputs: Any, layout: Layout) -> Any: ...

    def features(self, inputs_BLC: Tensor | None, state: Any) -> Tensor: ...

    def head(self, features_BLD: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of several ways a scale could be, for a sampler to score.

    tokens: (B,L) int64, or (B,L,G). logits: fp32, after guidance and before ``process``, (B,L,V)
    or (B,L,G,V); None where the whole scale is given. latent_BChw: the folded latent with this
    scale in it.
    """

    tokens: Tensor
    logits: Tensor | None
    latent_BChw: Tensor
    tokenizer: Tokenizer
    layout: Layout
    step: int


class Filters(NamedTuple):
    """Logits divided by the temperature, then top-k, then top-p within it; 0 and 1 are off."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


@runtime_checkable
class Sampler(Protocol):
    """How the tokens of a scale are chosen; it has no weights, and keeps nothing between calls.

    Its ``Config`` is what a checkpoint's preset holds and what a call or a command overrides: an
    option written there is a keyword of every call and an option of every command that
    generates. Give each field a ``description``, which the help shows.

    ``guidance`` is the weight t of ``(1 + t) * conditional - t * unconditional`` at a step: a
    number of Python, known before the first scale. From the last step where it is not 0 on,
    the unconditional half is not computed. ``process`` gives the logits that tokens are drawn
    from, of those after guidance: temperature, filters; latent_BChw is the folded latent of the
    coarser scales, None at step 0. What it does with tensors has to depend on no value of theirs,
    and row by row, so that an image is the same whatever its batch.

    A sampler may have more; the loop does without what it lacks:

    - ``filters(layout, step) -> Filters | None``: what ``process`` does at a step, if it is nothing
      but that; filters and draw are then one kernel where kernels are taken.
    - ``draws(layout, step) -> bool``: whether tokens are drawn (as without it), or the likeliest
      taken.
    - ``wrap(models) -> Predictor``: the model to ask, of ``models["model"]``, the pipeline's own,
      and those that ``models`` names: a mapping of names to checkpoints, which are loaded onto
      the same device.
    - ``rounds(layout, step) -> int`` and ``keep(logits, tokens, layout, step, round) -> (B,L)
      bool``: how often the model is asked about a scale, and which tokens stay after a round. The
      next round sees the codes of those that stayed; the others are drawn anew.
    - ``candidates(layout, step) -> int`` and ``score(candidate) -> (B,) Tensor``: how many times
      a scale is drawn, each time with numbers of its own, and how good a `Candidate` is; the best
      stays, image by image.
    - ``mixes: bool`` and ``mixture(logits, gumbel, layout, step) -> (B,L,V)``: weights of a mean
      code in place of a drawn one; logits as ``process`` gave them, and Gumbel noise of their
      shape. For tokens of one part.
    """

    Config: ClassVar[type[ComponentConfig]]

    def guidance(self, layout: Layout, step: int) -> float: ...

    def process(
        self, logits: Tensor, layout: Layout, step: int, latent_BChw: Tensor | None
    ) -> Tensor: ...


def models_of(sampler: Sampler) -> Mapping[str, str]:
    """The checkpoints that a sampler asks for beside the pipeline's own, by name."""
    return getattr(sampler, "models", {})


def filters(sampler: Sampler, layout: Layout, step: int) -> Filters | None:
    """All that ``process`` does at a step, if the sampler says."""
    found: Filters | None = None
    if hasattr(sampler, "filters"):
        found = sampler.filters(layout, step)
    return found


def draws(sampler: Sampler, layout: Layout, step: int) -> bool:
    """Whether the tokens of a step are drawn, rather than the likeliest taken."""
    return bool(sampler.draws(layout, step)) if hasattr(sampler, "draws") else True


def rounds(sampler: Sampler, layout: Layout, step: int) -> int:
    """How often the model is asked about a step, at least once."""
    return max(1, int(sampler.rounds(layout, step))) if hasattr(sampler, "rounds") else 1


def candidates(sampler: Sampler, layout: Layout, step: int) -> int:
    """How many times a step is drawn, at least once."""
    count = sampler.candidates(layout, step) if hasattr(sampler, "candidates") else 1
    return max(1, int(count))


def mixes(sampler: Sampler) -> bool:
    """Whether mean codes take the place of drawn ones."""
    return bool(getattr(sampler, "mixes", False))
