"""Two cameras: exact moves by hand, gaps that never mix, and the rules that refuse."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smmcl.data.alignment import Alignment, carry, read_alignment
from smmcl.data.format import AuxiliaryFormat
from smmcl.data.hha import Camera, compute_hha
from smmcl.data.reader import PairReader
from smmcl.files.images import Picture

MILLIMETERS = AuxiliaryFormat(kind="depth", unit="mm", high=10000, invalid=0)
SHIFT = [[1, 0, 3], [0, 1, -2]]  # 3 to the right, 2 up


def read(stored, *, size, align=None, format=MILLIMETERS):
    """The auxiliary image (H, W, A) that belongs to a visible one of a size."""
    reader = PairReader(format, num_classes=3, align=align or Alignment())
    mode = "RGB" if stored.ndim == 3 else "I;16" if stored.dtype == np.uint16 else "L"
    beside = Picture(np.zeros((*size, 3), np.uint8), "RGB", "v.png")
    return reader.auxiliary(Picture(stored, mode, "a.png"), beside=beside)


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
@pytest.mark.parametrize("matrix", [SHIFT, [*SHIFT, [0, 0, 1]], [[2, 0, 6], [0, 2, -4], [0, 0, 2]]])
def test_an_integer_shift_is_recovered_exactly(matrix, interpolation):
    stored = np.random.default_rng(0).integers(1, 10000, (12, 16)).astype(np.uint16)
    moved = read(stored, size=(12, 16), align=Alignment("matrix", matrix, interpolation))
    whole = read(stored, size=(12, 16))
    assert np.array_equal(moved[:10, 3:], whole[2:, :13])
    # What the auxiliary camera does not see is no measurement.
    assert not moved[10:].any()
    assert not moved[:, :3].any()


def test_a_homography_maps_auxiliary_to_visible_coordinates():
    # Column x = 4, row y = 2 is to lie at x = 2 * 4 / 2 = 4, y = 3 * 2 / 2 = 3, with 2 = 1 + 4 / 4.
    matrix = [[2, 0, 0], [0, 3, 0], [0.25, 0, 1]]
    stored = np.zeros((8, 8), np.uint16)
    stored[2, 4] = 5000
    moved = read(stored, size=(8, 8), align=Alignment("matrix", matrix, "nearest"))
    assert moved[3, 4, 0] == 127.5


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
@pytest.mark.parametrize(
    ("align", "size"),
    [
        (Alignment("resize"), (24, 20)),
        (Alignment("crop"), (17, 40)),
        (Alignment("matrix", [[0.9, 0.2, 1.3], [-0.1, 1.1, 0.4]]), (15, 21)),
        (Alignment("matrix", [[0.9, 0.2, 1.3], [-0.1, 1.1, 0.4], [0.01, 0, 1]]), (15, 21)),
    ],
)
@pytest.mark.parametrize("gap", [0, 65535])
def test_gaps_are_never_mixed(align, size, interpolation, gap):
    # Everything that was measured lies at 4 m: no other value may come out, but for gaps.
    stored = np.full((15, 21), 4000, np.uint16)
    stored[np.random.default_rng(0).random((15, 21)) < 0.3] = gap
    format = replace(MILLIMETERS, invalid=gap)
    moved = read(
        stored, size=size, align=replace(align, interpolation=interpolation), format=format
    )
    assert moved.shape == (*size, 1)
    assert moved.dtype == np.float32
    measured = moved[moved > 0]
    assert 0.5 < len(measured) / moved.size < 0.9
    np.testing.assert_allclose(measured, 102, rtol=1e-6)


def test_a_gap_without_a_value_to_share_by_hand():
    # Twice as wide: shares 1, 3/4, 1/4, 0 of 100 are 100 and 100, and two gaps.
    stored = np.array([[[100.0], [np.inf]]], np.float32)
    align = Alignment("resize")
    move = align.mover((1, 2), (1, 4), names=("", ""))
    values, invalid = carry(stored, ~np.isfinite(stored), move)
    assert values[0, :, 0].tolist() == [100, 100, 0, 0]
    assert invalid[0, :, 0].tolist() == [False, False, True, True]


def test_sixteen_bits_keep_their_meaning_between_pixels():
    # Halfway between 1001 mm and 1002 mm lies 1001.5 mm, before the scale and without rounding.
    stored = np.array([[1001, 1002], [1001, 1002]], np.uint16)
    moved = read(stored, size=(1, 1), align=Alignment("resize"))
    assert moved[0, 0, 0] == np.float32(1001.5) * np.float32(0.0255)
    # 14 m and 6 m are 10 m together: what lies outside of the scale is clipped afterwards.
    assert read(np.array([[14000, 6000]] * 2, np.uint16), size=(1, 1))[0, 0, 0] == 255


def test_eight_bits_stay_eight_bits():
    stored = np.array([[10, 0], [20, 40]], np.uint8)
    moved = read(stored, size=(1, 1), format=AuxiliaryFormat(kind="thermal"))
    assert moved.dtype == np.uint8
    assert moved.tolist() == [[[18]]]  # 17.5, to even
    assert read(stored, size=(1, 1), format=AuxiliaryFormat("d", invalid=0)).tolist() == [[[23]]]


def test_crop_takes_the_middle():
    stored = np.arange(1, 9, dtype=np.uint8).reshape(1, 8).repeat(2, axis=0)
    moved = read(stored, size=(2, 4), align=Alignment("crop"), format=AuxiliaryFormat("thermal"))
    assert moved[0, :, 0].tolist() == [3, 4, 5, 6]
    tall = read(stored.T.copy(), size=(2, 2), align=Alignment("crop"),
                format=AuxiliaryFormat("thermal"))  # fmt: skip
    assert tall[:, 0, 0].tolist() == [4, 5]


def test_prepared_hha_moves_by_the_nearest_pixel():
    stored = np.array([[[0, 0, 218], [50, 60, 128]]] * 2, np.uint8)  # no depth, and a wall
    moved = read(stored, size=(4, 4), format=AuxiliaryFormat("hha", 3))
    assert moved[0].tolist() == [[0, 0, 218]] * 2 + [[50, 60, 128]] * 2


def test_hha_is_made_of_depth_that_was_aligned():
    depth = np.random.default_rng(0).integers(1500, 1600, (24, 32)).astype(np.uint16)
    camera = [500, 500, 32, 24]  # of the visible image
    format = AuxiliaryFormat("hha", unit="mm", high=10000, invalid=0, camera=camera)
    aligned = read(depth, size=(48, 64)) / 255 * 10
    expected = compute_hha(aligned[:, :, 0], camera=Camera(*camera)).image().astype(int)
    made = read(depth, size=(48, 64), format=format)
    assert abs(made - expected).max() <= 1


@pytest.mark.parametrize(
    ("align", "stored", "words"),
    [
        (Alignment("strict"), (240, 320), r"v\.png is 480x640 but a\.png is 240x320 .*one size"),
        (Alignment(), (424, 512), r"480x640 but a\.png is 424x512 .*differ by 10%.*'align: resize'"
         r".*'align: crop'.*'align: calibration\.yaml'"),
        (Alignment(), (400, 600), "differ by 12%"),
        (Alignment("matrix", SHIFT), (2, 40000), "side of more than 32767"),
    ],
)  # fmt: skip
def test_sizes_that_no_rule_brings_together(align, stored, words):
    with pytest.raises(ValueError, match=words):
        align.mover(stored, (480, 640), names=("v.png", "a.png"))


def test_aspect_ratios_within_two_percent_are_alike():
    move = Alignment().mover((240, 326), (480, 640), names=("", ""))
    assert move(np.ones((240, 326, 1), np.float32)).shape == (480, 640)
    assert Alignment("strict").mover((4, 6), (4, 6), names=("", "")) is None


def test_calibration_files(tmp_path):
    def stated(text):
        (tmp_path / "c.yaml").write_text(text)
        return read_alignment("c.yaml", path=tmp_path / "dataset.yaml")

    assert stated("[[1, 0, 3], [0, 1, -2]]") == Alignment("matrix", SHIFT)
    assert stated("matrix: [[1, 0, 3], [0, 1, -2]]\ninterpolation: nearest") == Alignment(
        "matrix", SHIFT, "nearest"
    )
    for text, words in {
        "[[1, 0], [0, 1]]": r"c\.yaml: the matrix is .*3 rows .*or 2 rows .*of 3 numbers",
        "[[1, 0, 0]]": "3 rows",
        "[[1, 0, x], [0, 1, 0]]": "3 rows",
        "[[1, 0, .nan], [0, 1, 0]]": "3 rows",
        "[[1, 0, 0], [2, 0, 0]]": "maps areas to lines",
        "matrix: 7": "the matrix is 7",
        "camera: [[1, 0, 3], [0, 1, -2]]": r"c\.yaml is \{'camera'",
        "hello": "holds 'hello'",
        "": "holds None",
        "{matrix: [[1, 0, 3], [0, 1, -2]], interpolation: cubic}": "is 'cubic'. Set it to linear",
    }.items():
        with pytest.raises(ValueError, match=words):
            stated(text)
    with pytest.raises(FileNotFoundError, match=r"gone\.yaml does not exist"):
        read_alignment("gone.yaml", path=tmp_path / "dataset.yaml")


def test_the_calibration_of_the_readme(tmp_path):
    text = (Path(__file__).parents[2] / "datasets/README.md").read_text()
    (tmp_path / "calibration.yaml").write_text(
        text.split("\n# calibration.yaml")[1].split("\n", 1)[1].split("```")[0]
    )
    align = read_alignment("calibration.yaml", path=tmp_path / "dataset.yaml")
    assert (align.matrix[0], align.interpolation) == ([2.01, 0.0, -14.2], "nearest")


@pytest.mark.parametrize("stated", ["strech", "matrix", 7, None, {"rule": "matrix"}, {"x": 1}, []])
def test_rules_that_are_none(stated):
    with pytest.raises(ValueError, match=r"dataset\.yaml: align"):
        read_alignment(stated, path="dataset.yaml")
