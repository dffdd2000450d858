"""Confusion counts and scores: by hand, against a slow count, and against the reference."""

import math

import numpy as np
import pytest
import torch

from smmcl.evaluation.confusion import count_confusion, score


def counted(truth, prediction, num_classes):
    prediction, truth = torch.tensor(prediction), torch.tensor(truth)
    return count_confusion(prediction, truth, num_classes=num_classes)


def test_counts_by_hand():
    counts = counted([0, 0, 1, 255], [0, 1, 1, 0], 2)
    assert counts.tolist() == [[1, 1], [0, 1]]
    assert counts.dtype == torch.int64


def test_scores_by_hand():
    # Class 0: 1 right, 1 missed. Class 1: 1 right, 1 too many. Class 2 is only predicted, in the
    # place of a 1. Class 3 occurs nowhere.
    counts = counted([0, 0, 1, 1], [0, 1, 1, 2], 4)
    present = score(counts)
    assert present.iou[:3] == pytest.approx([50, 100 / 3, 0])
    assert math.isnan(present.iou[3])
    assert present.accuracy[:2] == pytest.approx([50, 50])
    assert math.isnan(present.accuracy[2])
    assert present.mean_iou == pytest.approx((50 + 100 / 3) / 3)
    assert present.mean_accuracy == pytest.approx(50)
    assert present.frequency_weighted_iou == pytest.approx((50 + 100 / 3) / 2)
    assert present.pixel_accuracy == pytest.approx(50)


@pytest.mark.parametrize(
    ("rule", "mean_iou", "mean_accuracy"),
    [("present", (50 + 100 / 3) / 3, 50), ("truth", (50 + 100 / 3) / 2, 50),
     ("zero", (50 + 100 / 3) / 4, 25)],
)  # fmt: skip
def test_rules_for_absent_classes(rule, mean_iou, mean_accuracy):
    scores = score(counted([0, 0, 1, 1], [0, 1, 1, 2], 4), absent_rule=rule)
    assert scores.mean_iou == pytest.approx(mean_iou)
    assert scores.mean_accuracy == pytest.approx(mean_accuracy)


def test_excluded_class_still_counts_against_others():
    # The pixel of the excluded class 0 that is taken for 1 is a false positive of 1.
    scores = score(counted([0, 0, 1], [0, 1, 1], 2), excluded=[0])
    assert scores.mean_iou == pytest.approx(50)
    assert scores.iou[0] == pytest.approx(50)
    assert scores.pixel_accuracy == pytest.approx(200 / 3)


def test_unknown_rule_names_the_key():
    with pytest.raises(ValueError, match=r"TEST\.ABSENT_CLASSES"):
        score(torch.zeros(2, 2, dtype=torch.int64), absent_rule="nan")


def test_no_pixel_at_all_has_no_score():
    scores = score(counted([255], [0], 2))
    assert math.isnan(scores.mean_iou)
    assert math.isnan(scores.pixel_accuracy)


def test_sizes_that_differ():
    with pytest.raises(ValueError, match="resolution of the label"):
        counted([[0, 0], [0, 0]], [[0, 0, 0, 0]], 2)


def test_a_prediction_that_is_no_class():
    with pytest.raises(AssertionError, match="prediction is outside"):
        counted([1, 0], [2, 0], 2)
    with pytest.raises(AssertionError, match="prediction is outside"):
        counted([255], [2], 2)


def test_counts_do_not_depend_on_batches():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 5, (6, 8, 9), generator=generator)
    truth[truth == 4] = 255
    prediction = torch.randint(0, 4, (6, 8, 9), generator=generator)
    whole = count_confusion(prediction, truth, num_classes=4)
    pieces = [count_confusion(*one, num_classes=4) for one in zip(prediction, truth, strict=True)]
    slow = torch.zeros(4, 4, dtype=torch.int64)
    for t, p in zip(truth.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if t != 255:
            slow[t, p] += 1
    assert torch.equal(whole, slow)
    assert torch.equal(sum(pieces), slow)


def test_counts_stay_exact_beyond_float32():
    counts = torch.full((2, 2), 2**24) + counted([0], [0], 2)
    assert counts.tolist() == [[2**24 + 1, 2**24], [2**24, 2**24]]


def test_equals_the_reference(golden):
    data = np.load(golden / "metrics.npz")
    truth = np.where(data["gt"] < 14, data["gt"], 255)  # what is no class does not count there
    counts = count_confusion(*map(torch.from_numpy, (data["pred"], truth)), num_classes=14)
    assert np.array_equal(counts.numpy(), data["hist"].astype(np.int64))
    scores = score(counts)
    np.testing.assert_allclose(scores.iou, 100 * data["iou"], rtol=1e-12)
    assert scores.mean_iou == pytest.approx(100 * data["mean_iou"].item())
    assert scores.frequency_weighted_iou == pytest.approx(100 * data["freq_iou"].item())
    assert scores.mean_accuracy == pytest.approx(100 * data["mean_pixel_acc"].item())
    assert scores.pixel_accuracy == pytest.approx(100 * data["pixel_acc"].item())
    without_void = score(counts, excluded=[0])
    assert without_void.mean_iou == pytest.approx(100 * data["mean_iou_wo_background"].item())
