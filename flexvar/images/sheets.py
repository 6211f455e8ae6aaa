"""Several pictures on one: sheets, strips and tables, with names where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from flexvar.errors import FlexvarError
from flexvar.images.write import to_pil

GAP = 2
# Side in pixels up to which small pictures are enlarged on a table.
ENLARGE_TO = 96
# Height in pixels of the letters below a picture.
CAPTION = 11


def sheet(
    rows: Sequence[Sequence[Image.Image]],
    *,
    names: Sequence[str] = (),
    columns: Sequence[str] = (),
    captions: Sequence[str] = (),
    scale: int = 1,
    gap: int = GAP,
) -> Image.Image:
    """Pictures of one size in rows, on white.

    names: what stands left of each row. columns: what stands above each column. captions: what
    stands below each picture, row by row; cut where it is wider. scale: by how much every pixel is
    enlarged. gap: pixels between pictures.
    Raises `FlexvarError` if there is no picture.
    """
    first = next((picture for row in rows for picture in row), None)
    if first is None:
        raise FlexvarError("There is no picture to put on a sheet.")
    width, height = (side * scale for side in first.size)
    font = ImageFont.load_default(14)
    margin = int(max(font.getlength(name) for name in names)) + 12 if names else 0
    count = max(len(row) for row in rows)
    # A heading may be wider than a picture, which then stands in the middle below it.
    across = max([width, *(int(font.getlength(text)) + 8 for text in columns)])
    above, below = (20 if columns else 0), (CAPTION + 5 if captions else 0)
    down = height + below + gap
    size = (margin + count * (across + gap) - gap, above + len(rows) * down - gap)
    result = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(result)
    small = ImageFont.load_default(CAPTION)
    for column, text in enumerate(columns):
        center = margin + column * (across + gap) + across // 2
        draw.text((center, above // 2), text, fill="black", font=font, anchor="mm")
    texts = iter(captions)
    for number, row in enumerate(rows):
        top = above + number * down
        if names:
            draw.text((4, top + height // 2), names[number], fill="black", font=font, anchor="lm")
        for column, picture in enumerate(row):
            if scale != 1:
                picture = picture.resize((width, height), Image.Resampling.NEAREST)
            left = margin + column * (across + gap)
            result.paste(picture, (left + (across - width) // 2, top))
            if captions:
                text = _within(next(texts, ""), across, small)
                place = (left + across // 2, top + height + below // 2)
                draw.text(place, text, fill="black", font=small, anchor="mm")
    return result


def _within(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, or as much of it as has room, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..." if text else ""


def of_one_size(rows: Sequence[Sequence[Image.Image]]) -> list[list[Image.Image]]:
    """The pictures, each in the middle of a white one that is as large as the largest."""
    width = max(picture.width for row in rows for picture in row)
    height = max(picture.height for row in rows for picture in row)

    def framed(picture: Image.Image) -> Image.Image:
        if picture.size == (width, height):
            return picture
        result = Image.new("RGB", (width, height), "white")
        result.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
        return result

    return [[framed(picture) for picture in row] for row in rows]


def contact_sheet(pictures: Sequence[Image.Image], captions: Sequence[str] = ()) -> Image.Image:
    """Pictures of one size side by side in about as many rows as columns, on white.

    captions: what stands below each picture.
    """
    columns = max(1, ceil(sqrt(len(pictures))))
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    return sheet(rows, captions=captions)


def strip(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size side by side, on white."""
    return sheet([pictures])


def table(images_RC3HW: Tensor) -> Image.Image:
    """Rows and columns of pictures in [-1,1], on white; small ones are enlarged."""
    scale = max(1, ENLARGE_TO // max(images_RC3HW.shape[-2:]))
    return sheet([[to_pil((one + 1) / 2) for one in row] for row in images_RC3HW], scale=scale)
