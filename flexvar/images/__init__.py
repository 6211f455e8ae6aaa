"""Pictures in and out: reading, writing, and sheets of several."""

from flexvar.images.profile import from_srgb, rgb_profile
from flexvar.images.read import (
    SETTINGS_KEY,
    check_regular,
    open_image,
    read_settings,
    to_rgb,
    to_tensor,
    upright,
)
from flexvar.images.sheets import contact_sheet, of_one_size, sheet, strip, table
from flexvar.images.write import (
    ANIMATIONS,
    animate,
    encode_png,
    save_picture,
    save_png,
    to_pil,
    to_pils,
    write_animation,
)

__all__ = [
    "ANIMATIONS",
    "SETTINGS_KEY",
    "animate",
    "check_regular",
    "contact_sheet",
    "encode_png",
    "from_srgb",
    "of_one_size",
    "open_image",
    "read_settings",
    "rgb_profile",
    "save_picture",
    "save_png",
    "sheet",
    "strip",
    "table",
    "to_pil",
    "to_pils",
    "to_rgb",
    "to_tensor",
    "upright",
    "write_animation",
]
