"""Make the bundled model of a training run: weights in fp16, and the sheet of its card.

    python studies/emoji/bundle.py runs/emoji flexvar/models/emoji

The sheet has a hundred names the model was trained on, at even distances, with seed 0; nothing
is picked. README.md is written by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from flexvar import Pipeline, images

COUNT = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="what training wrote")
    parser.add_argument("out", type=Path, help="directory of the checkpoint")
    options = parser.parse_args()
    pipe = Pipeline.from_pretrained(options.run)
    card = options.out / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else None
    pipe.to("fp16").save_pretrained(options.out)
    if text is not None:
        card.write_text(text, encoding="utf-8")
    pipe = Pipeline.from_pretrained(options.out)
    names = pipe.class_names or []
    names = [names[number * len(names) // COUNT] for number in range(COUNT)]
    made = [pipe(prompts=[name], seed=0, progress=False).images[0] for name in names]
    sheet = images.contact_sheet(made, names)
    sheet.save(options.out / "samples.webp", quality=85)


if __name__ == "__main__":
    main()
