"""The geometry of one training sample: flip, scale, crop and pad, drawn once for all its images.

Shape shorthand in this module:
    H, W: size of the stored pair       h, w: size of the crop
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class PairGeometry:
    """One drawn geometry; `apply` moves every image of the pair by it.

    What the image does not fill is padding; one smaller than the crop lies in its middle.
    """

    flip: bool  # left and right are exchanged first
    size: tuple[int, int]  # (height, width) that the whole image is then resized to
    start: tuple[int, int]  # (top, left) of the crop in the resized image, inside it
    crop_size: tuple[int, int]  # (h, w) of the result

    @property
    def valid_box(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of the real pixels in the result."""
        filled = [min(a, b) for a, b in zip(self.size, self.crop_size, strict=True)]
        top, left = ((b - a) // 2 for a, b in zip(filled, self.crop_size, strict=True))
        return top, left, top + filled[0], left + filled[1]

    def apply(
        self, image: np.ndarray, *, fill: int, nearest: bool = False, has_gaps: bool = False
    ) -> np.ndarray:
        """Moves one image.

        Args:
            image: (H, W) or (H, W, channels), uint8 or float32.
            fill: value of the padding.
            nearest: takes the nearest pixel, for labels; else interpolates linearly in the image's
                own type, as the authors' preprocessing does.
            has_gaps: 0 is no measurement, and is not mixed with what was measured beside it.

        Returns:
            (h, w) or (h, w, channels) of the same type.
        """
        if self.flip:
            image = np.ascontiguousarray(image[:, ::-1])
        if image.shape[:2] != self.size:
            mode = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
            resized = cv2.resize(image, self.size[::-1], interpolation=mode)
            if has_gaps and not (is_measured := image != 0).all():
                share = cv2.resize(is_measured.astype(np.float32), self.size[::-1])  # linear
                resized = without_gaps(resized, share)
            image = resized.reshape(*self.size, *image.shape[2:])  # cv2 drops a single channel
        top, left, bottom, right = self.valid_box
        result = np.full((*self.crop_size, *image.shape[2:]), fill, dtype=image.dtype)
        y, x = self.start
        result[top:bottom, left:right] = image[y : y + bottom - top, x : x + right - left]
        return result


def without_gaps(moved: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Mends the rims of gaps in an interpolated image: a value becomes that of its measured part.

    Args:
        moved: the image, in which gaps were 0.
        share: in 0..1, of the same shape: how much of each pixel was measured. Less than half of it
            makes a gap.
    """
    mended = moved / np.maximum(share, 0.5)
    if moved.dtype == np.uint8:
        mended = np.rint(mended).clip(1, 255)
    return np.where(share < 0.5, 0, np.where(share < 1, mended, moved)).astype(moved.dtype)


def draw_geometry(
    generator: np.random.Generator,
    *,
    size: tuple[int, int],
    scales: Sequence[float],
    crop_size: tuple[int, int],
    flip_probability: float,
) -> PairGeometry:
    """Draws a geometry: always four numbers, so that what is drawn later does not depend on it.

    The crop starts anywhere from 0 to size - crop, both included, with equal probability.

    Args:
        size: (H, W) of the pair.
        scales: factors of which one is drawn; sizes are rounded down.
    """
    flip, scale, top, left = generator.random(4)
    factor = scales[int(scale * len(scales))]
    scaled = (max(1, int(size[0] * factor)), max(1, int(size[1] * factor)))
    room = [max(0, a - b) + 1 for a, b in zip(scaled, crop_size, strict=True)]
    start = (int(top * room[0]), int(left * room[1]))
    return PairGeometry(bool(flip < flip_probability), scaled, start, tuple(crop_size))
