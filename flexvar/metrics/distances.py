"""Distances between two sets of pictures, as pure functions of their features, in float64.

No package that is well kept takes features alone and imports without torchvision; the tests
compare with scipy, scikit-learn, torchmetrics and torch-fidelity on the same features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flexvar.errors import FlexvarError

Floats = NDArray[np.float64]
# Rows of a distance matrix held at a time, in numbers: 256 MiB.
BLOCK = 2**25


class Statistics(NamedTuple):
    """Mean (D,) and covariance (D,D) of features, float64."""

    mean_D: Floats
    covariance_DD: Floats


class Score(NamedTuple):
    """Mean over the splits, and their standard deviation."""

    mean: float
    deviation: float


class Coverage(NamedTuple):
    """Shares in [0,1]: of samples among the real ones, and of real ones among the samples."""

    precision: float
    recall: float


def statistics(features_ND: ArrayLike | Tensor) -> Statistics:
    """Mean and unbiased covariance. Raises `FlexvarError` for fewer than two pictures."""
    features = _checked(features_ND)
    if len(features) < 2:
        raise FlexvarError(
            f"Fréchet distance: got {len(features)} picture; a covariance needs at least 2."
        )
    return Statistics(features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False)))


def frechet_distance(one: Statistics, other: Statistics) -> float:
    """Fréchet distance of two Gaussians, 0 for equal ones (Heusel et al., arXiv 1706.08500, eq. 6).

    ``|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½)``. The trace of the root is taken from the symmetric
    C1^½ C2 C1^½, which has the same eigenvalues, real and not negative also where there are fewer
    pictures than features. Raises `FlexvarError` for features of different length.
    """
    if one.mean_D.shape != other.mean_D.shape:
        raise FlexvarError(
            f"Fréchet distance: features of {one.mean_D.shape[0]} and {other.mean_D.shape[0]} "
            "numbers; both sets have to go through the same network."
        )
    values_D, vectors_DD = np.linalg.eigh(one.covariance_DD)
    root_DD = (vectors_DD * np.sqrt(values_D.clip(min=0))) @ vectors_DD.T
    product_D = np.linalg.eigvalsh(root_DD @ other.covariance_DD @ root_DD)
    root_trace = np.sqrt(product_D.clip(min=0)).sum()
    apart = np.square(one.mean_D - other.mean_D).sum()
    traces = np.trace(one.covariance_DD) + np.trace(other.covariance_DD)
    # Rounding must not make the distance of a set to itself negative.
    return max(0.0, float(apart + traces - 2 * root_trace))


def inception_score(logits_NC: ArrayLike | Tensor, splits: int = 10) -> Score:
    """exp of the mean KL divergence of p(y|x) from p(y), per split (arXiv 1606.03498, sec. 4).

    logits_NC: a classifier's, before softmax. Splits are slices in the order given, so that
    samples of alternating classes fall evenly into them. 1 is the least, C the most.
    Raises `FlexvarError` for fewer pictures than splits.
    """
    logits = _checked(logits_NC)
    if len(logits) < splits:
        raise FlexvarError(
            f"Inception score: got {len(logits)} pictures for {splits} splits; make more samples."
        )
    log_p = logits - logits.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    scores = []
    for number in range(splits):
        part = log_p[number * len(log_p) // splits : (number + 1) * len(log_p) // splits]
        p = np.exp(part)
        # Classes that no picture has add nothing: p is 0 there.
        log_mean = np.log(p.mean(axis=0).clip(min=np.finfo(np.float64).tiny))
        scores.append(float(np.exp((p * (part - log_mean)).sum(axis=1).mean())))
    return Score(float(np.mean(scores)), float(np.std(scores)))


def precision_recall(
    samples_ND: ArrayLike | Tensor, real_MD: ArrayLike | Tensor, k: int = 3
) -> Coverage:
    """Precision and recall over k-nearest-neighbour manifolds (arXiv 1904.06991, eqs. 1-2).

    A set's manifold is all balls around its pictures that reach to their k-th neighbour in it.
    Raises `FlexvarError` for a set of k pictures or fewer.
    """
    samples, real = (torch.from_numpy(_checked(part)) for part in (samples_ND, real_MD))
    for name, part in (("samples", samples), ("real pictures", real)):
        if len(part) <= k:
            raise FlexvarError(
                f"precision and recall: got {len(part)} {name}; {k} neighbours of each need at "
                f"least {k + 1}."
            )
    return Coverage(
        precision=_share_inside(samples, real, _radii(real, k)),
        recall=_share_inside(real, samples, _radii(samples, k)),
    )


def _radii(points_ND: Tensor, k: int) -> Tensor:
    """Distance (N,) of each point to its k-th neighbour; the nearest found is the point itself."""
    return torch.cat(
        [
            torch.cdist(part, points_ND).kthvalue(k + 1).values
            for part in points_ND.split(_rows(points_ND))
        ]
    )


def _share_inside(points_ND: Tensor, centres_MD: Tensor, radii_M: Tensor) -> float:
    inside = [
        (torch.cdist(part, centres_MD) <= radii_M).any(dim=1)
        for part in points_ND.split(_rows(centres_MD))
    ]
    return float(torch.cat(inside).double().mean())


def _rows(points_ND: Tensor) -> int:
    return max(1, BLOCK // len(points_ND))


def _checked(values: ArrayLike | Tensor) -> Floats:
    """As float64 (N,D). Raises `FlexvarError` for numbers that are not finite."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    array = np.ascontiguousarray(array, dtype=np.float64)
    assert array.ndim == 2
    if not np.isfinite(array).all():
        raise FlexvarError("The features are not finite: the pictures or the network are broken.")
    return array
