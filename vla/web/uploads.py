"""Reads uploaded image files, which may be anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vla.errors import UserError
from vla.sim.config import EnvConfig

SIDE_PX = EnvConfig.image_size_px
MAX_PIXELS = 40_000_000
"""Pixels of an upload at most; 40 megapixels take 160 MB when they are decoded."""
FORMATS = ("PNG", "JPEG", "WEBP")


def read_square(path: Path) -> np.ndarray:
    """Return the central square of an image file, resized: (224, 224, 3) uint8 RGB.

    Raises:
        UserError: no image, another format, or too many pixels. The size is checked before anything is decoded.
    """
    try:
        with Image.open(path, formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise UserError(f"this image has {width} x {height} pixels, at most {MAX_PIXELS:,} are read")
            picture.thumbnail((1024, 1024))  # decoded once; what follows copies a small image
            upright = _upright(picture).convert("RGB")
    except UserError:
        raise
    except Exception as error:  # PIL raises a different type for each way in which a file can be broken
        raise UserError(
            f"this file is not an image that can be read ({type(error).__name__}); give PNG, JPEG or WebP"
        ) from None
    return np.array(ImageOps.fit(upright, (SIDE_PX, SIDE_PX)))


def _upright(picture: Image.Image) -> Image.Image:
    """Turn the image as its EXIF data say; damaged ones, for which PIL raises many types of errors, are ignored."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:
        return picture
