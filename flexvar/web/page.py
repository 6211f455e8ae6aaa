"""One HTML page: the shell, the style and the figures that demo, report and playground share."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from flexvar.images import write_animation
from flexvar.text import printable

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .3rem; }
p { margin: .3rem 0 .8rem; max-width: 46rem; }
.row { display: flex; flex-wrap: wrap; gap: .8rem; align-items: end; }
figure { margin: 0; }
figcaption { font-size: .8rem; opacity: .75; }
img { display: block; border-radius: 4px; }
table { border-collapse: collapse; font-size: .85rem; }
td, th { padding: .15rem .9rem .15rem 0; vertical-align: top; text-align: left; }
"""


def shown(value: object) -> str:
    """The text of anything in HTML, as it stands there: no markup, no letter a page cannot hold."""
    return escape(printable(value), quote=True)


def page(title: str, body: str, *, style: str = "", head: str = "") -> str:
    """A whole page around a body of HTML.

    title is escaped; body, style and head are taken as they are.
    """
    sheet = f"<style>{STYLE}{style}</style>" if not head else ""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{shown(title)}</title>{sheet}{head}</head><body>{body}</body></html>\n"
    )


def figure(caption: str, image: Image.Image | Sequence[Image.Image], *, zoom: float = 1.0) -> str:
    """A captioned picture, ``zoom`` times its size; the file is in the page.

    image: a sequence of pictures is a moving one, whose last picture stays longer.
    """
    data = io.BytesIO()
    if isinstance(image, Image.Image):
        kind, size = "png", image.size
        image.save(data, format="PNG", optimize=True)
    else:
        kind, size = "webp", image[0].size
        write_animation(image, data, "WEBP")
    source = base64.b64encode(data.getvalue()).decode("ascii")
    width, height = (round(side * zoom) for side in size)
    text = shown(caption)
    return (
        f"<figure><img src='data:image/{kind};base64,{source}' alt='{text}' "
        f"width='{width}' height='{height}'><figcaption>{text}</figcaption></figure>"
    )
