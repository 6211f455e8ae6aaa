"""Values of any library are numbers, words of other libraries get a hint, paths are told apart."""

import json

import numpy as np
import pytest
import torch
from helpers import TINY, shake
from PIL import Image

from flexvar import FlexvarError, Pipeline, images
from flexvar.config import override, parse_yaml
from flexvar.values import plain, real, whole


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4), ("1e3", 1000.0), ("1_000", 1000), ("010", 10), ("0x1f", 31), ("-2", -2),
        (".5", 0.5), ("1.", 1.0), (".inf", float("inf")), ("1:30", "1:30"), ("1e", "1e"),
        ("[1, 2e-1]", [1, 0.2]), ("true", True), ("null", None),
    ],
)  # fmt: skip
def test_numbers_are_what_python_reads_as_numbers(text, value):
    assert parse_yaml(text, "x") == value
    assert type(parse_yaml(text, "x")) is type(value)
    assert override({}, [f"a.b={text}"]) == {"a": {"b": value}}


def test_the_example_of_the_help_is_taken():
    from flexvar.training.recipe import load_recipe

    recipe = load_recipe("photos", "model", ["optimiser.learning_rate=3e-4"])
    assert recipe.optimiser.learning_rate == 3e-4


@pytest.mark.parametrize(
    "text",
    ["&a [*a]", "a: &a {x: 1}\n" + "\n".join(
        f"{chr(98 + i)}: &{chr(98 + i)} {{x: *{chr(97 + i)}, y: *{chr(97 + i)}}}"
        for i in range(22)), "[" * 3000, "{" * 100, "2001-99-99", "0x" + "f" * 5000, "1" * 5000],
    ids=["cycle", "billion", "deep", "open", "date", "hex", "digits"],
)  # fmt: skip
def test_yaml_that_stumbles_is_a_message(text):
    with pytest.raises(FlexvarError, match="x is not valid YAML"):
        parse_yaml(text, "x")


def test_values_of_numpy_and_torch_are_pythons():
    assert plain([np.int64(3), torch.tensor([1, 2]), (np.float32(0.5),)]) == [3, [1, 2], (0.5,)]
    assert whole("x", torch.tensor(3)) == whole("x", np.array([3])) == 3
    assert real("x", np.float16(0.5)) == 0.5
    for value in (1.5, "3", True, None, torch.tensor([1, 2]), np.bool_(True)):
        with pytest.raises(FlexvarError, match="x: got .*; expected a whole number"):
            whole("x", value)


def test_a_call_takes_numbers_of_any_library(tiny):
    wanted = tiny([1, 2], size=(16, 16), seed=[3, 4], steps=3, guidance=1.5, top_k=5)
    for number in (np.int64, torch.tensor, np.array):
        found = tiny(
            np.array([1, 2]) if number is not torch.tensor else torch.tensor([1, 2]),
            size=(number(16), number(16)),
            seed=[number(3), number(4)],
            steps=number(3),
            guidance=number(1.5) if number is not np.int64 else np.float64(1.5),
            top_k=number(5),
        )
        for one, other in zip(wanted.images, found.images, strict=True):
            assert one.tobytes() == other.tobytes()
        assert wanted.settings == found.settings


def picture() -> Image.Image:
    return Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))


CALLS = {
    "num": lambda p, n: p(0, size=8, seed=0, num=n(2), images_per_call=n(1), tile=n(0)),
    "index": lambda p, n: p(0, size=8, seed=0, first_index=n(2)),
    "box": lambda p, n: p.edit(picture(), n([2, 2, 9, 9]), 1, seed=n(0), feather=n(3)),
    "boxes": lambda p, n: p.edit(picture(), [n([2, 2, 9, 9])], 1, seed=0, num=n(2)),
    "ratio": lambda p, n: p.outpaint(picture(), n(2), 1, seed=0),
    "ratios": lambda p, n: p.outpaint(picture(), n([1, 2]), 1, seed=0, max_side=n(99)),
    "margin": lambda p, n: p.outpaint(picture(), label=1, margins=n(4), seed=0),
    "margins": lambda p, n: p.outpaint(picture(), label=1, margins=n([4, 0, 0, 4]), seed=0),
    "refine": lambda p, n: p.refine(picture(), n([32, 32]), 1, start=n(3), seed=0, steps=n(5)),
    "size": lambda p, n: p.refine(picture(), n(32), 1, seed=0),
    "regenerate": lambda p, n: p.regenerate(p(0, size=8, seed=0).maps, n(1), 1, seed=0),
}


@pytest.mark.parametrize("number", [np.array, torch.tensor, np.int64], ids=["np", "torch", "int64"])
@pytest.mark.parametrize("call", CALLS)
def test_every_number_of_a_call_may_be_of_any_library(tiny, tmp_path, call, number):
    wanted = CALLS[call](tiny, lambda value: value)
    found = CALLS[call](tiny, number)
    assert [one.tobytes() for one in found.images] == [one.tobytes() for one in wanted.images]
    assert found.settings == wanted.settings
    path = found.save(tmp_path)[0]
    assert images.read_settings(path) == json.loads(json.dumps(wanted.image_settings(0)))


def test_settings_with_such_values_are_saved(tmp_path):
    settings = {"of": np.float32(0.5), "list": torch.tensor([1, 2]), np.int64(3): {"a": {4}}}
    images.save_png(picture(), tmp_path / "a.png", settings)
    assert images.read_settings(tmp_path / "a.png") == {"of": 0.5, "list": [1, 2], "3": {"a": [4]}}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p(0, num=1.5), "num: got 1.5; expected a whole number"),
        (lambda p: p(0, tile="a"), "tile: got 'a'; expected a whole number"),
        (lambda p: p.edit(picture(), 3, 1), "box: got 3; expected left"),
        (
            lambda p: p.edit(picture(), np.array([1, 2, 3]), 1),
            r"box: got \[1, 2, 3\]; exp",
        ),
        (lambda p: p.edit(picture(), (0.5, 0, 9, 9), 1), "box: got .*; expected left"),
        (lambda p: p.edit(picture(), (0, 0, 9, 9), 1, feather=np.array([1, 2])), "feather: got"),
        (lambda p: p.outpaint(picture(), "2", 1), "ratio: got '2'; expected a number"),
        (lambda p: p.outpaint(picture(), (1, 2, 3), 1), "ratio: got .*; expected a number"),
        (lambda p: p.outpaint(picture(), label=1, margins=[1, "2", 3, 4]), "margins: got '2'"),
        (lambda p: p.refine(picture(), None, 1), "size: got None"),
        (lambda p: p.refine(picture(), 32, 1, start=1.5), "start: got 1.5; expected a whole"),
        (lambda p: p.reconstruct(picture(), max_side="9"), "max_side: got '9'"),
    ],
)
def test_what_is_no_such_number_is_said(tiny, call, message):
    with pytest.raises(FlexvarError, match=message):
        call(tiny)


@pytest.mark.parametrize("value", [1.5, object(), True])
def test_what_is_no_label(tiny, value):
    with pytest.raises(FlexvarError, match="label: got .*; expected a whole number"):
        tiny(value, size=16, seed=0)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("guidance_scale", "It is called guidance here"),
        ("num_inference_steps", "It is called steps here"),
        ("generator", "made by seed="),
    ],
)
def test_words_of_other_libraries(tiny, word, hint):
    with pytest.raises(FlexvarError, match=hint):
        tiny([0], size=16, **{word: 1})


def test_a_dtype_may_come_first_and_exact_weights_come_back(tiny, tiny_dir):
    for pipe in (Pipeline.from_pretrained(tiny_dir), shake(Pipeline.from_config(TINY, seed=1))):
        assert pipe.to(torch.bfloat16).model.dtype == torch.bfloat16
        assert pipe.device.type == "cpu"
        pipe.to("fp32")
        for one, other in zip(pipe.parts.modules(), tiny.parts.modules(), strict=True):
            for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
                assert torch.equal(a, b)
        pipe.to("bf16")
        pipe.model.start_embedding.data.add_(1)
        with pytest.raises(FlexvarError, match="rounded to bfloat16 and changed since they"):
            pipe.to("fp32")


def test_a_hub_that_refuses_is_a_message(tiny, monkeypatch):
    import huggingface_hub

    def refuse(*_, **__):
        raise OSError("401 Client Error")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(FlexvarError, match="the hub did not take 'me/x': .*401 .* save_pretrained"):
        tiny.push_to_hub("me/x")


def test_a_folder_without_a_config_hides_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert Pipeline.from_pretrained("photos").class_names
    (tmp_path / "mine").mkdir()
    with pytest.raises(FlexvarError, match=r"mine is no checkpoint: it has no config\.json"):
        Pipeline.from_pretrained("mine")


def test_a_path_that_is_not_there_is_not_looked_up_on_the_hub(monkeypatch):
    import huggingface_hub

    def asked(*_, **__):
        pytest.fail("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", asked)
    with pytest.raises(
        FlexvarError, match="no checkpoint runs/tokenizer.*`flexvar train tokenizer"
    ):
        Pipeline.from_pretrained("runs/tokenizer")
    with pytest.raises(FlexvarError, match="no path|There is no checkpoint"):
        Pipeline.from_pretrained("n" * 5000)


def test_the_repr_of_a_pipeline_is_a_few_lines(tiny, tiny_dir):
    lines = repr(Pipeline.from_pretrained(tiny_dir)).splitlines()
    assert 5 < len(lines) < 14
    assert lines[0] == f"Pipeline({tiny_dir}, cpu, float32)"
    assert "backbone   transformer: depth 2, width 64, num_heads 2" in repr(tiny)


class Unspeakable:
    def __repr__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 10**400}, "expected at most 1,048,576 pixels a side"),
        (
            {"temperature": 1e-300},
            "temperature: got 1e-300; expected greater than or equal to 0.000001",
        ),
        ({"guidance": 1e30}, "guidance: got 1e.30; expected less than or equal to 1000000"),
        ({"sampler": Unspeakable()}, "sampler: got .*Unspeakable.*; expected a sampler's name"),
        ({"preset": ["x"]}, "preset: got ..x..; expected a name"),
        ({"on_scale": 5}, "on_scale: got 5; expected a function"),
    ],
)
def test_values_that_no_call_can_take(tiny, options, message):
    with pytest.raises(FlexvarError, match=message):
        tiny([0], seed=0, **{"size": 16, **options})


@pytest.mark.parametrize("value", [5, None, b"x", ["tiny"]])
def test_what_is_no_path_is_no_checkpoint(tiny, value):
    with pytest.raises(FlexvarError, match="got .*; expected a directory"):
        Pipeline.from_pretrained(value)
    with pytest.raises(FlexvarError, match="got .*; expected a path"):
        tiny.save_pretrained(value)


def test_a_tensor_without_values_is_no_picture(tiny):
    with pytest.raises(FlexvarError, match="on the meta device"):
        tiny.reconstruct(torch.empty(3, 16, 16, device="meta"))


def test_the_widest_settings_that_are_taken_draw_tokens(tiny):
    for temperature in (1e-6, 1e6):
        assert tiny([0], seed=0, size=16, guidance=1e6, temperature=temperature).images


def test_a_part_that_is_named_alone_takes_options_after_its_name() -> None:
    assert override({"objective": {"name": "corrupted", "strength": 1}},
                    ["objective=cross_entropy", "objective.scale_power=0.5", "data=digits",
                     "data.size=16"]) == {
        "objective": {"name": "cross_entropy", "scale_power": 0.5},
        "data": {"source": "digits", "size": 16},
    }  # fmt: skip
    with pytest.raises(FlexvarError, match="'tokenizer' is a value, not a section"):
        override({"tokenizer": "runs/tokenizer"}, ["tokenizer.depth=1"])
