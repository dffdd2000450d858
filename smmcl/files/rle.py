"""COCO's run lengths as masks, checked: pycocotools writes beyond its memory where a
text of a stranger ends within a number.

Shape shorthand in this module:
    H, W: height and width of the mask
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from smmcl.files.images import MAX_PIXELS

FIRST, LAST = "0", "o"  # the letters stand for 0..63
MAX_BITS = 40  # of a run; far more than MAX_PIXELS needs


def decode_rle(region: Any) -> np.ndarray:
    """(H, W) bool of {"size": [H, W], "counts": lengths or their compressed text}; ValueError
    where it is none."""
    size = region.get("size") if isinstance(region, dict) else None
    is_size = isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size)
    if not is_size or min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"its size is no [height, width] of at most {MAX_PIXELS} pixels")
    counts = region.get("counts")
    if isinstance(counts, list) and not all(type(run) is int for run in counts):
        raise ValueError("its counts are no list of whole numbers")
    if not isinstance(counts, str | list):
        raise ValueError("its counts are no text of compressed run lengths, nor a list of lengths")
    runs = list(_runs(counts)) if isinstance(counts, str) else counts
    if min(runs, default=-1) < 0 or sum(runs) != size[0] * size[1]:
        raise ValueError(f"its run lengths do not make up {size[0]}x{size[1]} pixels")
    columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs)  # (W * H,)
    return columns.reshape(size[::-1]).T  # (H, W)


def _runs(text: str) -> Iterator[int]:
    """The lengths, the first of pixels outside; from the fourth on each is stored as a difference
    to the one two before it."""
    value, shift, count, before = 0, 0, 0, (0, 0)
    for letter in text:
        if not FIRST <= letter <= LAST or shift > MAX_BITS:
            raise ValueError("its counts are no text of compressed run lengths")
        bits = ord(letter) - ord(FIRST)
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # the number goes on
            continue
        if bits & 16:  # it is negative
            value -= 1 << shift
        value += before[0] if count > 2 else 0
        yield value
        value, shift, count, before = 0, 0, count + 1, (before[1], value)
    if shift:
        raise ValueError("its counts end within a number")
