"""Reads a pair exactly: visible, auxiliary and label files become arrays, or a sentence says why.

Shape shorthand in this module:
    H, W: height and width of the pair      A: channels of the auxiliary image (1 or 3)

Files are read as they are stored: channels are split without premultiplication, palette labels by
their index, 16-bit values at full precision, and nothing is rotated.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smmcl.data.decoding import COLOR_MODES, VALUE_MODES, decode, decode_label
from smmcl.data.files import hha_cache_path, write_new_image
from smmcl.data.format import AuxiliaryContract


def read_visible(path: str | Path, *, fmt: str) -> np.ndarray:
    """Reads a visible image as (H, W, 3) uint8; of a four-channel file, the first three channels.

    Args:
        fmt: order of the channels, "RGB" or "BGR" (INPUT.FORMAT).
    """
    return convert_visible(*decode(path, role="visible image"), path=path, fmt=fmt)


def read_auxiliary(path: str | Path, *, contract: AuxiliaryContract) -> np.ndarray:
    """Reads an auxiliary image as (H, W, A) uint8 or float32 on the scale 0..255.

    Of a four-channel file it is the fourth channel. HHA that the contract asks to be made of depth
    is made once and then read from the cache, a PNG file like a prepared one.
    """
    if contract.camera is None:
        return convert_auxiliary(
            *decode(path, role="auxiliary image"), path=path, contract=contract
        )
    cached = hha_cache_path(path, contract=contract)
    if not cached.is_file():
        stored, mode = decode(path, role="auxiliary image")
        write_new_image(cached, convert_auxiliary(stored, mode, path=path, contract=contract))
    return decode(cached, role="cached HHA image")[0]


def read_pair(
    visible_path: str | Path,
    auxiliary_path: str | Path,
    *,
    fmt: str,
    contract: AuxiliaryContract,
) -> tuple[np.ndarray, np.ndarray]:
    """Reads both images of a pair, which must have one size; a shared file is decoded once.

    Returns:
        visible (H, W, 3) uint8, auxiliary (H, W, A) uint8 or float32, both as the readers above.
    """
    stored, mode = decode(visible_path, role="visible image")
    visible = convert_visible(stored, mode, path=visible_path, fmt=fmt)
    if str(auxiliary_path) == str(visible_path) and contract.camera is None:
        auxiliary = convert_auxiliary(stored, mode, path=auxiliary_path, contract=contract)
    else:
        auxiliary = read_auxiliary(auxiliary_path, contract=contract)
    check_same_size(visible, visible_path, auxiliary, auxiliary_path)
    return visible, auxiliary


def read_label(
    path: str | Path,
    *,
    label_offset: int,
    stored_ignore: int | None,
    num_classes: int,
    ignore: int,
) -> np.ndarray:
    """Reads a label file as (H, W) uint8: class indices 0..num_classes-1, or `ignore`.

    Args:
        label_offset: the stored value of class 0.
        stored_ignore: stored value of pixels without a label; None when every pixel has one.
        ignore: value of such pixels in the result.
    """
    stored = decode_label(path)  # (H, W)
    spare = set(range(num_classes, 256)) - {ignore}
    if num_classes > ignore or ignore > 255 or not spare:
        raise ValueError(
            f"{num_classes} classes and ignore label {ignore} do not fit the 8-bit labels of this "
            "project. Use at most 254 classes, and an ignore label of at most 255 that is no class."
        )
    unknown = spare.pop()  # marks what the dataset does not declare

    def classes_of(values: np.ndarray) -> np.ndarray:
        index = values.astype(np.int64) - label_offset
        classes = np.where((index >= 0) & (index < num_classes), index, unknown).astype(np.uint8)
        if stored_ignore is not None:
            classes[index == stored_ignore - label_offset] = ignore
        return classes

    # A table is faster, but one for the values of 32 bits may not fit in memory.
    labels = classes_of(np.arange(256))[stored] if stored.dtype == np.uint8 else classes_of(stored)
    is_wrong = labels == unknown
    if is_wrong.any():
        raise ValueError(
            f"label image {path} holds the values {_shorten(np.unique(stored[is_wrong]))}, but its "
            f"dataset has {label_offset}..{label_offset + num_classes - 1} and the ignore value "
            f"{stored_ignore}. Mend the file, or the classes, label_offset or stored_ignore."
        )
    return labels


def label_facts(metadata: Any) -> dict[str, int | None]:
    """Picks what `read_label` must know out of a dataset's metadata."""
    return {
        "label_offset": metadata.label_offset,
        "stored_ignore": metadata.stored_ignore,
        "num_classes": len(metadata.stuff_classes),
        "ignore": metadata.ignore_label,
    }


def auxiliary_contract(metadata: Any) -> AuxiliaryContract:
    """Builds the contract that a dataset's metadata holds as a plain dict."""
    facts: Mapping[str, Any] = metadata.auxiliary
    return AuxiliaryContract(**facts)


def check_same_size(
    image: np.ndarray, path: str | Path, other: np.ndarray, other_path: str | Path
) -> None:
    """Raises when two images of one pair differ in height or width."""
    if image.shape[:2] != other.shape[:2]:
        raise ValueError(
            f"{path} is {_size(image)} but {other_path} is {_size(other)} (height x width). "
            "The files of a pair must have one size: exchange the wrong one, or resize it."
        )


def convert_visible(stored: np.ndarray, mode: str, *, path: str | Path, fmt: str) -> np.ndarray:
    if mode not in COLOR_MODES:
        raise ValueError(
            f"visible image {path} has mode {mode!r} but 3 channels (RGB), or 4 with the auxiliary "
            "image as the last, are wanted. Convert it, or exchange the two files if swapped."
        )
    if fmt not in ("RGB", "BGR"):
        raise ValueError(f"INPUT.FORMAT is {fmt!r}. Set it to 'RGB' or 'BGR'.")
    visible = stored[:, :, :3]  # (H, W, 3)
    return np.ascontiguousarray(visible if fmt == "RGB" else visible[:, :, ::-1])


def convert_auxiliary(
    stored: np.ndarray,
    mode: str,
    *,
    path: str | Path,
    contract: AuxiliaryContract,
    channels: int | None = None,
) -> np.ndarray:
    """Brings the stored values of a decoded file to (H, W, A) on the scale 0..255.

    Args:
        channels: A; a single channel is repeated to three. None keeps the contract's number.
    """
    if mode == "RGBA":
        stored = stored[:, :, 3:]  # (H, W, 1)
    elif mode in VALUE_MODES:
        stored = stored[:, :, None]  # (H, W, 1)
    elif mode != "RGB":
        raise ValueError(
            f"auxiliary image {path} has mode {mode!r} but 1 channel, 3 (RGB), or the last of 4 "
            "is wanted. Convert it to plain values."
        )
    elif contract.channels == 1 and (stored == stored[:, :, :1]).all():
        stored = stored[:, :, :1]  # (H, W, 1): a grey image saved in colour
    if stored.shape[2] != contract.channels:
        raise ValueError(
            f"auxiliary image {path} has {stored.shape[2]} channel(s) but its dataset declares "
            f"{contract.channels}. Correct auxiliary.channels, or the file if it was colour-mapped."
        )
    scaled = contract.scale(stored, source=str(path))
    if channels in (None, scaled.shape[2]):
        return np.ascontiguousarray(scaled)
    if scaled.shape[2] == 1:
        return np.repeat(scaled, channels, axis=2)  # (H, W, A)
    raise ValueError(
        f"auxiliary image {path} has {scaled.shape[2]} channels but the model takes {channels}. "
        "Set INPUT.AUXILIARY_FORMAT to 'RGB' and MODEL.AUXILIARY.PIXEL_MEAN and _STD to 3 values."
    )


def _size(image: np.ndarray) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"


def _shorten(values: np.ndarray, *, limit: int = 8) -> str:
    text = ", ".join(str(value) for value in values[:limit])
    return text + (f", ... ({len(values)} in all)" if len(values) > limit else "")
