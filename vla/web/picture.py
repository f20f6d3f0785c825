"""Still images whose files are whole before a browser can ask for them."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image

from vla.files import atomic_path


def served(picture: np.ndarray | Image.Image) -> str:
    """Write an image, (height, width, 3) uint8 RGB, as a PNG that the page may show; returns its path.

    Gradio would name the file by its content, too, but write it anew for every equal answer, while a browser may be
    reading the first one and then gets half a picture. Here, equal images share one file that is written once.
    """
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    content = io.BytesIO()
    image.save(content, format="PNG")
    path = Path(get_upload_folder(), hashlib.sha256(content.getvalue()).hexdigest(), "image.png")
    try:
        os.utime(path)  # the oldest files are deleted first
    except FileNotFoundError:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.getvalue())
    return str(path)
