"""Files of users: only regular ones are read, nothing leaves its folder, nothing is overwritten."""

import hashlib
import os
import posixpath
import re
from pathlib import Path

import numpy as np
from PIL import Image

from smmcl.data.format import AuxiliaryContract
from smmcl.data.hha import VERSION
from smmcl.files.atomic import atomic, write_text


def check_regular(path: str | Path, *, role: str, hint: str = "") -> None:
    """Raises unless a path is a regular file or a link to one; reading a pipe would never end."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{role} {path} does not exist. {hint}".strip())
    if not path.is_file():
        raise ValueError(
            f"{role} {path} is a folder, a pipe or a device. Put a regular file, or a link to one, "
            "in its place."
        )


def relative_path(name: str, *, source: str) -> str:
    """Returns a relative POSIX path in its shortest form, or raises if it may leave its folder.

    Args:
        source: where the name stands, for the error.
    """
    is_windows = "\\" in name or re.match("[A-Za-z]:", name)
    has_controls = any(ord(character) < 32 or character == "\x7f" for character in name)
    path = posixpath.normpath(name)
    if name.startswith("/") or ".." in name.split("/") or path == "." or is_windows or has_controls:
        raise ValueError(
            f"{source}: {name!r} is no path inside its folder. Write it relative to that folder, "
            "with / between its parts, and without '..', drive letters or control characters."
        )
    return path


def hha_cache_path(path: str | Path, *, contract: AuxiliaryContract) -> Path:
    """Where the HHA of a depth file is kept: $DETECTRON2_DATASETS/hha_cache/, by its content.

    The name changes with the file's bytes, with the contract and with the computation, so nothing
    stale is ever read and the folder may be removed at any time.
    """
    check_regular(path, role="auxiliary image", hint="Check the dataset's lists.")
    digest = hashlib.blake2b(Path(path).read_bytes(), digest_size=16)
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
    with atomic(path) as partial:
        Image.fromarray(image).save(partial, format="PNG", compress_level=3)
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
    write_text(path, text)
    return True
