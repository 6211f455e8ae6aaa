"""Published ideas as plugins of under a hundred lines each: proof that the interfaces reach."""

from __future__ import annotations

from collections.abc import Iterable

from flexvar.plugin import Component, hookimpl

_HERE = "flexvar_zoo"


@hookimpl
def flexvar_backbones() -> Iterable[Component]:
    """Backbones of other papers."""
    yield Component(
        name="markov",
        target=f"{_HERE}.backbones.markov:MarkovBackbone",
        summary="HMAR, Markov-VAR: each scale sees the one before it alone; nothing grows",
    )
    yield Component(
        name="mvar",
        target=f"{_HERE}.backbones.mvar:MvarBackbone",
        summary="M-VAR: attention inside a scale, Mamba-2 across scales",
    )
    yield Component(
        name="delta",
        target=f"{_HERE}.backbones.delta:DeltaBackbone",
        summary="Gated DeltaNet: the gated delta rule, with attention in every n-th block or none",
    )


@hookimpl
def flexvar_positions() -> Iterable[Component]:
    """Position embeddings of other papers."""
    yield Component(
        name="rope2d",
        target=f"{_HERE}.positions.rope2d:Rope2d",
        summary="Infinity: rotary angles at places of one reference grid, NTK scaling beyond it",
    )


@hookimpl
def flexvar_schedules() -> Iterable[Component]:
    """Lists of grids."""
    yield Component(
        name="optimised",
        target=f"{_HERE}.schedules.optimised:Optimised",
        summary="The evenest list within a budget of tokens",
    )
    yield Component(
        name="aspect_lists",
        target=f"{_HERE}.schedules.aspect_lists:AspectLists",
        summary="Infinity: a list for each of eight aspect ratios, at four sizes",
    )


@hookimpl
def flexvar_samplers() -> Iterable[Component]:
    """How tokens are chosen."""
    yield Component(
        name="ssg",
        target=f"{_HERE}.samplers.ssg:SsgSampler",
        summary="SSG: sharpened against what the coarser scale already said",
    )
    yield Component(
        name="relay",
        target=f"{_HERE}.samplers.relay:RelaySampler",
        summary="CoDe: from some step on another checkpoint goes on",
    )
    yield Component(
        name="masked",
        target=f"{_HERE}.samplers.masked:MaskedSampler",
        summary="HMAR: several rounds within a scale, the surest tokens stay",
    )
    yield Component(
        name="block_guidance",
        target=f"{_HERE}.samplers.block_guidance:BlockGuidanceSampler",
        summary="Infinity: guidance of the output of a block, inside of the network",
    )


@hookimpl
def flexvar_tokenizers() -> Iterable[Component]:
    """Tokenizers of other papers."""
    yield Component(
        name="bsq",
        target=f"{_HERE}.tokenizers.bsq:BsqTokenizer",
        summary="BSQ, Infinity: residual scales of bits, no codebook",
    )
    yield Component(
        name="fsq",
        target=f"{_HERE}.tokenizers.fsq:FsqTokenizer",
        summary="FSQ: every channel is rounded by itself, no codebook",
    )
    yield Component(
        name="product",
        target=f"{_HERE}.tokenizers.product:ProductTokenizer",
        summary="Product quantization: several codebooks, each over its share of the channels",
    )


@hookimpl
def flexvar_conditioners() -> Iterable[Component]:
    """What pictures can be conditioned on."""
    yield Component(
        name="attention_pool",
        target=f"{_HERE}.conditioners.attention_pool:AttentionPoolConditioner",
        summary="Infinity: T5's features of a prompt, a vector by attention, a table of no prompt",
    )


@hookimpl
def flexvar_converters() -> Iterable[Component]:
    """Released files of other papers."""
    yield Component(
        name="infinity",
        target=f"{_HERE}.released.infinity:InfinityConverter",
        summary="Infinity's tokenizers and text-to-image models",
    )


@hookimpl
def flexvar_released() -> Iterable[Component]:
    """Infinity's models by name."""
    yield Component(
        name="infinity-2b",
        target=f"{_HERE}.released.known:INFINITY_2B",
        summary="Infinity 2B, text to image, 1024 px; words need google/flan-t5-xl besides",
    )
