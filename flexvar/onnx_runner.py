"""Make a picture from the ONNX graphs beside this file: numpy and onnxruntime are all it needs.

    python generate.py --label coffee --seed 0 --out coffee.png

(pillow writes the file.) ``flexvar export`` wrote the graphs, each of fixed shapes: scale_00.onnx
takes a class, the following ones the tokens of the scale before; decoder.onnx gives the picture.
What goes out as next_NAME goes into the next graph as NAME.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

Array = Any


class Generator:
    """The graphs of a directory; config: what config.json says of them."""

    def __init__(self, directory: str | Path, threads: int = 0) -> None:
        directory = Path(directory)
        self.config = json.loads((directory / "config.json").read_text("utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        names = [f"scale_{n:02}.onnx" for n in range(len(self.config["grids"]))]
        self.scales, self.decoder = [], None
        *self.scales, self.decoder = (
            onnxruntime.InferenceSession(
                str(directory / name), options, providers=["CPUExecutionProvider"]
            )
            for name in [*names, "decoder.onnx"]
        )

    def number(self, label: str) -> int:
        """The class of a name or a number; of several names in a class, one is enough."""
        names = [name.split(", ") for name in self.config["class_names"]]
        for number, synonyms in enumerate(names):
            if label == ", ".join(synonyms) or label in synonyms:
                return number
        if label.isdecimal() and int(label) < self.config["num_classes"]:
            return int(label)
        raise SystemExit(f"There is no class {label!r}; config.json lists them.")

    def __call__(self, label: int, seed: int = 0) -> Array:
        """A picture (1,3,H,W) in [0,1]; tokens are drawn as the model's settings say."""
        random = np.random.default_rng(seed)

        def choose(logits: Array, step: int) -> Array:
            drawn = self.config["draws"][step]
            return self._draw(logits, random) if drawn else logits.argmax(-1)

        return self._run(label, choose)[0]

    def likeliest(self, label: int) -> tuple[Array, list[Array]]:
        """The picture of the likeliest token everywhere, and the tokens of each scale."""
        return self._run(label, lambda logits, step: logits.argmax(-1))

    def _run(self, label: int, choose: Callable[[Array, int], Array]) -> tuple[Array, list[Array]]:
        known: dict[str, Array] = {"label": np.array([label], np.int64)}
        maps = []
        for step, (scale, grid) in enumerate(zip(self.scales, self.config["grids"], strict=True)):
            known["guidance"] = np.array(self.config["guidance"][step], np.float32)
            known = {**known, **_outputs(scale, known)}
            logits = known.pop("logits")
            chosen = choose(logits, step).astype(np.int64)
            known["tokens"] = chosen.reshape(1, *grid, *chosen.shape[2:])
            maps.append(known["tokens"])
        return _outputs(self.decoder, known)["image"], maps

    def _draw(self, logits: Array, random: np.random.Generator) -> Array:
        """A token for each place: by temperature, top-k, then top-p."""
        config = self.config
        values = logits.astype(np.float64) / config["temperature"]
        order = np.argsort(-values, axis=-1, kind="stable")
        values = np.take_along_axis(values, order, -1)
        if 0 < config["top_k"] < values.shape[-1]:
            values[values < values[..., config["top_k"] - 1, None]] = -np.inf
        odds = np.exp(values - values[..., :1])
        odds /= odds.sum(-1, keepdims=True)
        before = np.cumsum(odds, -1) - odds
        odds[before >= config["top_p"]] = 0
        total = np.cumsum(odds, -1)
        place = random.random((*odds.shape[:-1], 1)) * total[..., -1:]
        rank = np.minimum((total <= place).sum(-1, keepdims=True), odds.shape[-1] - 1)
        return np.take_along_axis(order, rank, -1)[..., 0]


def _outputs(session: Any, known: dict[str, Array]) -> dict[str, Array]:
    names = [one.name.removeprefix("next_") for one in session.get_outputs()]
    given = {one.name: known[one.name] for one in session.get_inputs()}
    return dict(zip(names, session.run(None, given), strict=True))


def main() -> None:
    """The command line."""
    from PIL import Image

    parser = argparse.ArgumentParser(description="Make a picture of a class.")
    parser.add_argument("--label", required=True, help="a class, by name or number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="picture.png")
    asked = parser.parse_args()
    generator = Generator(Path(__file__).parent)
    image = generator(generator.number(asked.label), asked.seed)[0]
    pixels = (image.transpose(1, 2, 0) * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(asked.out)


if __name__ == "__main__":
    main()
