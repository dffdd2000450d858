"""Numbers of features: by hand for points on a circle, by scikit-learn where it is installed."""

import math

import numpy as np
import pytest

from smmcl.visualization.features import (
    class_similarity,
    describe_pair,
    describe_space,
    distances,
    normalize,
)


def at(*degrees: float) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (M, 2)


def test_distances_are_chords() -> None:
    assert normalize(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[0.6, 0.8], [0.0, 0.0]]
    np.testing.assert_allclose(distances(at(0), at(60, 90, 180)), [[1, math.sqrt(2), 2]])


def test_a_space_by_hand() -> None:
    # Two classes of two equal points each, opposite each other: chords of 0 within, 2 between.
    numbers = describe_space(at(0, 0, 180, 180), np.array([4, 4, 7, 7]))
    # Of the 6 pairs 2 have d = 0 and 4 have d = 2: log((2 + 4 exp(-8)) / 6).
    uniformity = math.log((2 + 4 * math.exp(-8)) / 6)
    wanted = {"silhouette": 1, "neighbor accuracy": 1, "within": 0, "between": 2}
    assert numbers == pytest.approx({**wanted, "uniformity": uniformity})


def test_a_cell_alone_in_its_class_counts_0() -> None:
    # Chords: 0-60 1, 0-180 2, 60-180 sqrt(3). Cells: (2 - 1) / 2, (sqrt 3 - 1) / sqrt 3, 0.
    numbers = describe_space(at(0, 60, 180), np.array([0, 0, 1]))
    assert numbers["silhouette"] == pytest.approx((0.5 + (1 - 1 / math.sqrt(3)) + 0) / 3)
    assert numbers["neighbor accuracy"] == pytest.approx(2 / 3)
    assert numbers["within"] == pytest.approx(1)
    assert numbers["between"] == pytest.approx((2 + math.sqrt(3)) / 2)
    with pytest.raises(ValueError, match=r"1 class\(es\) but two"):
        describe_space(at(0, 60), np.array([3, 3]))


def test_across_modalities_by_hand() -> None:
    visible, auxiliary, labels = at(0, 90), at(60, 90), np.array([0, 2])
    numbers = describe_pair(visible, auxiliary, labels)
    # A row's own place is no key: 0 finds 90 and 90 finds 60, both of the other class.
    assert numbers["across"] == pytest.approx({"alignment": 0.5, "neighbor accuracy": 0})
    assert numbers["auxiliary"]["between"] == pytest.approx(2 * math.sin(math.radians(15)))
    similarity = class_similarity(visible, auxiliary, labels, num_classes=3)
    cosines = [[0.5, 0], [math.sqrt(3) / 2, 1]]
    np.testing.assert_allclose(similarity[np.ix_([0, 2], [0, 2])], cosines, atol=1e-12)
    assert np.isnan(similarity[1]).all()
    assert np.isnan(similarity[:, 1]).all()


def test_silhouette_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="pip install smmcl[visualization]")
    rng = np.random.default_rng(0)
    features, labels = normalize(rng.normal(size=(60, 5))), rng.integers(0, 4, 60)
    wanted = metrics.silhouette_score(features, labels)
    assert describe_space(features, labels)["silhouette"] == pytest.approx(wanted)
