"""Pictures in and out: reading, writing, and sheets of several."""

from flexvar.images.read import SETTINGS_KEY, open_image, read_settings, to_rgb, to_tensor
from flexvar.images.sheets import contact_sheet, sheet, strip, table
from flexvar.images.write import ANIMATIONS, animate, save_png, to_pil

__all__ = [
    "ANIMATIONS",
    "SETTINGS_KEY",
    "animate",
    "contact_sheet",
    "open_image",
    "read_settings",
    "save_png",
    "sheet",
    "strip",
    "table",
    "to_pil",
    "to_rgb",
    "to_tensor",
]
