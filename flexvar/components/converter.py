"""What a converter must do: files that others released -> the config and weights of a checkpoint.

A whole converter, for files with a tokenizer and a model of one's own::

    class Converter:
        Config = ConverterConfig                       # options of `flexvar convert ... key=value`
        reads = "Acme's models"                        # for messages

        def __init__(self, config):
            self.config = config

        @classmethod
        def part(cls, state):
            if "acme_vae.codes" in state:
                return "tokenizer"
            return "model" if "acme.embed.weight" in state else None

        def convert(self, tokenizer, model):
            vocab_size, code_dim = tokenizer["acme_vae.codes"].shape
            return Converted(
                config={"tokenizer": {"name": "acme", "vocab_size": vocab_size}},
                tokenizer={"codebook.weight": tokenizer["acme_vae.codes"]},
            )

and in the plugin's manifest::

    @flexvar.hookimpl
    def flexvar_converters():
        yield flexvar.Component(name="acme", target="acme.released:Converter")
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

from flexvar.config import ComponentConfig
from flexvar.errors import CheckpointError, shown

Part = Literal["tokenizer", "model"]


class ReleasedState(dict[str, Tensor]):
    """A released state dict under its own names; a tensor that it lacks is an error that names it.

    Names are free of what wrappers put into them, tensors are on the CPU and as large as their
    file can be. source: where it was read, for messages. beside: all that the file holds, for
    settings that stand beside the weights.
    """

    def __init__(self, tensors: Mapping[str, Tensor], source: object, beside: Any = None) -> None:
        super().__init__(tensors)
        self.source = source
        self.beside = beside

    def __missing__(self, name: str) -> Tensor:
        raise CheckpointError(f"{self.source} is incomplete: it has no tensor {shown(name)}.")

    def count(self, pattern: str) -> int:
        """Members of a numbered list of modules, whose number is the pattern's group."""
        numbers = {match[1] for name in self if (match := re.match(pattern, name))}
        missing = set(map(str, range(len(numbers)))) - numbers
        if missing or not numbers:
            first = min(missing, key=int, default="0")
            what = pattern.replace("\\", "").replace("(d+)", first)
            raise CheckpointError(f"{self.source} is incomplete: it has no tensors {what}*.")
        return len(numbers)


@dataclass(frozen=True, slots=True)
class Converted:
    """A checkpoint as plain data.

    config: a `flexvar.ModelConfig` as a mapping. tokenizer, model: weights under flexvar's names;
    no model for a tokenizer alone. presets: sampling settings by name, ``default`` among them;
    trained: size and steps of training, both as ``config.json`` has them.
    """

    config: dict[str, Any]
    tokenizer: Mapping[str, Tensor]
    model: Mapping[str, Tensor] | None = None
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    trained: Mapping[str, Any] | None = None


@runtime_checkable
class Converter(Protocol):
    """Reads one family of released files; made as ``Converter(config)``, it has no weights.

    reads: whose files, for messages. ``part`` says what a state dict is by its names and shapes,
    None if it is none of this family; it is asked about every state dict in a file, however
    nested. ``convert`` gets the ones it recognized - the files may be one file, several or many
    shards - and reads everything from the tensors where it can; ``model`` is None for a tokenizer
    alone. What they raise becomes a message about the file.
    """

    Config: ClassVar[type[ComponentConfig]]
    reads: ClassVar[str]

    @classmethod
    def part(cls, state: Mapping[str, Tensor]) -> Part | None: ...

    def convert(self, tokenizer: ReleasedState, model: ReleasedState | None) -> Converted: ...
