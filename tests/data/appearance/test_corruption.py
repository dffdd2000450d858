"""Corruptions: by hand where a number can be had, and graded where it cannot."""

import numpy as np
import pytest

from smmcl.data.appearance.corruption import CORRUPTIONS, HOLE, HOLE_SHARE, SEVERITIES, SHIFT

GRADED = [name for name in CORRUPTIONS if name not in ("missing",)]


@pytest.fixture
def image():
    # Smooth shapes: a blur must cost something, a shift must be visible.
    y, x = np.mgrid[:48, :64]
    return (127 + 60 * np.sin(y / 5)[..., None] + 60 * np.cos(x / 7)[..., None]).astype(np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_type_and_range_stay(image, name, kind, channels):
    image = image.repeat(channels, axis=2).astype(kind)
    before = image.copy()
    for severity in SEVERITIES:
        changed = CORRUPTIONS[name](image, severity, np.random.default_rng(0))
        assert changed.shape == image.shape
        assert changed.dtype == kind
        assert changed.min() >= 0
        assert changed.max() <= 255
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", GRADED)
def test_more_severe_is_farther_from_the_image(image, name):
    distances = []
    for severity in SEVERITIES:
        changed = CORRUPTIONS[name](image, severity, np.random.default_rng(3))
        distances.append(np.abs(changed.astype(int) - image).mean())
    assert distances == sorted(distances)
    assert distances[0] > 0.2
    assert distances[-1] > 2 * distances[0]


def test_values_by_hand():
    image = np.array([[[10], [100], [200]]], np.uint8)
    rng = np.random.default_rng(0)
    assert CORRUPTIONS["over_exposure"](image, 3, rng).ravel().tolist() == [20, 200, 255]
    assert CORRUPTIONS["under_exposure"](image, 5, rng).ravel().tolist() == [1, 6, 12]
    assert CORRUPTIONS["missing"](image, 1, rng).ravel().tolist() == [0, 0, 0]


def test_holes_are_patches_of_a_share():
    image = np.full((640, 640, 3), 9, np.uint8)
    for severity, share in enumerate(HOLE_SHARE, 1):
        holed = CORRUPTIONS["holes"](image, severity, np.random.default_rng(0))
        patches = holed.reshape(640 // HOLE, HOLE, 640 // HOLE, HOLE, 3).swapaxes(1, 2)
        lost = (patches == 0).all((2, 3, 4))
        assert ((patches == 9).all((2, 3, 4)) | lost).all()
        assert abs(lost.mean() - share) < 0.05  # of 1600 patches, where one deviation is 0.0125


def test_shift_moves_by_its_distance_and_repeats_the_border():
    image = np.zeros((65, 65, 1), np.uint8)
    image[32, 32] = 255
    for severity in SEVERITIES:
        for seed in range(5):
            moved = CORRUPTIONS["shift"](image, severity, np.random.default_rng(seed))
            ((y, x),) = np.argwhere(moved[..., 0])
            assert abs(np.hypot(y - 32, x - 32) - SHIFT[severity - 1]) < 1
    column = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    moved = CORRUPTIONS["shift"](column, 2, np.random.default_rng(1)).ravel()
    assert set(moved.tolist()) <= set(range(8))


def test_noise_has_its_strength():
    gray = np.full((100, 100, 3), 128, np.float32)
    noisy = CORRUPTIONS["noise"](gray, 2, np.random.default_rng(0))
    assert noisy.std() == pytest.approx(16, rel=0.02)
    assert noisy.mean() == pytest.approx(128, abs=0.5)
