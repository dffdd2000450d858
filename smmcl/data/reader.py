"""Reads the images and the label of a record exactly, or a sentence says why it cannot.

Shape shorthand in this module:
    H, W: height and width of the visible image      h, w: of the auxiliary image as stored
    A: channels of the auxiliary image (1 or 3)
"""

import functools
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smmcl.data.alignment import DEFAULT, Alignment, carry
from smmcl.data.format import AuxiliaryFormat
from smmcl.data.hha import VERSION
from smmcl.files.atomic import write_new_image
from smmcl.files.images import (
    COLOR_MODES,
    MAX_PIXELS,
    VALUE_MODES,
    Picture,
    decode,
    decode_label,
)
from smmcl.files.paths import check_regular


@dataclass(frozen=True)
class PairReader:
    """Reads records by the facts of their dataset.

    Files are read as they are stored: channels are split without premultiplication, palette labels
    by their index, 16-bit values at full precision, and nothing is rotated.

    Args:
        format: what the auxiliary images store; None for a set of visible images alone.
        num_classes: of the dataset.
        label_offset: the stored value of class 0.
        stored_ignore: stored value of pixels without a label; None when every pixel has one.
        ignore: value of such pixels in a label that was read.
        channel_order: of the visible image, "RGB" or "BGR" (INPUT.FORMAT).
        align: how auxiliary images come to the place and size of visible ones.
        channels: A that the model takes, a multiple of the format's; None for the format's.
        max_pixels: of a file; a larger one is refused before it is decoded.
    """

    format: AuxiliaryFormat | None
    num_classes: int
    label_offset: int = 0
    stored_ignore: int | None = None
    ignore: int = 255
    channel_order: str = "RGB"
    channels: int | None = None
    align: Alignment = DEFAULT
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.channel_order not in ("RGB", "BGR"):
            raise ValueError(f"INPUT.FORMAT is {self.channel_order!r}. Set it to 'RGB' or 'BGR'.")
        if not self.num_classes <= self.ignore <= 255 or not self._spare_values():
            raise ValueError(
                f"{self.num_classes} classes and ignore label {self.ignore} do not fit the 8-bit "
                "labels of this project. Use at most 254 classes, and an ignore label of at most "
                "255 that is no class."
            )
        if self.format and self.channels and self.channels % self.format.scaled_channels:
            raise ValueError(
                f"the dataset's auxiliary images have {self.format.scaled_channels} channels but "
                f"the model takes {self.channels}. Set INPUT.AUXILIARY_FORMAT to 'RGB', and "
                "MODEL.AUXILIARY.PIXEL_MEAN and _STD to 3 values."
            )

    @classmethod
    def of(cls, metadata: Any, **options: Any) -> "PairReader":
        """Takes the facts from a dataset's metadata; `options` are the model's wishes."""
        auxiliary = metadata.get("auxiliary")
        return cls(
            format=None if auxiliary is None else AuxiliaryFormat(**auxiliary),
            num_classes=len(metadata.stuff_classes),
            label_offset=metadata.label_offset,
            stored_ignore=metadata.stored_ignore,
            ignore=metadata.ignore_label,
            align=Alignment(**metadata.get("align", {})),
            max_pixels=metadata.get("max_pixels", MAX_PIXELS),
            **options,
        )

    @property
    def repeats(self) -> int:
        """How often the channels of the auxiliary image are repeated for the model."""
        return (self.channels or self.format.scaled_channels) // self.format.scaled_channels

    @property
    def has_gaps(self) -> bool:
        """Whether 0 in a single auxiliary channel means no measurement, or a place out of view."""
        has_invalid = self.format.invalid is not None or self.align.matrix is not None
        return has_invalid and self.format.scaled_channels == 1

    @property
    def kind(self) -> str:
        """Of the auxiliary images; empty without them."""
        return self.format.kind if self.format else ""

    def decode(self, path: str | Path, *, role: str) -> Picture:
        return decode(path, role=role, max_pixels=self.max_pixels)

    def images(self, record: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
        """Reads both images of a record; a file that holds both is decoded once.

        Returns:
            visible (H, W, 3) uint8; auxiliary (H, W, scaled channels of the format), uint8 or
            float32 on the scale 0..255, or None where the set has none.
        """
        check_record(record, "file_name", *["auxiliary_file_name"] * (self.format is not None))
        picture = self.decode(record["file_name"], role="visible image")
        visible = self.visible(picture)
        if self.format is None:
            return visible, None
        path = record["auxiliary_file_name"]
        if self.format.camera is not None:
            return visible, self._cached_hha(path, beside=picture)
        is_shared = str(path) == str(record["file_name"])
        second = picture if is_shared else self.decode(path, role="auxiliary image")
        return visible, self.auxiliary(second, beside=picture)

    def visible(self, picture: Picture) -> np.ndarray:
        """(H, W, 3) uint8; of four channels the first three."""
        if picture.mode not in COLOR_MODES:
            raise ValueError(
                f"visible image {picture.path} has mode {picture.mode!r} but 3 channels (RGB), or "
                "4 with the auxiliary image as the last, are wanted. Convert it, or exchange the "
                "two files if swapped."
            )
        colors = picture.values[:, :, :3]  # (H, W, 3)
        return np.ascontiguousarray(colors if self.channel_order == "RGB" else colors[:, :, ::-1])

    def auxiliary(self, picture: Picture, *, beside: Picture | None = None) -> np.ndarray:
        """(H, W, scaled channels of the format), on the scale 0..255; of four channels the last.

        Args:
            picture: of any size that the dataset's rule allows.
            beside: the visible picture, (H, W, channels); None for one of the same size.
        """
        beside = beside or picture
        stored = self.stored_auxiliary(picture)
        move = self.align.mover(
            stored.shape[:2],
            beside.values.shape[:2],
            names=(beside.path, picture.path),
            is_nearest=self.format.channels == 3,  # angles and colors have no mean
        )
        carried = functools.partial(carry, move=move) if move else None
        scaled = self.format.scale(stored, source=str(picture.path), carry=carried)
        return np.ascontiguousarray(scaled)

    def stored_auxiliary(self, picture: Picture) -> np.ndarray:
        """(h, w, channels of the format), as stored, if they are what the format says."""
        stored, mode, path = picture
        if mode == "RGBA":
            stored = stored[:, :, 3:]  # (H, W, 1)
        elif mode in VALUE_MODES:
            stored = stored[:, :, None]  # (H, W, 1)
        elif mode != "RGB":
            raise ValueError(
                f"auxiliary image {path} has mode {mode!r} but 1 channel, 3 (RGB), or the last of "
                "4 is wanted. Convert it to plain values."
            )
        elif self.format.channels == 1 and (stored == stored[:, :, :1]).all():
            stored = stored[:, :, :1]  # (H, W, 1): a gray image saved in color
        if stored.shape[2] != self.format.channels:
            raise ValueError(
                f"auxiliary image {path} has {stored.shape[2]} channel(s) but its dataset declares "
                f"{self.format.channels}. Correct auxiliary.channels, or the file if it was "
                "color-mapped."
            )
        self.format.check_type(stored, source=str(path))
        return stored

    def label(self, record: Mapping[str, Any]) -> np.ndarray:
        """Reads the label of a record."""
        if "annotations" in record:
            check_record(record, "sem_seg_file_name")
        if "sem_seg_file_name" not in record:
            raise without_labels(f"pair {record['image_id']}")
        return self.read_label(record["sem_seg_file_name"])

    def read_label(self, path: str | Path) -> np.ndarray:
        """Reads a label file as (H, W) uint8: class indices 0..num_classes-1, or `ignore`."""
        stored = decode_label(path, max_pixels=self.max_pixels)  # (H, W)
        # A table is faster, but one for the values of 32 bits may not fit in memory.
        is_small = stored.dtype == np.uint8
        labels = self._classes(np.arange(256))[stored] if is_small else self._classes(stored)
        is_wrong = labels == min(self._spare_values())
        if is_wrong.any():
            last = self.label_offset + self.num_classes - 1
            raise ValueError(
                f"label image {path} holds the values {_shorten(np.unique(stored[is_wrong]))}, but "
                f"its dataset has {self.label_offset}..{last} and the ignore value "
                f"{self.stored_ignore}. Mend the file, or the classes, label_offset or "
                "stored_ignore."
            )
        return labels

    def _classes(self, stored: np.ndarray) -> np.ndarray:
        """Classes of stored values, and a spare value for what the dataset does not declare."""
        index = stored.astype(np.int64) - self.label_offset
        is_class = (index >= 0) & (index < self.num_classes)
        classes = np.where(is_class, index, min(self._spare_values())).astype(np.uint8)
        if self.stored_ignore is not None:
            classes[index == self.stored_ignore - self.label_offset] = self.ignore
        return classes

    def _spare_values(self) -> set[int]:
        return set(range(self.num_classes, 256)) - {self.ignore}

    def _cached_hha(self, path: str | Path, *, beside: Picture) -> np.ndarray:
        """HHA of a depth file, made once and kept in $DETECTRON2_DATASETS/hha_cache/ as PNG.

        Its name changes with the file's bytes, with format, alignment and computation, so nothing
        stale is ever read and the folder may be removed at any time.
        """
        check_regular(path, role="auxiliary image", hint="Check the dataset's lists.")
        digest = hashlib.blake2b(Path(path).read_bytes(), digest_size=16)
        size = beside.values.shape[:2]
        digest.update(f"{VERSION} {self.format} {self.align} {size}".encode())
        name = digest.hexdigest()
        root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
        cached = root / "hha_cache" / name[:2] / f"{name}.png"
        if not cached.is_file():
            depth = self.decode(path, role="auxiliary image")
            write_new_image(cached, self.auxiliary(depth, beside=beside))
        return self.decode(cached, role="cached HHA image").values


def check_record(record: Mapping[str, Any], *needed: str) -> None:
    """Raises when a record of the catalog does not name a file under each of the needed keys."""
    missing = [key for key in needed if key not in record]
    if not missing:
        return
    has_boxes = "annotations" in record and "sem_seg_file_name" not in record
    boxes = " Its 'annotations' are of detection, which this project does not read." * has_boxes
    raise ValueError(
        f"the record {record.get('image_id', record.get('file_name'))!r} has no "
        f"{' and no '.join(missing)}.{boxes} Give each record the paths of its visible image, "
        "auxiliary image and label image under file_name, auxiliary_file_name and "
        "sem_seg_file_name."
    )


def without_labels(what: str) -> ValueError:
    """The error of a dataset whose labels are asked for, where there are none."""
    return ValueError(
        f"{what} has no label: the layout of its dataset names no label files. Such a set can be "
        "predicted; to train or evaluate on it, give its layouts a label pattern."
    )


def check_same_size(
    image: np.ndarray, path: str | Path, other: np.ndarray, other_path: str | Path
) -> None:
    """Raises when two images of one pair differ in height or width."""
    if image.shape[:2] != other.shape[:2]:
        raise ValueError(
            f"{path} is {_size(image)} but {other_path} is {_size(other)} (height x width). "
            "The files of a pair must have one size: exchange the wrong one, or resize it."
        )


def _size(image: np.ndarray) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"


def _shorten(values: np.ndarray, *, limit: int = 8) -> str:
    text = ", ".join(str(value) for value in values[:limit])
    return text + (f", ... ({len(values)} in all)" if len(values) > limit else "")
