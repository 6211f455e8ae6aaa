"""Making a set of samples, in this process or shared out between several."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flexvar import __version__, images
from flexvar.errors import FlexvarError
from flexvar.evaluation.processes import Died, World, shared_out
from flexvar.evaluation.samples import SampleSet
from flexvar.ops.linear import Linear
from flexvar.pipeline import Pipeline
from flexvar.resolve import Steps

# Contiguous images of one task: many enough to fill a GPU, few enough to lose when stopped.
BATCH = 16

Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Sampler:
    """How a pipeline makes the images of a set; what a process needs to do its share.

    source: what `Pipeline.from_pretrained` takes; None for a pipeline that only this process has.
    options: settings that go before those of the preset, as (name, value). compile: whether each
    process compiles its own pipeline.
    """

    source: str | None
    device: str
    dtype: str
    preset: str
    seed: int
    size: tuple[int, int] | None = None
    steps: Steps | None = None
    options: tuple[tuple[str, Any], ...] = ()
    compile: bool = False

    def set_of(self, pipe: Pipeline, directory: Path, num: int) -> SampleSet:
        """The set to make with a pipeline, its settings resolved.

        Raises `FlexvarError` for a number, size, step or setting that cannot be.
        """
        if num < 1:
            raise FlexvarError(f"num: got {num}; expected at least 1 image per class.")
        layout = pipe.layout(self.size, self.steps, warn=False)
        sampling = pipe.chosen({"preset": self.preset, **dict(self.options)})
        stride = pipe.tokenizer.space.stride
        count, backbone = pipe.model.num_classes, pipe.config.model.backbone
        settings = {
            "flexvar": __version__,
            "model": backbone.name if backbone is not None else None,
            "weights": weights_digest(pipe),
            "size": [side * stride for side in layout.last],
            "steps": [list(grid) for grid in layout],
            **sampling.report(),
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
    world: World | None = None,
) -> int:
    """Make what is missing of a set, and return how many images that were.

    processes: more than 1 are started anew, each with a copy of the model; on CUDA one after the
    other gets the next device. world: the processes of a launcher, each of which makes its share
    in a directory that all see; then there are no others. advance: called with how many are there
    of all.
    Raises `FlexvarError` for a directory of other settings, and when a process dies.
    """
    check_counts(processes=processes, batch=batch)
    if processes > 1 and sampler.source is None:
        raise FlexvarError("Only a saved model can be sampled by several processes; save it first.")
    if world is not None and world.size > 1:
        return _in_world(sampler, pipe, wanted, world, batch, advance)
    wanted.claim()
    missing = wanted.missing()
    # No larger than each process's share, so that none is without work.
    todo = _runs(missing, min(batch, max(1, -(-len(missing) // processes))))
    count = len(missing)
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


def _in_world(
    sampler: Sampler,
    pipe: Pipeline,
    wanted: SampleSet,
    world: World,
    batch: int,
    advance: Advance,
) -> int:
    """As `make`, every process of a launcher its share; all come here, and leave together."""
    missing: list[int] = []
    if world.rank == 0:
        wanted.claim()
        missing = wanted.missing()
    missing = world.from_main(missing)
    todo = _runs(missing, min(batch, max(1, -(-len(missing) // world.size))))
    done = len(wanted) - len(missing)
    for number, part in enumerate(todo):
        if number % world.size == world.rank:
            sampler.write(pipe, wanted, part)
        done += len(part)  # the others are about as far
        advance(done, len(wanted))
    world.barrier()
    if world.rank == 0 and (left := wanted.missing()):
        raise FlexvarError(
            f"{len(left)} of {len(missing)} images are not in {wanted.directory}: all machines "
            "have to see the same directory. The same command goes on."
        )
    return len(missing)


def check_counts(**counts: int) -> None:
    """Raise `FlexvarError` for a number below 1."""
    for name, value in counts.items():
        if value < 1:
            raise FlexvarError(f"{name}: got {value}; expected 1 or more.")


def weights_digest(pipe: Pipeline) -> str:
    """A text that changes with any weight of the pipeline or with its config."""
    digest = hashlib.sha256(pipe.config.model.model_dump_json().encode())
    for module in pipe.parts.modules():
        for name, part in module.named_modules():
            if isinstance(part, Linear) and part.packed is not None:
                digest.update(name.encode() + part.packed.digest)
        for name, tensor in sorted(module.state_dict().items()):
            if tensor.is_meta:
                continue  # of a layer in int8
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


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
    threads = max(1, torch.get_num_threads() // processes)
    try:
        yield from shared_out(_Begin(sampler, wanted, threads), todo, processes)
    except Died:
        raise FlexvarError(
            "A sampling process ended without a word, as when memory runs out. What it had "
            "finished is kept: run the same command with fewer processes or a smaller batch."
        ) from None


@dataclass(frozen=True)
class _Begin:
    """What a new process does first: load the model. It gives what makes the images of a task."""

    sampler: Sampler
    wanted: SampleSet
    threads: int

    def __call__(self, number: int) -> Callable[[range], int]:
        from flexvar.ops.memory import keep_freed_memory

        keep_freed_memory()
        torch.set_num_threads(self.threads)
        sampler = self.sampler
        assert sampler.source is not None
        pipe = Pipeline.from_pretrained(
            sampler.source,
            device=device_of(sampler.device, number),
            dtype=sampler.dtype,
            preset=sampler.preset,
        )
        if sampler.compile:
            pipe.compile()
        return lambda part: sampler.write(pipe, self.wanted, part)


def device_of(device: str, number: int) -> str:
    """The device of one of several processes: the next GPU for each, where there are several."""
    if device in ("auto", "cuda") and torch.cuda.device_count() > 1:
        return f"cuda:{number % torch.cuda.device_count()}"
    return device
