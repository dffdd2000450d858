"""Writes predictions as files: label images in the dataset's own ids, in colour, and as RLE."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask

from smmcl.d2 import comm


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
        self._entries: list[dict] = []

    def write(self, prediction: np.ndarray, image_id: str) -> None:
        """Writes one prediction, (H, W) class indices."""
        stored = (prediction + self.label_offset).astype(np.uint8)
        for kind, image in (("labels", stored), ("colors", self.colors[prediction])):
            path = self.folder / kind / f"{image_id}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
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
            (self.folder / "predictions.json").write_text(json.dumps(entries))
        self._entries = []
