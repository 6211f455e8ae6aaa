"""Features of the Inception network that FID and Inception score are defined by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from flexvar.data import Key, open_data, ordered_batches
from flexvar.data.config import DataConfig
from flexvar.data.sampler import shuffled
from flexvar.errors import FlexvarError
from flexvar.files import whole_file
from flexvar.metrics.distances import Statistics

INSTALL = "pip install 'flexvar[metrics]'"
WEIGHTS = (
    "the Inception weights converted from TensorFlow's of 2015-12-05: torch-fidelity's "
    "weights-inception-2015-12-05-6726825d.pth or pytorch-fid's "
    "pt_inception-2015-12-05-6726825d.pth"
)
# Of the network's last layer; torchvision's own Inception, which gives other figures, has 1000.
OUTPUTS, POOLED = 1008, 2048
BATCH = 32


class Features(NamedTuple):
    """Of N pictures: pooled (N,2048) and logits without bias (N,1008), fp32 on the CPU."""

    pooled: Tensor
    logits: Tensor


class Inception:
    """The network, by the package torch-fidelity, with weights from a file."""

    def __init__(self, trunk: str | Path | None, device: str | torch.device = "cpu") -> None:
        """Raises `FlexvarError` for a file that is not there or not that network's, or if the
        package cannot be imported.
        """
        if trunk is None:
            raise FlexvarError(
                f"fid, is and precision-recall need weights: give --trunk FILE, {WEIGHTS}. "
                "Nothing is downloaded; the metrics offline and tokenizer need no file."
            )
        path = Path(trunk)
        _check_weights(path)
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except Exception as error:
            raise FlexvarError(
                "fid, is and precision-recall need the package torch-fidelity, which cannot be "
                f"imported ({error}): {INSTALL}"
            ) from None
        self.device = torch.device(device)
        try:
            network: Any = FeatureExtractorInceptionV3(
                "inception-v3-compat",
                ["2048", "logits_unbiased"],
                feature_extractor_weights_path=str(path),
            )
        except RuntimeError as error:
            # torch's list of tensors that are missing, too many, or of another shape.
            lines = [line.strip()[:200] for line in str(error).splitlines()[1:3]]
            raise FlexvarError(
                f"--trunk: {path} does not fit the network ({' '.join(lines)}). Expected {WEIGHTS}."
            ) from None
        self.network = network.to(self.device)
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]

    @torch.inference_mode()
    def look(self, batches: Iterator[Tensor], cache: Path | None = None) -> Features:
        """Features of pictures that come as (B,3,H,W) uint8; read from ``cache`` if it is there.

        Raises `FlexvarError` for no picture at all.
        """
        if cache is not None and (kept := _read(cache)) is not None:
            return kept
        seen = [
            [part.float().cpu() for part in self.network(batch.to(self.device))]
            for batch in batches
        ]
        if not seen:
            raise FlexvarError("There is no picture to look at.")
        result = Features(*(torch.cat(column) for column in zip(*seen, strict=True)))
        if cache is not None:
            with whole_file(cache) as temporary, temporary.open("wb") as file:
                np.savez(file, pooled=result.pooled.numpy(), logits=result.logits.numpy())
        return result


class Pictures:
    """What samples are compared with: pictures of a data source, or an .npz of arrays.

    key: changes with the pictures. statistics: of an .npz that carries ``mu`` and ``sigma``, as
    the reference batches of guided-diffusion do; they stand for more pictures than it holds.
    """

    def __init__(self, source: str, size: tuple[int, int], most: int, seed: int = 0) -> None:
        """The first ``most`` pictures of a source's training split, in an order by the seed.

        Of an .npz all. Raises `FlexvarError` for a source that is not there.
        """
        self.source = source
        self.statistics: Statistics | None = None
        self._array: np.ndarray[Any, np.dtype[np.uint8]] | None = None
        self.pictures = 0
        if source.endswith(".npz"):
            self._open_npz(Path(source))
            return
        data = open_data(DataConfig(source=source, size=size), "train")
        self._crops = data.repeats > 1
        # A picture's middle; where each stands for many samples, random crops.
        self._data = data if self._crops else open_data(data.config, "train", augment=False)
        self._seed = seed
        self.pictures = most if self._crops else min(most, len(self._data))
        self.key = f"{self._data.fingerprint()} {self.pictures} {seed}"

    def batches(self) -> Iterator[Tensor]:
        """The pictures, (B,3,H,W) uint8."""
        if self._array is not None:
            for start in range(0, len(self._array), BATCH):
                part = np.ascontiguousarray(self._array[start : start + BATCH])
                yield torch.from_numpy(part).permute(0, 3, 1, 2)
            return
        for images_B3HW in self._from_source():
            yield images_B3HW.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)

    def _from_source(self) -> Iterator[Tensor]:
        data = self._data
        if data.streams:
            for batch in ordered_batches(data, batch_size=BATCH, limit=self.pictures):
                yield batch.images_B3HW
            return
        epochs = -(-self.pictures // len(data))
        keys = [
            Key(int(number), epoch, self._seed)
            for epoch in range(epochs)
            for number in shuffled(len(data), self._seed, epoch)
        ][: self.pictures]
        for start in range(0, len(keys), BATCH):
            fetched = data.fetch(keys[start : start + BATCH])
            data.note(fetched)
            if len(fetched.labels_B):
                yield fetched.images_B3HW

    def _open_npz(self, path: Path) -> None:
        expected = "expected arr_0, uint8 (N,H,W,3), or mu (D,) and sigma (D,D), or both"
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ("arr_0", "mu", "sigma") if name in file}
        except FileNotFoundError:
            raise FlexvarError(f"reference: there is no file {path}.") from None
        except Exception as error:
            raise FlexvarError(f"reference: {path} cannot be read ({error}); {expected}.") from None
        array = arrays.get("arr_0")
        if array is not None and (
            array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8
        ):
            raise FlexvarError(
                f"reference: arr_0 of {path} is {array.dtype} {array.shape}; {expected}."
            )
        if "mu" in arrays and "sigma" in arrays:
            mean, covariance = arrays["mu"].astype(float), arrays["sigma"].astype(float)
            if covariance.shape != (*mean.shape, *mean.shape):
                raise FlexvarError(
                    f"reference: mu {mean.shape} and sigma {covariance.shape} of {path} do not "
                    f"fit; {expected}."
                )
            self.statistics = Statistics(mean, covariance)
        if array is None and self.statistics is None:
            raise FlexvarError(f"reference: {path} holds neither pictures nor figures; {expected}.")
        self._array = array
        self.pictures = 0 if array is None else len(array)
        with path.open("rb") as opened:
            self.key = hashlib.file_digest(opened, "sha256").hexdigest()


def cache_path(directory: Path, inception: Inception, key: str) -> Path:
    """Where features of the pictures of a key are kept."""
    digest = hashlib.sha256(f"{inception.digest} {key}".encode()).hexdigest()[:16]
    return directory / f"inception-{digest}.npz"


def _check_weights(path: Path) -> None:
    if not path.is_file():
        raise FlexvarError(f"--trunk: there is no file {path}. Expected {WEIGHTS}.")
    try:
        # Refuses files that would run code; the package itself does not.
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise FlexvarError(
            f"--trunk: {path} cannot be read as weights ({reason}). Expected {WEIGHTS}."
        ) from None
    head = tensors.get("fc.weight") if isinstance(tensors, dict) else None
    shape = tuple(head.shape) if isinstance(head, Tensor) else None
    if shape != (OUTPUTS, POOLED):
        raise FlexvarError(
            f"--trunk: {path} has fc.weight {shape}, not {(OUTPUTS, POOLED)}: these are weights of "
            f"another network. Expected {WEIGHTS}."
        )


def _read(path: Path) -> Features | None:
    """Features kept earlier; a file that is not whole counts as none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return Features(torch.from_numpy(file["pooled"]), torch.from_numpy(file["logits"]))
    except Exception:
        return None
