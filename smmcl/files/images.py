"""Opens image files of users: whole regular files with one picture, of a size that fits in memory.

Shape shorthand in this module:
    H, W: height and width of the picture
"""

import contextlib
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from smmcl.files.paths import check_regular

ORIENTATION_TAG = 0x0112  # EXIF
COLOR_MODES = {"RGB": 3, "RGBA": 4}
VALUE_MODES = ("L", "I", "I;16", "I;16B", "I;16L", "F")
ID_MODES = (*VALUE_MODES[:-1], "P", "1")
LOSSLESS_FORMATS = ("PNG", "TIFF", "BMP", "GIF")
LOSSY_COMPRESSIONS = ("jpeg", "tiff_jpeg", "webp")  # in TIFF
LUMINANCE = np.float32([0.299, 0.587, 0.114])  # of R, G, B, by Rec. 601
MAX_PIXELS = 2**26  # an 8192x8192 picture
MOST_PIXELS = 2 * Image.MAX_IMAGE_PIXELS  # where Pillow itself refuses; it warns at half as many
# What Pillow's decoders raise for damaged files and for bombs in text or color profiles.
DAMAGES = (OSError, SyntaxError, ValueError, EOFError, LookupError, ArithmeticError, TypeError,
           struct.error, zlib.error)  # fmt: skip
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class Picture(NamedTuple):
    """Stored values, (H, W) or (H, W, channels), Pillow's name of their mode, and their file."""

    values: np.ndarray
    mode: str
    path: str | Path


def decode(
    path: str | Path, *, role: str, keeps_depth: bool = False, max_pixels: int = MAX_PIXELS
) -> Picture:
    """Reads a picture, which errors call by its role, such as "visible image".

    Args:
        keeps_depth: takes colors of 16 bits as they are.
        max_pixels: a larger picture is refused before it is decoded.
    """
    with _open(path, role=role, max_pixels=max_pixels) as (image, raw_mode):
        if image.mode in COLOR_MODES and "16" in raw_mode:
            if keeps_depth:
                return Picture(_deep_pixels(path, role=role), image.mode, path)
            raise ValueError(
                f"{role} {path} is a 16-bit color file, which would lose precision. "
                "Store colors in 8 bits, or one channel in 16."
            )
        return Picture(_pixels(image, path, role=role), image.mode, path)


def read_size(path: str | Path) -> tuple[int, int]:
    """The (height, width) that the header of a picture states."""
    with _open(path, role="image") as (image, _):
        return image.height, image.width


def decode_label(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Returns the class ids of a label file as stored, (H, W) of an integer type."""
    with _open(path, role="label image", max_pixels=max_pixels) as (image, raw_mode):
        _check_holds_ids(image, raw_mode, path)
        ids = _pixels(image, path, role="label image")
    if scaled := re.match(r"L;([24])", raw_mode):  # Pillow stretches 2 and 4 bits to 0..255
        ids = ids // (255 // (2 ** int(scaled[1]) - 1))
    return ids.astype(np.uint8) if ids.dtype == bool else ids


def _check_holds_ids(image: Image.Image, raw_mode: str, path: str | Path) -> None:
    if image.mode not in ID_MODES:
        raise ValueError(
            f"label image {path} has mode {image.mode!r} but class ids in one channel are needed. "
            "Convert its colors to ids first, and save them as a grayscale PNG."
        )
    is_lossy = image.info.get("compression") in LOSSY_COMPRESSIONS
    if is_lossy or image.format not in LOSSLESS_FORMATS:
        raise ValueError(
            f"label image {path} is a {'lossy ' if is_lossy else ''}{image.format} file, a format "
            "that may change class ids. Export the labels again as PNG: a JPEG converted to PNG "
            "keeps its wrong ids."
        )
    if re.fullmatch(r"[L1];(\d)?IR?", raw_mode):
        raise ValueError(
            f"label image {path} stores inverted values (0 is white), so its ids are ambiguous. "
            "Save the labels as PNG."
        )


@contextlib.contextmanager
def _open(
    path: str | Path, *, role: str, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[Image.Image, str]]:
    """Opens a file, checks what its header says, and yields it with its raw mode."""
    check_regular(path, role=role, hint="Check $DETECTRON2_DATASETS and the dataset's lists.")
    with _naming(path, role=role):
        opened = Image.open(path)
    with opened as image:
        if image.width * image.height > max_pixels:
            size = f"has {image.width}x{image.height} (width x height)"
            raise _too_large(size, path, role=role, max_pixels=max_pixels)
        raw_mode = _raw_mode(image)  # before EXIF, for which Pillow may decode a PNG
        # A JPEG in MPO form has previews or gain maps behind the picture.
        with _naming(path, role=role):
            has_several = getattr(image, "is_animated", False) and image.format != "MPO"
            orientation = image.getexif().get(ORIENTATION_TAG, 1)
        if has_several:
            raise ValueError(
                f"{role} {path} is a {image.format} file with several frames or pages. Save the "
                "right one as a file of its own."
            )
        if orientation not in (0, 1):
            raise ValueError(
                f"{role} {path} carries EXIF orientation {orientation}, so viewers rotate it. "
                "Rotate the pixels or remove the tag, so that all files of the pair agree."
            )
        yield image, raw_mode


def _pixels(image: Image.Image, path: str | Path, *, role: str) -> np.ndarray:
    with _naming(path, role=role):
        return np.asarray(image)


def _deep_pixels(path: str | Path, *, role: str) -> np.ndarray:
    """(H, W, 3 or 4) uint16 RGB or RGBA, which Pillow would cut to 8 bits."""
    import cv2  # an extra of this package, and only needed here

    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16 or stored.ndim != 3:
        raise ValueError(f"{role} {path} cannot be read by OpenCV. Save it as a 16-bit PNG.")
    return stored[:, :, [2, 1, 0, 3][: stored.shape[2]]]


@contextlib.contextmanager
def _naming(path: str | Path, *, role: str) -> Iterator[None]:
    """Turns the errors of Pillow's decoders into one that names the file."""
    try:
        yield
    except BOMBS as error:
        raise _too_large("is too large", path, role=role) from error
    except DAMAGES as error:
        raise ValueError(
            f"{role} {path} cannot be read ({error}). The file is damaged, cut short or no image: "
            "fetch it again."
        ) from error


def _too_large(
    what: str, path: str | Path, *, role: str, max_pixels: int = MOST_PIXELS
) -> ValueError:
    more = max_pixels < MOST_PIXELS
    way_out = f", or set max_pixels in its dataset.yaml, up to {MOST_PIXELS}" if more else ""
    return ValueError(
        f"{role} {path} {what}: more than {max_pixels} pixels are not decoded, because they may "
        f"not fit in memory. Cut it into tiles, or resize it{way_out}."
    )


def _raw_mode(image: Image.Image) -> str:
    """How the file stores its pixels, such as "L;4" for 4-bit gray; lost once they are decoded."""
    arguments = image.tile[0][3] if image.tile else None
    return str(arguments if isinstance(arguments, str) else (arguments or [image.mode])[0])
