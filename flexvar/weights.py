"""Files of weights, read without running code, and said for what they are if they are none."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from flexvar.errors import CheckpointError, FlexvarError, reason, shown
from flexvar.files import check_regular, parse_json, read_text

Shapes = dict[str, tuple[int, ...]]

# What wrappers put into the names of weights: torch.compile, activation checkpointing, FSDP.
_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_forward_module")
# What DistributedDataParallel and Lightning put there, unless a module has a part of that name.
_HOLDERS = ("module", "model")
_INDEX_BYTES = 64 * 2**20

# First bytes of files that are taken for weights -> what they are, what to do.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer: it stands for the file but does not hold it. Fetch the file itself, "
        "for example with `git lfs pull`",
    ),
    (b"\x1f\x8b", "compressed (gzip). Unpack it first"),
    (b"\xfd7zXZ", "compressed (xz). Unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd). Unpack it first"),
    (b"BZh", "compressed (bzip2). Unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive. Unpack it first"),
    (b"Rar!", "a RAR archive. Unpack it first"),
    (b"\x89HDF", "an HDF5 file, not PyTorch's. Save its tensors as safetensors"),
    (b"GGUF", "a GGUF file. Give the PyTorch or safetensors file that it was made from"),
    (b"\x93NUMPY", "a numpy array. Save a state dict of all weights as safetensors"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
)


def read_weights(source: str | Path | Iterable[str | Path]) -> Any:
    """What is in a file of weights, as nested mappings of tensors on the CPU.

    source: a file of PyTorch or safetensors (told by its contents, not by its name), the index of
    a sharded one, a directory with such an index, or several files that make one state dict.
    A pickle is read without running code.
    Raises `CheckpointError` for anything else, saying what the file is instead.
    """
    if isinstance(source, str | Path):
        return _read(Path(source).expanduser())
    parts = [(path, read_weights(path)) for path in source]
    if len(parts) == 1:
        return parts[0][1]
    return _merged(parts)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises `CheckpointError` if it is missing or broken."""
    try:
        check_regular(path)
        if is_safetensors(path):
            return load_file(path)
        what = _other_kind(path)
    except FileNotFoundError:
        raise CheckpointError(f"There is no file {path}.") from None
    except FlexvarError:
        raise
    except Exception as error:
        raise _broken_safetensors(path, error) from None
    raise CheckpointError(
        f"{path} is {what}."
        if what
        else f"{path} is truncated or no safetensors file; copy or convert it again."
    )


def shapes_of(path: Path) -> Shapes:
    """Names and shapes of a safetensors file's tensors, from its header alone."""
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except FlexvarError:
        raise
    except Exception as error:
        if is_safetensors(path):
            raise _broken_safetensors(path, error) from None
        read_safetensors(path)  # says what it is
        raise _broken_safetensors(path, error) from None


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a header, then the header."""
    with open(path, "rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    return len(head) == 9 and head[8:] == b"{" and length <= 100 * 2**20


def digest(path: Path) -> str:
    """SHA-256 of a file. Raises `CheckpointError` if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}.") from None


def bare_name(name: str, known: Mapping[str, Any] | None = None) -> str:
    """The name of a weight without what wrappers put into it, wherever it stands.

    known: names of which the first match is taken. Without them only what no module is named is
    left out, and the prefixes of DistributedDataParallel and Lightning.
    """
    if known is not None and name in known:
        return name
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    bare = ".".join(parts)
    if known is None:
        return re.sub(rf"^(?:(?:{'|'.join(_HOLDERS)})\.)+", "", bare)
    if bare in known:
        return bare
    stripped = ".".join(part for part in parts if part not in _HOLDERS)
    if stripped in known:
        return stripped
    inner = ".".join(part for part in parts if part != "module")
    return inner if inner in known else bare


def _broken_safetensors(path: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"{path} is truncated or no safetensors file ({reason(error)}); copy or convert it again."
    )


def _read(path: Path) -> Any:
    try:
        if path.is_dir():
            return _read(_index_in(path))
        check_regular(path)
        if is_safetensors(path):
            return read_safetensors(path)
        if what := _other_kind(path):
            raise CheckpointError(f"{path} is {what}.")
        if _starts(path).lstrip()[:1] == b"{":
            return _read_index(path)
        return _read_torch(path)
    except FlexvarError as error:
        raise CheckpointError(str(error)) from None
    except FileNotFoundError:
        raise CheckpointError(f"There is no file {path}.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}.") from None


def _starts(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(512)


def _other_kind(path: Path) -> str:
    """What a file is, and what to do, if its first bytes tell that it holds no weights."""
    start = _starts(path)
    if not start:
        return "empty. Download or copy it again"
    for magic, what in _OTHERS:
        if start.startswith(magic):
            return what
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return (
            "a web page: what was downloaded is a page about the file. Download the file itself "
            "(on a hub, by its link 'download' or 'resolve')"
        )
    return ""


def _index_in(folder: Path) -> Path:
    found = sorted(folder.glob("*.index.json"))
    if len(found) == 1:
        return found[0]
    files = sorted(
        path for path in folder.iterdir() if path.suffix in (".safetensors", ".pth", ".pt", ".bin")
    )
    if not found and len(files) == 1:
        return files[0]
    names = ", ".join(shown(path.name) for path in (found or files)[:5]) or "none"
    raise CheckpointError(
        f"{folder} is a directory; name one file of weights, or several. Files of weights there: "
        f"{names}."
    )


def _read_index(path: Path) -> Any:
    """The tensors of all files that an index names, which lie beside it."""
    data = parse_json(read_text(path, longest=_INDEX_BYTES), path)
    names = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(
            f"{path} is a JSON file without weights. Give the file of the weights themselves, or "
            "the index of a sharded one (*.index.json)."
        )
    files = sorted(set(names.values()))
    for name in files:
        if name != os.path.basename(name) or name in ("", ".", ".."):
            raise CheckpointError(f"{path} names {shown(name)}, which does not lie beside it.")
        if not (path.parent / name).is_file():
            raise CheckpointError(
                f"{path} is the index of {len(files)} files; {shown(name)} is not beside it. "
                "Download all of them."
            )
        if is_index(path.parent / name):
            raise CheckpointError(f"{path} names {shown(name)}, which is an index as well.")
    return _merged([(path.parent / name, _read(path.parent / name)) for name in files])


def is_index(path: Path) -> bool:
    """Whether a file looks like JSON rather than weights."""
    return not is_safetensors(path) and _starts(path).lstrip()[:1] == b"{"


def _merged(parts: list[tuple[Any, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for path, data in parts:
        if not isinstance(data, Mapping):
            raise CheckpointError(f"{path} holds {type(data).__name__}, no weights by name.")
        if twice := merged.keys() & data.keys():
            raise CheckpointError(
                f"{path} and a file before it both hold {shown(min(twice, key=str))}; the files "
                "of one model share no names."
            )
        merged.update(data)
    return merged


def _read_torch(path: Path) -> Any:
    """What torch.save wrote; nothing but tensors and plain values is made of it."""
    archive = _starts(path).startswith(b"PK")  # is_zipfile raises for some that are broken
    protocol = _check_archive(path) if archive else _protocol(_starts(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old protocols, which are read all the same
            with torch.serialization.safe_globals(_harmless()), ExitStack() as files:
                # torch goes by this ending, whatever the contents.
                misnamed = path.suffix == ".safetensors"
                file = files.enter_context(open(path, "rb")) if misnamed else path
                return torch.load(file, map_location="cpu", weights_only=True)
    # torch's readers raise some twenty types for files that are cut or crafted.
    except Exception as error:
        text = str(error) if not isinstance(error, KeyError) else ""
        if protocol > 3:
            kind = "a PyTorch file in" if archive else "no PyTorch file, but a plain pickle of"
            raise CheckpointError(
                f"{path} is {kind} pickle protocol {protocol}, which cannot be read without "
                "running what is in it. Where you trust it, load it and save its state dict again: "
                "by torch.save with its usual protocol, or as safetensors."
            ) from None
        if "TorchScript" in text:
            raise CheckpointError(
                f"{path} is a TorchScript program. Give the state dict of its weights."
            ) from None
        if re.search(r"global|unrecognized function|Can only (?:create|build)", text, re.I):
            name = re.search(r"GLOBAL ([\w.]+)", text)
            raise CheckpointError(
                f"{path} holds more than tensors{f' ({name[1]})' if name else ''} and could run "
                "code when it is read, so it is refused. Save its state dict alone, or as "
                "safetensors."
            ) from None
        detail = reason(error).split(". ")[0].rstrip(".") if text.strip() else ""
        detail = "" if "weights_only" in detail.lower() else detail
        raise CheckpointError(
            f"{path} is truncated or no PyTorch file{f' ({detail})' if detail else ''}."
        ) from None


def _protocol(start: bytes) -> int:
    return start[1] if start[:1] == b"\x80" and len(start) > 1 else 0


def _check_archive(path: Path) -> int:
    """The pickle protocol in torch's zip archive; raises for other archives and for bombs."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > 4 * path.stat().st_size + 2**20:
                raise CheckpointError(
                    f"{path} unpacks to {size:,} bytes, far more than it has; it is refused."
                )
            pickles = [member for member in members if member.filename.endswith("/data.pkl")]
            if not pickles:
                raise CheckpointError(
                    f"{path} is a zip archive, but none of PyTorch's. Unpack it and give the file "
                    "of the weights."
                )
            with archive.open(pickles[0]) as file:
                return _protocol(file.read(2))
    except CheckpointError:
        raise
    except Exception:
        return 0  # torch says what is wrong with it


class _Ignored:
    """Stands for a value beside the weights, such as a numpy scalar; holds nothing of it."""

    def __init__(self, *_: Any) -> None:
        pass

    def __new__(cls, *_: Any) -> _Ignored:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


def _harmless() -> list[Any]:
    """What training files hold beside tensors: made as itself, or as something that is nothing."""
    numpy = [
        "numpy.dtype",
        *(
            f"numpy.{package}.{name}"
            for package in ("core", "_core")
            for name in ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
        ),
        "numpy.ndarray",
        *(
            f"numpy.dtypes.{name}DType"
            for name in (
                *(f"Float{bits}" for bits in (16, 32, 64)),
                *(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
                *("Bool", "Str", "Bytes", "LongDouble", "Object"),
            )
        ),
    ]
    paths = [
        f"{module}.{kind}"
        for module in ("pathlib", "pathlib._local")
        for kind in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    ]
    return [argparse.Namespace, *((_Ignored, name) for name in (*numpy, *paths))]
