"""The classifier and the figures that need no download."""

import pytest
import torch

from flexvar.data import DataConfig, open_data
from flexvar.errors import FlexvarError
from flexvar.evaluation import offline_figures
from flexvar.evaluation.classifier import classifier_for
from flexvar.evaluation.offline import (
    check_classes,
    config_for,
    real_pictures,
    reconstruction_figures,
    reference,
    sample_figures,
)

DIGITS = DataConfig(source="digits", size=16)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def against(cache):
    return reference(DIGITS, 20, directory=cache, classifier_steps=150)


def test_the_classifier_knows_held_out_digits(against):
    # Chance is 0.1.
    assert against.held_out > 0.7


def test_the_classifier_is_kept_and_found(cache, against):
    train = open_data(DIGITS)
    (path,) = cache.glob("classifier-*.safetensors")
    changed = path.stat().st_mtime_ns
    again = classifier_for(train, steps=150, directory=cache)
    assert path.stat().st_mtime_ns == changed
    for one, other in zip(again.parameters(), against.classifier.parameters(), strict=True):
        assert torch.equal(one, other)
    path_of_seed = classifier_for(train, steps=2, seed=1, directory=cache)
    assert not torch.equal(path_of_seed.head.weight, again.head.weight)
    assert len(list(cache.glob("classifier-*.safetensors"))) == 2


def test_a_broken_classifier_file_is_made_anew(tmp_path):
    train = open_data(DIGITS)
    first = classifier_for(train, steps=2, directory=tmp_path)
    (path,) = tmp_path.glob("classifier-*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    again = classifier_for(train, steps=2, directory=tmp_path)
    assert torch.equal(first.head.weight, again.head.weight)
    assert path.read_bytes() == whole


def test_features_do_not_depend_on_the_batch(against):
    images_N3HW = real_pictures(against.train, 4).images_N3HW
    whole = against.classifier.look([images_N3HW])
    parts = against.classifier.look(images_N3HW.split(3))
    assert torch.allclose(whole.features_ND, parts.features_ND, atol=1e-5)


def test_real_pictures_are_balanced_and_halves_share_none(against):
    real = real_pictures(against.train, 40)
    assert torch.bincount(real.labels_N).tolist() == [40] * 10
    one, other = (real.images_N3HW[part::2].flatten(1) for part in (0, 1))
    # Two people may write the same 8x8 digit; the same file twice would make all of them equal.
    assert float((torch.cdist(one, other).min(1).values < 1e-4).double().mean()) < 0.01
    assert torch.equal(real.images_N3HW, real_pictures(against.train, 40).images_N3HW)


def test_real_pictures_look_better_than_noise_and_a_wrong_label_shows(against):
    images_N3HW, labels_N = real_pictures(against.train, 20, seed=5)
    good = sample_figures(against, images_N3HW.split(16), labels_N)
    noise = torch.rand(images_N3HW.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    bad = sample_figures(against, noise.split(16), labels_N)
    assert good["accuracy"] > 0.9 > 0.3 > bad["accuracy"]
    assert good["frechet"] * 5 < bad["frechet"]
    assert good["frechet"] < 3 * good["frechet_real"]
    assert good["precision"] > 0.8 > 0.2 > bad["precision"]
    wrong = sample_figures(against, images_N3HW.split(16), (labels_N + 1) % 10)
    assert wrong["accuracy"] < 0.1


def test_a_set_with_half_of_its_classes_has_less_recall(against):
    images_N3HW, labels_N = real_pictures(against.train, 20, seed=5)
    half = labels_N < 5
    figures = sample_figures(against, images_N3HW[half].split(16), labels_N[half])
    whole = sample_figures(against, images_N3HW.split(16), labels_N)
    assert figures["recall"] < whole["recall"] - 0.2


def test_figures_of_a_pipeline_and_of_its_tokenizer(digits_pipe, cache, against):
    figures = offline_figures(digits_pipe, "digits", num=2, seed=1, directory=cache,
                              classifier_steps=150, steps=3)  # fmt: skip
    assert (figures["samples"], figures["real"]) == (20, 20)
    again = offline_figures(digits_pipe, DIGITS, num=2, seed=1, directory=cache,
                            classifier_steps=150, steps=3)  # fmt: skip
    assert figures == again
    # Random weights: nothing like a digit.
    assert figures["frechet"] > figures["frechet_real"]
    lost = reconstruction_figures(digits_pipe, against, limit=40)
    assert lost["pictures"] == 40
    assert lost["rfid_offline"] > 0
    assert lost["accuracy_reconstructed"] < lost["accuracy_held_out"]
    assert 0 < lost["psnr"] < 40


def test_a_perfect_tokenizer_loses_nothing(digits_pipe, against, monkeypatch):
    monkeypatch.setattr(type(digits_pipe), "reconstruct", lambda self, image, output: image)
    lost = reconstruction_figures(digits_pipe, against, limit=40)
    assert lost["rfid_offline"] == pytest.approx(0, abs=1e-2)
    assert lost["accuracy_reconstructed"] == lost["accuracy_held_out"]


def test_data_that_does_not_fit(digits_pipe, two_classes):
    with pytest.raises(FlexvarError, match="has too few pictures to compare with: class 'b'"):
        reference(DataConfig(source=str(two_classes), size=16), 4)
    three = open_data(DataConfig(source="digits", size=16, classes=("0", "1", "2")))
    with pytest.raises(FlexvarError, match="has 3 classes, the model 10"):
        check_classes(digits_pipe, three)
    with pytest.raises(FlexvarError, match="has one class"):
        classifier_for(open_data(DataConfig(source="digits", size=16, classes=("0",))))
    with pytest.raises(FlexvarError, match="too small for the offline measures"):
        classifier_for(open_data(DataConfig(source="digits", size=4)))
    with pytest.raises(FlexvarError, match="num: got 0"):
        offline_figures(digits_pipe, "digits", num=0)
    assert config_for(digits_pipe, "digits", (16, 24)).classes == digits_pipe.class_names
