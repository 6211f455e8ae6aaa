"""Continuous latents computed once and read again, if tokenizer and data are still the same."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from flexvar.components import Tokenizer
from flexvar.data import Batch, Dataset, batches
from flexvar.errors import FlexvarError
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
        """The cache in the directory, made by the main process if there is none yet.

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
        if accelerator.is_main_process and not (directory / KEY).is_file():
            _fill(directory, key, data, tokenizer, recipe, config.views, accelerator.device)
        accelerator.wait_for_everyone()
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


@torch.inference_mode()
def _fill(
    directory: Path,
    key: dict[str, Any],
    data: Dataset,
    tokenizer: Tokenizer,
    recipe: TrainRecipe,
    views: int,
    device: torch.device,
) -> None:
    """Encode ``views`` times as many samples as there are pictures; the key is written last."""
    count, done = views * len(data), 0
    stride, code_dim = tokenizer.space.stride, tokenizer.space.code_dim
    shape = (count, code_dim, *(side // stride for side in data.size))
    labels = np.zeros(count, dtype=np.int64)
    texts: dict[tuple[str, ...], int] = {}
    called: list[int] = []
    stream = batches(data, batch_size=recipe.batch_size, seed=recipe.seed, workers=recipe.workers)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        latents = np.lib.format.open_memmap(
            directory / LATENTS, mode="w+", dtype=np.float32, shape=shape
        )
        while done < count:
            batch = next(stream)
            part = slice(done, min(done + len(batch.labels_B), count))
            size = part.stop - part.start
            features = tokenizer.features(batch.images_B3HW[:size].to(device))
            latents[part], labels[part] = features.cpu().numpy(), batch.labels_B[:size].numpy()
            called += [texts.setdefault(one, len(texts)) for one in batch.captions[:size]]
            done = part.stop
        latents.flush()
        np.save(directory / LABELS, labels)
        kept = json.dumps({"texts": list(texts), "of": called}, ensure_ascii=False)
        (directory / CAPTIONS).write_text(kept + "\n", encoding="utf-8")
        temporary = directory / f".{KEY}.tmp"
        temporary.write_text(json.dumps(key, indent=2) + "\n")
        os.replace(temporary, directory / KEY)
    except OSError as error:
        raise FlexvarError(
            f"cache.directory: cannot write {directory}: {error.strerror or error}."
        ) from None
