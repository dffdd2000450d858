"""Ten shapes as RGB and thermal images, by day and by night: one object an image, for a classifier.

Colors, texture, scale, rotation and place are drawn, so neither color nor brightness tells a class.
By night little light falls on the same kind of scene, most of it in the cone of a lamp.
"""

import cv2
import numpy as np

from smmcl.data.datasets.synthetic.night import measure_heat
from smmcl.data.datasets.synthetic.raycast import take_picture

CLASSES = (
    "disc", "ring", "crescent", "triangle", "square",
    "star", "cross", "arrow", "hourglass", "angle",
)  # fmt: skip
SIZE = (64, 64)  # H, W where the dataset's name says no other
SPLITS = {"train": 2000, "val": 500}  # images in each
SUPERSAMPLING = 4  # pixels of the outline's raster on each side of one of the image


def _arc(radius: float, start: float = 0.0, end: float = 2 * np.pi) -> np.ndarray:
    angles = np.linspace(start, end, 40)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (40, 2)


def _star() -> np.ndarray:
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)[:, None]  # (10, 1)
    return radii * np.stack([f(np.arange(10) * np.pi / 5) for f in (np.cos, np.sin)], axis=1)


# Outlines (P, 2) by class inside the unit circle; of two, the second is a hole.
OUTLINES = (
    [_arc(0.9)],
    [_arc(0.95), _arc(0.5)],
    # The unit circle without another, from where they cross (at 2.227 and 1.709 radians).
    [np.concatenate([_arc(1, -2.227, 2.227), _arc(0.8, 1.709, -1.709) - (0.5, 0)])],
    [_arc(1.0)[[0, 13, 26]]],
    [np.array([(-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)])],
    [_star()],
    [np.array([(-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1),
               (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3)])],
    [np.array([(1, 0), (0.1, 0.75), (0.1, 0.28), (-1, 0.28), (-1, -0.28), (0.1, -0.28),
               (0.1, -0.75)])],
    [np.array([(-0.75, -0.75), (0.75, 0.75), (-0.75, 0.75), (0.75, -0.75)])],
    [np.array([(-0.8, -0.8), (-0.3, -0.8), (-0.3, 0.3), (0.8, 0.3), (0.8, 0.8), (-0.8, 0.8)])],
)  # fmt: skip


def render(
    size: tuple[int, int], *, class_id: int, is_night: bool, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draws one object: `visible` (H, W, 3) and `auxiliary` (H, W), both uint8."""
    rng = rng.spawn(2)[is_night]  # no night scene is one of the day
    inside = _raster(class_id, size, rng)  # (H, W), 0..1
    object_, ground = _surface(size, rng), _surface(size, rng)  # (3, H, W)
    # Lighter or darker than the ground, but never like it.
    step = rng.choice([-1, 1]) * rng.uniform(0.2, 0.45)
    shift = np.clip(ground.mean() + step, 0.1, 0.9) - object_.mean()
    albedo = np.clip(ground * (1 - inside) + (object_ + shift) * inside, 0.02, 1)
    heat = 0.4 + 0.25 * _texture(size, rng) + rng.choice([-0.15, 0.15]) * inside
    radiance = (albedo * _light(size, rng, is_night=is_night)).astype(np.float32)
    return {
        "visible": take_picture(radiance, rng=rng),
        "auxiliary": measure_heat(heat.astype(np.float32), rng),
    }


def _light(size: tuple[int, int], rng: np.random.Generator, *, is_night: bool) -> np.ndarray:
    """What falls on each place, (3 or 1, H, W)."""
    y, x = _grid(size)
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.3)
    even = 1 + slope * (np.cos(angle) * x + np.sin(angle) * y)  # (H, W)
    if not is_night:
        return rng.uniform(0.6, 1.0) * even[None]
    center, radius = rng.uniform(-0.6, 0.6, 2), rng.uniform(0.5, 1.0)
    distance = ((y - center[0]) ** 2 + (x - center[1]) ** 2) / radius**2
    lamp = rng.uniform(0.03, 0.2) * np.array([1, 0.8, 0.5])[:, None, None]
    return 2 ** rng.uniform(-5, -3) * even + lamp * np.exp(-(distance**2))  # (3, H, W)


def _grid(size: tuple[int, int]) -> np.ndarray:
    """y and x of each pixel from -1 to 1, (2, H, W)."""
    return np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in size), indexing="ij"))


def _raster(class_id: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """How much of each pixel the object covers, (H, W) in 0..1."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    radius = rng.uniform(0.25, 0.42) * min(size)
    center = [rng.uniform(radius, side - radius) for side in size[::-1]]  # x, y
    points = [SUPERSAMPLING * (radius * (one @ turn.T) + center) for one in OUTLINES[class_id]]
    raster = np.zeros([SUPERSAMPLING * side for side in size], np.float32)
    cv2.fillPoly(raster, [np.rint(one).astype(np.int32) for one in points], 1.0)
    return cv2.resize(raster, size[::-1], interpolation=cv2.INTER_AREA)


def _surface(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A color with a texture, (3, H, W)."""
    color = rng.uniform(0.15, 0.75, 3)[:, None, None]
    return color + rng.uniform(0.1, 0.25) * _texture(size, rng) * rng.uniform(0.5, 1, (3, 1, 1))


def _texture(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of a random grain, (H, W) around 0, in -1..1."""
    cells = rng.integers(3, 17, 2)
    coarse = rng.uniform(-1, 1, cells).astype(np.float32)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC).clip(-1, 1)
