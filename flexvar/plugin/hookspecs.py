"""The hooks a plugin may implement: one per kind of component, and for what else it may offer."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from flexvar.plugin.component import Component

hookspec = pluggy.HookspecMarker("flexvar")
hookimpl = pluggy.HookimplMarker("flexvar")


@hookspec
def flexvar_tokenizers() -> Iterable[Component]:  # type: ignore[empty-body]
    """Tokenizers: image <-> pyramid of token maps.

    ::

        @flexvar.hookimpl
        def flexvar_tokenizers():
            yield flexvar.Component(name="pixels", target="my_plugin.pixels:Pixels")
    """


@hookspec
def flexvar_backbones() -> Iterable[Component]:  # type: ignore[empty-body]
    """Backbones: the network between the token embeddings and the logits.

    ::

        @flexvar.hookimpl
        def flexvar_backbones():
            yield flexvar.Component(name="rnn", target="my_plugin.rnn:Rnn", summary="A plain RNN")
    """


@hookspec
def flexvar_positions() -> Iterable[Component]:  # type: ignore[empty-body]
    """Position embeddings: where a token stands in its grid.

    ::

        @flexvar.hookimpl
        def flexvar_positions():
            yield flexvar.Component(name="ramp", target="my_plugin.positions:Ramp")
    """


@hookspec
def flexvar_schedules() -> Iterable[Component]:  # type: ignore[empty-body]
    """Step schedules: the list of grids that leads to a size.

    ::

        @flexvar.hookimpl
        def flexvar_schedules():
            yield flexvar.Component(name="doubling", target="my_plugin.schedules:Doubling")
    """


@hookspec
def flexvar_conditioners() -> Iterable[Component]:  # type: ignore[empty-body]
    """Conditioners: labels, prompts or pictures -> the vectors a model reads.

    ::

        @flexvar.hookimpl
        def flexvar_conditioners():
            yield flexvar.Component(name="words", target="my_plugin.words:Words")
    """


@hookspec
def flexvar_samplers() -> Iterable[Component]:  # type: ignore[empty-body]
    """Samplers: how the tokens of a scale are chosen.

    ::

        @flexvar.hookimpl
        def flexvar_samplers():
            yield flexvar.Component(name="greedy", target="my_plugin.samplers:Greedy")
    """


@hookspec
def flexvar_objectives() -> Iterable[Component]:  # type: ignore[empty-body]
    """Objectives: what a model is trained to do.

    ::

        @flexvar.hookimpl
        def flexvar_objectives():
            yield flexvar.Component(name="focal", target="my_plugin.objectives:Focal")
    """


@hookspec
def flexvar_losses() -> Iterable[Component]:  # type: ignore[empty-body]
    """Losses of tokenizer training: reconstruction and picture -> one number (`flexvar.Loss`).

    ::

        @flexvar.hookimpl
        def flexvar_losses():
            yield flexvar.Component(name="edges", target="my_plugin.losses:Edges")
    """


@hookspec
def flexvar_converters() -> Iterable[Component]:  # type: ignore[empty-body]
    """Converters: files that others released -> a checkpoint; see `flexvar.components.converter`.

    ::

        @flexvar.hookimpl
        def flexvar_converters():
            yield flexvar.Component(name="mine", target="my_plugin.released:Converter")
    """


@hookspec
def flexvar_released() -> Iterable[Component]:  # type: ignore[empty-body]
    """Models that others released, for ``flexvar pull``; see `flexvar.components.released`.

    ::

        @flexvar.hookimpl
        def flexvar_released():
            yield flexvar.Component(name="acme-xl", target="my_plugin.known:ACME_XL")
    """


@hookspec
def flexvar_benchmarks() -> Iterable[Component]:  # type: ignore[empty-body]
    """Benchmark suites: modules with SUMMARY, cases(options) and sections(rows).

    ``python -m benchmarks run mine`` runs it; `benchmarks.harness.suite` says what the three are.

    ::

        @flexvar.hookimpl
        def flexvar_benchmarks():
            yield flexvar.Component(name="mine", target="my_plugin.bench", summary="My cases")
    """
