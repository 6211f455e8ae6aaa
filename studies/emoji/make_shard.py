"""Make the shard of the built-in set ``emoji`` from two packages, byte for byte the same each time.

    npm pack @lobehub/fluent-emoji-3d@1.1.0 && npm pack emojibase-data@17.0.0
    python studies/emoji/make_shard.py lobehub-fluent-emoji-3d-1.1.0.tgz emojibase-data-17.0.0.tgz

Pictures: Microsoft's Fluent Emoji in 3D (MIT), without skin tones, on one ground, 128 px, WebP.
Words: emojibase-data (MIT), which has the names, keywords and groups of the Unicode CLDR
(Unicode License); Python's ``unicodedata`` adds the name of the character where it has one.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import tarfile
import unicodedata
from pathlib import Path
from typing import Any

from PIL import Image

from flexvar.data.colors import color_name

SIZE = 128
GROUND = (240, 236, 226)
QUALITY = 88
SKIN_TONES = {f"1f3f{digit}" for digit in "bcdef"}
OUT = Path(__file__).parents[2] / "flexvar" / "data" / "sets" / "emoji.tar"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("words", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    words = read_words(options.words)
    samples, names = [], set()
    with tarfile.open(options.pictures) as archive:
        for member in archive:
            match = re.search(r"assets/([0-9a-f-]+)\.webp$", member.name)
            if match is None or SKIN_TONES & set(match[1].split("-")):
                continue
            entry = words.get(key(match[1]))
            file = archive.extractfile(member)
            if entry is None or file is None:
                print(f"left out, as it has no name: {match[1]}")
                continue
            name = plain(entry["label"])
            if name in names:
                print(f"left out, as another drawing has its name: {match[1]}, {name}")
                continue
            names.add(name)
            image = on_ground(Image.open(io.BytesIO(file.read())))
            samples.append((entry["order"], match[1], image, described(entry, name, image)))
    samples.sort(key=lambda sample: sample[:2])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(options.out, "w", format=tarfile.USTAR_FORMAT) as shard:
        for _, code, image, sample in samples:
            buffer = io.BytesIO()
            image.save(buffer, "WEBP", quality=QUALITY, method=6)
            add(shard, f"{code}.webp", buffer.getvalue())
            add(shard, f"{code}.json", json.dumps(sample, ensure_ascii=False).encode())
    digest = hashlib.sha256(options.out.read_bytes()).hexdigest()
    print(f"{len(samples)} pictures, {options.out.stat().st_size:,} bytes, sha256 {digest}")


def key(code: str) -> str:
    """Code points in one spelling, without the one that only asks for a coloured drawing."""
    parts = (part.lstrip("0") for part in code.lower().split("-"))
    return "-".join(part for part in parts if part != "fe0f")


def read_words(path: Path) -> dict[str, dict[str, Any]]:
    """Name, tags, group and order of every emoji by its code points."""
    files = ("package/en/data.json", "package/meta/groups.json")
    with tarfile.open(path) as archive:
        read = [archive.extractfile(name) for name in files]
        entries, groups = (json.load(file) for file in read if file is not None)
    return {
        key(entry["hexcode"]): {
            "order": entry.get("order", 10**6),
            "label": entry["label"],
            "tags": entry.get("tags", []),
            "group": groups["groups"].get(str(entry.get("group")), ""),
            "subgroup": groups["subgroups"].get(str(entry.get("subgroup")), ""),
            "emoji": entry["emoji"],
        }
        for entry in entries
    }


def plain(label: str) -> str:
    """A name as a person would say it: ``flag: Norway`` is ``flag of norway``."""
    text = label.lower().replace("’", "'").replace("“", "").replace("”", "")
    head, colon, tail = text.partition(": ")
    if colon:
        joint = {"flag": "flag of", "keycap": "keycap", "family": "family of"}
        text = f"{joint.get(head, head + ' with')} {tail}"
    return text


def described(entry: dict[str, Any], name: str, image: Image.Image) -> dict[str, Any]:
    """What stands in the json of a picture; the first caption is its name."""
    emoji = entry["emoji"].replace("\ufe0f", "")
    captions = [name]
    if len(emoji) == 1 and (official := unicodedata.name(emoji, "")):
        captions.append(official.lower())
    captions += [plain(tag) for tag in entry["tags"]]
    return {
        "label": name,
        "captions": list(dict.fromkeys(captions)),
        "category": entry["group"].replace("-", " "),
        "kind": entry["subgroup"].replace("-", " "),
        "emoji": entry["emoji"],
        "color": color_name(image),
    }


def on_ground(image: Image.Image) -> Image.Image:
    """The picture in RGB on the ground, at the size of the set."""
    image = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, (*GROUND, 255))
    whole = Image.alpha_composite(ground, image).convert("RGB")
    return whole.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    """A file without owner or time, so that the shard depends on its contents alone."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    shard.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    main()
