"""What a model says about one pair, in training ids, in the dataset's own, and as files.

Shape shorthand in this module:
    K: classes     H, W: size of the pair
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from smmcl.evaluation.predictions import save_ids, stored_ids
from smmcl.files.atomic import atomic

UNSURE = 255  # label of pixels below a wanted confidence


@dataclasses.dataclass(frozen=True, eq=False)
class ImageClass:
    """What a classifier says about one image.

    scores: (K,) float32, the probability of each class; they sum to 1.
    metadata: of the dataset, with its `stuff_classes`.
    """

    scores: np.ndarray
    metadata: Any

    @property
    def label(self) -> str:
        """The name of the most probable class."""
        return self.metadata.stuff_classes[self.scores.argmax()]

    def __str__(self) -> str:
        return f"{self.label} {100 * self.scores.max():.1f}%"

    def by_name(self) -> dict[str, float]:
        """The probability of each class."""
        return dict(zip(self.metadata.stuff_classes, self.scores.tolist(), strict=True))


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says about one pair; it unpacks into labels and probabilities.

    labels: (H, W) uint8, the most probable class of each pixel as its index in training.
    probabilities: (K, H, W) float32, which sum to 1 over the classes.
    metadata: of the dataset, with its `stuff_classes`, `stuff_colors`, `label_offset` and
        `stored_ignore`.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    metadata: Any

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.labels, self.probabilities))

    @property
    def ids(self) -> np.ndarray:
        """(H, W) uint8 or uint16: the labels as the dataset's own files store them."""
        is_unsure, offset = self.labels == UNSURE, self.metadata.label_offset
        void = self._void() - offset if is_unsure.any() else 0
        labels = np.where(is_unsure, void, self.labels.astype(np.int64))
        return stored_ids(labels, label_offset=offset)

    def above(self, confidence: float) -> "Prediction":
        """The same, with the label `UNSURE` where the most probable class is less probable."""
        is_sure = self.probabilities.max(axis=0) >= confidence  # (H, W)
        labels = np.where(is_sure, self.labels, UNSURE).astype(np.uint8)
        return dataclasses.replace(self, labels=labels)

    def save(self, path: str | Path) -> None:
        """Writes the ids as a PNG with a palette; the probabilities if the path ends in .npz."""
        if Path(path).suffix == ".npz":
            with atomic(path) as partial:
                np.savez_compressed(partial, probabilities=self.probabilities.astype("float16"))
        else:
            facts = self.metadata
            save_ids(self.ids, path, label_offset=facts.label_offset, colors=facts.stuff_colors)

    def _void(self) -> int:
        """The dataset's own value of pixels without a label, or a value that is no class."""
        facts = self.metadata
        classes = range(facts.label_offset, facts.label_offset + len(facts.stuff_classes))
        values = [255, 0] if facts.stored_ignore is None else [facts.stored_ignore]
        return next(value for value in values if value not in classes)
