"""One component of each kind for flexvar. This manifest imports no torch."""

import flexvar


@flexvar.hookimpl
def flexvar_backbones():
    yield flexvar.Component(
        name="mean_mixer",
        target="flexvar_example.backbone:MeanMixer",
        summary="MLPs over a token and the mean of all scales so far",
    )


@flexvar.hookimpl
def flexvar_positions():
    yield flexvar.Component(
        name="ramp",
        target="flexvar_example.position:Ramp",
        summary="A learned direction each for row, column and size of the grid",
    )


@flexvar.hookimpl
def flexvar_tokenizers():
    yield flexvar.Component(
        name="patches",
        target="flexvar_example.tokenizer:Patches",
        summary="Linear patches and their nearest codes",
    )


@flexvar.hookimpl
def flexvar_schedules():
    yield flexvar.Component(
        name="doubling",
        target="flexvar_example.schedule:Doubling",
        summary="Every grid twice the one before",
    )
