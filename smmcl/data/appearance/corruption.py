"""What can happen to one image of a pair, graded: for robust training, and to measure robustness.

Shape shorthand in this module:
    H, W: height and width of the image      C: channels

Each takes an image (H, W, C) on the scale 0..255, uint8 or float32, a severity from 1 to 5 and a
generator, and returns an image of the same shape and type.
"""

from collections.abc import Callable

import cv2
import numpy as np

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

SEVERITIES = (1, 2, 3, 4, 5)
NOISE_STD = (8, 16, 24, 36, 50)
BLUR_STD = (1.0, 1.5, 2.5, 4.0, 6.0)  # pixels
SHIFT = (1, 2, 4, 8, 16)  # pixels
OVER_EXPOSURE = (1.3, 1.6, 2.0, 3.0, 4.0)  # factor on the values
HOLE = 16  # side of a patch in pixels
HOLE_SHARE = (0.1, 0.25, 0.5, 0.75, 0.9)
UNDER_EXPOSURE = (0.6, 0.4, 0.25, 0.12, 0.06)


def add_noise(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Adds Gaussian noise, drawn apart for each channel."""
    noise = generator.standard_normal(image.shape, dtype=np.float32)
    return _like(image, image + NOISE_STD[severity - 1] * noise)


def blur(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Blurs by a Gaussian, as a lens out of focus."""
    blurred = cv2.GaussianBlur(image, (0, 0), BLUR_STD[severity - 1])
    return blurred.reshape(image.shape)  # OpenCV drops a single channel


def shift(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Moves the image in a random direction, as if the cameras were misaligned; borders repeat."""
    distance, angle = SHIFT[severity - 1], generator.uniform(0, 2 * np.pi)
    dy, dx = round(distance * np.sin(angle)), round(distance * np.cos(angle))
    rows = np.clip(np.arange(image.shape[0]) - dy, 0, image.shape[0] - 1)
    columns = np.clip(np.arange(image.shape[1]) - dx, 0, image.shape[1] - 1)
    return image[rows[:, None], columns]


def over_expose(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Multiplies the values; what exceeds the scale is lost."""
    return _like(image, image.astype(np.float32) * OVER_EXPOSURE[severity - 1])


def under_expose(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Divides the values and rounds them, so that few steps are left."""
    darker = image.astype(np.float32) * UNDER_EXPOSURE[severity - 1]
    return _like(image, np.rint(darker))


def make_holes(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Sets random patches to 0, as a depth camera leaves them; together a share of the image."""
    rows, columns = (-(-side // HOLE) for side in image.shape[:2])
    is_hole = generator.random((rows, columns)) < HOLE_SHARE[severity - 1]
    mask = is_hole.repeat(HOLE, 0).repeat(HOLE, 1)[: image.shape[0], : image.shape[1]]  # (H, W)
    return np.where(mask[..., None], 0, image).astype(image.dtype)


def lose(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Returns zeros: the sensor is dead, at any severity."""
    return np.zeros_like(image)


CORRUPTIONS: dict[str, Corruption] = {
    "noise": add_noise,
    "blur": blur,
    "shift": shift,
    "over_exposure": over_expose,
    "under_exposure": under_expose,
    "missing": lose,
    "holes": make_holes,
}


def _like(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    clipped = np.clip(values, 0, 255)
    return (np.rint(clipped) if image.dtype == np.uint8 else clipped).astype(image.dtype)
