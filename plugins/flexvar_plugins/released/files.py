"""Reads released files: state dicts, however nested, and nothing that would run code."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexvar.checkpoint import read_tensors
from flexvar.errors import CheckpointError

State = dict[str, Tensor]


class Released(dict[str, Tensor]):
    """A released state dict; a tensor that it lacks is an error that names it."""

    def __init__(self, tensors: Mapping[str, Tensor], source: object) -> None:
        super().__init__(tensors)
        self.source = source

    def __missing__(self, name: str) -> Tensor:
        raise CheckpointError(f"{self.source} is incomplete: it has no tensor {name!r}.")

    def count(self, pattern: str) -> int:
        """Members of a numbered list of modules, whose number is the pattern's group."""
        numbers = {int(match[1]) for name in self if (match := re.match(pattern, name))}
        missing = set(range(len(numbers))) - numbers
        if missing or not numbers:
            what = pattern.replace("\\", "").replace("(d+)", str(min(missing, default=0)))
            raise CheckpointError(f"{self.source} is incomplete: it has no tensors {what}*.")
        return len(numbers)


@dataclass(frozen=True, slots=True)
class Converted:
    """A component's options and its weights under flexvar's names."""

    spec: dict[str, Any]
    weights: State


def read_released(path: str | Path) -> Any:
    """What is in a ``.pth`` or ``.safetensors`` file; a pickle is read without running code.

    Raises `CheckpointError` if it is missing, truncated, or would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols, which are read all the same
            # Training files keep their command line in a Namespace, which runs no code.
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "global" in str(error).lower():
            name = re.search(r"GLOBAL ([\w.]+)", str(error))
            raise CheckpointError(
                f"{path} holds more than tensors{f' ({name[1]})' if name else ''} and could run "
                "code when it is read, so it is refused. Save its state dict alone, or as "
                "safetensors."
            ) from None
        raise CheckpointError(f"{path} is truncated or no PyTorch file.") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).strip().split(". ")[0].splitlines()
        detail = f" ({reason[0]})" if reason and not isinstance(error, KeyError) else ""
        raise CheckpointError(f"{path} is truncated or no PyTorch file{detail}.") from None


def find(data: Any, marker: str, source: object) -> Released | None:
    """The state dict with a tensor of that name, however nested; averaged weights first."""
    for state in _states(data):
        clean = {_bare(name): value for name, value in state.items()}
        if marker in clean:
            return Released(clean, source)
    return None


def _states(data: Any) -> Iterator[State]:
    if not isinstance(data, Mapping):
        return
    tensors = {k: v for k, v in data.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if tensors:
        yield tensors
    # LlamaGen's training files keep an average of the weights, which is the released model.
    for key in sorted(data, key=lambda k: str(k) != "ema"):
        yield from _states(data[key])


def _bare(name: str) -> str:
    return re.sub(r"^(module\.|_orig_mod\.)+", "", name)
