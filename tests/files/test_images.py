"""What is opened and decoded: label ids as stored, and no file that hangs, grows or moves."""

import os
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from smmcl.data.format import AuxiliaryFormat
from smmcl.data.reader import PairReader
from smmcl.files.images import decode, decode_label

IDS = np.array([[0, 1], [2, 3]], dtype=np.uint8)
READER = PairReader(AuxiliaryFormat("thermal"), num_classes=4)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def gray_png(path, rows, *, bits, size):
    """Writes a grayscale PNG by its specification; Pillow writes no 2-bit ones."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(row) for row in rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(
    ("bits", "byte", "ids"),
    [(1, 0b10100000, [1, 0, 1]), (2, 0b00011011, [0, 1, 2, 3]), (4, 0x3F, [3, 15])],
)
def test_labels_of_few_bits_are_read_as_stored(tmp_path, bits, byte, ids):
    path = gray_png(tmp_path / "a.png", [[byte]], bits=bits, size=(len(ids), 1))
    assert decode_label(path).tolist() == [ids]
    assert replace(READER, num_classes=16).read_label(path).tolist() == [ids]


@pytest.mark.parametrize("suffix", ["png", "tiff", "bmp", "gif"])
def test_lossless_formats_keep_ids(tmp_path, suffix):
    assert np.array_equal(decode_label(save(tmp_path / f"a.{suffix}", IDS)), IDS)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("a.jpg", {}, r"a\.jpg is a JPEG file.*Export the labels again as PNG"),
        ("a.jp2", {}, r"a\.jp2 is a JPEG2000 file"),
        ("a.webp", {"lossless": False}, r"a\.webp has mode 'RGB'"),
        ("a.tiff", {"compression": "jpeg"}, r"a\.tiff is a lossy TIFF file"),
        ("a.tiff", {"tiffinfo": {262: 0}}, r"a\.tiff stores inverted values"),
    ],
)
def test_labels_that_may_not_hold_their_ids(tmp_path, name, options, words):
    path = save(tmp_path / name, np.tile(IDS, (8, 8)), **options)
    with pytest.raises(ValueError, match=words):
        READER.read_label(path)


def test_large_ids_need_no_large_table(tmp_path):
    path = save(tmp_path / "a.tiff", np.array([[0, 2**31 - 1]], dtype=np.int32))
    with pytest.raises(ValueError, match="holds the values 2147483647,"):
        READER.read_label(path)
    assert replace(READER, stored_ignore=2**31 - 1).read_label(path).tolist() == [[0, 255]]


def test_negative_ignore_value_takes_no_class(tmp_path):
    # Read as an index, -1 was the last entry of a table and erased class 3.
    reader = replace(READER, stored_ignore=-1)
    assert np.array_equal(reader.read_label(save(tmp_path / "a.png", IDS)), IDS)
    path = save(tmp_path / "a.tiff", np.array([[-1, 3]], dtype=np.int32))
    assert reader.read_label(path).tolist() == [[255, 3]]


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(ValueError, match=rf"label image .*{name} is a folder, a pipe"):
            decode_label(tmp_path / name)
    (tmp_path / "link.png").symlink_to(save(tmp_path / "a.png", IDS))
    assert np.array_equal(decode_label(tmp_path / "link.png"), IDS)


@pytest.mark.parametrize(
    ("side", "limit"), [(2**13 + 1, 67108864), (20000, 178956970)], ids=["ours", "Pillow's"]
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_size_is_limited_before_decoding(tmp_path, side, limit):
    path = gray_png(tmp_path / "bomb.png", [[0]], bits=8, size=(side, side))
    with pytest.raises(ValueError, match=rf"depth image .*bomb\.png .*{limit} pixels"):
        decode(path, role="depth image")


def test_size_at_the_limit_is_read(tmp_path):
    path = save(tmp_path / "a.png", IDS)
    assert decode(path, role="", max_pixels=4)[0].size == 4
    with pytest.raises(ValueError, match=r"2x2 .*more than 3 pixels .*set max_pixels in its "):
        decode(path, role="", max_pixels=3)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_several_frames_are_refused(tmp_path, suffix):
    first, second = (Image.fromarray(np.full((4, 4, 3), v, np.uint8)) for v in (10, 200))
    path = tmp_path / f"a.{suffix}"
    first.save(path, save_all=True, append_images=[second])
    with pytest.raises(ValueError, match=rf"a\.{suffix} is a \w+ file with several frames"):
        decode(path, role="visible image")


def test_previews_behind_a_jpeg_are_no_frames(tmp_path):
    first = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[first.resize((4, 4))])
    assert decode(tmp_path / "a.jpg", role="")[0].shape == (8, 8, 3)


@pytest.mark.parametrize("place", ["text", "profile"])
def test_bombs_beside_the_pixels_name_their_file(tmp_path, place):
    bomb = b"a" * (PngImagePlugin.MAX_TEXT_CHUNK + 1)
    data = {"text": chunk(b"zTXt", b"k\0\0" + zlib.compress(bomb)),
            "profile": chunk(b"iCCP", b"k\0\0" + zlib.compress(bomb))}[place]  # fmt: skip
    path = gray_png(tmp_path / "bomb.png", [[1]], bits=8, size=(1, 1))
    content = path.read_bytes()
    path.write_bytes(content[:33] + data + content[33:])
    with pytest.raises(ValueError, match=r"label image .*bomb\.png cannot be read"):
        decode_label(path)


def test_width_in_a_bmp_is_no_bit_depth(tmp_path):
    # 53 pixels of 3 bytes make rows of 160 bytes, which the decoder's arguments state.
    path = save(tmp_path / "a.bmp", np.zeros((1, 53, 3), np.uint8))
    assert decode(path, role="visible image")[0].shape == (1, 53, 3)
