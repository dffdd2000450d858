"""Reading pairs: exact values for every kind of file, and a sentence for every bad one."""

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from smmcl.d2 import DatasetCatalog, MetadataCatalog
from smmcl.data.format import AuxiliaryFormat
from smmcl.data.hha import Camera, compute_hha
from smmcl.data.reader import PairReader, check_same_size
from smmcl.files.images import decode

STEPS = AuxiliaryFormat(kind="thermal")
CAMERA = [500, 500, 32, 24]
HHA = AuxiliaryFormat(kind="hha", unit="mm", high=10000, invalid=0, camera=CAMERA)
MILLIMETERS = AuxiliaryFormat(kind="depth", unit="mm", low=0, high=10000, invalid=0)
LABELS = {"label_offset": 1, "stored_ignore": 0, "num_classes": 3, "ignore": 255}
READER = PairReader(STEPS, **LABELS)


def save(path, array, **options):
    Image.fromarray(np.asarray(array)).save(path, **options)
    return str(path)


def read_visible(path, *, channel_order="RGB"):
    reader = replace(READER, channel_order=channel_order)
    return reader.visible(decode(path, role="visible image"))


def read_pair(visible, auxiliary, *, format=STEPS):
    record = {"file_name": visible, "auxiliary_file_name": auxiliary}
    return replace(READER, format=format).images(record)


def read_auxiliary(path, *, format=STEPS):
    return replace(READER, format=format).auxiliary(decode(path, role="auxiliary image"))


def test_four_channels_are_split_without_premultiplication(tmp_path):
    # Where the fourth channel is 0, a reader that treats it as opacity returns black.
    stored = np.array([[[200, 100, 50, 0], [1, 2, 3, 255]]], dtype=np.uint8)
    path = save(tmp_path / "a.png", stored)
    visible, auxiliary = read_pair(path, path)
    assert visible.tolist() == [[[200, 100, 50], [1, 2, 3]]]
    assert auxiliary.tolist() == [[[0], [255]]]
    assert auxiliary.dtype == np.uint8


def test_the_limit_of_a_set_holds_for_its_images_and_labels(registered_pairs):
    name = registered_pairs(size=(40, 48), max_pixels=40 * 48 - 1)
    record, metadata = DatasetCatalog.get(name)[0], MetadataCatalog.get(name)
    reader = PairReader.of(metadata)
    for read in (reader.images, reader.label):
        with pytest.raises(ValueError, match=r"has 48x40 .*more than 1919 pixels"):
            read(record)
    whole = replace(reader, max_pixels=40 * 48)
    assert whole.images(record)[0].shape == (40, 48, 3)
    assert whole.label(record).shape == (40, 48)


def test_bgr_exchanges_red_and_blue(tmp_path):
    path = save(tmp_path / "a.png", np.array([[[1, 2, 3]]], dtype=np.uint8))
    assert read_visible(path, channel_order="BGR").tolist() == [[[3, 2, 1]]]


def test_visible_equals_the_authors_file_in_bgr(tmp_path, golden):
    # Their reader returns BGR without saying so; the file is the same.
    data = np.load(golden / "image_read.npz")
    path = save(tmp_path / "a.png", data["png_rgb"])
    assert np.array_equal(read_visible(path, channel_order="BGR"), data["returned"])


def test_sixteen_bits_keep_their_precision(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 1, 2500, 65535]], dtype=np.uint16))
    auxiliary = read_auxiliary(path, format=MILLIMETERS)
    # 1 mm of 10 m is 0.0255 of 255; farther than 10 m is clipped; 0 is no measurement.
    assert auxiliary.dtype == np.float32
    np.testing.assert_allclose(auxiliary[0, :, 0], [0, 0.0255, 63.75, 255], rtol=1e-6)


def test_low_and_high_stretch_and_invalid_becomes_zero(tmp_path):
    format = AuxiliaryFormat(kind="thermal", low=100, high=200, invalid=255)
    path = save(tmp_path / "a.png", np.array([[50, 100, 150, 200, 255]], dtype=np.uint8))
    auxiliary = read_auxiliary(path, format=format)
    assert auxiliary[0, :, 0].tolist() == [0, 0, 127.5, 255, 0]


def test_full_range_with_invalid_value_stays_8_bit(tmp_path):
    format = AuxiliaryFormat(kind="depth", invalid=255)
    path = save(tmp_path / "a.png", np.array([[7, 255]], dtype=np.uint8))
    auxiliary = read_auxiliary(path, format=format)
    assert auxiliary.dtype == np.uint8
    assert auxiliary[0, :, 0].tolist() == [7, 0]


def test_float_meters_and_missing_values(tmp_path):
    format = AuxiliaryFormat(kind="depth", unit="m", high=10)
    path = save(tmp_path / "a.tiff", np.array([[5.0, np.nan]], dtype=np.float32))
    assert read_auxiliary(path, format=format)[0, :, 0].tolist() == [127.5, 0]


def test_gray_saved_in_color_is_one_channel(tmp_path):
    path = save(tmp_path / "a.png", np.full((2, 2, 3), 9, dtype=np.uint8))
    assert read_auxiliary(path, format=STEPS).shape == (2, 2, 1)


def test_three_channels_stay(tmp_path):
    format = AuxiliaryFormat(kind="hha", channels=3)
    path = save(tmp_path / "a.png", np.array([[[1, 2, 3]]], dtype=np.uint8))
    assert read_auxiliary(path, format=format).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize(
    ("array", "format", "words"),
    [
        (np.zeros((1, 1), np.uint16), STEPS, "stores uint16 values"),
        (np.zeros((1, 1), np.uint8), MILLIMETERS, "stores uint8 values"),
        (np.arange(3, dtype=np.uint8).reshape(1, 1, 3), STEPS, r"3 channel\(s\)"),
        (np.zeros((1, 1), np.uint8), AuxiliaryFormat("hha", 3), "declares 3"),
    ],
)
def test_auxiliary_that_breaks_its_format(tmp_path, array, format, words):
    path = save(tmp_path / "bad.png", array)
    with pytest.raises(ValueError, match=words) as error:
        read_auxiliary(path, format=format)
    assert "bad.png" in str(error.value)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"channel_order": "GBR"}, "INPUT.FORMAT is 'GBR'"),
        ({"num_classes": 255}, "255 classes and ignore label 255 do not fit"),
        ({"ignore": 2}, "3 classes and ignore label 2 do not fit"),
        ({"ignore": 256}, "ignore label 256 do not fit"),
        ({"format": AuxiliaryFormat("hha", 3), "channels": 1}, "3 channels but the model takes 1"),
    ],
)
def test_facts_that_no_reader_can_have(facts, words):
    with pytest.raises(ValueError, match=words):
        replace(READER, **facts)


@pytest.fixture
def depth_file(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "sets"))
    depth = np.random.default_rng(0).integers(1500, 1600, (48, 64)).astype(np.uint16)
    depth[10:20, 10:20] = 0
    return save(tmp_path / "a.png", depth), depth


@pytest.fixture
def read_hha(tmp_path):
    visible = save(tmp_path / "v.png", np.zeros((48, 64, 3), np.uint8))
    return lambda path, format=HHA: read_pair(visible, path, format=format)[1]


def test_hha_is_made_of_depth_and_kept(depth_file, read_hha, tmp_path):
    path, depth = depth_file
    expected = compute_hha(depth / 1000, camera=Camera(*CAMERA)).image()
    assert np.array_equal(read_hha(path), expected)
    (cached,) = (tmp_path / "sets/hha_cache").rglob("*.png")
    made = cached.stat().st_mtime_ns
    assert np.array_equal(read_hha(path), expected)
    assert cached.stat().st_mtime_ns == made
    # Nothing but the file's bytes and the format make the name: a copy finds the same entry.
    read_hha(shutil.copy(path, tmp_path / "b.png"))
    assert [*(tmp_path / "sets/hha_cache").rglob("*.png")] == [cached]


def test_another_depth_or_camera_is_another_hha(depth_file, read_hha, tmp_path):
    path, depth = depth_file
    formats = [HHA, replace(HHA, camera=[400, 500, 32, 24]), replace(HHA, unit="2 mm")]
    images = [read_hha(path, format) for format in formats]
    save(tmp_path / "a.png", depth + np.uint16(700))
    images.append(read_hha(path))
    assert len({image.tobytes() for image in images}) == 4
    assert len([*(tmp_path / "sets/hha_cache").rglob("*.png")]) == 4


def test_hha_of_files_that_do_not_fit(depth_file, read_hha, tmp_path):
    path, _ = depth_file
    with pytest.raises(FileNotFoundError, match=r"gone\.png does not exist"):
        read_hha(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"bad\.png stores uint8 values"):
        read_hha(save(tmp_path / "bad.png", np.ones((48, 64), np.uint8)))
    read_hha(path)
    (cached,) = (tmp_path / "sets/hha_cache").rglob("*.png")
    cached.write_bytes(cached.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"cached HHA image .*{cached.name} cannot be read"):
        read_hha(path)


def test_format_refuses_an_empty_range():
    with pytest.raises(ValueError, match=r"auxiliary\.low is 5"):
        AuxiliaryFormat(kind="depth", low=5, high=5)


def test_label_offset_and_ignore(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 1, 2, 3]], dtype=np.uint8))
    label = READER.read_label(path)
    assert label.tolist() == [[255, 0, 1, 2]]
    assert label.dtype == np.uint8


def test_palette_label_is_read_by_index(tmp_path):
    # A reader that converts to gray returns the palette's luminance, 29 for blue.
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), mode="P")
    image.putpalette([0, 0, 0, 0, 0, 255, 0, 255, 0])
    image.save(tmp_path / "a.png")
    assert READER.read_label(tmp_path / "a.png").tolist() == [[255, 0, 1]]


def test_sixteen_bit_label(tmp_path):
    path = save(tmp_path / "a.png", np.array([[1, 3]], dtype=np.uint16))
    assert READER.read_label(path).tolist() == [[0, 2]]


@pytest.mark.parametrize("value", [4, 255, 60000])
def test_label_value_out_of_range(tmp_path, value):
    kind = np.uint8 if value < 256 else np.uint16
    path = save(tmp_path / "bad.png", np.array([[1, value]], dtype=kind))
    with pytest.raises(ValueError, match=rf"bad\.png holds the values {value}, .* 1\.\.3"):
        READER.read_label(path)


def test_negative_label_value(tmp_path):
    path = save(tmp_path / "bad.tiff", np.array([[1, 3, -2]], dtype=np.int32))
    with pytest.raises(ValueError, match=r"bad\.tiff holds the values -2,"):
        READER.read_label(path)


def test_void_is_wrong_where_every_pixel_has_a_label(tmp_path):
    path = save(tmp_path / "bad.png", np.array([[0, 1]], dtype=np.uint8))
    with pytest.raises(ValueError, match="holds the values 0"):
        replace(READER, stored_ignore=None).read_label(path)


def test_colored_label(tmp_path):
    path = save(tmp_path / "bad.png", np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(ValueError, match=r"bad\.png has mode 'RGB'"):
        READER.read_label(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"visible image .*gone\.png does not exist"):
        read_visible(tmp_path / "gone.png")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_file(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"bad.{suffix}"
    save(path, noise)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=rf"bad\.{suffix} cannot be read"):
        read_visible(path)


def test_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "bad.png"
    save(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match="cannot be read"):
        read_visible(path)


def test_file_that_is_no_image(tmp_path):
    (tmp_path / "bad.png").write_text("not an image")
    with pytest.raises(ValueError, match="cannot be read"):
        READER.read_label(tmp_path / "bad.png")


def test_gray_visible_image(tmp_path):
    path = save(tmp_path / "bad.png", np.zeros((1, 1), np.uint8))
    with pytest.raises(ValueError, match="has mode 'L' but 3 channels"):
        read_visible(path)


def test_rotation_tag_is_refused(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "bad.jpg", np.zeros((2, 4, 3), np.uint8), exif=exif)
    with pytest.raises(ValueError, match="EXIF orientation 6"):
        read_visible(path)


def test_sixteen_bit_color_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "bad.png"), np.zeros((2, 2, 3), np.uint16))
    with pytest.raises(ValueError, match="16-bit color"):
        read_visible(tmp_path / "bad.png")


def test_sizes_that_differ(tmp_path):
    visible = save(tmp_path / "v.png", np.zeros((4, 6, 3), np.uint8))
    auxiliary = save(tmp_path / "a.png", np.zeros((4, 5), np.uint8))
    with pytest.raises(ValueError, match=r"v\.png is 4x6 but .*a\.png is 4x5"):
        read_pair(visible, auxiliary)
    check_same_size(np.zeros((4, 6, 3)), "v", np.zeros((4, 6)), "l")
