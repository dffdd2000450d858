"""Videos: containers of OpenCV's writer, spoiled by bytes and by the sizes in their headers."""

import functools
import random
import re
import struct
import tempfile
from pathlib import Path

import cv2
import numpy as np
from mutations import EDGES, spoil_bytes
from worker import Kind

from smmcl.files.video import read_frame_pairs

CODECS = {"v.mp4": "mp4v", "v.avi": "MJPG", "v.mkv": "XVID", "v.webm": "VP80", "v.mov": "mp4v"}
# What headers call the fields behind which sizes, counts and times stand.
FIELDS = re.compile(
    rb"tkhd|mvhd|mdhd|stsd|stts|stsc|stsz|stco|trun|mp4v|avih|strh|strf|idx1|\xb0|\xba"
)


@functools.cache
def samples() -> dict[str, bytes]:
    """Six frames in each container that this OpenCV can write."""
    frames, found = np.random.default_rng(0).integers(0, 256, (6, 32, 48, 3)), {}
    with tempfile.TemporaryDirectory() as folder:
        for name, codec in CODECS.items():
            path = Path(folder) / name
            code = cv2.VideoWriter_fourcc(*codec)
            writer = cv2.VideoWriter(str(path), code, 10.0, (48, 32))
            for frame in frames:
                writer.write(frame.astype(np.uint8))
            writer.release()
            if path.is_file() and path.stat().st_size:
                found[name] = path.read_bytes()
    return found


def write_video(draw: random.Random, folder: Path) -> Path:
    name, content = draw.choice(list(samples().items()))
    if draw.random() < 0.5:
        data = bytearray(content)
        place = draw.choice([match.start() for match in FIELDS.finditer(data)])
        place = min(place + draw.choice((-4, *range(4, 40, 2))), len(data) - 4)
        struct.pack_into(draw.choice("<>") + "I", data, max(place, 0), draw.choice(EDGES))
        content = bytes(data)
    elif draw.random() < 0.98:
        content = spoil_bytes(draw, content, draw.choice(list(samples().values())))
    path = folder / f"input{Path(name).suffix}"
    path.write_bytes(content)
    return path


def read_video(path: Path) -> None:
    for frame, other in read_frame_pairs(path, path):
        assert frame.dtype == other.dtype == np.uint8
        assert frame.shape[:2] == other.shape[:2]


VIDEO = Kind(write_video, read_video)
