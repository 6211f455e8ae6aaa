"""The first-party plugins: a light manifest, registered as any third party's."""

from __future__ import annotations

from collections.abc import Iterable

from flexvar.plugin import Component, hookimpl

_HERE = "flexvar_plugins"


@hookimpl
def flexvar_tokenizers() -> Iterable[Component]:
    """FlexVAR's and VAR's tokenizers."""
    yield Component(
        name="multiscale",
        target=f"{_HERE}.tokenizers.multiscale:MultiscaleTokenizer",
        summary="FlexVAR: every scale is the full picture, quantised from the resized latent",
    )
    yield Component(
        name="residual",
        target=f"{_HERE}.tokenizers.residual:ResidualTokenizer",
        summary="VAR: every scale is what the coarser ones left over",
    )


@hookimpl
def flexvar_backbones() -> Iterable[Component]:
    """The transformer of VAR and FlexVAR, and FlexVAR's ablation with Mamba."""
    yield Component(
        name="transformer",
        target=f"{_HERE}.backbones.transformer:TransformerBackbone",
        summary="Attention over all coarser scales, AdaLN; eager, sdpa or flash kernels",
    )
    yield Component(
        name="mamba",
        target=f"{_HERE}.backbones.mamba:MambaBackbone",
        summary="Mamba-2 along eight zigzag paths, AdaLN; the state is handed from scale to scale",
    )


@hookimpl
def flexvar_positions() -> Iterable[Component]:
    """Position embeddings of both papers and of their ablations."""
    yield Component(
        name="learned2d",
        target=f"{_HERE}.positions.learned2d:Learned2d",
        summary="FlexVAR: one learned table, resized to every grid",
    )
    yield Component(
        name="sinusoidal2d",
        target=f"{_HERE}.positions.sinusoidal2d:Sinusoidal2d",
        summary="2D sine-cosine at the cell centres of every grid, no parameters",
    )
    yield Component(
        name="rotary2d",
        target=f"{_HERE}.positions.rotary2d:Rotary2d",
        summary="Rotary angles by row and column, no parameters",
    )
    yield Component(
        name="per_scale",
        target=f"{_HERE}.positions.per_scale:PerScale",
        summary="VAR: a learned vector per position of a fixed list of grids, and per step",
    )


@hookimpl
def flexvar_schedules() -> Iterable[Component]:
    """Lists of grids."""
    yield Component(
        name="ladder",
        target=f"{_HERE}.schedules.ladder:Ladder",
        summary="The paper's lists by size and number of steps, and alike for any other",
    )
    yield Component(
        name="explicit",
        target=f"{_HERE}.schedules.explicit:Explicit",
        summary="One fixed list of grids",
    )
    yield Component(
        name="random",
        target=f"{_HERE}.schedules.random_steps:RandomSteps",
        summary="Training: random lists, by the paper's rule or the released code's",
    )


@hookimpl
def flexvar_conditioners() -> Iterable[Component]:
    """What an image is to be of."""
    yield Component(
        name="label",
        target=f"{_HERE}.conditioners.label:LabelConditioner",
        summary="Class labels: one learned vector per class, and one for no class",
    )
    yield Component(
        name="text",
        target=f"{_HERE}.conditioners.text:TextConditioner",
        summary="Words: a small transformer over word vectors, a frozen encoder or given features",
    )
    yield Component(
        name="image",
        target=f"{_HERE}.conditioners.image:ImageConditioner",
        summary="A picture as a pooled vector and tokens, by a small convolutional encoder",
    )
    yield Component(
        name="none",
        target=f"{_HERE}.conditioners.none:NoConditioner",
        summary="No condition: one learned vector for all images",
    )


@hookimpl
def flexvar_samplers() -> Iterable[Component]:
    """How tokens are chosen."""
    yield Component(
        name="standard",
        target=f"{_HERE}.samplers.standard:StandardSampler",
        summary="Guidance, temperature, top-k, top-p, and a draw per token",
    )
    yield Component(
        name="released",
        target=f"{_HERE}.samplers.released:ReleasedSampler",
        summary="FlexVAR's published code: drawn at some sides, the likeliest token elsewhere",
    )
    yield Component(
        name="interval",
        target=f"{_HERE}.samplers.interval:IntervalSampler",
        summary="Guidance in a part of the steps alone; past it, half the work",
    )
    yield Component(
        name="best_of",
        target=f"{_HERE}.samplers.best_of:BestOfSampler",
        summary="Several draws per scale, of which the best stays: by likelihood or a verifier",
    )


@hookimpl
def flexvar_objectives() -> Iterable[Component]:
    """What a prediction model is trained to do."""
    yield Component(
        name="cross_entropy",
        target=f"{_HERE}.objectives.cross_entropy:CrossEntropy",
        summary="VAR and FlexVAR: the true tokens under the true context; weights by scale",
    )
    yield Component(
        name="corrupted",
        target=f"{_HERE}.objectives.corrupted:Corrupted",
        summary="Infinity: under a context with random mistakes, which the later scales make good",
    )
    yield Component(
        name="student",
        target=f"{_HERE}.objectives.student:Student",
        summary="SAR: a second pass under a context of the model's own predictions",
    )


@hookimpl
def flexvar_losses() -> Iterable[Component]:
    """How far a reconstruction is from its picture, for the training of tokenizers."""
    yield Component(
        name="l1",
        target=f"{_HERE}.losses.pixels:L1",
        summary="Mean absolute difference of pixels",
    )
    yield Component(
        name="l2",
        target=f"{_HERE}.losses.pixels:L2",
        summary="Mean squared difference of pixels",
    )
    yield Component(
        name="laplacian",
        target=f"{_HERE}.losses.pixels:Laplacian",
        summary="Mean absolute difference of Laplacian pyramids: detail counts as much as tone",
    )
    yield Component(
        name="ssim",
        target=f"{_HERE}.losses.pixels:Ssim",
        summary="1 - SSIM: local brightness, contrast and structure",
    )
    yield Component(
        name="perceptual",
        target=f"{_HERE}.losses.perceptual:Perceptual",
        summary="Distance of a small network's features; its weights come with flexvar[metrics]",
    )
    yield Component(
        name="lpips",
        target=f"{_HERE}.losses.lpips:Lpips",
        summary="Distance of deep features; needs the package lpips and its weights",
    )


@hookimpl
def flexvar_converters() -> Iterable[Component]:
    """What VAR, FlexVAR and LlamaGen released."""
    yield Component(
        name="released",
        target=f"{_HERE}.released:ReleasedConverter",
        summary="Files of VAR, FlexVAR and LlamaGen's tokenizers; everything is read from them",
    )


@hookimpl
def flexvar_released() -> Iterable[Component]:
    """The models behind the papers, by name."""
    for name, what in (
        ("flexvar-d16", "FlexVAR, 310 M parameters, ImageNet at 256 px"),
        ("flexvar-d20", "FlexVAR, 600 M parameters, ImageNet at 256 px"),
        ("flexvar-d24", "FlexVAR, 1.0 B parameters, ImageNet at 256 px"),
        ("var-d16", "VAR, 310 M parameters, ImageNet at 256 px"),
        ("var-d20", "VAR, 600 M parameters, ImageNet at 256 px"),
        ("var-d24", "VAR, 1.0 B parameters, ImageNet at 256 px"),
        ("var-d30", "VAR, 2.0 B parameters, ImageNet at 256 px"),
        ("var-d36", "VAR, 2.3 B parameters, ImageNet at 512 px"),
        ("llamagen-vq16", "LlamaGen's tokenizer of stride 16, trained on ImageNet"),
        ("llamagen-vq8", "LlamaGen's tokenizer of stride 8, trained on ImageNet"),
        ("llamagen-vq16-t2i", "LlamaGen's tokenizer of stride 16, of its text-to-image models"),
    ):
        constant = name.upper().replace("-", "_")
        yield Component(name=name, target=f"{_HERE}.released.known:{constant}", summary=what)
