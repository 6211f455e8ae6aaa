"""What to train on and how pictures become samples."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from flexvar.config import ComponentConfig

Side = Annotated[int, Field(ge=1)]
Split = Literal["train", "val"]


# What stands before the name of a data set, of the hub or of a folder in its formats.
HUB = "hf:"


def names_data_set(source: str) -> bool:
    """Whether a source is meant for the library ``datasets``; ``hf://`` is an address of shards."""
    return source.startswith(HUB) and not source.startswith("hf://")


class DataConfig(ComponentConfig):
    """A source of pictures and the rule that crops them: ``data: {source: photos, size: 64}``.

    source: a built-in set, "photos", "digits", "emoji" or "emoji-colors"; a folder
    ROOT/CLASS/*, ROOT/train/CLASS/* with an optional ROOT/val/CLASS/*, or pictures side by side
    (one class); or WebDataset shards: a folder of .tar files, one of them, a pattern such as
    ``shards/train-{000..031}.tar``, or an address; or a list of pictures, a .csv, .tsv or .jsonl
    file with a path and perhaps a label in each line, or a .zip file of such a folder; or
    ``hf:OWNER/NAME``, a data set of the hub, or ``hf:FOLDER``, one that lies here as parquet or
    arrow files or as the library ``datasets`` saves it (extra ``data-hf``).
    A folder that is called like a built-in set is written ``./photos``.
    size: pixels of a sample, a number or (height, width).

    What is left out suits the source:

    =============  ============================================  ========  ========  ======  =====
    option         meaning                                       usual     photos    digits  emoji
    =============  ============================================  ========  ========  ======  =====
    crop           "random": resize so that ``resize`` x size    random    resized   random  random
                   is covered, cut size out at random (VAR);
                   "resized": a random box, resized to size
    resize         see there; validation takes the middle        1.125     1         1       1
    flip           mirror every second sample                    true      true      false   false
    val_fraction   share held out of training where the source   0.1       0.2       0.2     0.1
                   has no split of its own; 0 for none
    =============  ============================================  ========  ========  ======  =====

    recolor: odds that the colour that rules a training sample becomes another one.

    crop_range: least and greatest side of a "resized" box, as a share of the largest box of that
    shape in the picture. classes: only these, numbered in this order. samples: pictures in
    streams that cannot be counted beforehand (addresses). cache_mb: MiB of resized pictures each
    process keeps, so that large photographs are decoded once; the samples do not depend on it.
    buckets: pictures train at sizes of their own shape, of about the area of ``size``, whose
    sides are multiples of so many pixels; every batch has one size. Not for streams.
    image_column, label_column, caption_column: of a list or a data set; found by their usual names
    and types unless given. subset, revision: of a data set of the hub. streaming: read such a data
    set while training, without downloading it first.
    """

    source: str
    size: Side | tuple[Side, Side] = 64
    crop: Literal["random", "resized"] | None = None
    resize: float | None = Field(default=None, ge=1, le=8)
    crop_range: tuple[float, float] = (0.4, 1.0)
    flip: bool | None = None
    recolor: float = Field(default=0.0, ge=0, le=1)
    val_fraction: float | None = Field(default=None, ge=0, lt=1)
    classes: tuple[str, ...] | None = None
    samples: int | None = Field(default=None, ge=1)
    cache_mb: int = Field(default=256, ge=0)
    buckets: int | None = Field(default=None, ge=1)
    image_column: str | None = None
    label_column: str | None = None
    caption_column: str | None = None
    subset: str | None = None
    revision: str | None = None
    streaming: bool = False

    @field_validator("crop_range")
    @classmethod
    def _rising_shares(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("expected two shares, 0 < least <= greatest <= 1")
        return value

    @model_validator(mode="after")
    def _classes_once(self) -> DataConfig:
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes names a class twice: {', '.join(self.classes)}")
        if self.classes == ():
            raise ValueError("classes is empty; name at least one, or leave it out for all")
        return self

    @model_validator(mode="after")
    def _of_data_sets(self) -> DataConfig:
        given = [one for one in ("subset", "revision", "streaming") if getattr(self, one)]
        if given and not names_data_set(self.source):
            raise ValueError(f"{given[0]} is of data sets, source=hf:NAME; got {self.source!r}")
        return self

    @property
    def height_width(self) -> tuple[int, int]:
        """Pixels of a sample as (height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size
