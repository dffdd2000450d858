"""Pictures that are written again as they were: values, depth, alpha, kind of file."""

import pathlib

import cv2
import numpy as np
import pytest
from PIL import Image

from smmcl.files.pictures import read_colors

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (9, 12, 4), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (9, 12, 4), dtype=np.uint16)


def stored(path: pathlib.Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("values", [BYTES, BYTES[:, :, :3], BYTES[:, :, 0],
                                    DEEP, DEEP[:, :, :3], DEEP[:, :, 0]])  # fmt: skip
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".bmp", ".webp"])
def test_what_is_read_is_written_again(values: np.ndarray, suffix: str, tmp_path) -> None:
    if suffix in (".bmp", ".webp") and (values.dtype == np.uint16 or values.ndim == 2):
        pytest.skip("no such file")
    if suffix == ".bmp" and values.shape[2] == 4:
        pytest.skip("no such file")
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    assert cv2.imwrite(str(first), values, options)
    colors = read_colors(first, role="image")
    top = np.iinfo(values.dtype).max
    three = values[:, :, 2::-1] if values.ndim == 3 else np.dstack([values] * 3)
    if not (suffix == ".webp" and values.shape[2] == 4):  # OpenCV's loses colors behind alpha
        assert np.array_equal(np.rint(colors.values.astype(np.float64) * top), three)
    colors.save(second)
    again = read_colors(second, role="image")
    assert (again.dtype, again.is_gray) == (values.dtype, values.ndim == 2)
    assert np.array_equal(again.values, colors.values)
    if values.ndim == 3 and values.shape[2] == 4:
        assert np.array_equal(again.alpha, values[:, :, 3])
    else:
        assert np.array_equal(stored(first), stored(second))


def test_jpeg_stays_near(tmp_path) -> None:
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=100)
    read_colors(tmp_path / "a.jpg", role="image").save(tmp_path / "b.jpg")
    a, b = (np.asarray(Image.open(tmp_path / f"{n}.jpg")).astype(int) for n in "ab")
    assert np.abs(a - b).max() <= 4


@pytest.mark.parametrize(("array", "mode"), [(np.ones((4, 5), np.float32), "F"),
                                             (np.ones((4, 5), np.int32), "I")])  # fmt: skip
def test_values_without_a_white_are_refused(array: np.ndarray, mode: str, tmp_path) -> None:
    Image.fromarray(array).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=f"image .*a.tiff has mode '{mode}' but 8 or 16 bits"):
        read_colors(tmp_path / "a.tiff", role="image")


def test_a_damaged_deep_file_is_named(tmp_path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), DEEP)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[:60])
    with pytest.raises(ValueError, match=r"b\.png cannot be read"):
        read_colors(tmp_path / "b.png", role="image")
