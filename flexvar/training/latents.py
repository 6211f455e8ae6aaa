"""Continuous latents computed once and read again, if tokenizer and data are still the same."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from flexvar.components import Tokenizer
from flexvar.data import Batch, Dataset, batches
from flexvar.errors import FlexvarError, reason
from flexvar.files import UnwritableError, whole_file, write_json
from flexvar.training.recipe import CacheConfig, TrainRecipe

KEY, LATENTS, LABELS, CAPTIONS = "key.json", "latents.npy", "labels.npy", "captions.json"


class LatentCache:
    """Latents (N,C,h,w), labels (N,) and captions on disk; the latents are read by memory map.

    captions: of each latent; None of a cache that was made when they were not kept.
    """

    def __init__(self, directory: Path) -> None:
        self.latents = np.load(directory / LATENTS, mmap_mode="r")
        self.labels = np.load(directory / LABELS)
        self.captions: list[tuple[str, ...]] | None = None
        if (directory / CAPTIONS).is_file():
            kept = json.loads((directory / CAPTIONS).read_text("utf-8"))
            texts = [tuple(texts) for texts in kept["texts"]]
            self.captions = [texts[number] for number in kept["of"]]
        self._order: tuple[tuple[int, int], np.ndarray[Any, Any]] | None = None

    @classmethod
    def open(
        cls,
        config: CacheConfig,
        data: Dataset,
        tokenizer: Tokenizer,
        recipe: TrainRecipe,
        accelerator: Accelerator,
    ) -> Self:
        """The cache in the directory, made by all processes together if there is none yet.

        They wait for one another by files, in a directory that all of them see: a collective
        would give up after its limit of ten minutes, where one has more to do than another.

        Raises `FlexvarError` if the one there belongs to another tokenizer, other data, another
        crop rule, seed or number of views.
        """
        directory = Path(config.directory).expanduser()
        key = {
            "tokenizer": weights_hash(cast(nn.Module, tokenizer)),
            "data": data.fingerprint(),
            "pictures": len(data),
            "classes": data.num_classes,
            "seed": recipe.seed,
            "views": config.views,
        }
        if _asked_to_fill(directory, accelerator):
            filling = _Filling(directory, key, data, tokenizer, recipe, config.views)
            filling.run(accelerator)
        try:
            found = json.loads((directory / KEY).read_text())
        except (OSError, ValueError) as error:
            raise FlexvarError(f"cache.directory: {directory / KEY}: {error}") from None
        stale = [name for name in key if found.get(name) != json.loads(json.dumps(key[name]))]
        if stale:
            raise FlexvarError(
                f"cache.directory: {directory} was made with another {' and '.join(stale)}. "
                "Delete it or give another directory."
            )
        return cls(directory)

    def __len__(self) -> int:
        return len(self.labels)

    def stream(
        self, *, batch_size: int, seed: int, start: int, rank: int, world: int
    ) -> Iterator[Batch]:
        """Batches (latents, labels, captions) without end, in a new order each time through."""
        whole = batch_size * world
        number = start
        while True:
            first = number * whole + rank * batch_size
            index = [self._index(place, seed) for place in range(first, first + batch_size)]
            latents = torch.from_numpy(np.stack([self.latents[i] for i in index])).float()
            captions = tuple(self.captions[i] for i in index) if self.captions else ()
            yield Batch(latents, torch.from_numpy(self.labels[index]), captions)
            number += 1

    def _index(self, place: int, seed: int) -> int:
        epoch, offset = divmod(place, len(self))
        if self._order is None or self._order[0] != (epoch, seed):
            order = np.random.default_rng([seed, epoch]).permutation(len(self))
            self._order = ((epoch, seed), order)
        return int(self._order[1][offset])


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of all weights by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _asked_to_fill(directory: Path, accelerator: Accelerator) -> bool:
    """Whether there was no cache when all processes came here: the main one has looked."""
    from accelerate.utils import broadcast_object_list

    asked = [not (directory / KEY).is_file()]
    if accelerator.num_processes > 1:
        broadcast_object_list(asked)
    return asked[0]


class _Filling:
    """Encodes ``views`` times as many samples as there are pictures; the key is written last."""

    def __init__(
        self,
        directory: Path,
        key: dict[str, Any],
        data: Dataset,
        tokenizer: Tokenizer,
        recipe: TrainRecipe,
        views: int,
    ) -> None:
        self.directory, self.key, self.data = directory, key, data
        self.tokenizer, self.recipe = tokenizer, recipe
        self.count = views * len(data)

    def run(self, accelerator: Accelerator) -> None:
        """This process's share; the main one also begins and ends it, for which others wait."""
        rank, world = accelerator.process_index, accelerator.num_processes
        parts = [self.directory / f".part-{number}.json" for number in range(world)]
        try:
            if rank == 0:
                self._begin()
            if world > 1:
                accelerator.wait_for_everyone()
            mine = self._encode(rank, world, accelerator.device)
            _write(parts[rank], mine)
            if rank == 0:
                _wait(parts)
                self._join([json.loads(part.read_text("utf-8")) for part in parts])
                write_json(self.directory / KEY, self.key)
                for part in parts:
                    part.unlink()
            else:
                _wait([self.directory / KEY])
        except (OSError, UnwritableError) as error:
            why = error.reason if isinstance(error, UnwritableError) else reason(error)
            raise FlexvarError(f"cache.directory: cannot write {self.directory}: {why}.") from None

    def _begin(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for left in self.directory.glob(".part-*"):  # of one that was stopped
            left.unlink()
        space = self.tokenizer.space
        shape = (self.count, space.code_dim, *(side // space.stride for side in self.data.size))
        latents = np.lib.format.open_memmap(
            self.directory / LATENTS, mode="w+", dtype=np.float32, shape=shape
        )
        latents.flush()

    @torch.inference_mode()
    def _encode(self, rank: int, world: int, device: torch.device) -> list[list[Any]]:
        """Encode this rank's samples; label and captions of each, a list per batch."""
        latents = np.load(self.directory / LATENTS, mmap_mode="r+")
        size, seed = self.recipe.batch_size, self.recipe.seed
        stream = batches(
            self.data,
            batch_size=size,
            seed=seed,
            rank=rank,
            world=world,
            workers=self.recipe.workers,
        )
        found: list[list[Any]] = []
        for first in range(rank * size, self.count, world * size):
            batch = next(stream)
            length = min(size, self.count - first)
            features = self.tokenizer.features(batch.images_B3HW[:length].to(device))
            latents[first : first + length] = features.cpu().numpy()
            captions = batch.captions[:length] or [()] * length
            found.append(list(zip(batch.labels_B[:length].tolist(), captions, strict=True)))
        latents.flush()
        return found

    def _join(self, parts: list[list[list[Any]]]) -> None:
        """Write labels and captions of all ranks, whose batches take turns."""
        rounds = zip_longest(*parts, fillvalue=[])
        samples = [sample for batches_R in rounds for batch in batches_R for sample in batch]
        np.save(self.directory / LABELS, np.array([label for label, _ in samples], dtype=np.int64))
        texts: dict[tuple[str, ...], int] = {}
        called = [texts.setdefault(tuple(captions), len(texts)) for _, captions in samples]
        _write(self.directory / CAPTIONS, {"texts": list(texts), "of": called})


def _write(path: Path, values: Any) -> None:
    # Escapes, as a label or caption may be no text that a file can hold.
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(values) + "\n", encoding="utf-8")


def _wait(paths: Sequence[Path]) -> None:
    """Until all files are there, as long as it takes; a launcher ends us if another one fails."""
    while not all(path.is_file() for path in paths):
        time.sleep(0.5)
