"""Fréchet distance, Inception score, precision and recall against independent implementations."""

import importlib

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats
import torch
from sklearn.neighbors import NearestNeighbors

from flexvar.errors import FlexvarError
from flexvar.metrics.distances import (
    frechet_distance,
    inception_score,
    precision_recall,
    statistics,
)

CLOSE = {"rel": 1e-3}


def features(count, length, shift, seed):
    random = np.random.Generator(np.random.PCG64(seed))
    mix = np.random.Generator(np.random.PCG64(1)).normal(size=(length, length))
    return (random.normal(size=(count, length)) @ mix / length**0.5 + shift).astype(np.float32)


# More pictures than features, and fewer: there the covariances have no full rank.
SHAPES = [(300, 250, 20), (40, 30, 64), (5, 6, 1)]


@pytest.mark.parametrize(("one", "other", "length"), SHAPES)
def test_frechet_distance_is_scipys(one, other, length):
    a, b = features(one, length, 0.0, 2), features(other, length, 0.3, 3)
    got = frechet_distance(statistics(a), statistics(b))
    a, b = a.astype(np.float64), b.astype(np.float64)
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    apart = ((a.mean(0) - b.mean(0)) ** 2).sum()
    wanted = apart + np.trace(covariances[0] + covariances[1] - 2 * np.real(root))
    assert got == pytest.approx(wanted, **CLOSE)
    assert frechet_distance(statistics(a), statistics(a)) == pytest.approx(0, abs=1e-6)


def test_inception_score_is_scipys():
    logits = features(103, 12, 0.0, 4) * 3
    got = inception_score(logits, splits=10)
    scores = []
    for number in range(10):
        p = scipy.special.softmax(
            logits[number * 103 // 10 : (number + 1) * 103 // 10].astype(np.float64), axis=1
        )
        scores.append(np.exp(np.mean([scipy.stats.entropy(row, p.mean(0)) for row in p])))
    assert got.mean == pytest.approx(np.mean(scores), **CLOSE)
    assert got.deviation == pytest.approx(np.std(scores), **CLOSE)


def test_inception_score_at_its_ends():
    certain = np.eye(5)[np.arange(50) % 5] * 1e4
    assert inception_score(certain).mean == pytest.approx(5)
    assert inception_score(np.zeros((50, 5))).mean == pytest.approx(1)


@pytest.mark.parametrize(("one", "other", "length"), SHAPES)
def test_precision_and_recall_are_scikit_learns(one, other, length, monkeypatch):
    # In several blocks, as large sets are.
    monkeypatch.setattr("flexvar.metrics.distances.BLOCK", 1000)
    samples, real = features(one, length, 0.0, 5), features(other, length, 0.5, 6)

    def covered(points, centres):
        near = NearestNeighbors(n_neighbors=4, algorithm="brute").fit(centres)
        radii = near.kneighbors(centres)[0][:, 3]
        apart = np.sqrt(((points[:, None].astype(float) - centres[None]) ** 2).sum(-1))
        return (apart <= radii).any(1).mean()

    got = precision_recall(samples, real, k=3)
    assert got.precision == pytest.approx(covered(samples, real), **CLOSE)
    assert got.recall == pytest.approx(covered(real, samples), **CLOSE)


def test_precision_tells_a_narrow_set_from_a_wrong_one():
    real = features(200, 8, 0.0, 7)
    narrow, wrong = real[:60] * 0.3, real + 100
    assert precision_recall(narrow, real).precision > 0.9
    assert precision_recall(narrow, real).recall < 0.5
    assert precision_recall(wrong, real) == (0, 0)


# What torch-fidelity 0.4.0 computes of the same features, in double precision.
FIDELITY = {
    "fid": 1.0945607634925487,
    "isc": 1.3449896894109432,
    "deviation": 0.05714507358920338,
    "precision": 0.85,
    "recall": 0.88666667,
}


def fidelity_sets():
    return features(120, 16, 0.0, 8), features(150, 16, 0.2, 9)


def ours():
    samples, real = fidelity_sets()
    score, coverage = inception_score(samples), precision_recall(samples, real)
    return {
        "fid": frechet_distance(statistics(samples), statistics(real)),
        "isc": score.mean,
        "deviation": score.deviation,
        "precision": coverage.precision,
        "recall": coverage.recall,
    }


def torch_fidelitys():
    fid, isc, prc = (
        importlib.import_module(f"torch_fidelity.metric_{name}") for name in ("fid", "isc", "prc")
    )
    samples, real = (torch.from_numpy(x).double() for x in fidelity_sets())
    distance = fid.fid_statistics_to_metric(
        fid.fid_features_to_statistics(samples), fid.fid_features_to_statistics(real), False
    )
    score = isc.isc_features_to_metric(samples, 10, False)
    precision, recall = prc.calculate_precision_recall_full(samples, real, 3)
    return {
        "fid": distance["frechet_inception_distance"],
        "isc": score["inception_score_mean"],
        "deviation": score["inception_score_std"],
        "precision": precision,
        "recall": recall,
    }


def test_all_are_torch_fidelitys():
    assert ours() == pytest.approx(FIDELITY, **CLOSE)


def test_all_are_the_installed_torch_fidelitys():
    try:
        wanted = torch_fidelitys()
    except Exception as error:
        pytest.skip(f"torch-fidelity cannot be imported: {error}")
    assert ours() == pytest.approx(wanted, **CLOSE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics(np.zeros((1, 4))), "got 1 picture; a covariance needs at least 2"),
        (lambda: statistics(np.full((3, 4), np.nan)), "features are not finite"),
        (lambda: inception_score(np.zeros((9, 4))), "got 9 pictures for 10 splits"),
        (lambda: precision_recall(np.zeros((3, 4)), np.zeros((9, 4))), "got 3 samples; 3 neigh"),
        (lambda: precision_recall(np.zeros((9, 4)), np.zeros((2, 4))), "got 2 real pictures"),
        (
            lambda: frechet_distance(statistics(np.eye(3)), statistics(np.eye(4))),
            "features of 3 and 4 numbers",
        ),
    ],
)
def test_too_little_to_measure(call, message):
    with pytest.raises(FlexvarError, match=message):
        call()
