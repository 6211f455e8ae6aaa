"""Figures at sizes other than that of training, and weights that fit in their last layer only."""

import pytest
import torch

from flexvar.data import DataConfig, open_data, ordered_batches
from flexvar.errors import FlexvarError
from flexvar.evaluation import offline_figures
from flexvar.evaluation.inception import Inception
from flexvar.evaluation.offline import reconstruction_figures, reference
from flexvar.metrics.picture import psnr

WIDE = DataConfig(source="digits", size=(16, 32))


def test_reconstructions_are_compared_at_their_own_size(digits_pipe):
    against = reference(WIDE, 2, classifier_steps=2)
    lost = reconstruction_figures(digits_pipe, against, limit=6)
    images_B3HW = next(ordered_batches(open_data(WIDE, "val"), batch_size=6, limit=6)).images_B3HW
    back_B3HW = digits_pipe.reconstruct(images_B3HW / 2 + 0.5, output="tensor") * 2 - 1
    assert lost["psnr"] == pytest.approx(float(psnr(back_B3HW, images_B3HW).mean()), abs=1e-3)


def test_samples_are_compared_with_pictures_of_their_size(digits_pipe, monkeypatch):
    sizes = []

    def noted(config, *arguments, **options):
        sizes.append(config.size)
        return reference(config, *arguments, **options)

    monkeypatch.setattr("flexvar.evaluation.offline.reference", noted)
    for size in ((16, 32), 24, None):
        offline_figures(digits_pipe, "digits", num=1, classifier_steps=2, steps=3, size=size)
    assert sizes == [(16, 32), (24, 24), (16, 16)]


@pytest.mark.parametrize("change", ["missing", "added"])
def test_weights_that_fit_in_the_last_layer_only(change, trunk, tmp_path, monkeypatch, request):
    monkeypatch.syspath_prepend(request.path.parent / "stand_in")
    weights = torch.load(trunk, weights_only=True)
    if change == "missing":
        del weights["fc.bias"]
    else:
        weights["other.weight"] = torch.zeros(1)
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(FlexvarError, match="does not fit the network .*Expected the Inception"):
        Inception(tmp_path / "other.pth")
