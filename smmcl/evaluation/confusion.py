"""Counts every (truth, prediction) pair of classes once, and turns the counts into scores.

Shape shorthand in this module:
    K: classes
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# The classes that a mean IoU is taken over.
ABSENT_RULES = {
    "present": "the classes in truth or prediction",
    "truth": "the classes in the truth",
    "zero": "all classes, absent ones as 0",
}


def count_confusion(
    prediction: Tensor, truth: Tensor, *, num_classes: int, ignore: int = 255
) -> Tensor:
    """Counts the pairs of classes of one image or batch, on the device of the prediction.

    Args:
        prediction: class indices 0..K-1, any shape.
        truth: the same shape, class indices 0..K-1 or `ignore`.
        num_classes: K.
        ignore: truth value of pixels that do not count.

    Returns:
        (K, K), rows are the truth, columns the prediction; int64, since float32 counts stop being
        exact at 2^24 pixels, 55 images of 480x640.
    """
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction has the shape {tuple(prediction.shape)} but the truth "
            f"{tuple(truth.shape)}. Predict at the resolution of the label."
        )
    # Ignored pixels get a row of their own, which is faster than to pick the others out, and a
    # class that is none would show in the last column.
    size = num_classes + 1
    truth = truth.to(prediction.device, torch.int64)
    cells = torch.where(truth == ignore, num_classes, truth) * size + prediction
    counts = torch.bincount(cells.flatten(), minlength=size**2)
    assert counts.numel() == size**2, "a class index is outside 0..K-1"
    counts = counts.view(size, size)  # (K + 1, K + 1)
    assert not counts[:, num_classes].any(), "a prediction is outside 0..K-1"
    return counts[:num_classes, :num_classes].clone()  # (K, K)


@dataclass(frozen=True)
class SegmentationScores:
    """Scores in percent; NaN where a score has no pixels to be computed from.

    Args:
        iou, accuracy: one value per class.
        mean_iou, mean_accuracy: over the classes that the rule names.
        frequency_weighted_iou: each class by its share of the truth.
        pixel_accuracy: share of the pixels that are right.
    """

    iou: list[float]
    accuracy: list[float]
    mean_iou: float
    mean_accuracy: float
    frequency_weighted_iou: float
    pixel_accuracy: float


def explain_rule(absent_rule: str) -> str:
    """The classes of a mean by a rule, in words; an unknown rule is refused."""
    if absent_rule not in ABSENT_RULES:
        raise ValueError(
            f"the rule for absent classes is {absent_rule!r}. Set TEST.ABSENT_CLASSES to one of "
            f"{', '.join(ABSENT_RULES)}."
        )
    return f"{absent_rule} (mean over {ABSENT_RULES[absent_rule]})"


def score(
    counts: Tensor, *, absent_rule: str = "present", excluded: Sequence[int] = ()
) -> SegmentationScores:
    """Turns counts into scores.

    Args:
        counts: (K, K) int64, rows are the truth, columns the prediction.
        absent_rule: a key of `ABSENT_RULES`. By "truth" a class that is only ever predicted
            wrongly costs nothing by itself. The mean accuracy has the classes of the truth, or
            with "zero" all.
        excluded: classes left out of the two means. Their pixels still count everywhere else.
    """
    explain_rule(absent_rule)  # or raise
    counts = counts.to("cpu", torch.float64)
    hits, truth, predicted = counts.diag(), counts.sum(1), counts.sum(0)  # (K,) each
    union = truth + predicted - hits
    iou = 100 * hits / union  # NaN for a class in neither
    accuracy = 100 * hits / truth
    kept = torch.ones(len(hits), dtype=torch.bool)
    kept[list(excluded)] = False
    averaged = {"present": union > 0, "truth": truth > 0, "zero": union >= 0}[absent_rule] & kept
    recalled = kept if absent_rule == "zero" else (truth > 0) & kept
    return SegmentationScores(
        iou=iou.tolist(),
        accuracy=accuracy.tolist(),
        mean_iou=torch.where(union > 0, iou, 0.0)[averaged].mean().item(),
        mean_accuracy=torch.where(truth > 0, accuracy, 0.0)[recalled].mean().item(),
        frequency_weighted_iou=(truth * iou)[truth > 0].sum().div(truth.sum()).item(),
        pixel_accuracy=100 * (hits.sum() / truth.sum()).item(),
    )
