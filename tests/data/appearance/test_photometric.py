"""Changes of appearance: what they touch, how often, and what the simulated dark looks like."""

import numpy as np
import pytest

from smmcl.data.appearance.photometric import (
    Gamma,
    LowLight,
    ModalityCorruption,
    PhotometricJitter,
    gamma_to_mean,
)


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    visible = rng.integers(60, 200, (40, 50, 3), dtype=np.uint8)
    return visible, rng.integers(1, 256, (40, 50, 1), dtype=np.uint8)


def test_jitter_by_hand():
    # Strength 0 changes nothing; gray pixels have no saturation to lose.
    image = np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8)
    unchanged, _ = PhotometricJitter(0.0)(image, image, np.random.default_rng(0))
    assert np.array_equal(unchanged, image)
    gray = np.full((2, 2, 3), 100, np.uint8)
    changed, _ = PhotometricJitter(0.4)(gray, gray, np.random.default_rng(0))
    assert len(np.unique(changed)) == 1


def test_jitter_weights_follow_the_channel_order():
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    rgb, _ = PhotometricJitter(0.5)(image, image, np.random.default_rng(2))
    bgr, _ = PhotometricJitter(0.5, "BGR")(image[..., ::-1], image, np.random.default_rng(2))
    assert np.abs(rgb.astype(int) - bgr[..., ::-1]).max() <= 1


@pytest.mark.parametrize("change", [PhotometricJitter(0.4), LowLight(1.0)])
def test_auxiliary_stays(pair, change):
    visible, auxiliary = change(*pair, np.random.default_rng(0))
    assert auxiliary is pair[1]
    assert visible.shape == pair[0].shape
    assert visible.dtype == np.uint8
    assert not np.array_equal(visible, pair[0])


def test_low_light_is_darker_and_noisier():
    flat = np.full((60, 60, 3), 180, np.uint8)
    for seed in range(10):
        dark, _ = LowLight(1.0)(flat, flat, np.random.default_rng(seed))
        assert dark.mean() < 0.75 * flat.mean()
        assert dark.std(axis=(0, 1)).min() > 0.5


def test_low_light_exposure_by_hand():
    # Two stops less, nothing else: a quarter of the light, 255 * 0.25 ^ (1 / 2.2) = 135.8.
    change = LowLight(1.0, stops=(-2, -2), gamma=(1, 1), cast=0.0, photons=(1e8, 1e8),
                      read_noise=(0.0, 0.0))  # fmt: skip
    white = np.full((50, 50, 3), 255, np.uint8)
    dark, _ = change(white, white, np.random.default_rng(0))
    assert dark.mean() == pytest.approx(135.8, abs=0.5)


def test_low_light_noise_is_that_of_photons():
    # 100 photons at white: a standard deviation of 10 in a linear image.
    change = LowLight(1.0, stops=(0, 0), gamma=(1, 1), cast=0.0, photons=(100, 100),
                      read_noise=(0.0, 0.0))  # fmt: skip
    gray = np.full((200, 200, 3), 128, np.uint8)  # 22 photons
    seen, _ = change(gray, gray, np.random.default_rng(0))
    photons = 100 * (seen / 255.0) ** 2.2
    expected = 100 * (128 / 255) ** 2.2
    assert photons.mean() == pytest.approx(expected, rel=0.02)
    assert photons.std() == pytest.approx(np.sqrt(expected), rel=0.03)


def test_corruption_touches_one_image_and_each_in_its_turn(pair):
    change = ModalityCorruption(0.5, ("missing",))
    hits = []
    for seed in range(400):
        visible, auxiliary = change(*pair, np.random.default_rng(seed))
        hits.append((not visible.any(), not auxiliary.any()))
    both, neither = hits.count((True, True)), hits.count((False, False))
    assert both == 0
    assert 150 < neither < 250
    assert 70 < hits.count((True, False)) < 130


@pytest.mark.parametrize("image", ["visible", "auxiliary"])
def test_corruption_of_a_named_image(pair, image):
    change = ModalityCorruption(1.0, ("missing",), image)
    for seed in range(20):
        visible, auxiliary = change(*pair, np.random.default_rng(seed))
        assert (not visible.any(), not auxiliary.any()) == (image == "visible", image != "visible")


def test_corruption_of_an_unknown_image():
    with pytest.raises(ValueError, match=r"CORRUPTION\.IMAGE is 'depth'.*visible, either, aux"):
        ModalityCorruption(1.0, ("missing",), "depth")


def test_unknown_corruption():
    with pytest.raises(ValueError, match=r"fog: no such corruption.*blur"):
        ModalityCorruption(1.0, ("fog", "blur"))


def test_gamma_reaches_a_mean() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for mean in (0.1, 0.5, 0.9):
        assert gamma_to_mean(image, mean).mean() / 255 == pytest.approx(mean, abs=0.01)
    for value in (0, 255):
        flat = np.full((4, 5, 3), value, np.uint8)
        assert np.array_equal(gamma_to_mean(flat, 0.5), flat)


def test_gamma_darkens_by_hand():
    # .5 to the power of 3 is .125.
    image = np.full((4, 5, 3), 128, np.uint8)
    dark, other = Gamma(1.0, exponent=(3, 3))(image, image, np.random.default_rng(0))
    assert (dark == 32).all()
    assert other is image
    assert Gamma(0.0)(image, image, np.random.default_rng(0))[0] is image
