"""A model of the built-in digits small enough to sample in a moment, saved."""

import numpy as np
import pytest
import torch
from helpers import TINY, shake
from PIL import Image

from flexvar import Pipeline
from flexvar.checkpoint import Trained

NAMES = [str(number) for number in range(10)]


@pytest.fixture(scope="session")
def digits_pipe() -> Pipeline:
    config = {**TINY, "num_classes": 10, "class_names": NAMES}
    pipe = shake(Pipeline.from_config(config, seed=1))
    trained = Trained(size=(16, 16), data="digits")
    pipe.config = pipe.config.model_copy(update={"trained": trained})
    return pipe


@pytest.fixture(scope="session")
def digits_dir(digits_pipe, tmp_path_factory):
    return digits_pipe.save_pretrained(tmp_path_factory.mktemp("model") / "digits")


@pytest.fixture(scope="session")
def trunk(tmp_path_factory):
    """Weights with the last layer of Inception and nothing else, for the stand-in."""
    path = tmp_path_factory.mktemp("trunk") / "inception.pth"
    generator = torch.Generator().manual_seed(0)
    torch.save(
        {
            "fc.weight": torch.randn(1008, 2048, generator=generator) / 10,
            "fc.bias": torch.zeros(1008),
        },
        path,
    )
    return path


@pytest.fixture(scope="session")
def two_classes(tmp_path_factory):
    """A folder of two classes, the second with one picture only."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for name in ("a/0", "a/1", "a/2", "b/0"):
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
    return folder
