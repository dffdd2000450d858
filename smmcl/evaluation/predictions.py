"""Predictions as files: label images in the dataset's own ids, in color, and as RLE."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask

from smmcl.d2 import comm
from smmcl.data.reader import PairReader
from smmcl.files.atomic import atomic, write_text
from smmcl.files.paths import relative_path
from smmcl.files.rle import decode_rle


class PredictionWriter:
    """Writes each prediction when it comes, and at the end one JSON file for all.

    Args:
        folder: gets labels/<image id>.png, colors/<image id>.png and predictions.json.
        label_offset: stored value of class 0 in the dataset's own files.
        colors: RGB of each class.
    """

    def __init__(
        self, folder: str | Path, *, label_offset: int, colors: Sequence[Sequence[int]]
    ) -> None:
        self.folder = Path(folder)
        self.label_offset = label_offset
        self.colors = np.asarray(colors, dtype=np.uint8)  # (K, 3)
        self.facts = {"label_offset": label_offset, "colors": self.colors}
        self._entries: list[dict] = []

    def write(self, prediction: np.ndarray, image_id: str) -> None:
        """Writes one prediction, (H, W) class indices."""
        name = f"{relative_path(str(image_id), source='image_id')}.png"
        ids = stored_ids(prediction, label_offset=self.label_offset)  # (H, W)
        save_ids(ids, self.folder / "labels" / name, **self.facts)
        with atomic(self.folder / "colors" / name) as path:
            Image.fromarray(self.colors[prediction]).save(path)
        for index in np.unique(prediction).tolist():
            encoded = mask.encode(np.asfortranarray(prediction == index).view(np.uint8))
            encoded["counts"] = encoded["counts"].decode("ascii")
            category = index + self.label_offset
            self._entries.append(
                {"image_id": image_id, "category_id": category, "segmentation": encoded}
            )

    def finish(self) -> None:
        """Writes the entries of all processes to predictions.json, in COCO's form for results."""
        entries = [entry for share in comm.all_gather(self._entries) for entry in share]
        if comm.is_main_process() and entries:
            write_text(self.folder / "predictions.json", json.dumps(entries))
        self._entries = []


def stored_ids(labels: np.ndarray, *, label_offset: int) -> np.ndarray:
    """Class indices (H, W) as a dataset's own files store them: uint8, or uint16 if they must."""
    ids = labels.astype(np.int64) + label_offset
    return ids.astype(np.uint8 if ids.max() < 256 else np.uint16)


def save_ids(
    ids: np.ndarray, path: str | Path, *, label_offset: int, colors: Sequence[Sequence[int]]
) -> None:
    """Writes ids (H, W) as a PNG; those of 8 bits get a palette, so that viewers show colors."""
    picture = Image.fromarray(ids)
    if ids.dtype == np.uint8:
        palette = np.zeros((256, 3), dtype=np.uint8)
        colors = np.asarray(colors, dtype=np.uint8)[: 256 - label_offset]
        palette[label_offset : label_offset + len(colors)] = colors
        picture.putpalette(palette.tobytes())
    with atomic(path) as partial:
        picture.save(partial)


def open_predictions(
    place: str | Path, *, reader: PairReader, label_offset: int | None = None
) -> Callable[[str], np.ndarray]:
    """Opens the predictions of any program for a dataset.

    Args:
        place: predictions.json as written here, a folder of label images named <image id>.png, or
            a folder as written here, whose labels/ are taken.
        reader: of the dataset.
        label_offset: stored value of class 0, if not the dataset's own.

    Returns:
        A function from an image id to (H, W) uint8 class indices, 255 where RLE covers no pixel.
    """
    place = Path(place)
    if not place.exists():
        raise FileNotFoundError(
            f"there are no predictions {place}. Name a folder of label images, a predictions.json, "
            "or a checkpoint (.pth)."
        )
    # A prediction has a class everywhere, so the value that means "no label" is a wrong one here.
    offset = reader.label_offset if label_offset is None else label_offset
    reader = replace(reader, label_offset=offset, stored_ignore=None)
    if place.suffix != ".json":
        folder = place / "labels" if (place / "labels").is_dir() else place

        def read(image_id: str) -> np.ndarray:
            name = relative_path(str(image_id), source="image_id")
            return reader.read_label(folder / f"{name}.png")

        return read
    entries = _read_entries(place, offset=offset, num_classes=reader.num_classes)

    def decode(image_id: str) -> np.ndarray:
        if image_id not in entries:
            raise ValueError(f"{place} holds no prediction of {image_id}. Predict it as well.")
        labels = None
        for category, region in entries[image_id]:
            try:
                is_inside = decode_rle(region)  # (H, W)
                labels = np.full(is_inside.shape, 255, np.uint8) if labels is None else labels
                labels[is_inside] = category - offset
            except (ValueError, IndexError) as error:
                raise ValueError(
                    f"{place}: the segmentation of category {category} in image {image_id} does "
                    f"not fit: {error}. Write the predictions again."
                ) from error
        return labels

    return decode


def _read_entries(
    place: Path, *, offset: int, num_classes: int
) -> Mapping[str, list[tuple[int, Any]]]:
    """By image id, the categories with their regions, which are checked when they are decoded."""
    try:
        content = json.loads(place.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{place} cannot be read as JSON: {error}. Name COCO's file of results."
        ) from error
    entries = defaultdict(list)
    for entry in content if isinstance(content, list) else [content]:
        if not isinstance(entry, dict) or not {"image_id", "category_id"} <= entry.keys():
            raise ValueError(
                f"{place} is no list of entries with image_id, category_id and segmentation, as "
                "COCO's results are. Name such a file."
            )
        category = entry["category_id"]
        if type(category) is not int or not offset <= category < offset + num_classes:
            raise ValueError(
                f"{place} has the category_id {category!r}, but the dataset has {offset} to "
                f"{offset + num_classes - 1}. Correct label_offset, or name predictions for it."
            )
        entries[str(entry["image_id"])].append((category, entry.get("segmentation")))
    return entries
