"""Released files -> a pipeline, by whichever plugin's converter recognizes what is in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from flexvar.build import Parts, build_for_weights
from flexvar.checkpoint import CheckpointConfig, Trained, load_weights
from flexvar.components.converter import Converted, Converter, Part, ReleasedState
from flexvar.config import ComponentConfig, ModelConfig, SamplerSpec, override, parse
from flexvar.errors import CheckpointError, FlexvarError, PluginError, reason, shown
from flexvar.plugin import Registry, default_registry
from flexvar.resolve import warn
from flexvar.weights import bare_name, read_weights

if TYPE_CHECKING:
    from flexvar.pipeline import Pipeline

Files = str | Path | Sequence[str | Path]
Weights = Literal["raw", "ema"]

# Mappings and levels of names that are looked into for state dicts.
MOST_PLACES = 10_000
MOST_LEVELS = 20
_AVERAGED = {"ema", "avg", "average", "averaged", "swa", "polyak", "shadow"}


@dataclass(frozen=True, slots=True)
class Found:
    """A state dict in a file: the keys that lead to it, its tensors, whether it is an average."""

    place: tuple[str, ...]
    tensors: dict[str, Tensor]

    @property
    def averaged(self) -> bool:
        """Whether a key on the way to it says so: ``ema``, ``state_dict_ema``, ``modelEMA``."""
        words = (
            word.lower()
            for key in self.place
            for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", key)
        )
        return any(word in _AVERAGED for word in words)

    def __str__(self) -> str:
        return ".".join(self.place) or "the file itself"


def convert(
    *,
    tokenizer: Files | None = None,
    model: Files | None = None,
    scales: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    weights: Weights | None = None,
    options: Iterable[str] = (),
    converter: str | None = None,
    registry: Registry | None = None,
) -> Pipeline:
    """The pipeline of released files; `Pipeline.save_pretrained` makes a checkpoint of it.

    tokenizer, model: files of PyTorch or safetensors, one or several of each, or the index of a
    sharded one; a training checkpoint given as ``model`` may hold the tokenizer too. weights:
    where a file holds both the weights and their average over training, ``ema`` or ``raw``; the
    average, with a warning, unless told. options: ``key=value`` of the converter's own; scales is
    the one of that name. converter: its name, where several recognize the files.
    Raises `FlexvarError` for files that are missing, unsafe, or not what they should be.
    """
    from flexvar.pipeline import Pipeline

    registry = registry or default_registry()
    config, parts = convert_parts(
        tokenizer=tokenizer,
        model=model,
        scales=scales,
        class_names=class_names,
        weights=weights,
        options=options,
        converter=converter,
        registry=registry,
    )
    return Pipeline(parts, config, registry=registry).to("cpu")


def convert_parts(
    *,
    tokenizer: Files | None = None,
    model: Files | None = None,
    scales: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    weights: Weights | None = None,
    options: Iterable[str] = (),
    converter: str | None = None,
    registry: Registry,
) -> tuple[CheckpointConfig, Parts]:
    """As `convert`: what `flexvar.checkpoint.save` writes."""
    if tokenizer is None and model is None:
        raise FlexvarError("Nothing to convert: give --tokenizer, --model or both.")
    if weights not in (None, "raw", "ema"):
        raise FlexvarError(f"weights: got {shown(weights)}; expected raw or ema.")
    model_file = None if model is None else read_weights(model)
    tokenizer_file = model_file if tokenizer is None else read_weights(tokenizer)
    source = _title(tokenizer if tokenizer is not None else model)
    files: dict[Part, Any] = {"tokenizer": tokenizer_file}
    if model is not None:
        files["model"] = model_file
    known = _converters(registry, converter)
    found = _recognized(known, files)
    if not found:
        raise CheckpointError(_unknown(known, files, source, _title(model), tokenizer is None))
    if len(found) > 1:
        raise FlexvarError(
            f"Several converters read these files; say --converter {' or '.join(sorted(found))}."
        )
    ((name, parts),) = found.items()
    given = override({} if scales is None else {"scales": list(scales)}, options)
    everywhere = [place for places in parts.values() for place in places]
    if weights and all(place.averaged == (weights == "raw") for place in everywhere):
        there, asked = ("raw", "averaged") if weights == "ema" else ("averaged", "raw")
        places = ", ".join(map(str, everywhere[:5]))
        raise CheckpointError(
            f"{source} holds no {asked} weights, only {there} ones (in {places}); leave --weights "
            "out."
        )
    states: dict[Part, ReleasedState] = {}
    for part, candidates in parts.items():
        title = _title(model) if part == "model" else source
        states[part] = _state(
            candidates, title, part, weights, files[part], _bytes(part, tokenizer, model)
        )
    made = _made(known[name], given, states, source)
    return _built(made, class_names, source, _title(model), registry)


def _converters(registry: Registry, wanted: str | None) -> dict[str, type[Converter]]:
    """All converters, or the one that was asked for; one that is broken is left out."""
    if wanted is not None:
        return {wanted: registry.load("converter", wanted)}
    loaded: dict[str, type[Converter]] = {}
    for name in registry.names("converter"):
        try:
            loaded[name] = registry.load("converter", name)
        except PluginError as error:
            warn(str(error))
    if not loaded:
        raise PluginError("There is no converter of released files among the plugins.")
    return loaded


def _recognized(
    known: Mapping[str, type[Converter]], files: Mapping[Part, Any]
) -> dict[str, dict[Part, list[Found]]]:
    """By converter, the state dicts of every part, for converters that recognize all parts."""
    result: dict[str, dict[Part, list[Found]]] = {}
    for name, cls in known.items():
        parts: dict[Part, list[Found]] = {}
        for part, file in files.items():
            if places := _places(file, part, cls):
                parts[part] = places
        if parts.keys() == files.keys():
            result[name] = parts
    return result


def _places(file: Any, part: Part, cls: type[Converter]) -> list[Found]:
    def fits(tensors: Mapping[str, Tensor]) -> bool:
        try:
            return bool(cls.part(tensors) == part)
        except Exception:
            return False  # of another family, or malformed beyond what this one expects

    return list(_search(file, fits))


def _search(data: Any, fits: Callable[[Mapping[str, Tensor]], bool]) -> Iterator[Found]:
    """All state dicts that fit, in the order of the file."""
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Any]] = [((), data)]
    while waiting and len(seen) < MOST_PLACES:
        place, node = waiting.pop(0)
        if not isinstance(node, Mapping) or id(node) in seen or len(place) > MOST_LEVELS:
            continue
        seen.add(id(node))
        tensors = {k: v for k, v in node.items() if isinstance(k, str) and isinstance(v, Tensor)}
        bare: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            bare.setdefault(_unwrapped(name), tensor)
        yield from _by_prefix(Found(place, bare), fits, 3)
        waiting += [((*place, str(key)), value) for key, value in node.items()]


def _by_prefix(
    found: Found, fits: Callable[[Mapping[str, Tensor]], bool], levels: int
) -> Iterator[Found]:
    """The state dict itself if it fits, else those of its names' first parts: ``model.``..."""
    if not found.tensors:
        return
    if fits(found.tensors):
        yield found
        return
    if levels == 0:
        return
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in found.tensors.items():
        first, dot, rest = name.partition(".")
        if dot:
            groups.setdefault(first, {})[rest] = tensor
    inner: list[Found] = []
    for first, tensors in groups.items():
        inner += _by_prefix(Found((*found.place, first), tensors), fits, levels - 1)
    yield from inner
    # An average may be kept under names without dots, beside the model it is of.
    for first, tensors in groups.items():
        flat = Found((*found.place, first), tensors)
        for model in inner if flat.averaged else ():
            names = {name: name.replace(".", "") for name in model.tensors}
            if not model.averaged and sum(names[n] in tensors for n in names) > len(names) / 2:
                dotted = {name: tensors.get(names[name], model.tensors[name]) for name in names}
                yield Found(flat.place, dotted)


def _unwrapped(name: str) -> str:
    return bare_name(name, known={})


def _state(
    places: Sequence[Found],
    title: str,
    part: Part,
    weights: Weights | None,
    file: Any,
    limit: int,
) -> ReleasedState:
    """The state dict to take: the averaged weights or the raw ones."""
    averaged = [found for found in places if found.averaged]
    raw = [found for found in places if not found.averaged]
    taken = (raw or averaged if weights == "raw" else averaged or raw)[0]
    tensors = taken.tensors
    if averaged and raw:
        if weights is None:
            warn(
                f"{title} holds the {part} twice: as trained ({raw[0]}) and averaged over training "
                f"({averaged[0]}). The average is taken; --weights raw takes the other."
            )
        if taken is averaged[0] and tensors.keys() < raw[0].tensors.keys():
            tensors = {**raw[0].tensors, **tensors}  # averages leave out what is not trained
    _check(tensors, title, limit)
    return ReleasedState(tensors, title, file)


def _check(tensors: Mapping[str, Tensor], title: str, limit: int) -> None:
    """Raise for tensors without values, of kinds that no weights are, or larger than the file."""
    total = 0
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise CheckpointError(
                f"{title}: {shown(name)} has a shape but no values; it was saved from the meta "
                "device. Save the model again after its weights are loaded."
            )
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            raise CheckpointError(
                f"{title}: {shown(name)} is a sparse, quantized or complex tensor; save it as a "
                "plain one of floating-point numbers."
            )
        total += tensor.numel() * tensor.element_size()
        if total > limit:
            raise CheckpointError(
                f"{title}: up to {shown(name)} its tensors claim {total:,} bytes, far more than "
                "the file has; it is refused."
            )


def _bytes(part: Part, tokenizer: Files | None, model: Files | None) -> int:
    """What the tensors of a file can take: several times its size, for weights that are shared."""
    source = model if part == "model" or tokenizer is None else tokenizer
    paths = [source] if isinstance(source, str | Path) else list(source or ())
    size = 0
    for path in map(Path, paths):
        folder = path if path.is_dir() else path.parent
        own = path.is_file() and path.suffix != ".json"
        size += (
            path.stat().st_size
            if own
            else sum(entry.stat().st_size for entry in folder.iterdir() if entry.is_file())
        )
    return 16 * size + 2**20


def _made(
    cls: type[Converter],
    given: Mapping[str, Any],
    states: Mapping[Part, ReleasedState],
    source: str,
) -> Converted:
    """What the converter makes of the files; whatever goes wrong in it is a message."""
    schema = getattr(cls, "Config", ComponentConfig)
    making: Any = cls
    instance: Converter = making(parse(schema, given, path="convert"))
    try:
        made = instance.convert(states["tokenizer"], states.get("model"))
    except CheckpointError:
        raise
    except FlexvarError as error:
        raise CheckpointError(str(error)) from None
    except Exception as error:
        title = states["model"].source if "model" in states else source
        raise CheckpointError(
            f"{title} has a tensor of an unexpected shape ({type(error).__name__}: "
            f"{reason(error)})."
        ) from error
    if not isinstance(made, Converted):
        raise PluginError(f"{cls.__name__}.convert returned {shown(made)}, expected Converted.")
    return made


def _built(
    made: Converted,
    class_names: Sequence[str] | None,
    source: str,
    model_title: str,
    registry: Registry,
) -> tuple[CheckpointConfig, Parts]:
    config = dict(made.config)
    if class_names is not None:
        if len(class_names) != config.get("num_classes"):
            raise FlexvarError(
                f"{len(class_names)} class names, but the model has "
                f"{config.get('num_classes', 'no')} classes; give one name per class."
            )
        config["class_names"] = tuple(class_names)
    model_config = parse(ModelConfig, config)
    weights = {**made.tokenizer, **(made.model or {})}
    built = build_for_weights(model_config, registry, like=weights)
    if isinstance(built.tokenizer, nn.Module):
        load_weights(built.tokenizer, made.tokenizer, source)
    if built.model is not None:
        load_weights(built.model, made.model or {}, model_title)
    for module in built.modules():
        module.eval()
    presets = {
        name: parse(SamplerSpec, value, path=f"presets.{name}")
        for name, value in made.presets.items()
    }
    trained = None if made.trained is None else parse(Trained, made.trained, path="trained")
    return CheckpointConfig(model=model_config, presets=presets, trained=trained), built


def _title(source: Files | None) -> str:
    if source is None or isinstance(source, str | Path):
        return str(source)
    return ", ".join(str(path) for path in source)


def _unknown(
    known: Mapping[str, type[Converter]],
    files: Mapping[Part, Any],
    source: str,
    model: str,
    alone: bool,
) -> str:
    """Which part is not there, and what is known."""
    reads = ", ".join(str(getattr(cls, "reads", name)) for name, cls in known.items())
    tokenizer = any(_places(files["tokenizer"], "tokenizer", cls) for cls in known.values())
    if not tokenizer and alone:
        return f"{source} holds no tokenizer; give its file too: --tokenizer FILE."
    if not tokenizer:
        return f"{source} holds no tokenizer of a known layout. Known: {reads}."
    if any(_places(files.get("model"), "model", cls) for cls in known.values()):
        return f"{source} and {model} are of different families; give files that belong together."
    return f"{model} holds no transformer or other model of a known layout. Known: {reads}."
