"""Writes files that are whole or absent, and never over files that are there."""

import hashlib
import os
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from smmcl.data.contract import AuxiliaryContract
from smmcl.data.hha import VERSION


def hha_cache_path(path: str | Path, *, contract: AuxiliaryContract) -> Path:
    """Where the HHA of a depth file is kept: $DETECTRON2_DATASETS/hha_cache/, by its content.

    The name changes with the file's bytes, with the contract and with the computation, so nothing
    stale is ever read and the folder may be removed at any time.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"auxiliary image {path} does not exist. Check the dataset's lists."
        )
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16)
    digest.update(f"{VERSION} {contract}".encode())
    name = digest.hexdigest()
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    return root / "hha_cache" / name[:2] / f"{name}.png"


def write_new_image(path: str | Path, image: np.ndarray) -> bool:
    """Writes a PNG unless there is a file already; says whether it did.

    Args:
        image: (H, W) uint8 or uint16, or (H, W, 3) uint8.
    """
    path = Path(path)
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
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
    partial = _partial(path)
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return True


def _partial(path: Path) -> Path:
    """Beside the file, and of this process and thread alone."""
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
