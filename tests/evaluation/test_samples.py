"""Sets of samples: balance, keys, resuming, and what is wrong with a damaged or foreign one."""

import numpy as np
import pytest
from PIL import Image

from flexvar import Pipeline
from flexvar.errors import FlexvarError
from flexvar.evaluation.sampler import Sampler, make, weights_digest
from flexvar.images import read_settings


def sampler(source=None, **options):
    return Sampler(
        source=source, device="cpu", dtype="fp32", preset="default", seed=3, steps=3, **options
    )


@pytest.fixture
def made(digits_pipe, tmp_path):
    wanted = sampler().set_of(digits_pipe, tmp_path / "set", 2)
    assert make(sampler(), digits_pipe, wanted, batch=7) == 20
    return wanted


def test_a_set_is_balanced_and_each_image_can_be_made_alone(made, digits_pipe):
    found = made.check()
    assert (found["samples"], found["per_class"]) == (20, 2)
    stored = read_settings(made.path(13))
    assert (stored["label"], stored["index"], stored["seed"]) == ("3", 13, 3)
    alone = digits_pipe(3, steps=3, seed=3, first_index=13).images[0]
    assert np.array_equal(np.asarray(alone), made.pixels(13))


def test_only_what_is_missing_or_broken_is_made_again(made, digits_pipe):
    before = {i: made.path(i).read_bytes() for i in range(20)}
    times = {i: made.path(i).stat().st_mtime_ns for i in range(20)}
    made.path(4).unlink()
    made.path(11).write_bytes(before[11][:-40])
    made.path(12).write_bytes(b"")
    assert make(sampler(), digits_pipe, made) == 3
    assert {i: made.path(i).read_bytes() for i in range(20)} == before
    again = {i for i in range(20) if made.path(i).stat().st_mtime_ns != times[i]}
    assert again == {4, 11, 12}
    assert make(sampler(), digits_pipe, made) == 0


def test_more_per_class_only_adds(made, digits_pipe):
    more = sampler().set_of(digits_pipe, made.directory, 3)
    assert make(sampler(), digits_pipe, more) == 10
    assert more.check()["per_class"] == 3
    with pytest.raises(FlexvarError, match="holds 10 pictures besides the 20 asked for"):
        made.missing()


def test_other_settings_in_the_same_directory(made, digits_pipe):
    other = sampler(options=(("guidance", 0.5),))
    with pytest.raises(FlexvarError, match=r"run.json was made with other settings \(guidance"):
        make(other, digits_pipe, other.set_of(digits_pipe, made.directory, 2))
    foreign = Image.new("RGB", (16, 16))
    foreign.save(made.path(5))
    with pytest.raises(FlexvarError, match="000005.png was made with other settings"):
        made.missing()


def test_a_swapped_file_and_repeated_pixels_are_noticed(made):
    made.path(2).write_bytes(made.path(1).read_bytes())
    with pytest.raises(FlexvarError, match="is no balanced set"):
        made.check()
    with pytest.raises(FlexvarError, match="000002.png was made with other settings"):
        made.missing()


def test_pixel_identical_samples_are_counted(digits_pipe, tmp_path):
    greedy = sampler(options=(("top_k", 1),))
    wanted = greedy.set_of(digits_pipe, tmp_path, 3)
    make(greedy, digits_pipe, wanted)
    found = wanted.check()
    # The likeliest tokens are the same for every image of a class.
    assert found["identical"] >= 20
    assert {0, 10, 20} <= set(next(g for g in found["identical_groups"] if 0 in g))


def test_the_npz_is_what_other_evaluators_read(made, tmp_path):
    made.write_npz(tmp_path / "samples.npz")
    with np.load(tmp_path / "samples.npz") as file:
        assert list(file) == ["arr_0"]
        array = file["arr_0"]
    assert (array.shape, array.dtype) == ((20, 16, 16, 3), np.uint8)
    assert all(np.array_equal(array[i], made.pixels(i)) for i in range(20))


def test_the_digest_is_of_the_weights(digits_pipe, digits_dir):
    loaded = Pipeline.from_pretrained(digits_dir)
    assert weights_digest(loaded) == weights_digest(digits_pipe)
    next(loaded.model.parameters()).data.view(-1)[0] += 1
    assert weights_digest(loaded) != weights_digest(digits_pipe)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 0}, "processes: got 0"),
        ({"batch": 0}, "batch: got 0"),
        ({"processes": 2}, "Only a saved model"),
    ],
)
def test_numbers_that_cannot_be(digits_pipe, tmp_path, options, message):
    wanted = sampler().set_of(digits_pipe, tmp_path / "x", 1)
    with pytest.raises(FlexvarError, match=message):
        make(sampler(), digits_pipe, wanted, **options)
    assert not (tmp_path / "x").exists()
