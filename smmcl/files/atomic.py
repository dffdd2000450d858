"""Writes files that are whole or absent: beside their place first, then moved into it."""

import contextlib
import fnmatch
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

PREFIX = ".smmcl-partial-"


@contextlib.contextmanager
def atomic(path: str | Path, *, is_durable: bool = False) -> Iterator[Path]:
    """Gives a path to write to, which replaces `path` once the block ends without an error.

    The file keeps its ending, and its permissions follow the umask. Missing folders are made.

    Args:
        path: of the file; a device or a pipe is written to directly.
        is_durable: the content is on the disk before it takes its place, so that a power failure
            leaves the old file or the new one. It costs some milliseconds.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()  # a link stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{PREFIX}{uuid.uuid4().hex[:12]}-{path.name}")
    try:
        yield partial
        if is_durable:
            _flush(partial)
        partial.replace(path)
        if is_durable:
            _flush(path.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        is_unnamed = isinstance(error, OSError) and error.filename in (None, str(partial))
        if is_unnamed and error.errno:
            error.filename = str(path)  # a full disk is reported without a name
        raise


def write_text(path: str | Path, text: str, *, is_durable: bool = False) -> None:
    """Writes a text in UTF-8, its line ends as they are."""
    with atomic(path, is_durable=is_durable) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


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


def partials(folder: Path, pattern: str) -> list[Path]:
    """What killed processes left of files of these names."""
    pattern = f"{PREFIX}{'[0-9a-f]' * 12}-{pattern}"
    return [path for path in folder.iterdir() if fnmatch.fnmatchcase(path.name, pattern)]


def _flush(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
