"""The two sets that need no download: ``photos`` and ``digits``."""

from __future__ import annotations

import hashlib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from flexvar.data.config import DataConfig, Split
from flexvar.data.sources import Defaults, choose_classes, no_validation
from flexvar.data.transforms import largest_box
from flexvar.errors import FlexvarError
from flexvar.images import open_image

# What lies in the packages themselves: most of scikit-image's pictures would be downloaded.
PHOTOS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "bricks": ("skimage", "data/brick.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "coins": ("skimage", "data/coins.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "galaxies": ("skimage", "data/hubble_deep_field.jpg"),
    "grass": ("skimage", "data/grass.png"),
    "gravel": ("skimage", "data/gravel.png"),
    "moon": ("skimage", "data/moon.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "photographer": ("skimage", "data/camera.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "temple": ("sklearn", "datasets/images/china.jpg"),
    "tissue": ("skimage", "data/ihc.png"),
}
DISTRIBUTION = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
USUAL_VAL_FRACTION = 0.2
# So that an epoch is of a size at which counting epochs means something.
CROPS_PER_PHOTO = 64


class Photos:
    """One class per photograph; every sample is a crop.

    Training crops come from the picture less a strip at the end of its longer side;
    ``val_fraction`` is the share of the strip. Validation samples are boxes side by side in the
    strip, which training never touches: the same photographs, other places.
    """

    defaults = Defaults(crop="resized", resize=1)

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.class_names = choose_classes(list(PHOTOS), config.classes)
        self.files = [_packaged(*PHOTOS[name]) for name in self.class_names]
        fraction = config.val_fraction
        self.fraction = USUAL_VAL_FRACTION if fraction is None else fraction

    def pictures(self, split: Split) -> Regions:
        """The regions of a split. Raises `FlexvarError` for a val split with val_fraction 0."""
        if split == "val" and self.fraction == 0:
            raise no_validation(self.config, "val_fraction is 0")
        regions, labels, names = [], [], []
        for label, (name, file) in enumerate(zip(self.class_names, self.files, strict=True)):
            image = open_image(file)
            train, strip = _strip(image.size, self.fraction)
            boxes = [train] if split == "train" else _boxes(strip, self.config.height_width)
            for number, box in enumerate(boxes):
                regions.append(image.crop(box))
                labels.append(label)
                names.append(f"{name} {number}")
        return Regions(regions, labels, names, CROPS_PER_PHOTO if split == "train" else 1)


class Digits:
    """Handwritten digits, white on black, classes "0" to "9"; the last ones are held out."""

    # A mirrored digit is none, and all of the 8x8 pixels are the digit.
    defaults = Defaults(resize=1, flip=False)

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        _folder("sklearn")
        data = import_module("sklearn.datasets").load_digits()
        self.class_names = choose_classes([str(name) for name in data.target_names], config.classes)
        number = {int(name): label for label, name in enumerate(self.class_names)}
        chosen = [i for i, digit in enumerate(data.target) if int(digit) in number]
        # Values are 0 to 16.
        self.values = (data.images[chosen] * (255 / 16)).round().astype(np.uint8)
        self.labels = [number[int(data.target[i])] for i in chosen]
        fraction = config.val_fraction
        self.fraction = USUAL_VAL_FRACTION if fraction is None else fraction

    def pictures(self, split: Split) -> Regions:
        """The digits of a split. Raises `FlexvarError` for a val split with val_fraction 0."""
        held = round(self.fraction * len(self.labels))
        if split == "val" and held == 0:
            raise no_validation(self.config, f"val_fraction is {self.fraction}")
        border = len(self.labels) - held
        part = range(border) if split == "train" else range(border, len(self.labels))
        pictures = [Image.fromarray(self.values[i]).convert("RGB") for i in part]
        return Regions(pictures, [self.labels[i] for i in part], [f"digit {i}" for i in part])


class Regions:
    """Pictures held in memory."""

    def __init__(
        self, images: list[Image.Image], labels: list[int], names: list[str], repeats: int = 1
    ) -> None:
        self.images, self.labels, self.names, self.repeats = images, labels, names, repeats

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """What the picture is called in messages."""
        return self.names[index]

    def label(self, index: int) -> int:
        """The class number of a picture."""
        return self.labels[index]

    def open(self, index: int, enough: tuple[int, int]) -> Image.Image:
        """The picture at its own size."""
        return self.images[index]

    def state(self) -> str:
        """A digest of all pixels, with names and classes."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(image.tobytes())
        return f"{digest.hexdigest()} {self.names} {self.labels}"


def _strip(
    size: tuple[int, int], fraction: float
) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """(left, top, right, bottom) of the training region and of the strip; size (width, height)."""
    width, height = size
    if width >= height:
        border = width - round(fraction * width)
        return (0, 0, border, height), (border, 0, width, height)
    border = height - round(fraction * height)
    return (0, 0, width, border), (0, border, width, height)


def _boxes(
    strip: tuple[int, int, int, int], shape: tuple[int, int]
) -> list[tuple[int, int, int, int]]:
    """As many boxes in the proportions of ``shape`` as fit side by side, spread evenly."""
    left, top, right, bottom = strip
    box = largest_box((bottom - top, right - left), shape)
    height, width = max(1, int(box[0])), max(1, int(box[1]))
    down, across = (bottom - top) // height, (right - left) // width
    lefts = np.linspace(left, right - width, across).round().astype(int)
    tops = np.linspace(top, bottom - height, down).round().astype(int)
    return [(int(x), int(y), int(x) + width, int(y) + height) for y in tops for x in lefts]


def _folder(package: str) -> Path:
    """Where an installed package lies; found without importing it, which takes seconds."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FlexvarError(
            f"The built-in sets need {DISTRIBUTION[package]}, which is not installed: "
            "pip install 'flexvar[data]'"
        )
    return Path(spec.submodule_search_locations[0])


def _packaged(package: str, path: str) -> Path:
    file = _folder(package) / path
    if not file.is_file():
        raise FlexvarError(
            f"This {DISTRIBUTION[package]} comes without {path}; install another version "
            "(pip install -U 'flexvar[data]'), or name the classes you want with the option "
            "classes."
        )
    return file
