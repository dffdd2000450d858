"""Writes files that are whole or absent, and never over files that are there."""

import os
from pathlib import Path

import numpy as np
from PIL import Image


def write_new_image(path: str | Path, image: np.ndarray) -> bool:
    """Writes a PNG unless there is a file already; says whether it did.

    Args:
        image: (H, W) uint8 or uint16, or (H, W, 3) uint8.
    """
    path = Path(path)
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    Image.fromarray(image).save(partial, format="PNG", compress_level=3)
    partial.replace(path)
    return True


def write_new_text(path: str | Path, text: str) -> bool:
    """Writes a text unless it is there already; another text there is an error.

    Returns whether it wrote.
    """
    path = Path(path)
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise ValueError(
                f"{path} exists with another content. Move it away, or choose another folder."
            )
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return True
