"""What a set's metadata must say of its pairs: defaults for 8-bit files, checks, stored labels."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from smmcl.data.format import AuxiliaryFormat
from smmcl.data.reader import PairReader
from smmcl.files.images import MAX_PIXELS


@dataclasses.dataclass(frozen=True)
class LabelLoader:
    """Reads a label file as class ids, for Detectron2's `SemSegEvaluator(sem_seg_loading_fn=...)`.

    That one takes stored values for class ids, which they are not where a set counts from 1.
    """

    label_offset: int
    stored_ignore: int | None
    num_classes: int
    ignore: int
    max_pixels: int = MAX_PIXELS

    def __call__(self, path: str | Path, dtype: Any = int) -> np.ndarray:
        """(H, W): class ids, and `ignore` where there is no label."""
        return PairReader(format=None, **dataclasses.asdict(self)).read_label(path).astype(dtype)

    @property
    def evaluator_type(self) -> str:
        """Detectron2's own word only where its evaluator reads the files right by itself."""
        is_plain = self.label_offset == 0 and self.stored_ignore in (None, self.ignore)
        return "sem_seg" if is_plain else "sem_seg_of_pairs"


def complete_facts(metadata: Any) -> None:
    """Fills in what the metadata of a set with `stuff_classes` leaves open, and checks the rest.

    The defaults are those of 8-bit files: the stored value is the class, 255 is no label, and the
    auxiliary image has one channel whose 0..255 are taken as they are.
    """
    ignored = metadata.get("ignore_label", 255)
    defaults = {
        "ignore_label": ignored,
        "label_offset": 0,
        "stored_ignore": ignored,
        "auxiliary": {"kind": "auxiliary"},
    }
    for fact, value in defaults.items():
        if not hasattr(metadata, fact):
            setattr(metadata, fact, value)
    _check(metadata)
    if not hasattr(metadata, "sem_seg_loading_fn"):
        metadata.sem_seg_loading_fn = LabelLoader(
            metadata.label_offset, metadata.stored_ignore, len(metadata.stuff_classes), ignored
        )


def _check(metadata: Any) -> None:
    first, classes = metadata.label_offset, metadata.stuff_classes
    if metadata.stored_ignore in range(first, first + len(classes)):
        raise ValueError(
            f"dataset {metadata.name!r} stores {metadata.stored_ignore} where there is no label "
            f"(stored_ignore, by default ignore_label), but also for its class "
            f"{classes[metadata.stored_ignore - first]!r}. Set label_offset in its metadata to the "
            "stored value of the first class, or stored_ignore to None."
        )
    if metadata.auxiliary is None:  # visible images alone
        return
    try:
        AuxiliaryFormat(**metadata.auxiliary)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"dataset {metadata.name!r} has the metadata auxiliary={metadata.auxiliary!r}: {error}."
            " Write it as in {'kind': 'depth', 'unit': 'mm', 'high': 10000, 'invalid': 0}."
        ) from error
