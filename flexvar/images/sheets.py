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


def sheet(
    rows: Sequence[Sequence[Image.Image]],
    *,
    names: Sequence[str] = (),
    scale: int = 1,
    gap: int = GAP,
) -> Image.Image:
    """Pictures of one size in rows, on white.

    names: what stands left of each row. scale: by how much every pixel is enlarged. gap: pixels
    between pictures.
    Raises `FlexvarError` if there is no picture.
    """
    first = next((picture for row in rows for picture in row), None)
    if first is None:
        raise FlexvarError("There is no picture to put on a sheet.")
    width, height = (side * scale for side in first.size)
    font = ImageFont.load_default(14)
    margin = int(max(font.getlength(name) for name in names)) + 12 if names else 0
    columns = max(len(row) for row in rows)
    size = (margin + columns * (width + gap) - gap, len(rows) * (height + gap) - gap)
    result = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(result)
    for number, row in enumerate(rows):
        top = number * (height + gap)
        if names:
            draw.text((4, top + height // 2), names[number], fill="black", font=font, anchor="lm")
        for column, picture in enumerate(row):
            if scale != 1:
                picture = picture.resize((width, height), Image.Resampling.NEAREST)
            result.paste(picture, (margin + column * (width + gap), top))
    return result


def contact_sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size side by side in about as many rows as columns, on white."""
    columns = max(1, ceil(sqrt(len(pictures))))
    return sheet([pictures[start : start + columns] for start in range(0, len(pictures), columns)])


def strip(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size side by side, on white."""
    return sheet([pictures])


def table(images_RC3HW: Tensor) -> Image.Image:
    """Rows and columns of pictures in [-1,1], on white; small ones are enlarged."""
    scale = max(1, ENLARGE_TO // max(images_RC3HW.shape[-2:]))
    return sheet([[to_pil((one + 1) / 2) for one in row] for row in images_RC3HW], scale=scale)
