"""Measure a model of emoji from words: does the picture show what was asked for?

    python studies/emoji/measure.py emoji --out figures.json --sheets sheets

Names: over 200 names, chosen by a hash, is the training picture nearest to the sample (by features,
see `flexvar.evaluation.nearest`) of that name? Synonyms: words that stand in no caption. Pairs:
colours and names that were never together in training. The nearest picture is looked for among all
1,852 drawings, whatever the model was trained on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from flexvar import Pipeline
from flexvar.data import DataConfig, open_data
from flexvar.data.colors import HUES, color_name
from flexvar.data.emoji import drawings
from flexvar.data.sources import held_out, order_of
from flexvar.evaluation.nearest import (
    Gallery,
    descriptors,
    gallery,
    nearest,
    nearest_figures,
    pairs_sheet,
    pictures,
)

# Words that no emoji has among its captions, and names of which any is right.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "kitten": ("cat", "cat face", "grinning cat", "black cat", "smiling cat with heart-eyes"),
    "puppy": ("dog", "dog face", "guide dog", "poodle", "service dog"),
    "bunny": ("rabbit", "rabbit face"),
    "hare": ("rabbit", "rabbit face"),
    "mare": ("horse", "horse face"),
    "stallion": ("horse", "horse face"),
    "calf": ("cow", "cow face", "ox"),
    "lamb": ("ewe", "ram", "goat"),
    "piglet": ("pig", "pig face", "boar"),
    "cub": ("bear", "lion", "tiger", "tiger face", "panda"),
    "serpent": ("snake",),
    "viper": ("snake",),
    "toad": ("frog",),
    "tadpole": ("frog",),
    "eel": ("snake", "fish", "tropical fish"),
    "herring": ("fish", "tropical fish"),
    "trout": ("fish", "tropical fish"),
    "salmon": ("fish", "tropical fish", "sushi"),
    "hawk": ("eagle", "bird"),
    "falcon": ("eagle", "bird"),
    "raven": ("black bird", "bird"),
    "goose": ("goose", "duck", "swan"),
    "hen": ("chicken", "rooster"),
    "moth": ("butterfly",),
    "wasp": ("honeybee",),
    "hornet": ("honeybee",),
    "daisy": ("blossom", "sunflower", "white flower", "hibiscus"),
    "orchid": ("blossom", "hibiscus", "tulip", "white flower"),
    "oak": ("deciduous tree", "evergreen tree"),
    "pine": ("evergreen tree", "pine decoration", "pineapple"),
    "maize": ("ear of corn",),
    "spud": ("potato",),
    "yam": ("roasted sweet potato", "potato"),
    "cider": ("beer mug", "clinking beer mugs", "wine glass", "beverage box"),
    "lager": ("beer mug", "clinking beer mugs"),
    "whisky": ("tumbler glass", "cocktail glass"),
    "champagne": ("bottle with popping cork", "clinking glasses"),
    "espresso": ("hot beverage",),
    "cappuccino": ("hot beverage",),
    "muffin": ("cupcake",),
    "baguette": ("baguette bread", "bread"),
    "burger": ("hamburger",),
    "lorry": ("delivery truck", "articulated lorry", "pickup truck"),
    "limousine": ("automobile", "oncoming automobile", "taxi"),
    "sedan": ("automobile", "oncoming automobile", "taxi"),
    "jet": ("airplane", "small airplane", "airplane departure"),
    "yacht": ("sailboat", "motor boat", "speedboat", "ship"),
    "shuttle": ("rocket", "satellite"),
    "cottage": ("house", "house with garden", "houses"),
    "cathedral": ("church",),
    "skyscraper": ("office building", "cityscape"),
    "attorney": ("woman judge", "man judge", "judge", "man office worker", "office worker"),
    "physician": ("health worker", "man health worker", "woman health worker"),
    "surgeon": ("health worker", "man health worker", "woman health worker"),
    "sorcerer": ("mage", "man mage", "woman mage"),
    "monarch": ("crown", "prince", "princess", "person with crown"),
    "sabre": ("crossed swords", "dagger", "person fencing"),
    "guitarist": ("guitar", "man singer", "singer", "woman singer"),
    "fiddle": ("violin",),
    "trombone": ("trumpet", "saxophone"),
    "necklace": ("prayer beads", "gem stone", "ring"),
    "trousers": ("jeans", "shorts"),
    "sneakers": ("running shoe",),
    "blizzard": ("snowflake", "cloud with snow", "snowman"),
    "downpour": ("cloud with rain", "cloud with lightning and rain", "umbrella with rain drops"),
    "hurricane": ("cyclone", "tornado"),
}
NAMES, PAIRS, BATCH = 200, 100, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--names", type=int, default=NAMES)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--val-fraction", type=float, default=0.75, help="of the model's recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], help="sampling: guidance=2 top_k=50")
    options = parser.parse_args()
    sampling = {key: float(value) for key, value in (text.split("=") for text in options.set)}
    if "top_k" in sampling:
        sampling["top_k"] = int(sampling["top_k"])
    pipe = Pipeline.from_pretrained(options.model)
    started = time.perf_counter()
    own = gallery(open_data(DataConfig(source="emoji", size=128, val_fraction=0), augment=False))
    known_names = set(pipe.class_names or (one.name for one in drawings()))
    names = sorted(known_names, key=order_of)
    place = {one.name: number for number, one in enumerate(drawings())}
    figures: dict[str, object] = {"model": options.model, "seed": options.seed, **sampling}

    chosen = names[: options.names]
    images = made(pipe, chosen, options.seed, sampling)
    found = nearest(descriptors(pictures(images)), own)
    labels = torch.tensor([place[name] for name in chosen])
    figures["names"] = {"samples": len(chosen), **nearest_figures(found, own, labels)}
    figures["names"]["chance"] = 1 / len(drawings())
    if options.sheets:
        options.sheets.mkdir(parents=True, exist_ok=True)
        pairs_sheet(images[:100], found, own).save(options.sheets / "nearest.webp", quality=80)
        figures["sheet"] = chosen[:100]

    if options.pairs:
        known = {caption for one in drawings() for caption in one.captions}
        words = [w for w, right in SYNONYMS.items() if w not in known and known_names & set(right)]
        figures["synonyms"] = synonyms(pipe, words, own, place, options.seed, sampling)
        figures["pairs"] = pairs(pipe, options, known_names, place, sampling)
    figures["seconds"] = time.perf_counter() - started
    print(json.dumps(figures, indent=2, ensure_ascii=False))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")


def made(
    pipe: Pipeline, prompts: Sequence[str], seed: int, sampling: dict[str, float]
) -> list[Image.Image]:
    """One picture per prompt, picture i with the key (seed, i)."""
    images: list[Image.Image] = []
    for start in range(0, len(prompts), BATCH):
        part = list(prompts[start : start + BATCH])
        images += pipe(
            prompts=part, seed=seed, first_index=start, progress=False, **sampling
        ).images
    return images


def synonyms(
    pipe: Pipeline,
    words: list[str],
    own: Gallery,
    place: dict[str, int],
    seed: int,
    sampling: dict[str, float],
) -> dict[str, object]:
    """Share of words in no caption whose sample is nearest to a drawing that is right."""
    images = made(pipe, words, seed, sampling)
    found = nearest(descriptors(pictures(images)), own)
    right1, right5, reached = [], [], {}
    by_number = {number: name for name, number in place.items()}
    for row, word in enumerate(words):
        near = [by_number[int(own.labels_N[index])] for index in found.index_Nk[row]]
        right1.append(near[0] in SYNONYMS[word])
        right5.append(any(name in SYNONYMS[word] for name in near))
        reached[word] = near[0]
    count = len(words)
    return {"words": count, "top1": sum(right1) / count, "top5": sum(right5) / count,
            "reached": reached}  # fmt: skip


def pairs(
    pipe: Pipeline,
    options: argparse.Namespace,
    known_names: set[str],
    place: dict[str, int],
    sampling: dict[str, float],
) -> dict[str, object]:
    """Held-out pairs of a colour and a name: is the colour right, is the drawing, are both?

    The sample is compared with all drawings in the colour asked for, so that the colour itself
    gives nothing away.
    """
    held = [
        (color, one)
        for one in drawings()
        if one.name in known_names
        for color in one.other_colors
        if held_out(f"{color} {one.name}", options.val_fraction)
    ]
    held = sorted(held, key=lambda pair: order_of(f"pair {pair[0]} {pair[1].name}"))
    held = held[: options.pairs]
    images = made(pipe, [f"{color} {one.name}" for color, one in held], options.seed, sampling)
    seen = descriptors(pictures(images))
    asked = [color for color, _ in held]
    color_right = [color_name(image) == color for image, color in zip(images, asked, strict=True)]
    name_right = [False] * len(held)
    for color in HUES:
        rows = [row for row, pair in enumerate(held) if pair[0] == color]
        if not rows:
            continue
        every = [one.picture(color if color in one.other_colors else None) for one in drawings()]
        distances = torch.cdist(seen[rows], descriptors(pictures(every)))
        for row, index in zip(rows, distances.argmin(dim=1).tolist(), strict=True):
            name_right[row] = index == place[held[row][1].name]
    if options.sheets:
        sheet(images, held).save(options.sheets / "pairs.webp", quality=80)
    count = len(held)
    both = [a and b for a, b in zip(color_right, name_right, strict=True)]
    return {
        "pairs": count,
        "color": sum(color_right) / count,
        "name": sum(name_right) / count,
        "both": sum(both) / count,
        "chance_color": 1 / len(HUES),
    }


def sheet(images: list[Image.Image], held: list) -> Image.Image:  # type: ignore[type-arg]
    """Samples of held-out pairs, each with the picture that training never saw below it."""
    columns, gap = 10, 4
    rows = -(-len(images) // columns)
    whole = Image.new("RGB", (columns * (128 + gap), rows * (2 * 128 + 3 * gap)), "white")
    for number, (image, (color, one)) in enumerate(zip(images, held, strict=True)):
        row, column = divmod(number, columns)
        left, top = column * (128 + gap), row * (2 * 128 + 3 * gap)
        whole.paste(image, (left, top))
        whole.paste(one.picture(color), (left, top + 128 + gap))
    return whole


if __name__ == "__main__":
    main()
