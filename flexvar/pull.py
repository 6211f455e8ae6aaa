"""Released models by name: downloaded, checked, converted, and kept in flexvar's own cache."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from flexvar import hub
from flexvar.components.converter import Part
from flexvar.components.released import ReleasedFile, ReleasedModel
from flexvar.errors import CheckpointError, FlexvarError, PluginError, shown
from flexvar.files import UnwritableError, whole_folder, write_json
from flexvar.plugin import Provided, Registry
from flexvar.plugin.registry import FIRST_PARTY

CONFIG, ORIGIN = "config.json", "origin.json"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Known:
    """A released model that can be had by name, and what of it is here.

    size: bytes of its files; exact: whether all of that is published. place: "here" where it is
    converted, "downloaded" where its files are in the hub's cache, "" where nothing is.
    """

    name: str
    summary: str
    license: str
    source: str
    files: tuple[str, ...]
    size: int
    exact: bool
    place: str
    folder: Path


def cache() -> Path:
    """The folder of flexvar's own cache: ``FLEXVAR_CACHE``, or where the system keeps caches."""
    if given := os.environ.get("FLEXVAR_CACHE"):
        return Path(given).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "flexvar"


def names(registry: Registry) -> list[str]:
    """Names of the released models that plugins know."""
    return registry.names("released")


def known(registry: Registry) -> list[Known]:
    """All released models; nothing is downloaded to find out."""
    return [_describe(name, registry) for name in names(registry)]


def pull(name: str, registry: Registry, *, say: Say | None = None) -> Path:
    """The checkpoint of a released model; downloaded and converted unless it is here.

    say: gets a line before the download, and one when the checkpoint is made; standard error
    unless given.
    Raises `FlexvarError` for a name there is not, and for whatever stands in the way, with nothing
    left half written.
    """
    provided, model = find(name, registry)
    folder = _folder(provided)
    if (folder / CONFIG).is_file():
        return folder
    say = say or _on_standard_error
    try:
        with whole_folder(folder) as made:
            files = _files(name, model, folder, say)
            say(f"{name}: converting to {folder}")
            _convert(model, files, made, registry)
            write_json(made / ORIGIN, _origin(name, model, files))
            if folder.is_dir() and not (folder / CONFIG).is_file():
                shutil.rmtree(folder, ignore_errors=True)  # no checkpoint: what stands in its place
    except UnwritableError as error:
        raise CheckpointError(f"{error} Name another place as FLEXVAR_CACHE.") from None
    return folder


def _origin(
    name: str, model: ReleasedModel, files: list[tuple[ReleasedFile, Path]]
) -> dict[str, Any]:
    """Where a checkpoint comes from."""
    return {
        "name": name,
        "license": model.license,
        "source": model.source,
        "files": [
            {
                "repository": file.repository,
                "name": file.name,
                "revision": _commit(path) or file.revision,
                "size": path.stat().st_size,
            }
            for file, path in files
        ],
    }


def find(name: str, registry: Registry) -> tuple[Provided, ReleasedModel]:
    """The record of a released model. Raises `FlexvarError` for a name there is not."""
    try:
        provided = registry.find("released", name)
    except PluginError as error:
        choices = names(registry)
        near = get_close_matches(name, choices, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        if "Unknown" not in str(error):
            raise
        raise FlexvarError(
            f"There is no released model {shown(name)}.{hint} `flexvar pull` lists them: "
            f"{', '.join(choices) or 'none'}."
        ) from None
    model = registry.load("released", name)
    if not isinstance(model, ReleasedModel) or not model.files:
        raise PluginError(
            f"released {name!r} of {provided.distribution}: {provided.component.target} is "
            f"{shown(model)}, expected a ReleasedModel with files."
        )
    return provided, model


def place(name: str, registry: Registry) -> tuple[Path, ReleasedModel]:
    """Where a released model is, or would be, in flexvar's cache, and its record."""
    provided, model = find(name, registry)
    return _folder(provided), model


def _files(
    name: str, model: ReleasedModel, folder: Path, say: Say
) -> list[tuple[ReleasedFile, Path]]:
    """The model's files in the hub's cache, checked; those that are missing are downloaded."""
    found: list[tuple[ReleasedFile, Path | None]] = [
        (file, hub.cached(file.repository, file.name, file.revision)) for file in model.files
    ]
    sums = {file: file.sha256 for file in model.files}
    missing, size = 0, 0
    for file, path in found:
        if path is not None:
            size += path.stat().st_size
            continue
        remote = hub.look(file.repository, file.name, file.revision)
        _check_offer(file, remote)
        sums[file] = file.sha256 or remote.sha256
        missing += remote.size or file.size or file.about or 0
        size += remote.size or file.size or file.about or 0
    if missing:
        places = " and ".join(sorted({f.repository for f, path in found if path is None}))
        say(
            f"{name}: downloading {hub.in_bytes(missing)} ({missing:,} bytes) from {places} "
            f"(license {model.license}); the checkpoint takes about as much as its files, "
            f"{hub.in_bytes(size)}, in {folder}"
        )
    # The checkpoint takes about what the files take.
    hub.check_room({hub.cache_folder(): missing, folder: size})
    result = []
    for file, path in found:
        path = path or hub.download(file.repository, file.name, file.revision)
        hub.check(path, sums[file])
        result.append((file, path))
    return result


def _check_offer(file: ReleasedFile, remote: hub.Remote) -> None:
    """Raise for a file that is not the published one, before gigabytes are downloaded."""
    for what, theirs, ours in (
        ("size", remote.size, file.size),
        ("SHA-256", remote.sha256, file.sha256),
    ):
        if theirs is not None and ours is not None and theirs != ours:
            raise CheckpointError(
                f"{file.repository}/{file.name} on the hub is not the file that was published: its "
                f"{what} is {theirs}, expected {ours}. Nothing was downloaded. If its owner "
                "replaced it, download it yourself and use `flexvar convert`."
            )


def _convert(
    model: ReleasedModel, files: list[tuple[ReleasedFile, Path]], made: Path, registry: Registry
) -> None:
    from flexvar import checkpoint
    from flexvar.convert import convert_parts

    def of(part: Part) -> list[Path] | None:
        return [path for file, path in files if file.part == part] or None

    # `convert` takes the files of a part as they are, by any name.
    config, parts = convert_parts(
        tokenizer=of("tokenizer"),
        model=of("model"),
        class_names=None if model.class_names is None else model.class_names(),
        converter=model.converter,
        options=model.options,
        registry=registry,
    )
    checkpoint.save(made, config, parts, registry)


def _folder(provided: Provided) -> Path:
    own = provided.distribution == FIRST_PARTY
    name = provided.component.name if own else provided.qualified.replace("/", "--")
    return cache() / "released" / name


def _describe(name: str, registry: Registry) -> Known:
    provided, model = find(name, registry)
    folder = _folder(provided)
    here = (folder / CONFIG).is_file()
    paths = [hub.cached(file.repository, file.name, file.revision) for file in model.files]
    sizes = [
        path.stat().st_size if path is not None else file.size or file.about or 0
        for file, path in zip(model.files, paths, strict=True)
    ]
    exact = all(
        path is not None or file.size is not None
        for file, path in zip(model.files, paths, strict=True)
    )
    return Known(
        name,
        provided.component.summary,
        model.license,
        model.source,
        tuple(f"{file.repository}/{file.name}" for file in model.files),
        sum(sizes),
        exact,
        "here" if here else "downloaded" if None not in paths else "",
        folder,
    )


def _commit(path: Path) -> str | None:
    """The commit that the hub's cache has a file of: ``.../snapshots/COMMIT/NAME``."""
    parts = path.parts
    with suppress(ValueError, IndexError):
        return parts[parts.index("snapshots") + 1]
    return None


def _on_standard_error(line: str) -> None:
    with suppress(OSError, ValueError, AttributeError):
        print(line, file=sys.stderr, flush=True)


def listing(entries: list[Known]) -> list[str]:
    """The lines of ``flexvar pull``: a table of what there is."""
    rows: list[tuple[Any, ...]] = [("NAME", "HERE", "SIZE", "LICENSE", "WHAT")]
    for entry in entries:
        size = ("" if entry.exact else "~") + hub.in_bytes(entry.size)
        rows.append((entry.name, entry.place or "-", size, entry.license, entry.summary))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]])
        for row in rows
    ]
