"""Images and labels: every format of Pillow that is read, spoiled by chunks, tags and bytes."""

import functools
import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
from mutations import EDGES, spoil_bytes
from PIL import Image
from worker import Kind

from smmcl.data.format import AuxiliaryFormat
from smmcl.data.reader import PairReader
from smmcl.files.images import decode, read_size

SIGNATURE = b"\x89PNG\r\n\x1a\n"
THERMAL = PairReader(AuxiliaryFormat("thermal"), num_classes=3)
DEPTH = PairReader(AuxiliaryFormat("depth", unit="mm", high=5000.0, invalid=0), num_classes=3)
LABELS = PairReader(None, num_classes=3, stored_ignore=255)


@functools.cache
def samples() -> dict[str, bytes]:
    """Small sound files, by a name that ends in their suffix."""
    values = np.random.default_rng(0).integers(0, 3, (12, 16, 4)).astype(np.uint8)
    gray, color = Image.fromarray(values[:, :, 0]), Image.fromarray(values[:, :, :3])
    deep = Image.fromarray(values[:, :, 0].astype(np.uint16) * 900)
    palette = Image.fromarray(values[:, :, 0])
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    pages = {"save_all": True, "append_images": [gray]}
    wanted = {
        "gray.png": (gray, {}), "color.png": (color, {}), "deep.png": (deep, {}),
        "alpha.png": (Image.fromarray(values), {}), "palette.png": (palette, {}),
        "two_bits.png": (palette, {"bits": 2}), "one_bit.png": (gray.convert("1"), {}),
        "several.png": (gray, pages), "color.jpg": (color, {}), "gray.jpg": (gray, {}),
        "gray.tif": (gray, {}), "deep.tif": (deep, {"compression": "tiff_lzw"}),
        "color.tif": (color, {"compression": "tiff_adobe_deflate"}),
        "real.tif": (Image.fromarray(values[:, :, 0].astype(np.float32)), {}),
        "wide.tif": (Image.fromarray(values[:, :, 0].astype(np.int32)), {}),
        "pages.tif": (gray, pages), "gray.bmp": (gray, {}), "color.bmp": (color, {}),
        "gray.gif": (gray, {}), "several.gif": (gray, pages), "color.webp": (color, {}),
    }  # fmt: skip
    return {name: _saved(image, name, **options) for name, (image, options) in wanted.items()}


def _saved(image: Image.Image, name: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, Image.registered_extensions()[Path(name).suffix], **options)
    return file.getvalue()


def write_image(draw: random.Random, folder: Path) -> Path:
    name, content = draw.choice(list(samples().items()))
    suffix = Path(name).suffix
    if suffix == ".png" and draw.random() < 0.7:
        content = _spoil_chunks(draw, content)
    elif suffix == ".tif" and draw.random() < 0.7:
        content = _spoil_tags(draw, content)
    elif draw.random() < 0.98:
        content = spoil_bytes(draw, content, draw.choice(list(samples().values())))
    path = folder / f"input{suffix if draw.random() < 0.9 else '.png'}"
    path.write_bytes(content)
    return path


def _spoil_chunks(draw: random.Random, content: bytes) -> bytes:
    """A PNG whose chunks are wrong, but whose checksums are right."""
    chunks, place = [], len(SIGNATURE)
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        kind = content[place + 4 : place + 8]
        chunks.append((kind, content[place + 8 : place + 8 + length]))
        place += length + 12
    for _ in range(draw.choice((1, 1, 2))):
        index = draw.randrange(len(chunks))
        kind, data = chunks[index]
        match draw.randrange(6):
            case 0:
                chunks.insert(draw.randrange(len(chunks) + 1), chunks[index])
            case 1:
                chunks[index] = (draw.choice((b"IDAT", b"tEXt", b"fdAT", draw.randbytes(4))), data)
            case 2:
                chunks.insert(draw.randrange(1, len(chunks) + 1), _odd_chunk(draw))
            case 3:
                chunks[0] = (b"IHDR", _spoil_header(draw, chunks[0][1]))
            case 4 if kind == b"IDAT":
                chunks[index] = (kind, _spoil_pixels(draw, data))
            case _:
                chunks[index] = (kind, spoil_bytes(draw, data))
    return SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _spoil_header(draw: random.Random, header: bytes) -> bytes:
    fields = list(struct.unpack(">IIBBBBB", header.ljust(13, b"\0")[:13]))
    index = draw.randrange(7)
    sizes = (*EDGES, 8192, 20000)
    fields[index] = draw.choice(sizes) if index < 2 else draw.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    return struct.pack(">IIBBBBB", *fields)


def _spoil_pixels(draw: random.Random, data: bytes) -> bytes:
    """Other pixels, or far more of them, in a stream that can be unpacked."""
    try:
        pixels = zlib.decompress(data)
    except zlib.error:  # spoiled before
        return data
    pixels = pixels * 1000 if draw.random() < 0.2 else spoil_bytes(draw, pixels)
    return zlib.compress(pixels)


def _odd_chunk(draw: random.Random) -> tuple[bytes, bytes]:
    bomb = zlib.compress(bytes(draw.choice((100, 10**7))))
    frames, number = draw.choice(EDGES), draw.choice(EDGES)
    exif = b"MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIHH", 0x112, 3, 1, draw.randrange(10), 0)
    return draw.choice((
        (b"zTXt", b"a\0\0" + bomb), (b"iTXt", b"a\0\1\0\0\0" + bomb), (b"iCCP", b"a\0\0" + bomb),
        (b"acTL", struct.pack(">II", frames, number)), (b"eXIf", exif + bytes(4)),
        (b"eXIf", draw.randbytes(30)), (b"tRNS", draw.randbytes(draw.randrange(8))),
        (b"PLTE", draw.randbytes(draw.choice((3, 6, 7, 768, 1000)))), (b"gAMA", b""),
        (b"fcTL", struct.pack(">IIIII", 0, number, frames, 0, 0) + bytes(6)),
    ))  # fmt: skip


def _spoil_tags(draw: random.Random, content: bytes) -> bytes:
    """A TIFF with other tags, types, counts, values or places of its directory."""
    data = bytearray(content)
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    for _ in range(draw.choice((1, 1, 2))):
        place = start + 2 + 12 * draw.randrange(count)
        match draw.randrange(5):
            case 0:
                struct.pack_into(
                    "<H", data, place, draw.choice((256, 258, 259, 262, 274, 277, 339))
                )
            case 1:
                struct.pack_into("<H", data, place + 2, draw.randrange(20))
            case 2:
                struct.pack_into("<I", data, place + 4, draw.choice(EDGES))
            case 3:
                struct.pack_into("<I", data, place + 8, draw.choice((*EDGES, 6, 7, 8, 32, 34712)))
            case 4:  # the next directory is this one
                struct.pack_into("<I", data, start + 2 + 12 * count, start)
    return bytes(data)


def read_image(path: Path) -> None:
    """As a visible image, as 8-bit steps and as millimeters; it is refused if it is none."""
    picture, errors = decode(path, role="image"), []
    assert picture.values.shape[:2] == read_size(path)
    for convert in (THERMAL.visible, THERMAL.auxiliary, DEPTH.auxiliary):
        try:
            image = convert(picture)
        except ValueError as error:
            errors.append(error)
        else:
            assert image.shape[:2] == picture.values.shape[:2]
            assert np.isfinite(image).all()
            assert image.max() <= 255
    assert all(path.name in str(error) for error in errors), errors
    if len(errors) == 3:
        raise errors[0]


def read_label(path: Path) -> None:
    labels = LABELS.read_label(path)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, 1, 2, 255}


IMAGE, LABEL = Kind(write_image, read_image), Kind(write_image, read_label)
