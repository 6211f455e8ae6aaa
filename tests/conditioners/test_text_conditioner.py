"""The text conditioner: words, scripts, emoji, cuts, what a checkpoint records, labels by name."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from flexvar_plugins.conditioners import encoders
from flexvar_plugins.conditioners.text import TextConditioner, TextConfig
from flexvar_plugins.conditioners.words import plain
from helpers import TINY

from flexvar import Facts, FlexvarError, Pipeline
from flexvar.components import Condition

pytest.importorskip("wordllama")
NAMES = ("octopus", "tiger face", "red apple")
SMALL: dict[str, Any] = {
    "tokenizer": TINY["tokenizer"],
    "backbone": {"name": "transformer", "depth": 1, "width": 64},
    "conditioner": {"name": "text", "width": 32, "num_heads": 2, "max_tokens": 8},
}


def conditioner(*, names: tuple[str, ...] | None = NAMES, **options: Any) -> TextConditioner:
    facts = Facts(16, 4, 24, 24, len(names or "1"), 1, names, True)
    config = TextConfig(**{"width": 32, "num_heads": 2, "max_tokens": 8, **options})
    torch.manual_seed(0)
    return TextConditioner(config, facts=facts).eval()


def condition(part: TextConditioner, *values: Any) -> Condition:
    with torch.no_grad():
        found: Condition = part(part.collate(values))
    return found


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("A  Green\nOCTOPUS", "a green octopus"),
        ("🐙", "octopus"),
        ("a 🐙!", "a octopus !"),
        ("❤️", "heavy black heart"),
        ("👍🏽", "thumbs up sign emoji modifier fitzpatrick type-4"),
        ("🇩🇪", "flag de"),
        ("осьминог", "осьминог"),
        ("\ud800 cat", "? cat"),
        (" \t", ""),
    ],
)
def test_prompts_become_plain_words(written: str, words: str) -> None:
    assert plain(written) == words


def test_an_emoji_is_its_name_and_case_does_not_matter() -> None:
    part = conditioner()
    emoji, name, shouted = (condition(part, one).pooled_BD for one in ("🐙", "octopus", "OCTOPUS"))
    assert torch.equal(emoji, name)
    assert torch.equal(shouted, name)
    assert not torch.allclose(name, condition(part, "tiger").pooled_BD)


def test_kitten_is_nearer_to_cat_than_to_car() -> None:
    part = conditioner()
    kitten, cat, car = (
        part.collate([word])[0].sum(1).flatten() for word in ("kitten", "cat", "car")
    )
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(kitten, cat, dim=0) > 0.4 > cosine(kitten, car, dim=0)


@pytest.mark.parametrize("word", ["Qwxyzzyfrob", "осьминог", "章鱼", "أخطبوط", "🐙🐙", "\x00"])
def test_unknown_words_and_other_scripts_are_conditions_of_their_own(word: str) -> None:
    found = condition(conditioner(), word, None)
    assert found.pooled_BD.isfinite().all()
    assert not torch.allclose(found.pooled_BD[0], found.pooled_BD[1])


def test_a_long_prompt_is_cut_with_a_warning() -> None:
    part = conditioner()
    with pytest.warns(UserWarning, match=r"has 1\d{4} tokens; the first 8 are taken"):
        long = condition(part, "green octopus " * 5_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.isfinite(long.pooled_BD).all()
        condition(part, "a green octopus")


@pytest.mark.parametrize("empty", [None, "", "  \n", torch.zeros(0, 256)], ids=repr)
def test_nothing_is_the_null_condition(empty: Any) -> None:
    part = conditioner()
    inputs = part.collate([empty])
    for null in (part.null(part.collate(["a cat"])), part.null(inputs)):
        assert all(torch.equal(*two) for two in zip(inputs, null, strict=True))


def test_alone_and_in_a_batch_are_the_same_to_the_bit() -> None:
    part = conditioner()
    prompts = ["cat", "a green octopus with a hat", None, "tiger face", "x"]
    together = condition(part, *prompts)
    for row, prompt in enumerate(prompts):
        alone = condition(part, prompt)
        assert torch.equal(alone.pooled_BD[0], together.pooled_BD[row])
        assert alone.tokens_BTD is not None
        assert together.tokens_BTD is not None
        assert torch.equal(alone.tokens_BTD[0], together.tokens_BTD[row])


def test_numbers_in_padding_change_nothing() -> None:
    part = conditioner()
    features, mask = part.collate(["a cat", None])
    with torch.no_grad():
        before, after = part((features, mask)), part((features + 5.0 * ~mask[..., None], mask))
    torch.testing.assert_close(after.pooled_BD, before.pooled_BD)
    torch.testing.assert_close(after.tokens_BTD, before.tokens_BTD)


def test_features_in_place_of_words() -> None:
    part = conditioner()
    features = part.collate(["a green octopus"])[0][0][:4]
    assert torch.equal(
        condition(part, features).pooled_BD, condition(part, "a green octopus").pooled_BD
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, r"got 3; expected words"),
        (torch.zeros(2, 5), r"shape \(2, 5\); expected \(tokens, 256\)"),
        (torch.full((1, 256), torch.nan), "not finite"),
    ],
)
def test_what_is_no_prompt_is_refused(value: Any, message: str) -> None:
    with pytest.raises(FlexvarError, match=message):
        conditioner().collate([value])


def test_embeddings_are_looked_up_by_caption(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a cat": torch.ones(3, 6), "dog": torch.zeros(2, 6)}, tmp_path / "c.safetensors")
    source = str(tmp_path / "c.safetensors")
    part = conditioner(encoder="embeddings", source=source, names=None)
    assert part.collate(["a cat"])[1].sum() == 3
    with pytest.raises(FlexvarError, match=r"no features of 'a cats'. Did you mean 'a cat'\?"):
        part.collate(["a cats"])
    with pytest.raises(FlexvarError, match="takes features in place of words"):
        conditioner(encoder="embeddings", channels=6, names=None).collate(["a cat"])


def test_the_checkpoint_records_the_encoder_and_not_its_vectors(tmp_path: Path) -> None:
    pipe = Pipeline.from_config({**SMALL, "num_classes": 3, "class_names": NAMES})
    pipe.save_pretrained(tmp_path)
    recorded = pipe.config.model.conditioner.options
    assert recorded["digest"] == encoders.load("wordllama", None).digest
    assert sum(p.numel() for p in pipe.model.conditioner.parameters()) < 100_000
    again = Pipeline.from_pretrained(tmp_path)
    one, two = (
        p(prompts=["a cat"], seed=1, size=32, output="tensor").images for p in (pipe, again)
    )
    assert torch.equal(one, two)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace(recorded["digest"], "0" * 64))
    with pytest.raises(FlexvarError, match=r"conditioner.digest.*trained with 000000000000"):
        Pipeline.from_pretrained(tmp_path)


def test_labels_need_no_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipeline.from_config({**SMALL, "num_classes": 3, "class_names": NAMES})
    with_words = pipe(prompts=["tiger face", None], seed=0, size=32, output="tensor")
    pipe.save_pretrained(tmp_path)

    def missing(*_: Any) -> Any:
        raise encoders.MissingEncoderError("Words need the package wordllama: pip install it")

    encoders.encoded.cache_clear()
    monkeypatch.setattr(encoders, "load", missing)
    bare = Pipeline.from_pretrained(tmp_path)
    by_label = bare(labels=[1, None], seed=0, size=32, output="tensor")
    assert torch.equal(by_label.images, with_words.images)
    assert by_label.settings["prompts"] == ["tiger face", None]
    with pytest.raises(FlexvarError, match=r"pip install it.*the names that the model knows work"):
        bare(prompts=["a cat"])


def test_what_a_user_asks_for_is_checked(tmp_path: Path) -> None:
    words = Pipeline.from_config(SMALL)
    with pytest.raises(FlexvarError, match=r"labels \(3\) and prompts \(a cat\) are two names"):
        words(labels=[3], prompts=["a cat"])
    with pytest.raises(FlexvarError, match=r"labels: got 3; this model is conditioned on words"):
        words(labels=[3])
    with pytest.raises(FlexvarError, match="negative: 2 for 3 images"):
        words(prompts=["a", "b", "c"], negative=["d", "e"])
    named = Pipeline.from_config({**SMALL, "num_classes": 3, "class_names": NAMES})
    with pytest.raises(FlexvarError, match=r"no class 'tigers'.*Words of any other kind go into"):
        named(labels=["tigers"])
    classes = Pipeline.from_config(
        {k: v for k, v in SMALL.items() if k != "conditioner"}
        | {"num_classes": 3, "class_names": NAMES}
    )
    with pytest.raises(FlexvarError, match=r"prompts: got a cat; this model knows classes, not"):
        classes(prompts=["a cat"])
    nothing = Pipeline.from_config({**SMALL, "conditioner": "none"})
    with pytest.raises(FlexvarError, match="trained without any condition"):
        nothing(labels=[0])
    assert len(nothing(num=2, seed=0, size=32).images) == 2


def test_a_negative_prompt_takes_the_place_of_no_condition() -> None:
    pipe = Pipeline.from_config(SMALL)
    with torch.no_grad():
        for parameter in pipe.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    given: dict[str, Any] = {"seed": 0, "size": 32, "guidance": 4.0, "output": "tensor"}
    plain_one = pipe(prompts=["a cat"], **given)
    same = pipe(prompts=["a cat"], negative="", **given)
    other = pipe(prompts=["a cat"], negative="a dog", **given)
    assert torch.equal(plain_one.images, same.images)
    assert not torch.equal(plain_one.images, other.images)
    assert other.image_settings(0)["negative"] == "a dog"
    assert other.image_settings(0)["prompt"] == "a cat"
