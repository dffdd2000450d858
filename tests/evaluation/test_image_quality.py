"""PSNR, SSIM and LOE by hand, by slow loops, and against scikit-image."""

import numpy as np
import pytest

from smmcl.evaluation.image_quality import lightness_order_error, psnr, ssim


def images(*, height: int = 24, width: int = 31) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.RandomState(0)
    truth = rng.random_sample((height, width, 3))
    return np.clip(0.6 * truth + 0.1 * rng.standard_normal(truth.shape), 0, 1), truth


def test_psnr_by_hand() -> None:
    truth = np.zeros((8, 8, 3))
    assert psnr(truth + 0.1, truth) == pytest.approx(20)
    assert psnr(truth, truth) == np.inf


def test_scores_match_scikit_image() -> None:
    # scikit-image 0.26.0: structural_similarity(image, truth, channel_axis=2, data_range=1.0) and
    # peak_signal_noise_ratio(truth, image, data_range=1.0) of these images.
    image, truth = images()
    assert ssim(image, truth) == pytest.approx(0.7134925582284724, abs=1e-9)
    assert psnr(image, truth) == pytest.approx(11.916032731060591, abs=1e-9)


def test_scores_match_scikit_image_where_it_is_installed() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    image, truth = images(height=40, width=33)
    theirs = metrics.structural_similarity(image, truth, channel_axis=2, data_range=1.0)
    assert ssim(image, truth) == pytest.approx(theirs, abs=1e-12)


def test_ssim_of_itself_and_of_small_images() -> None:
    image, _ = images()
    assert ssim(image, image) == pytest.approx(1)
    with pytest.raises(ValueError, match="7x7 pixels or more, but one is 6x31"):
        ssim(image[:6], image[:6])


def test_lightness_order_by_a_slow_loop() -> None:
    image, truth = images(height=50, width=50)  # as small as LOE makes them
    ours, theirs = image.max(axis=2).ravel(), truth.max(axis=2).ravel()
    changed = 0
    for i in range(0, 2500, 25):
        changed += sum(
            (ours[i] >= a) != (theirs[i] >= b) for a, b in zip(ours, theirs, strict=True)
        )
    some = changed / 100
    assert lightness_order_error(image, truth) == pytest.approx(some, rel=0.15)


def test_lightness_order_by_hand() -> None:
    # Two halves, dark and light. A curve keeps their order; the negative turns it for each pixel
    # against all of the other half.
    image = np.zeros((50, 50, 3))
    image[:, 25:] = 0.8
    assert lightness_order_error(image**0.5, image) == 0
    assert lightness_order_error(1 - image, image) == 1250
