"""Prompts as people write them -> plain lower-case words."""

from __future__ import annotations

import re
import unicodedata

# Variation selectors and joiners, which only say how to draw what stands before them.
_SILENT = re.compile("[\u200d\u20e3\ufe0e\ufe0f\U000e0020-\U000e007f]")
_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]{2}")
_FIRST_REGIONAL = 0x1F1E6


def plain(text: str) -> str:
    """Lower case, single spaces; an emoji is read out: "🐙" becomes "octopus", its Unicode name."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = _FLAG.sub(_flag, text)
    text = _SILENT.sub(" ", text)
    spoken = "".join(_spoken(character) for character in unicodedata.normalize("NFKC", text))
    return " ".join(spoken.lower().split())


def _spoken(character: str) -> str:
    """The name of a symbol or of a skin tone; any other character is itself."""
    if unicodedata.category(character) not in ("So", "Sk") or character in "^`":
        return character
    return f" {unicodedata.name(character, character)} "


def _flag(match: re.Match[str]) -> str:
    letters = (chr(ord("A") + ord(one) - _FIRST_REGIONAL) for one in match[0])
    return f" flag {''.join(letters)} "
