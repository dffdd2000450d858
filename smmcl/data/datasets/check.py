"""Checks a dataset on disk, pair by pair: what is wrong with which file, and what the files hold.

Shape shorthand in this module:
    H, W: height and width of a pair      C: channels      K: classes
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from smmcl.d2 import DatasetCatalog, MetadataCatalog
from smmcl.data.reader import PairReader, check_same_size
from smmcl.files.images import LUMINANCE, read_size

Array = np.ndarray
FILE_KEYS = {
    "file_name": "visible image",
    "auxiliary_file_name": "auxiliary image",
    "sem_seg_file_name": "label image",
}


class Moments:
    """Mean and standard deviation of each channel over the images added, (H, W, C) each."""

    def __init__(self) -> None:
        self.sums: Array = np.zeros(3)  # pixels, then values (C,) and their squares (C,)

    def add(self, image: Array) -> None:
        """Adds an image on the scale 0..255."""
        mean, std = (values[:, 0] for values in cv2.meanStdDev(image))  # (C,) each
        moments = np.stack([np.ones_like(mean), mean, std**2 + mean**2])  # (3, C)
        self.sums = self.sums.reshape(3, -1) + image.shape[0] * image.shape[1] * moments

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """Returns one value a channel each; zeros when no image was added."""
        count, total, squares = self.sums.reshape(3, -1)
        mean = total / np.maximum(count, 1)
        variance = squares / np.maximum(count, 1) - mean**2
        return mean.round(3).tolist(), np.sqrt(np.maximum(variance, 0)).round(3).tolist()


@dataclass
class SplitReport:
    """What was found in one split."""

    name: str  # of the dataset in the catalog
    classes: Sequence[str]
    ids: Sequence[str]  # of the pairs
    class_pixels: Array  # (K,) of each class
    class_images: Array  # (K,) that have the class
    num_sound: int = 0
    problems: list[str] = field(default_factory=list)  # each names its file; a sound set has none
    notes: list[str] = field(default_factory=list)  # what a user should know but need not mend
    sizes: Counter = field(default_factory=Counter)
    alignments: Counter = field(default_factory=Counter)  # pairs by `Alignment.describe`
    tags: Counter = field(default_factory=Counter)
    ignored_pixels: int = 0
    visible: Moments = field(default_factory=Moments)
    auxiliary: Moments = field(default_factory=Moments)
    # For "visible image" and "auxiliary image", the first file with each content.
    digests: dict[str, dict[bytes, str]] = field(default_factory=lambda: defaultdict(dict))

    @property
    def num_pairs(self) -> int:
        return len(self.ids)


def check_split(
    name: str, *, progress: Callable[[Iterable], Iterable] = lambda records: records
) -> SplitReport:
    """Reads every pair of a registered dataset as training would, and looks at its values.

    `progress` wraps the iteration over the records, to show how far it is.
    """
    records, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
    ids = [record["image_id"] for record in records]
    none = np.zeros(len(metadata.stuff_classes), dtype=np.int64)
    report = SplitReport(name, metadata.stuff_classes, ids, none, none.copy())
    _check_count(report, metadata.num_images)
    for image_id, times in Counter(report.ids).items():
        if times > 1:
            report.problems.append(f"{name}: pair {image_id} is listed {times} times.")
    for record in progress(records):
        report.tags.update(record.get("tags", ()))
        _check_pair(report, record, metadata)
    report.notes += [f"{count} pairs: {how}" for how, count in report.alignments.items() if how]
    if not metadata.get("has_labels", True):
        report.notes.append("no labels: this set can be predicted, not trained or evaluated on")
        return report
    absent = [n for n, c in zip(report.classes, report.class_images, strict=True) if not c]
    if absent:
        report.notes.append(f"classes that never occur: {', '.join(absent)}")
    return report


def check_between(first: SplitReport, second: SplitReport) -> list[str]:
    """Returns a sentence for each pair that two splits share, by name or by content."""
    shared = sorted(set(first.ids) & set(second.ids))
    problems = [f"pair {name} is in both {first.name} and {second.name}." for name in shared]
    for role in ("visible image", "auxiliary image"):
        files, others = first.digests[role], second.digests[role]
        problems += [
            f"{role} {files[digest]} of {first.name} has the content of {others[digest]} of "
            f"{second.name}."
            for digest in sorted(files.keys() & others.keys(), key=lambda digest: files[digest])
            if Path(files[digest]).stem not in shared
        ]
    return problems


def _check_count(report: SplitReport, published: int | None) -> None:
    if published is None:
        report.notes.append("no published count: checked against its own list")
    elif report.num_pairs < published:
        report.notes.append(
            f"{report.num_pairs} of the {published} published pairs: a subset, checked against its "
            "own list. Its scores do not stand beside published ones"
        )
    elif report.num_pairs > published:
        report.problems.append(
            f"{report.name}: {report.num_pairs} pairs are listed but {published} are published."
        )


def _check_pair(report: SplitReport, record: dict[str, Any], metadata: Any) -> None:
    """Reads one pair; its statistics are taken only when all three files are sound."""
    missing = [key for key in FILE_KEYS if key in record and not Path(record[key]).is_file()]
    report.problems += [f"{FILE_KEYS[key]} {record[key]} does not exist." for key in missing]
    if missing:
        return
    errors, reader, label = [], PairReader.of(metadata), None
    try:
        visible, auxiliary = reader.images(record)
    except ValueError as error:
        errors.append(str(error))
    try:
        if "sem_seg_file_name" in record:
            label = reader.label(record)
            if not errors:
                paths = record["file_name"], record["sem_seg_file_name"]
                check_same_size(visible, paths[0], label, paths[1])
    except ValueError as error:
        errors.append(str(error))
    report.problems += errors
    if errors:
        return
    report.num_sound += 1
    report.sizes[visible.shape[:2]] += 1
    if auxiliary is not None:
        stored = read_size(record["auxiliary_file_name"])
        report.alignments[reader.align.describe(stored, visible.shape[:2])] += 1
        _check_difference(report, visible, auxiliary, record)
    for key, image, moments in (
        ("file_name", visible, report.visible),
        ("auxiliary_file_name", auxiliary, report.auxiliary),
    ):
        if image is not None:
            _check_image(report, image, record[key], FILE_KEYS[key])
            moments.add(image)
    if label is not None:
        _count_classes(report, label, metadata, record["sem_seg_file_name"])
    elif "class_id" in record:
        report.class_images[record["class_id"]] += 1


def _count_classes(report: SplitReport, label: Array, metadata: Any, path: str) -> None:
    counts = np.bincount(label.ravel(), minlength=256)
    report.ignored_pixels += int(counts[metadata.ignore_label])
    report.class_pixels += counts[: len(report.classes)]
    report.class_images += counts[: len(report.classes)] > 0
    if not counts[: len(report.classes)].any():
        report.notes.append(f"label image {path} holds no class, only ignored pixels")


def _check_difference(
    report: SplitReport, visible: Array, auxiliary: Array, record: dict[str, Any]
) -> None:
    """Notices an auxiliary image that is the visible one."""
    # Luminance, first on a few pixels: nearly all images differ there.
    is_gray = all(
        np.abs(visible[::step, ::step] @ LUMINANCE - auxiliary[::step, ::step, 0]).max() <= 1
        for step in (16, 1)
    )
    if is_gray:
        report.problems.append(
            f"auxiliary image {record['auxiliary_file_name']} is the visible image in gray."
        )


def _check_image(report: SplitReport, image: Array, path: str, role: str) -> None:
    """Notices an image that shows nothing, or what another one shows."""
    if image.min() == image.max():
        report.problems.append(f"{role} {path} holds the single value {image.flat[0]:g}.")
    digest = hashlib.blake2b(np.ascontiguousarray(image), digest_size=16).digest()
    first = report.digests[role].setdefault(digest, path)
    if first != path:
        report.problems.append(f"{role} {path} has the content of {first}.")
