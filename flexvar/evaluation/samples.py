"""A balanced set of samples in a folder: made by several processes, checked, never made twice."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flexvar import __version__, images, request
from flexvar.errors import FlexvarError
from flexvar.pipeline import Pipeline
from flexvar.request import Steps

# Contiguous images of one task: many enough to fill a GPU, few enough to lose when stopped.
BATCH = 16
FOLDER, RUN = "images", "run.json"

Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class SampleSet:
    """The first ``num`` samples of every class of one model, seed and way to sample.

    Image i is of class i mod num_classes and has the key (seed, i), so that a larger ``num`` only
    adds images. directory: holds ``images/000000.png`` ... and ``run.json``, the settings that
    all of them share; each PNG carries those with its own label and index.
    """

    directory: Path
    num: int
    labels: tuple[Any, ...]
    settings: dict[str, Any]

    def __len__(self) -> int:
        return self.num * len(self.labels)

    def path(self, index: int) -> Path:
        """Where image i is or will be."""
        return self.directory / FOLDER / f"{index:06d}.png"

    def class_of(self, index: int) -> int:
        """The class number of image i."""
        return index % len(self.labels)

    def image_settings(self, index: int) -> dict[str, Any]:
        """What the PNG of image i carries."""
        return {**self.settings, "label": self.labels[self.class_of(index)], "index": index}

    @property
    def labels_N(self) -> Tensor:
        """Class numbers (N,) int64."""
        return torch.arange(len(self)) % len(self.labels)

    def missing(self) -> list[int]:
        """Images that are not there or not whole.

        Raises `FlexvarError` for one made with other settings, and for one that is too many.
        """
        found = set((self.directory / FOLDER).glob("*.png"))
        paths = [self.path(index) for index in range(len(self))]
        extra = sorted(found - set(paths))
        if extra:
            raise FlexvarError(
                f"{self.directory / FOLDER} holds {len(extra)} pictures besides the {len(self)} "
                f"asked for, such as {extra[0].name}; ask for more per class, remove them, or "
                "name another directory."
            )
        return [i for i, path in enumerate(paths) if path not in found or not self._whole(i)]

    def _whole(self, index: int) -> bool:
        path, wanted = self.path(index), self.image_settings(index)
        try:
            with Image.open(path) as image:
                image.load()
                found = json.loads(image.info.get(images.SETTINGS_KEY, "{}"))
        except (OSError, SyntaxError, ValueError):
            return False
        if found != json.loads(json.dumps(wanted)):
            raise _other_settings(path, found, wanted)
        return True

    def pixels(self, index: int) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
        """Image i as (H,W,3) uint8."""
        with Image.open(self.path(index)) as image:
            return np.asarray(image.convert("RGB"))

    def batches(self, size: int = 32) -> Iterator[Tensor]:
        """All images in order, (B,3,H,W) uint8."""
        for start in range(0, len(self), size):
            part = [self.pixels(i) for i in range(start, min(start + size, len(self)))]
            yield torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2)

    def check(self) -> dict[str, Any]:
        """Classes per image as they stand in the files, and images whose pixels are the same.

        Returns ``{"samples", "per_class", "identical", "identical_groups", "digest"}``: identical
        counts images that repeat an earlier one; digest is of all pixels in order.
        Raises `FlexvarError` if a class has not exactly ``num``, or an index stands twice.
        """
        labels: Counter[Any] = Counter()
        indices: Counter[int] = Counter()
        by_pixels: dict[str, list[int]] = {}
        whole = hashlib.sha256()
        for index in range(len(self)):
            with Image.open(self.path(index)) as image:
                stored = json.loads(image.info[images.SETTINGS_KEY])
                digest = hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()
            labels[stored["label"]] += 1
            indices[stored["index"]] += 1
            by_pixels.setdefault(digest, []).append(index)
            whole.update(digest.encode())
        wrong = {label: labels[label] for label in self.labels if labels[label] != self.num}
        twice = [index for index, count in indices.items() if count > 1]
        if wrong or twice:
            raise FlexvarError(
                f"{self.directory / FOLDER} is no balanced set: expected {self.num} images per "
                f"class, found {wrong or labels}; indices twice: {twice[:5]}. Remove the folder "
                "and run again."
            )
        groups = [group for group in by_pixels.values() if len(group) > 1]
        return {
            "samples": len(self),
            "per_class": self.num,
            "identical": sum(len(group) - 1 for group in groups),
            "identical_groups": groups[:20],
            "digest": whole.hexdigest(),
        }

    def write_npz(self, path: Path) -> None:
        """All images as ``arr_0``, uint8 (N,H,W,3), for the evaluator of guided-diffusion.

        Written picture by picture: 50,000 of 256 px are 10 GB. Raises `FlexvarError` where it
        cannot be written.
        """
        height, width = self.settings["size"]
        header = {
            "descr": "|u1",
            "fortran_order": False,
            "shape": (len(self), height, width, 3),
        }
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with (
                zipfile.ZipFile(temporary, "w") as archive,
                archive.open("arr_0.npy", "w", force_zip64=True) as file,
            ):
                np.lib.format.write_array_header_1_0(file, header)
                for index in range(len(self)):
                    file.write(self.pixels(index).tobytes())
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise FlexvarError(f"Cannot write {path}: {error.strerror or error}.") from None


@dataclass(frozen=True)
class Sampler:
    """How a pipeline makes the images of a set; what a process needs to do its share.

    source: what `Pipeline.from_pretrained` takes; None for a pipeline that only this process has.
    options: settings that go before those of the preset, as (name, value).
    """

    source: str | None
    device: str
    dtype: str
    preset: str
    seed: int
    size: tuple[int, int] | None = None
    steps: Steps | None = None
    options: tuple[tuple[str, Any], ...] = ()

    def set_of(self, pipe: Pipeline, directory: Path, num: int) -> SampleSet:
        """The set to make with a pipeline, its settings resolved.

        Raises `FlexvarError` for a number, size, step or setting that cannot be.
        """
        if num < 1:
            raise FlexvarError(f"num: got {num}; expected at least 1 image per class.")
        layout = pipe.layout(self.size, self.steps, warn=False)
        base = request.preset(pipe.config, self.preset)
        sampling = request.sampling_settings(dict(self.options), base)
        stride = pipe.tokenizer.space.stride
        count, backbone = pipe.model.num_classes, pipe.config.model.backbone
        settings = {
            "flexvar": __version__,
            "model": backbone.name if backbone is not None else None,
            "weights": weights_digest(pipe),
            "size": [side * stride for side in layout.last],
            "steps": [list(grid) for grid in layout],
            **json.loads(sampling.model_dump_json(exclude_none=True)),
            "seed": self.seed,
            "device": pipe.device.type,
            "dtype": str(pipe.dtype).removeprefix("torch."),
        }
        labels = tuple(pipe.label_name(number) for number in range(count))
        return SampleSet(directory, num, labels, settings)

    def write(self, pipe: Pipeline, wanted: SampleSet, indices: range) -> int:
        """Make the images of contiguous indices and write their files; return how many."""
        result = pipe(
            [wanted.class_of(index) for index in indices],
            size=self.size,
            steps=self.steps,
            preset=self.preset,
            seed=self.seed,
            first_index=indices.start,
            progress=False,
            **dict(self.options),
        )
        for index, image in zip(indices, result.images, strict=True):
            images.save_png(image, wanted.path(index), wanted.image_settings(index))
        return len(indices)


def make(
    sampler: Sampler,
    pipe: Pipeline,
    wanted: SampleSet,
    *,
    processes: int = 1,
    batch: int = BATCH,
    advance: Advance = lambda done, total: None,
) -> int:
    """Make what is missing of a set, and return how many images that were.

    processes: more than 1 are started anew, each with a copy of the model; on CUDA one after the
    other gets the next device. advance: called with how many are there of all.
    Raises `FlexvarError` for a directory of other settings, and when a process dies.
    """
    for name, value in (("processes", processes), ("batch", batch)):
        if value < 1:
            raise FlexvarError(f"{name}: got {value}; expected 1 or more.")
    if processes > 1 and sampler.source is None:
        raise FlexvarError("Only a saved model can be sampled by several processes; save it first.")
    _claim(wanted)
    todo = _runs(wanted.missing(), batch)
    count = sum(len(part) for part in todo)
    done = len(wanted) - count
    advance(done, len(wanted))
    if processes == 1 or len(todo) <= 1:
        for part in todo:
            done += sampler.write(pipe, wanted, part)
            advance(done, len(wanted))
        return count
    for finished in _in_processes(sampler, wanted, todo, min(processes, len(todo))):
        done += finished
        advance(done, len(wanted))
    return count


def weights_digest(pipe: Pipeline) -> str:
    """A text that changes with any weight of the pipeline or with its config."""
    digest = hashlib.sha256(pipe.config.model.model_dump_json().encode())
    for module in pipe.parts.modules():
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _claim(wanted: SampleSet) -> None:
    """Write the settings into the directory, or check those that stand there."""
    path = wanted.directory / RUN
    try:
        (wanted.directory / FOLDER).mkdir(parents=True, exist_ok=True)
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found != json.loads(json.dumps(wanted.settings)):
                raise _other_settings(path, found, wanted.settings)
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(wanted.settings, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise FlexvarError(
            f"Cannot write to {wanted.directory}: {error.strerror or error}."
        ) from None
    except json.JSONDecodeError:
        raise FlexvarError(f"{path} is broken; remove it, or name another directory.") from None


def _other_settings(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> FlexvarError:
    differing = [
        f"{name} {found.get(name)!r} there, {wanted.get(name)!r} asked for"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != json.loads(json.dumps(wanted.get(name)))
    ]
    return FlexvarError(
        f"{path} was made with other settings ({'; '.join(differing)}). Name another directory, "
        "or ask for the same."
    )


def _runs(indices: Sequence[int], batch: int) -> list[range]:
    """Indices as contiguous ranges of at most ``batch``."""
    runs: list[range] = []
    for index in indices:
        if runs and runs[-1].stop == index and len(runs[-1]) < batch:
            runs[-1] = range(runs[-1].start, index + 1)
        else:
            runs.append(range(index, index + 1))
    return runs


def _in_processes(
    sampler: Sampler, wanted: SampleSet, todo: list[range], processes: int
) -> Iterator[int]:
    """Numbers of images written, as tasks end."""
    context = get_context("spawn")
    counter = context.Value("i", 0)
    threads = max(1, torch.get_num_threads() // processes)
    pool = ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin, initargs=(counter, threads)
    )
    tasks: set[Future[int]] = {pool.submit(_share, sampler, wanted, part) for part in todo}
    try:
        while tasks:
            ended, tasks = wait(tasks, return_when=FIRST_COMPLETED)
            for task in ended:
                yield task.result()
    except BrokenProcessPool:
        raise FlexvarError(
            "A sampling process ended without a word, as when memory runs out. What it had "
            "finished is kept: run the same command with fewer processes or a smaller batch."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_number = 0


def _begin(counter: Any, threads: int) -> None:
    """In each process, before its first task."""
    global _number
    from flexvar.memory import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(threads)
    with counter.get_lock():
        _number = counter.value
        counter.value += 1


def _share(sampler: Sampler, wanted: SampleSet, part: range) -> int:
    return sampler.write(_pipeline(sampler), wanted, part)


@lru_cache(maxsize=1)
def _pipeline(sampler: Sampler) -> Pipeline:
    device = sampler.device
    if device in ("auto", "cuda") and torch.cuda.device_count() > 1:
        device = f"cuda:{_number % torch.cuda.device_count()}"
    assert sampler.source is not None
    return Pipeline.from_pretrained(
        sampler.source, device=device, dtype=sampler.dtype, preset=sampler.preset
    )
