"""Where a checkpoint is: a directory, a bundled name, a released model's name, or a hub id."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from importlib import resources
from pathlib import Path

from flexvar.checkpoint import (
    BUNDLED,
    CARD,
    CONFIG,
    CheckpointConfig,
    read_config,
    weight_files,
)
from flexvar.config import parse
from flexvar.errors import CheckpointError, FlexvarError, cut, reason, shown
from flexvar.plugin import Registry, default_registry

LONGEST_NAME = 200
# Where people keep what they trained; nobody on the hub is called so.
LOCAL_FOLDERS = ("runs", "out", "outputs", "checkpoints", "models", "data", "results", "logs")
_ID = r"[\w.-]+/[\w.-]+"
_PATTERNS = (CONFIG, CARD, "*.safetensors", "*.safetensors.index.json")


def locate(
    source: str | Path, registry: Registry | None = None, *, revision: str | None = None
) -> Path:
    """The directory of a checkpoint; what is here already needs no network.

    source: a path, a bundled name, the name of a released model (downloaded and converted if it
    is not here, after saying how much that is), or a hub id. A directory without a config hides
    no model of that name. revision: of a hub id alone, a branch, tag or commit.
    Raises `CheckpointError` where there is none.
    """
    path, text = _read(source)
    folder, is_id = _folder(path, text), _is_id(text)
    if revision is not None and (folder is not None or not is_id):
        raise CheckpointError(
            f"revision: got {shown(revision)} for {shown(text)}; only a hub id (owner/name) has "
            "revisions."
        )
    if folder is True:
        return path
    bundled = resources.files("flexvar") / BUNDLED / text
    if re.fullmatch(r"[\w.-]+", text) and isinstance(bundled, Path) and bundled.is_dir():
        return bundled
    registry = registry or default_registry()
    if _released(text, registry) is not None:
        from flexvar.pull import pull

        return pull(text, registry)
    if folder is False:
        raise CheckpointError(f"{source} is no checkpoint: it has no {CONFIG}.{_hint(path)}")
    if is_id:
        return _from_hub(text, revision)
    names = bundled_names()
    others = [registry.name_of(p) for p in registry.components if p.kind == "released"]
    near = get_close_matches(text[:LONGEST_NAME], [*names, *others], n=1)
    meant = f" Did you mean {near[0]}?" if near else ""
    known = f" Bundled models: {', '.join(names)}." if names else ""
    known += " Released models: see `flexvar pull`." if others else ""
    raise CheckpointError(
        f"There is no checkpoint {cut(text, LONGEST_NAME)}: give a directory with {CONFIG}, or a "
        f"hub id (owner/name).{meant}{known}{_hint(path)}"
    )


def config_of(source: str | Path, registry: Registry | None = None) -> CheckpointConfig:
    """The config of what `locate` would find; no weights are read or downloaded for it.

    Raises `CheckpointError` where there is none, and for a released model that is not here and
    whose plugin does not say what it is.
    """
    registry = registry or default_registry()
    path, text = _read(source)
    if not _folder(path, text):
        if (name := _released(text, registry)) is not None:
            from flexvar import pull

            folder, model = pull.place(name, registry)
            if not (folder / CONFIG).is_file():
                if model.config is None:
                    raise CheckpointError(
                        f"{text} is not here, and its plugin does not say what it is; "
                        f"`flexvar pull {text}` downloads it."
                    )
                return parse(CheckpointConfig, model.config())
        elif _is_id(text) and not path.exists():
            from flexvar import hub

            found = hub.cached(text, CONFIG) or hub.download(text, CONFIG)
            return read_config(found.parent)
    return read_config(locate(source, registry))


def _read(source: str | Path) -> tuple[Path, str]:
    """A source as a path and as text. Raises `CheckpointError` for what is neither."""
    if not isinstance(source, str | os.PathLike):
        raise CheckpointError(
            f"model: got {shown(source)}; expected a directory, a bundled name or a hub id."
        )
    return Path(source).expanduser(), str(source)


def _is_id(text: str) -> bool:
    """Whether a text is meant for the hub."""
    return re.fullmatch(_ID, text) is not None and ".." not in text and not _looks_local(text)


def _released(text: str, registry: Registry) -> str | None:
    """A released model's name, unless a bundled model has it; None if it is no such name."""
    released = [p for p in registry.components if p.kind == "released"]
    known = any(text in (registry.name_of(p), p.qualified) for p in released)
    return text if known and text not in bundled_names() else None


def _folder(path: Path, text: str) -> bool | None:
    """Whether a folder is a checkpoint; None where there is no folder."""
    try:
        if (path / CONFIG).exists():
            return True
        if path.is_file():
            raise CheckpointError(
                f"{text} is a file; a checkpoint is a directory with {CONFIG}. A released .pth "
                f"file becomes one by `flexvar convert --model {text} --tokenizer ... --out DIR`."
            )
        return False if path.is_dir() else None
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{shown(text)} is no path: {reason(error)}.") from None


def _looks_local(text: str) -> bool:
    """Whether a path of two names means a folder here, such as ``runs/tokenizer``."""
    first = text.split("/")[0]
    return first in LOCAL_FOLDERS or first.startswith(".") or Path(first).is_dir()


def _hint(path: Path) -> str:
    """What makes the checkpoint that is missing, and where training would have left it."""
    inner = [
        name for name in ("model", "tokenizer", "pipeline") if (path / name / CONFIG).is_file()
    ]
    if inner:
        return f" There is one in {path / inner[0]}."
    kind = "tokenizer" if "token" in path.name.lower() or "vae" in path.name.lower() else "model"
    return f" If it is to be trained first: `flexvar train {kind} RECIPE out={path}`."


def bundled_names() -> list[str]:
    """Names of the models that come with the package."""
    folder = resources.files("flexvar") / BUNDLED
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if (entry / CONFIG).is_file())


def bundled_for(words: bool) -> str | None:
    """The first bundled model that is conditioned on words, or on classes; None if there is none.

    Not a twin of another one: a name with a hyphen stands after the one it is made of.
    """
    folder = resources.files("flexvar") / BUNDLED
    for name in sorted(bundled_names(), key=lambda name: (name.count("-"), name)):
        conditioner = read_config(Path(str(folder / name))).model.conditioner
        if (conditioner.name != "label") == words:
            return name
    return None


def newest(repository: str) -> Path:
    """The newest checkpoint of a hub id; the hub is asked even where there is one in the cache."""
    return _from_hub(repository, None, newest=True)


def _from_hub(repository: str, revision: str | None, *, newest: bool = False) -> Path:
    from flexvar import hub

    try:
        return hub.snapshot(repository, revision, _PATTERNS, whole=_whole, newest=newest)
    except CheckpointError as error:
        raise CheckpointError(f"There is no directory {repository} here. {error}") from None


def _whole(folder: Path) -> bool:
    """Whether a folder of the hub's cache has all files of a checkpoint."""
    try:
        config = read_config(folder)
        return all((folder / name).is_file() for name in weight_files(folder, config))
    except FlexvarError:
        return False
