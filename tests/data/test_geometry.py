"""The geometry of a pair: hand-computed boxes, joint motion, and the authors' values."""

import numpy as np
import pytest

from smmcl.data.geometry import PairGeometry, draw_geometry


def draw(seed, size=(60, 80), scales=(0.5, 1.0, 1.75), crop_size=(48, 64), flip_probability=0.5):
    return draw_geometry(
        np.random.default_rng(seed),
        size=size,
        scales=scales,
        crop_size=crop_size,
        flip_probability=flip_probability,
    )


def test_flip_then_crop_by_hand():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    geometry = PairGeometry(True, (3, 4), (1, 0), (2, 2))
    # Rows reversed: 3 2 1 0 / 7 6 5 4 / 11 10 9 8; from row 1, column 0.
    assert geometry.apply(image, fill=0).tolist() == [[7, 6], [11, 10]]


def test_small_image_lies_in_the_middle():
    geometry = PairGeometry(False, (1, 2), (0, 0), (4, 4))
    # 3 rows are left over: 1 above, 2 below.
    assert geometry.valid_box == (1, 1, 2, 3)
    moved = geometry.apply(np.array([[5, 6]], np.uint8), fill=255, nearest=True)
    assert moved.tolist() == [[255] * 4, [255, 5, 6, 255], [255] * 4, [255] * 4]


def test_all_images_of_a_pair_move_alike():
    # Column number as image, auxiliary and label: after any geometry they agree on every pixel
    # that is at least a pixel away from an interpolation.
    column = np.tile(np.arange(80, dtype=np.uint8), (60, 1))
    for seed in range(20):
        geometry = draw(seed, scales=(1.0, 2.0))
        label = geometry.apply(column, fill=255, nearest=True).astype(int)
        image = geometry.apply(column[..., None].repeat(3, axis=2), fill=0).astype(int)
        auxiliary = geometry.apply(column[..., None].astype(np.float32), fill=0)
        assert auxiliary.shape == (48, 64, 1)
        assert abs(image[..., 0] - label).max() <= 1
        assert abs(auxiliary[..., 0] - image[..., 0]).max() <= 0.5


def test_crop_start_covers_its_range_and_no_more():
    # 50 rows, 48 wanted: 0, 1, 2. The authors draw 3 as well, and pad a row.
    starts = [draw(seed, size=(50, 64), scales=(1.0,)).start for seed in range(300)]
    counts = np.bincount([top for top, _ in starts])
    assert len(counts) == 3
    assert counts.min() > 70
    assert {left for _, left in starts} == {0}


def test_flips_and_scales_have_their_frequencies():
    drawn = [draw(seed) for seed in range(600)]
    assert 0.44 < np.mean([geometry.flip for geometry in drawn]) < 0.56
    heights = [geometry.size[0] for geometry in drawn]
    for height in (30, 60, 105):
        assert 0.27 < np.mean([h == height for h in heights]) < 0.40
    assert not any(draw(seed, flip_probability=0.0).flip for seed in range(50))


def test_label_values_are_never_mixed():
    label = np.random.default_rng(0).choice([0, 9, 255], (60, 80)).astype(np.uint8)
    for seed in range(10):
        assert set(np.unique(draw(seed).apply(label, fill=255, nearest=True))) <= {0, 9, 255}


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_gaps_of_depth_stay_gaps_and_are_not_mixed(kind):
    # Twice as wide, linearly: 100, 75, 25, 0, where measured shares are 1, 3/4, 1/4, 0.
    depth = np.array([[100, 0]], kind)
    geometry = PairGeometry(False, (1, 4), (0, 0), (1, 4))
    assert geometry.apply(depth, fill=0).tolist() == [[100, 75, 25, 0]]
    assert geometry.apply(depth, fill=0, has_gaps=True).tolist() == [[100, 100, 0, 0]]
    # Half as large: the mean of four is that of the measured ones, if half of them are.
    depth = np.array([[40, 60, 0, 0], [80, 0, 0, 90]], kind)[..., None]
    geometry = PairGeometry(False, (1, 2), (0, 0), (1, 2))
    assert geometry.apply(depth, fill=0, has_gaps=True).tolist() == [[[60], [0]]]


def test_depth_without_gaps_is_resized_as_ever():
    depth = np.random.default_rng(0).integers(1, 256, (30, 40)).astype(np.uint8)
    with_a_gap = depth.copy()
    with_a_gap[:2, :2] = 0
    for seed in range(10):
        geometry = draw(seed, size=(30, 40))
        plain = geometry.apply(depth, fill=0)
        assert np.array_equal(geometry.apply(depth, fill=0, has_gaps=True), plain)
        # Away from the gap nothing changes either.
        moved = geometry.apply(with_a_gap, fill=0, has_gaps=True)
        far = geometry.apply(np.pad(np.zeros((4, 4), np.uint8), ((0, 26), (0, 36)),
                                    constant_values=1), fill=0, nearest=True) == 1  # fmt: skip
        assert np.array_equal(moved[far], plain[far])


@pytest.mark.parametrize("case", range(15))
def test_values_equal_the_authors(golden, case):
    data = np.load(golden / "preprocess.npz")
    scaled = data[f"{case}/scaled_gt"].shape
    geometry = PairGeometry(
        bool(data[f"{case}/mirror"]), scaled, tuple(data[f"{case}/pos"]), tuple(data["crop"])
    )
    if str(data[f"{case}/over"]):
        # Their crop began one row or column too late; ours cannot be drawn there.
        assert any(
            start > size - crop
            for start, size, crop in zip(geometry.start, scaled, data["crop"], strict=True)
        )
        return
    for name, source in (("rgb", data["rgb"]), ("x", np.repeat(data["x"][..., None], 3, axis=2))):
        moved = geometry.apply(source, fill=0).transpose(2, 0, 1)  # (3, h, w)
        normalized = (moved / 255.0 - data["mean"][:, None, None]) / data["std"][:, None, None]
        top, left, bottom, right = geometry.valid_box
        result = np.zeros_like(normalized)
        result[:, top:bottom, left:right] = normalized[:, top:bottom, left:right]
        np.testing.assert_allclose(result, data[f"{case}/out_{name}"], atol=2e-6)
    label = geometry.apply(data["gt"], fill=255, nearest=True)
    np.testing.assert_array_equal(label, data[f"{case}/out_gt"])
