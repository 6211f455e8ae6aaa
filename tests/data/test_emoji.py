"""The emoji, their colours, and what is held out."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from flexvar import FlexvarError
from flexvar.data import DataConfig, open_data
from flexvar.data.colors import HUES, color_name, recolored, ruling_hue
from flexvar.data.emoji import Drawing, Drawings, drawings
from flexvar.data.sources import held_out

GROUND = (240, 236, 226)


def drawing(name: str) -> Drawing:
    return next(one for one in drawings() if one.name == name)


def pictures(split: str, source: str, **options: object) -> Drawings:
    data = open_data(DataConfig(source=source, size=16, **options), split)  # type: ignore[arg-type]
    assert isinstance(data.pictures, Drawings)
    return data.pictures


def test_every_emoji_has_one_name_a_picture_and_captions() -> None:
    found = drawings()
    names = [one.name for one in found]
    assert len(found) == len(set(names)) > 1800
    assert {"octopus", "tiger face", "flag of norway", "keycap 7", "grinning face"} <= set(names)
    assert all(one.captions[0] == one.name for one in found)
    assert "ghost" in drawing("ghost").captions
    assert drawing("tiger face").emoji == "🐯"
    picture = drawing("octopus").picture()
    assert (picture.mode, picture.size) == ("RGB", (128, 128))
    corner = np.array(picture)[:3, :3].reshape(-1, 3).mean(axis=0)
    assert np.abs(corner - GROUND).max() < 4


def test_held_out_names_are_apart_and_depend_on_the_name_alone() -> None:
    train, val = pictures("train", "emoji"), pictures("val", "emoji")
    names = [{part.name(i) for i in range(len(part))} for part in (train, val)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == len(drawings())
    assert 0.08 < len(val) / len(drawings()) < 0.12
    assert all(held_out(name, 0.1) for name in names[1])
    two = pictures("train", "emoji", classes=("octopus", "ghost"), val_fraction=0)
    assert [two.label(i) for i in range(2)] == [1, 0]  # in the order of the charts: ghost first
    with pytest.raises(FlexvarError, match="Did you mean 'octopus'"):
        pictures("train", "emoji", classes=("octopuss",))


def test_a_category_stands_for_its_names() -> None:
    data = open_data(DataConfig(source="emoji", size=16, classes=("ghost", "animals nature")))
    assert data.class_names[0] == "ghost"
    assert {"octopus", "tiger face"} <= set(data.class_names)
    assert "rocket" not in data.class_names
    assert len(data.class_names) == 1 + sum(o.category == "animals nature" for o in drawings())


def test_pairs_of_a_color_and_a_name_are_held_out_but_no_name() -> None:
    train, val = pictures("train", "emoji-colors"), pictures("val", "emoji-colors")
    known = {train.name(i) for i in range(len(train))}
    assert {one.name for one in drawings()} <= known
    held = {val.name(i) for i in range(len(val))}
    assert not held & known
    assert 0.08 < len(held) / (len(held) + len(known) - len(drawings())) < 0.12
    assert len(train) == len(known) + 2 * len(drawings())
    assert all(name.split(" ", 1)[0] in HUES for name in held)
    place = next(i for i in range(len(train)) if train.name(i) == "blue octopus")
    assert train.captions(place)[0] == "blue octopus"
    assert all(caption.startswith("blue ") for caption in train.captions(place))
    own = next(i for i in range(len(train)) if train.name(i) == "octopus")
    assert "red octopus" in train.captions(own)
    assert "octopus" in train.captions(own)


def test_flags_and_motley_drawings_keep_their_colors() -> None:
    assert drawing("flag of switzerland").other_colors == ()
    assert drawing("rainbow flag").other_colors == ()
    assert set(drawing("octopus").other_colors) == set(HUES) - {"red"}


@pytest.mark.parametrize("color", HUES)
def test_a_recolored_picture_is_ruled_by_the_color_asked_for(color: str) -> None:
    for name in ("octopus", "blue book", "four leaf clover", "pig face"):
        before = drawing(name).picture()
        after = recolored(before, color)
        ruling = ruling_hue(after)
        assert ruling is not None
        assert abs((ruling[0] - HUES[color][0] + 180) % 360 - 180) < 25
        # The ground stays, and so does what has no colour.
        ground = np.abs(np.array(before).astype(int) - GROUND).max(axis=-1) < 3
        assert (np.array(before)[ground] == np.array(after)[ground]).all()


def test_gray_pictures_stay_and_have_no_color() -> None:
    gray = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3) // 64 * 64)
    gray = gray.convert("L").convert("RGB")
    assert color_name(gray) is None
    assert recolored(gray, "red").tobytes() == gray.tobytes()


def test_recoloring_changes_no_crop() -> None:
    plain = open_data(DataConfig(source="emoji", size=96, classes=("octopus",), val_fraction=0))
    always = open_data(plain.config.model_copy(update={"recolor": 1.0}))
    never = open_data(plain.config.model_copy(update={"recolor": 0.0}))
    assert bool((plain[0].image_3HW == never[0].image_3HW).all())
    one, other = plain[0].image_3HW, always[0].image_3HW
    assert not bool((one == other).all())
    # Where the ground is, is what the crop decides.
    ground = (one - one[:, :1, :1]).abs().amax(dim=0) < 0.02
    assert bool((one[:, ground] == other[:, ground]).all())
