"""Checkpoint directories: config.json, safetensors, a model card; saved whole, loaded checked."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from flexvar import __version__, distributions
from flexvar.build import Parts, build_for_weights, list_lengths, shared_weights
from flexvar.components.conditioner import takes
from flexvar.config import ComponentConfig, ModelConfig, SamplerSpec, parse
from flexvar.errors import CheckpointError, FlexvarError, cut, reason, shown
from flexvar.files import parse_json, read_text, sweep, sync, whole_file
from flexvar.plugin import Registry, default_registry
from flexvar.text import markdown, printable
from flexvar.weights import bare_name, digest, read_safetensors, shapes_of

CONFIG, MODEL, TOKENIZER, CARD = (
    "config.json",
    "model.safetensors",
    "tokenizer.safetensors",
    "README.md",
)
BUNDLED = "models"
# Bytes above which weights are written in parts, as tools and hubs of this field expect.
LARGEST_FILE = 5 * 10**9


class Trained(ComponentConfig):
    """What a model was trained on; sizes are (height, width) in pixels.

    steps: least and most grids of its training lists, if they varied. other_sizes: sizes it was
    trained at besides, such as other shapes of as many pixels. val_fraction: share of the data
    that was held out, where the recipe says it.
    """

    size: tuple[int, int]
    steps: tuple[int, int] | None = None
    data: str = ""
    other_sizes: tuple[tuple[int, int], ...] | None = None
    val_fraction: float | None = None


class CheckpointConfig(ComponentConfig):
    """What ``config.json`` holds.

    presets: named samplers with their options, see `flexvar.config.SamplerSpec`; ``default`` is
    what a pipeline takes unless told.
    digests: SHA-256 of the weight files by name, as they were saved; checked where they are given.
    distributions: where parts come from that are not flexvar's own, see `flexvar.distributions`.
    """

    format_version: Literal[1] = 1
    flexvar_version: str = __version__
    model: ModelConfig
    presets: dict[str, SamplerSpec] = Field(default_factory=dict)
    trained: Trained | None = None
    digests: dict[str, str] = Field(default_factory=dict)
    distributions: dict[str, str] | None = None


def save(
    directory: str | Path,
    config: CheckpointConfig,
    parts: Parts,
    registry: Registry | None = None,
    *,
    largest_file: int | None = None,
    text: str | None = None,
) -> Path:
    """Write a checkpoint directory; each file is whole or not there.

    Every file is written beside its place first and takes it when all are there, the config
    first: it knows the digests of the weights, so that files of two models - of a save that was
    killed over an existing checkpoint - never load as one. Names that wrappers changed are
    written as the config's own. largest_file: bytes above which weights go into several
    files, with an index; `LARGEST_FILE` unless given. text: of the model card, `card`'s unless
    given.
    Raises `CheckpointError`, before anything is written, for parts that the config does not
    describe.
    """
    if not isinstance(directory, str | os.PathLike):
        raise CheckpointError(f"directory: got {shown(directory)}; expected a path.")
    directory = Path(directory)
    known = registry or default_registry()
    found = distributions.required(config.model, config.presets.values(), known)
    config = config.model_copy(update={"distributions": found})
    whole = {name: _described(name, module, config, parts) for name, module in _modules(parts)}
    weights: dict[str, dict[str, Tensor]] = {}
    indices: dict[str, str] = {}
    for name, tensors in whole.items():
        files = _in_parts(name, tensors, LARGEST_FILE if largest_file is None else largest_file)
        weights |= files
        if len(files) > 1:
            indices[index_name(name)] = _index(files)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        sweep(directory)
        with ExitStack() as places:
            # They take their places in the reverse order: the config is the first.
            *paths, card_path, config_path = (
                places.enter_context(whole_file(directory / name))
                for name in (*weights, *indices, CARD, CONFIG)
            )
            weight_paths, index_paths = paths[: len(weights)], paths[len(weights) :]
            digests = {}
            for (name, tensors), path in zip(weights.items(), weight_paths, strict=True):
                save_file(tensors, path)
                _usual_permissions(path)
                digests[name] = digest(path)
            for index, path in zip(indices.values(), index_paths, strict=True):
                path.write_text(index, encoding="utf-8")
            card_path.write_text(text or card(directory.name, config, parts), encoding="utf-8")
            values = config.model_copy(update={"digests": digests})
            written = json.dumps(values.model_dump(mode="json", exclude_none=True), indent=2)
            config_path.write_text(written + "\n", encoding="utf-8")
            for path in (*weight_paths, config_path):
                sync(path)
        _remove_others(directory, {*weights, *indices})
        sync(directory)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"Cannot write {directory}: {reason(error)}.") from None
    except FlexvarError as error:
        raise CheckpointError(str(error)) from None
    return directory


def load(source: str | Path, registry: Registry | None = None) -> tuple[CheckpointConfig, Parts]:
    """The config and the parts, with their weights, of what `flexvar.locate` finds.

    Raises `FlexvarError` for a checkpoint that is missing, truncated, of two saves, or does not
    fit its config.
    """
    from flexvar.locate import locate

    directory = locate(source, registry)
    config = read_config(directory)
    wanted = weight_files(directory, config)
    shapes = {name: shapes_of(directory / name) for name in wanted if (directory / name).is_file()}
    like = {
        f"{wanted[name]} {key}": shape
        for name, part in shapes.items()
        for key, shape in part.items()
    }
    try:
        parts = build_for_weights(config.model, registry, like=like)
    except FlexvarError as error:
        recorded, known = config.distributions, registry or default_registry()
        hint = distributions.missing(config.model, recorded, known) or error
        raise CheckpointError(f"{directory / CONFIG}, model: {hint}") from error.__cause__
    with ThreadPoolExecutor(1) as pool:
        # The digest is taken beside the reading, which it takes about as long as.
        taken = {
            name: pool.submit(digest, directory / name) for name in shapes if name in config.digests
        }
        for name, module in _modules(parts):
            tensors: dict[str, Tensor] = {}
            for file in [file for file, whole in wanted.items() if whole == name] or [name]:
                tensors |= read_tensors(directory / file)
            load_weights(module, tensors, directory / name)
            module.eval()
        for name, found in taken.items():
            if found.result() != config.digests[name]:
                raise CheckpointError(
                    f"{directory / name} is not the file that {CONFIG} was written with: a save "
                    "was interrupted, or the file was changed. Save or convert the model again; "
                    f"if the change is meant, remove {name!r} from digests in {CONFIG}."
                )
    return config, parts


def read_config(directory: Path) -> CheckpointConfig:
    """The checked ``config.json`` of a checkpoint directory."""
    path = directory / CONFIG
    if not path.exists():
        raise CheckpointError(f"{directory} is no checkpoint: it has no {CONFIG}.")
    try:
        data = parse_json(read_text(path), path)
    except FlexvarError as error:
        raise CheckpointError(str(error)) from None
    version = data.get("format_version", 1) if isinstance(data, dict) else None
    if isinstance(version, int) and version > 1:
        raise CheckpointError(
            f"{path} has format version {shown(version)}; this flexvar ({__version__}) reads "
            "version 1. Upgrade flexvar."
        )
    try:
        return parse(CheckpointConfig, data)
    except FlexvarError as error:
        raise CheckpointError(f"{path}:\n{error}") from None


def weight_files(directory: Path, config: CheckpointConfig) -> dict[str, str]:
    """Names of the files that hold a checkpoint's weights -> `TOKENIZER` or `MODEL`, their part.

    The digests of the config say which; a config without any has whole files, or the parts that
    are there. Raises `CheckpointError` for parts of two saves.
    """
    found: dict[str, str] = {}
    for whole in [TOKENIZER] if config.model.backbone is None else [TOKENIZER, MODEL]:
        names = sorted(name for name in config.digests if _is_part(name, whole))
        if not names and not (directory / whole).is_file():
            totals = {
                path.name.rpartition("-")[2].partition(".")[0]
                for path in directory.glob(f"{Path(whole).stem}-*.safetensors")
                if _is_part(path.name, whole)
            }
            if len(totals) > 1:
                raise CheckpointError(
                    f"{directory} has parts of several saves of {whole}; save or download it again."
                )
            names = [_part(whole, n, int(t)) for t in totals for n in range(1, int(t) + 1)]
        found |= dict.fromkeys(names or [whole], whole)
    return found


def index_name(whole: str) -> str:
    """The name of the index of a file that is written in parts."""
    return f"{whole}.index.json"


def _part(whole: str, number: int, total: int) -> str:
    return f"{Path(whole).stem}-{number:05d}-of-{total:05d}.safetensors"


def _is_part(name: str, whole: str) -> bool:
    """Whether a file is the whole or a part of one; no other names are taken from a config."""
    stem = re.escape(Path(whole).stem)
    pattern = rf"{stem}-\d{{5}}-of-\d{{5}}\.safetensors"
    return name == whole or re.fullmatch(pattern, name) is not None


def _in_parts(
    whole: str, tensors: dict[str, Tensor], largest_file: int
) -> dict[str, dict[str, Tensor]]:
    """The tensors by file: one, or as many as keep each within so many bytes; no tensor is cut."""
    files: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, tensor in tensors.items():
        own = tensor.numel() * tensor.element_size()
        if files[-1] and size + own > largest_file:
            files.append({})
            size = 0
        files[-1][key] = tensor
        size += own
    if len(files) == 1:
        return {whole: tensors}
    return {_part(whole, n + 1, len(files)): part for n, part in enumerate(files)}


def _index(files: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The index that tools of this field read: which file holds a tensor."""
    size = sum(t.numel() * t.element_size() for part in files.values() for t in part.values())
    where = {key: name for name, part in files.items() for key in part}
    return json.dumps({"metadata": {"total_size": size}, "weight_map": where}, indent=2) + "\n"


def _remove_others(directory: Path, kept: set[str]) -> None:
    """Remove weights of an earlier save over the same directory."""
    for whole in (TOKENIZER, MODEL):
        stem = Path(whole).stem
        for path in (*directory.glob(f"{stem}-*.safetensors"), directory / whole):
            if _is_part(path.name, whole) and path.name not in kept:
                path.unlink(missing_ok=True)
        if (index := index_name(whole)) not in kept:
            (directory / index).unlink(missing_ok=True)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises `CheckpointError` if it is missing or broken."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent} is incomplete: it has no {path.name}.")
    return read_safetensors(path)


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Put tensors into a module, in fp32.

    Raises `CheckpointError` with a table of what is missing, unexpected or of another shape,
    and what the weights look like, unless they fit exactly.
    """
    wanted = module.state_dict()
    aliases = shared_weights(module)
    tensors = {bare_name(name, wanted): tensor for name, tensor in tensors.items()}
    tensors = {
        **{name: tensors[first] for name, first in aliases.items() if first in tensors},
        **tensors,
    }
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted]
    reshaped = [
        f"{name}: file {tuple(tensors[name].shape)}, config {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    reshaped += [
        f"{name}: file {tensors[name].dtype}, config {wanted[name].dtype}"
        for name in wanted
        if name in tensors and tensors[name].is_floating_point() != wanted[name].is_floating_point()
    ]
    if missing or unexpected or reshaped:
        rows = [f"The weights in {source} do not fit the config."]
        hints = _look_alike(wanted, tensors)
        rows += hints
        for title, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("wrong shape or type", reshaped),
        ):
            if names:
                more = f"\n    ... and {len(names) - 5} more" if len(names) > 5 else ""
                listed = "\n    ".join(cut(name, 200) for name in names[:5])
                rows.append(f"  {title} ({len(names)}):\n    {listed}{more}")
        raise CheckpointError("\n".join(rows))
    floats = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    # Assigning would part weights that are shared.
    module.load_state_dict(floats, assign=not aliases)


def _look_alike(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What the weights look like, where lists differ in length or widths differ."""
    hints = []
    counts = [list_lengths(names) for names in (wanted, found)]
    for prefix in counts[0].keys() & counts[1].keys():
        ours, theirs = counts[0][prefix], counts[1][prefix]
        if ours != theirs:
            what = "depth" if prefix == "backbone.blocks" else f"{prefix} of length"
            hints.append(f"These look like {what} {theirs}; the config says {ours}.")
    for name, axis, what in (
        ("token_embedding.weight", 0, "width"),
        ("token_embedding.weight", 1, "code_dim"),
        ("head.logits.weight", 0, "vocab_size"),
        ("codebook.weight", 0, "vocab_size"),
        ("codebook.weight", 1, "code_dim"),
    ):
        if name in wanted and name in found and found[name].ndim == wanted[name].ndim:
            ours, theirs = wanted[name].shape[axis], found[name].shape[axis]
            if ours != theirs:
                hints.append(f"These look like {what} {theirs}; the config says {ours}.")
    name = "class_embedding.weight"
    if name in wanted and name in found and len(found[name]) != len(wanted[name]):
        ours, theirs = len(wanted[name]) - 1, len(found[name]) - 1
        hints.append(f"These look like num_classes {theirs}; the config says {ours}.")
    return sorted(hints)


def _modules(parts: Parts) -> Iterator[tuple[str, nn.Module]]:
    """The parts with weights, by the name of their file."""
    if isinstance(parts.tokenizer, nn.Module):
        yield TOKENIZER, parts.tokenizer
    if parts.model is not None:
        yield MODEL, parts.model


def _described(
    name: str, module: nn.Module, config: CheckpointConfig, parts: Parts
) -> dict[str, Tensor]:
    """The weights of a module under the names of its config.

    Raises `CheckpointError` if they are not the ones that the config describes.
    """
    state = module.state_dict()
    try:
        built = dict(_modules(build_for_weights(config.model, parts.registry, like=state)))
    except FlexvarError as error:
        raise CheckpointError(f"Nothing is saved, for it could not be loaded: {error}") from None
    wanted = built[name].state_dict() if name in built else {}
    aliases = {bare_name(again, wanted): first for again, first in shared_weights(module).items()}
    tensors = {bare_name(key, wanted): value.detach() for key, value in state.items()}
    problems = [
        f"{title} {shown(key)}"
        for title, keys in (
            ("no weight", wanted.keys() - tensors.keys()),
            ("besides it a weight", tensors.keys() - wanted.keys()),
        )
        for key in sorted(keys)
    ]
    problems += [
        f"{shown(key)} with shape {tuple(tensors[key].shape)}, not {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    problems += [
        f"{shown(key)} without values, on the meta device"
        for key, value in tensors.items()
        if value.is_meta
    ]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"Nothing is saved: the {name.split('.')[0]} is not the one that its config describes. "
            f"It has {', '.join(problems[:5])}{more}. Save it with its own config, as "
            "Pipeline.from_config makes it."
        )
    return {key: value.contiguous() for key, value in tensors.items() if key not in aliases}


def _usual_permissions(path: Path) -> None:
    """safetensors makes files for the owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def card(
    name: str,
    config: CheckpointConfig,
    parts: Parts,
    *,
    figures: Mapping[str, object] | None = None,
    picture: str | None = None,
    license: str | None = None,
) -> str:
    """A short model card, in the form that the hub reads.

    name: what `from_pretrained` is given. figures: of an evaluation, by name. picture: name of a
    picture beside the card. license: as the hub writes it, ``mit``.
    """
    model = config.model
    count = sum(p.numel() for module in parts.modules() for p in module.parameters())
    kinds = {"tokenizer": model.tokenizer.name}
    if model.backbone is not None:
        kinds |= {
            "backbone": model.backbone.name,
            "position": model.position.name,
            "schedule": model.schedule.name,
            "conditioner": model.conditioner.name,
        }
    rows = "\n".join(f"| {kind} | {value} |" for kind, value in kinds.items())
    trained = ""
    if config.trained is not None:
        height, width = config.trained.size
        # Of a path only the end: where somebody's pictures lie is nobody's business.
        data = re.split(r"[\\/]", (config.trained.data or "").rstrip("\\/"))[-1]
        on = f" on {markdown(data)}" if data else ""
        trained = f"\nTrained at {height}x{width} pixels{on}.\n"
    terms = "" if license is None else f"license: {json.dumps(license)}\n"
    shot = "" if picture is None else f"![samples]({picture})\n\n"
    measured = ""
    if figures:
        lines = (f"| {markdown(str(key))} | {_figure(value)} |" for key, value in figures.items())
        measured = "\n| figure | value |\n|---|---|\n" + "\n".join(lines) + "\n"
    use = f"pipe = Pipeline.from_pretrained({json.dumps(printable(name))})\n"
    kind = "unconditional-image-generation"
    if model.backbone is None:
        use += "picture = pipe.reconstruct(image)"
    elif takes(getattr(parts.model, "conditioner", None)) == "prompt":
        kind = "text-to-image"
        use += 'images = pipe(prompts=["..."], seed=0).images'
    else:
        use += "images = pipe(labels=[0], seed=0).images"
    return (
        f"---\nlibrary_name: flexvar\npipeline_tag: {kind}\n{terms}---\n"
        f"# {markdown(name)}\n\n{shot}A flexvar checkpoint with {count / 1e6:.1f} M parameters.\n\n"
        f"| part | component |\n|---|---|\n{rows}\n{trained}{measured}\n"
        f"```python\nfrom flexvar import Pipeline\n\n{use}\n```\n"
    )


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else markdown(str(value))
