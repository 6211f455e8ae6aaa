"""A model as ONNX graphs of fixed shape: one for each scale of a layout, and the decoder.

What a generation keeps between scales goes out of one graph and into the next; the graphs share
one file of weights. They are checked in onnxruntime against the model before they are kept.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module, resources
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from flexvar.components import Sampler, Tokenizer
from flexvar.components.conditioner import takes
from flexvar.components.sampler import draws
from flexvar.errors import FlexvarError, cut, one_line
from flexvar.files import whole_folder, write_json
from flexvar.generation.draw import guide
from flexvar.generation.fork import collected, mapped
from flexvar.layout import Layout
from flexvar.model import NextScaleModel
from flexvar.resolve import Steps
from flexvar.session import Session

CONFIG, WEIGHTS, RUNNER, DECODER = "config.json", "weights.bin", "generate.py", "decoder.onnx"
FORMAT = 1
SAMPLER = "standard"
# Pictures in [0,1] may differ by so much.
TOLERANCE = 1e-3
# Tensors of fewer bytes stay in their graph; others begin at multiples of so many.
SMALL, ALIGN = 1024, 64
_INSTALL = "pip install 'flexvar[onnx]'"


@dataclass(frozen=True, slots=True)
class Checked:
    """What the check found: the greatest difference of a picture in [0,1], and what was asked.

    tokens: how many were compared, all equal.
    """

    difference: float
    tokens: int
    labels: tuple[int, ...]


@dataclass
class Graph:
    """One graph to write: a module, what it is called with, and the names of both sides.

    constant: values of inputs that are the same for every picture, by name.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: list[str]
    constant: dict[str, Tensor] = field(default_factory=dict)


def export(
    pipe: Session,
    directory: str | Path,
    *,
    size: tuple[int, int] | int | None = None,
    steps: Steps | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Checked:
    """Write a directory of ONNX graphs that make a picture of a class, and a program to run them.

    pipe: a model of classes, in fp32 on a CPU. size: of the picture, (height, width) in pixels,
    that of training unless given. steps: as in a call; usual for the size unless given. The
    guidance, and how tokens are drawn, are the pipeline's settings. say: gets a line per graph.
    Raises `FlexvarError` for a model that cannot be exported, with the reason, and where pictures
    or tokens of the graphs are not the model's; then nothing is left.
    """
    directory = Path(directory)
    _check_packages()
    model, sampler = _exportable(pipe)
    layout = pipe.layout(size, steps)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FlexvarError(f"{directory} is there already; name a new or empty directory.")
    with whole_folder(directory) as made:
        weights = [float(sampler.guidance(layout, step)) for step in range(len(layout))]
        shared = _Weights(made)
        names: list[str] = []
        constants: frozenset[str] = frozenset()
        for graph in _graphs(model, pipe.tokenizer, layout):
            say(f"{graph.name}: exporting")
            found = _write(graph, shared, constants, first=not names)
            constants = found if not names else constants
            names.append(graph.name)
        settings = pipe.settings
        write_json(
            made / CONFIG,
            {
                "format": FORMAT,
                **pipe.origin,
                "size": [side * pipe.tokenizer.space.stride for side in layout.last],
                "grids": [list(grid) for grid in layout],
                "guidance": weights,
                "draws": [draws(sampler, layout, step) for step in range(len(layout))],
                "temperature": settings.temperature,
                "top_k": settings.top_k,
                "top_p": settings.top_p,
                "parts": pipe.tokenizer.space.groups,
                "num_classes": model.num_classes,
                "class_names": list(pipe.class_names or ()),
            },
        )
        runner = resources.files("flexvar") / "onnx_runner.py"
        (made / RUNNER).write_bytes(runner.read_bytes())
        say("checking against the model")
        return check(pipe, made, layout)


def check(pipe: Session, directory: Path, layout: Layout, labels: Sequence[int] = ()) -> Checked:
    """Compare likeliest tokens of a whole generation, and the picture of them.

    labels: three classes unless given. Raises `FlexvarError` where they differ.
    """
    from flexvar.onnx_runner import Generator

    count = pipe.model.num_classes
    labels = labels or sorted({0, count // 2, count - 1})
    generator = Generator(directory)
    options = {**pipe.settings.model_dump(), "top_k": 1, "progress": False, "output": "tensor"}
    worst, tokens = 0.0, 0
    for label in labels:
        image_B3HW, generated, _ = pipe.sample([label], layout, options)
        picture, maps = generator.likeliest(label)
        for step, (ours, theirs) in enumerate(zip(generated.maps, maps, strict=True)):
            wrong = int((ours != torch.from_numpy(theirs)).sum())
            if wrong:
                raise FlexvarError(
                    f"The graphs do not agree with the model: at scale {step + 1} of "
                    f"{len(layout)}, {wrong} of {ours.numel()} tokens of class {label} are others. "
                    "Nothing was written."
                )
            tokens += ours.numel()
        worst = max(worst, float((image_B3HW - torch.from_numpy(picture)).abs().max()))
    if not worst <= TOLERANCE:
        raise FlexvarError(
            f"The decoder's graph does not agree with the model: pictures differ by {worst:.2g} of "
            f"1, allowed is {TOLERANCE:g}. Nothing was written."
        )
    return Checked(worst, tokens, tuple(labels))


def _check_packages() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(name)
        except ImportError:
            raise FlexvarError(f"export needs {name}, which is not installed: {_INSTALL}") from None


def _exportable(pipe: Session) -> tuple[NextScaleModel, Sampler]:
    """The model and its sampler. Raises `FlexvarError` for what the graphs have no place for."""
    model = pipe.model
    if takes(model.conditioner) != "label":
        raise FlexvarError(
            "export: this model is conditioned on something else than classes; only models of "
            "classes can be exported."
        )
    if pipe.sampler != SAMPLER:
        raise FlexvarError(
            f"export: the program beside the graphs draws as the sampler {SAMPLER} does; this "
            f"model's settings are of {pipe.sampler!r}. Choose a preset of that sampler."
        )
    if getattr(pipe.settings, "soft", False):
        raise FlexvarError(
            "export: the program beside the graphs has no mean codes (soft); choose a preset "
            "without them."
        )
    if pipe.device.type != "cpu" or pipe.dtype != torch.float32:
        raise FlexvarError("export: load the model on the CPU in fp32.")
    return model, pipe.chosen().build(model.facts)


class _First(nn.Module):
    """Logits of the first scale, and the state after it."""

    def __init__(self, model: NextScaleModel, layout: Layout) -> None:
        super().__init__()
        self.model, self.layout = model, layout

    def forward(self, label_1: Tensor, guidance: Tensor) -> tuple[Tensor, ...]:
        both = torch.cat([label_1, torch.full_like(label_1, self.model.num_classes)])
        state = self.model.start(both, self.layout)
        logits = _guided(self.model, None, state, guidance)
        return (logits, *_tensors(state))


class _Next(nn.Module):
    """Logits of a later scale, the latent before it, and what changed of the state.

    template: the state before the scale; its tensors are replaced by those of the call.
    """

    def __init__(
        self,
        model: NextScaleModel,
        tokenizer: Tokenizer,
        layout: Layout,
        step: int,
        template: Any,
        changes: Sequence[int],
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = model, cast(nn.Module, tokenizer)
        self.layout, self.step, self.changes = layout, step, list(changes)
        self.template = (template,)  # in a tuple, as modules take tensors for buffers of theirs

    def forward(
        self, tokens: Tensor, guidance: Tensor, latent: Tensor | None, *state: Tensor
    ) -> tuple[Tensor, ...]:
        # Clones, as a state may be written to.
        given = iter([one.clone() for one in state])
        own = mapped(self.template[0], lambda _: next(given))
        tokenizer = cast(Tokenizer, self.tokenizer)
        folded = tokenizer.fold(latent, tokenizer.lookup(tokens), self.layout, self.step - 1)
        resized = tokenizer.resize(folded, self.layout[self.step])
        inputs_BLC = rearrange(resized, "B C h w -> B (h w) C")
        logits = _guided(self.model, torch.cat([inputs_BLC, inputs_BLC]), own, guidance)
        after = _tensors(own)
        return (logits, folded, *(after[index] for index in self.changes))


class _Decoder(nn.Module):
    """The picture (1,3,H,W) in [0,1] of the last scale's tokens and the latent before it."""

    def __init__(self, tokenizer: Tokenizer, layout: Layout) -> None:
        super().__init__()
        self.tokenizer, self.layout = cast(nn.Module, tokenizer), layout

    def forward(self, tokens: Tensor, latent: Tensor | None) -> Tensor:
        tokenizer = cast(Tokenizer, self.tokenizer)
        code = tokenizer.lookup(tokens)
        folded = tokenizer.fold(latent, code, self.layout, len(self.layout) - 1)
        return tokenizer.decode(folded).add(1).div(2).clamp(0, 1)


def _guided(
    model: NextScaleModel, inputs_BLC: Tensor | None, state: Any, guidance: Tensor
) -> Tensor:
    cond, uncond = model.features(inputs_BLC, state).chunk(2)
    return model.head(guide(cond, uncond, guidance))  # type: ignore[arg-type]


def _tensors(state: Any) -> list[Tensor]:
    return collected(partial(mapped, state))


@torch.no_grad()
def _graphs(model: NextScaleModel, tokenizer: Tokenizer, layout: Layout) -> Iterator[Graph]:
    """The graphs of a generation in order; it is gone through once, to know what each one needs."""
    label, guidance = torch.zeros(1, dtype=torch.int64), torch.tensor(1.0)
    state = model.start(torch.cat([label, label + model.num_classes]), layout)
    logits = _guided(model, None, state, guidance)
    kept = _tensors(state)
    first = _First(model, layout)
    names = [f"state_{number}" for number in range(len(kept))]
    yield Graph(
        "scale_00.onnx",
        first,
        {"label": label, "guidance": guidance},
        ["logits", *_after(names)],
        dict(zip(names, kept, strict=True)),
    )
    latent: Tensor | None = None
    for step in range(1, len(layout)):
        tokens = logits.argmax(-1).unflatten(1, layout[step - 1])
        template = mapped(state, Tensor.clone)
        before, versions = _tensors(state), [one._version for one in _tensors(state)]
        folded = tokenizer.fold(latent, tokenizer.lookup(tokens), layout, step - 1)
        rows = rearrange(tokenizer.resize(folded, layout[step]), "B C h w -> B (h w) C")
        logits = _guided(model, torch.cat([rows, rows]), state, guidance)
        after = _tensors(state)
        last = step == len(layout) - 1
        changes = [
            number
            for number, (old, new) in enumerate(zip(before, after, strict=True))
            if not last and (new is not old or new._version != versions[number])
        ]
        given = _tensors(template)
        inputs = {"tokens": tokens, "guidance": guidance}
        inputs |= {} if latent is None else {"latent": latent}
        inputs |= dict(zip(names, given, strict=True))
        yield Graph(
            f"scale_{step:02}.onnx",
            _Next(model, tokenizer, layout, step, template, changes),
            inputs,
            ["logits", *_after(["latent", *(names[number] for number in changes)])],
            dict(zip(names, given, strict=True)),
        )
        latent = folded
    tokens = logits.argmax(-1).unflatten(1, layout.last)
    inputs = {"tokens": tokens} | ({} if latent is None else {"latent": latent})
    yield Graph(DECODER, _Decoder(tokenizer, layout), inputs, ["image"])


def _after(names: Sequence[str]) -> list[str]:
    """What goes out under the name by which the next graph takes it in."""
    return [f"next_{name}" for name in names]


def _write(
    graph: Graph, shared: _Weights, constants: frozenset[str], *, first: bool
) -> frozenset[str]:
    """Write a graph; the names of what it puts out that is the same for every picture.

    constants: inputs that become part of the graph.
    """
    ir = import_module("onnx_ir")
    arguments: tuple[Tensor | None, ...] = tuple(graph.inputs.values())
    if not first and "latent" not in graph.inputs:
        at = 2 if "guidance" in graph.inputs else 1
        arguments = (*arguments[:at], None, *arguments[at:])
    try:
        with _quiet():
            program = torch.onnx.export(
                graph.module.eval(),
                arguments,
                dynamo=True,
                input_names=list(graph.inputs),
                output_names=graph.outputs,
                verbose=False,
            )
    except Exception as error:
        while error.__cause__ is not None:  # the exporter wraps it in advice
            error = error.__cause__  # type: ignore[assignment]
        why = cut(one_line(error), 600)
        raise FlexvarError(
            f"export: {graph.name} cannot be made into ONNX, as torch's exporter says: {why}"
        ) from None
    assert program is not None
    made = program.model
    main = made.graph
    if first:
        constants = _independent(main, graph.outputs[1:])
        kept = [one for one in main.outputs if one.name not in constants]
        main.outputs[:] = kept
        constants = frozenset(name.removeprefix("next_") for name in constants)
    for value in list(main.inputs):
        if value.name in constants or not value.uses():
            main.inputs.remove(value)
            if value.uses():
                name = str(value.name)
                value.const_value = ir.tensor(graph.constant[name].numpy(), name=name)
                main.initializers[name] = value
    # What made the outputs that were dropped goes too, and notes that name files of this machine.
    passes = import_module("onnx_ir.passes.common")
    passes.RemoveUnusedNodesPass()(made)
    passes.ClearMetadataAndDocStringPass()(made)
    shared.move(made, ir)
    ir.save(made, shared.folder / graph.name)
    return constants


def _independent(graph: Any, outputs: Sequence[str]) -> frozenset[str]:
    """The outputs that no input of a graph has any part in."""
    reached = {id(value) for value in graph.inputs}
    for node in graph:
        inner = any(str(one.type) in ("GRAPH", "GRAPHS") for one in node.attributes.values())
        if inner or any(value is not None and id(value) in reached for value in node.inputs):
            reached |= {id(value) for value in node.outputs}
    return frozenset(
        value.name for value in graph.outputs if value.name in outputs and id(value) not in reached
    )


class _Weights:
    """One file of tensors for several graphs, each kept once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.size = folder, 0
        self.known: dict[str, int] = {}

    def move(self, model: Any, ir: Any) -> None:
        """Take the tensors out of a model, which from then on names their place in the file."""
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.nbytes < SMALL:
                continue
            data = tensor.tobytes()
            key = hashlib.sha256(data).hexdigest()
            if key not in self.known:
                with (self.folder / WEIGHTS).open("ab") as file:
                    file.write(bytes(-self.size % ALIGN))
                    self.known[key] = self.size + -self.size % ALIGN
                    file.write(data)
                self.size = self.known[key] + len(data)
            value.const_value = ir.ExternalTensor(
                WEIGHTS,
                self.known[key],
                len(data),
                tensor.dtype,
                shape=tensor.shape,
                name=value.name,
                base_dir=str(self.folder),
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own warnings, which are about its insides."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
