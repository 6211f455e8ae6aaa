"""What ``flexvar evaluate`` runs: a set of samples, its figures, and results.json."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from PIL import Image

from flexvar.data import Dataset, open_data, ordered_batches
from flexvar.errors import FlexvarError
from flexvar.evaluation.inception import Features, Inception, Pictures, cache_path
from flexvar.evaluation.nearest import (
    descriptors,
    gallery,
    nearest,
    nearest_figures,
    pairs_sheet,
    pooled,
)
from flexvar.evaluation.offline import BATCH as OF_A_BATCH
from flexvar.evaluation.offline import (
    Reference,
    check_classes,
    config_for,
    in_range,
    reconstruction_figures,
    reference,
    sample_figures,
)
from flexvar.evaluation.processes import World
from flexvar.evaluation.sampler import (
    BATCH,
    Advance,
    Sampler,
    check_counts,
    device_of,
    make,
)
from flexvar.evaluation.samples import SampleSet
from flexvar.files import read_json, whole_file, write_json
from flexvar.metrics.distances import (
    frechet_distance,
    inception_score,
    precision_recall,
    statistics,
)
from flexvar.metrics.efficientnet import efficientnet
from flexvar.pipeline import Pipeline
from flexvar.resolve import Steps

METRICS = ("offline", "tokenizer", "features", "nearest", "fid", "is", "precision-recall")
OF_FEATURES = ("features", "nearest")
OF_INCEPTION = ("fid", "is", "precision-recall")
WITH_REFERENCE = ("offline", "tokenizer", "features", "nearest", "fid", "precision-recall")
RESULTS, NPZ, CACHE, NEAREST = "results.json", "samples.npz", "cache", "nearest.png"
# Samples shown beside their nearest training pictures.
MOST_SHOWN = 100
PACKAGES = ("flexvar", "torch", "numpy", "pillow", "torch-fidelity", "scikit-image", "scikit-learn")
# So many pictures a covariance of Inception's 2048 numbers needs; published figures have 50,000.
ENOUGH_FOR_FID = 2048
ALONE = World()


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to evaluate and how.

    model: what `Pipeline.from_pretrained` takes. out: directory of the images and figures. num:
    images per class. metrics: some of `METRICS`. reference: the data to compare with - a
    built-in set, a folder, shards, or for Inception's measures an .npz; that of training unless
    given. trunk: the file of Inception's weights. npz: also write ``samples.npz``. sampling:
    settings that go before those of the preset, as (name, value). compile: sample faster after a
    slower start, see `flexvar.Pipeline.compile`.
    """

    model: str
    out: Path
    num: int = 10
    seed: int = 0
    preset: str = "default"
    metrics: tuple[str, ...] = ("offline", "tokenizer")
    reference: str | None = None
    trunk: Path | None = None
    npz: bool = False
    processes: int = 1
    batch: int = BATCH
    device: str = "cpu"
    dtype: str = "fp32"
    compile: bool = False
    size: tuple[int, int] | None = None
    steps: Steps | None = None
    sampling: tuple[tuple[str, Any], ...] = ()


def evaluate(
    request: Request,
    *,
    advance: Advance = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
    world: World = ALONE,
) -> dict[str, Any]:
    """Make the samples that are missing, measure them, and write what is returned to a file.

    The file is ``results.json``; figures of other metrics that were measured of the same samples
    before are kept. advance: called as samples are made, with how many there are of all. say:
    told what is being done. world: the processes of a launcher, all of which call this; they
    share the sampling, and the main one measures, with the same figures as one process.
    Raises `FlexvarError` for anything that cannot be, before the first sample where it can.
    """
    check_metrics(request.metrics)
    check_counts(num=request.num, processes=request.processes, batch=request.batch)
    device = device_of(request.device, world.local_rank) if world.size > 1 else request.device
    pipe = Pipeline.from_pretrained(
        request.model, device=device, dtype=request.dtype, preset=request.preset
    )
    measuring = _Measuring(request, pipe, say)
    if world.rank == 0:
        measuring.prepare()
    result: dict[str, Any] = {
        "model": request.model,
        "settings": measuring.samples.settings if measuring.samples else {},
        "samples": None,
        "figures": {},
        "versions": _versions(),
        "machine": f"{platform.machine()}, {platform.system()}",
    }
    if (samples := measuring.samples) is not None:
        say(f"{len(samples)} samples, {request.num} of each of {len(samples.labels)} classes")
        if request.compile and request.processes == 1 and samples.missing():
            say(str(pipe.compile()))
        made = make(
            measuring.sampler,
            pipe,
            samples,
            processes=request.processes,
            batch=request.batch,
            advance=advance,
            world=world,
        )
        say(f"  {made} made, {len(samples) - made} were there")
        if world.rank == 0:
            result["samples"] = samples.check()
            if request.npz:
                samples.write_npz(request.out / NPZ)
                say(f"  {request.out / NPZ}")
    if world.rank:
        return result
    path = request.out / RESULTS
    before = read_json(path) or {}
    same = all(before.get(key) == result[key] for key in ("settings", "samples"))
    result["figures"] = dict(before.get("figures", {})) if same else {}
    for metric in request.metrics:
        say(f"measuring {metric}")
        result["figures"][metric] = measuring.figures(metric, result["samples"])
    write_json(path, result)
    return result


def check_metrics(metrics: Sequence[str]) -> None:
    """Raise `FlexvarError` for a metric there is not, with the nearest."""
    for metric in metrics:
        if metric not in METRICS:
            near = get_close_matches(metric, METRICS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise FlexvarError(
                f"--metrics: there is no {metric!r}.{hint} Metrics: {', '.join(METRICS)}."
            )


class _Measuring:
    """The parts that several metrics share, each made when first asked for."""

    def __init__(self, request: Request, pipe: Pipeline, say: Callable[[str], None]) -> None:
        self.request, self.pipe, self.say = request, pipe, say
        self.sampler = Sampler(
            source=request.model,
            device=request.device,
            dtype=request.dtype,
            preset=request.preset,
            seed=request.seed,
            size=request.size,
            steps=request.steps,
            options=request.sampling,
            compile=request.compile,
        )

    @cached_property
    def samples(self) -> SampleSet | None:
        """The set to make; None where only the tokenizer is asked about."""
        if self.request.metrics == ("tokenizer",) and not self.request.npz:
            return None
        return self.sampler.set_of(self.pipe, self.request.out, self.request.num)

    def prepare(self) -> None:
        """Raise now for what would only be missed after the samples were made."""
        asked = set(self.request.metrics)
        _ = self.samples
        if asked & set(OF_INCEPTION):
            _ = self.inception
        if asked & set(WITH_REFERENCE):
            _ = self.source
        if asked & {"fid", "precision-recall"}:
            pictures = self.pictures
            if "precision-recall" in asked and pictures.pictures == 0:
                raise FlexvarError(
                    f"reference: {pictures.source} holds no pictures, only mu and sigma; "
                    "precision-recall needs arr_0."
                )
            if pictures.pictures < 4 and pictures.statistics is None:
                raise FlexvarError(
                    f"reference: {pictures.source} has too few pictures, {pictures.pictures}; "
                    "at least 4 are needed, and 2048 for a fid that means something."
                )
        if asked & set(OF_FEATURES):
            efficientnet()
            _ = self.training
        if asked & {"offline", "tokenizer"}:
            if self.source.endswith(".npz"):
                raise FlexvarError(
                    f"reference: {self.source} has no classes; offline and tokenizer need a data "
                    "source: photos, digits, a folder or shards."
                )
            _ = self.reference

    @cached_property
    def source(self) -> str:
        """The data to compare with. Raises `FlexvarError` where neither user nor model says."""
        trained = self.pipe.config.trained
        source = self.request.reference or (trained.data if trained is not None else "")
        if not source:
            raise FlexvarError(
                "The model does not say what it was trained on; give --reference SOURCE: photos, "
                "digits, a folder of pictures, shards, or an .npz for Inception's measures."
            )
        return source

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) of what is compared."""
        if self.samples is None:
            return self.pipe.size
        height, width = self.samples.settings["size"]
        return height, width

    @cached_property
    def reference(self) -> Reference:
        """The classifier and real pictures of the offline measures."""
        self.say(f"classifier of {self.source}, trained or found in {self.cache}")
        config = config_for(self.pipe, self.source, self.size)
        found = reference(config, self.request.num, directory=self.cache)
        if self.pipe.parts.model is not None:
            check_classes(self.pipe, found.train)
        return found

    @cached_property
    def inception(self) -> Inception:
        """The network of FID."""
        return Inception(self.request.trunk, self.pipe.device)

    @cached_property
    def pictures(self) -> Pictures:
        """The real pictures of FID: as many as samples, if there are."""
        assert self.samples is not None
        return Pictures(self.source, self.size, len(self.samples))

    @cached_property
    def training(self) -> Dataset:
        """The training pictures, each once; random crops where each stands for many (`photos`)."""
        if self.source.endswith(".npz"):
            raise FlexvarError(
                f"reference: {self.source} is no data source; features and nearest need one: "
                "photos, emoji, a folder or shards."
            )
        train = open_data(config_for(self.pipe, self.source, self.size), "train")
        return train if train.repeats > 1 else open_data(train.config, "train", augment=False)

    @property
    def cache(self) -> Path:
        """Where what is slow to make is kept."""
        return self.request.out / CACHE

    def figures(self, metric: str, checked: dict[str, Any] | None) -> dict[str, Any]:
        """The figures of one metric, with what they were measured against."""
        if metric == "tokenizer":
            figures = reconstruction_figures(self.pipe, self.reference)
            return {**figures, "reference": self.source}
        assert self.samples is not None
        assert checked is not None
        if metric == "offline":
            batches = (in_range(batch) for batch in self.samples.batches())
            figures = sample_figures(self.reference, batches, self.samples.labels_N)
            return {**figures, "reference": self.source}
        if metric in OF_FEATURES:
            return self._by_features(metric)
        trunk = {"trunk": self.inception.digest, "samples": len(self.samples)}
        seen = self._seen(checked["digest"])
        if metric == "is":
            score = inception_score(seen.logits)
            return {"inception_score": score.mean, "deviation": score.deviation, **trunk}
        against = {"reference": self.source, "real": self.pictures.pictures, **trunk}
        if metric == "precision-recall":
            return {**precision_recall(seen.pooled, self._real.pooled)._asdict(), **against}
        real = self.pictures.statistics
        if min(len(self.samples), self.pictures.pictures) < ENOUGH_FOR_FID and real is None:
            against["note"] = f"biased: fewer than {ENOUGH_FOR_FID} pictures"
        of_real = real if real is not None else statistics(self._real.pooled)
        return {"fid": frechet_distance(statistics(seen.pooled), of_real), **against}

    def _by_features(self, metric: str) -> dict[str, Any]:
        """Figures of EfficientNet's features, which need no download."""
        assert self.samples is not None
        parts = (in_range(batch) for batch in self.samples.batches())
        if metric == "nearest":
            known = gallery(self.training)
            found = nearest(descriptors(parts), known)
            shown = range(min(MOST_SHOWN, len(self.samples)))
            images = [Image.fromarray(self.samples.pixels(index)) for index in shown]
            path = self.request.out / NEAREST
            with whole_file(path) as temporary:
                pairs_sheet(images, found, known).save(temporary, format="PNG")
            figures = nearest_figures(found, known, self.samples.labels_N)
            return {**figures, "reference": self.source, "sheet": str(path)}
        real = (
            batch.images_B3HW
            for batch in ordered_batches(
                self.training, batch_size=OF_A_BATCH, limit=max(ENOUGH_FOR_FID, len(self.samples))
            )
        )
        seen, of_real = pooled(parts), pooled(real)
        note = {}
        if min(len(seen), len(of_real)) < ENOUGH_FOR_FID:
            note["note"] = f"biased: fewer than {ENOUGH_FOR_FID} pictures"
        coverage = (
            precision_recall(seen, of_real)._asdict() if min(len(seen), len(of_real)) > 3 else {}
        )
        return {
            "frechet": frechet_distance(statistics(seen), statistics(of_real)),
            **coverage,
            "reference": self.source,
            "real": len(of_real),
            **note,
        }

    def _seen(self, digest: str) -> Features:
        assert self.samples is not None
        cache = cache_path(self.cache, self.inception, digest)
        return self.inception.look(self.samples.batches(), cache)

    @cached_property
    def _real(self) -> Features:
        cache = cache_path(self.cache, self.inception, self.pictures.key)
        return self.inception.look(self.pictures.batches(), cache)


def _versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
