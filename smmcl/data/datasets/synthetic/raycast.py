"""A small ray caster: boxes and ellipsoids, lit by lamps, taken by a noisy camera.

The generated rooms and streets are built of it. World axes: X right, Y up, Z forward, in meters;
the image axes H, W come last, so that a vector image is (3, H, W).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

NEAR = 0.1  # meters: what is closer to the camera is not seen


@dataclass
class Lamp:
    """A point light."""

    position: tuple[float, float, float]  # X, Y, Z in meters
    color: tuple[float, float, float]  # radiant power; 1 lights a white wall 1 m away fully
    glare: float = 0.0  # brightness of the halo that the lens shows around the lamp
    cutoff: float = np.inf  # meters of height above which it sheds no light, as a low beam


class Scene:
    """Surfaces nearest to the camera, per pixel: what, how far, of what color, how warm."""

    def __init__(self, size: tuple[int, int], *, position: tuple, pitch: float, yaw: float) -> None:
        """The camera looks down by `pitch` and to the right by `yaw`, in radians."""
        height, width = size
        self.position = vector(position)
        self.focal = 0.78 * (height * width) ** 0.5  # pixels; the view is as wide at any shape
        tilt = [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
        turn = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
        self.rotation = (np.array(turn) @ np.array(tilt)).astype(np.float32)  # camera -> world
        rows, columns = np.mgrid[:height, :width].astype(np.float32)  # (H, W) each
        right = (columns - (width - 1) / 2) / self.focal
        up = ((height - 1) / 2 - rows) / self.focal
        rays = np.stack([right, up, np.ones_like(up)])  # (3, H, W), forward part 1
        rays = np.tensordot(self.rotation, rays, axes=1)  # (3, H, W)
        # A component of exactly 0 would give 0 * inf in the slab test.
        self.rays = np.where(np.abs(rays) < 1e-6, np.float32(1e-6), rays)  # (3, H, W)
        self.inverse = 1 / self.rays  # (3, H, W)
        self.depth = np.full(size, np.inf, np.float32)
        self.label = np.zeros(size, np.uint8)
        self.heat = np.zeros(size, np.float32)
        self.albedo, self.emission, self.normal = np.zeros((3, 3, *size), np.float32)

    @property
    def points(self) -> np.ndarray:
        """World coordinates of what each pixel sees, (3, H, W)."""
        return self.position + self.rays * np.minimum(self.depth, 1e3)

    def add_box(self, low: tuple, high: tuple, **surface: Any) -> None:
        """Adds an axis-aligned box between two corners; `surface` as in `_paint`."""
        low, high = ((vector(corner) - self.position) * self.inverse for corner in (low, high))
        entries = np.minimum(low, high)  # (3, H, W)
        depth, leave = entries.max(0), np.maximum(low, high).min(0)  # (H, W)
        facing = entries == depth  # (3, H, W), the face that the ray enters by
        normal = np.where(facing, -np.sign(self.rays), 0)  # (3, H, W)
        self._paint(depth, depth < leave, normal, **surface)

    def add_ellipsoid(self, center: tuple, radii: tuple, **surface: Any) -> None:
        """Adds an ellipsoid with half-axes `radii` along X, Y, Z; `surface` as in `_paint`."""
        center, radii = vector(center), vector(radii)
        ray = self.rays / radii  # (3, H, W), in the space where the ellipsoid is a ball
        start = (self.position - center) / radii  # (3, 1, 1)
        square, half = (ray * ray).sum(0), (ray * start).sum(0)  # (H, W)
        root = half * half - square * ((start * start).sum() - 1)  # (H, W)
        depth = (-half - np.sqrt(np.maximum(root, 0))) / square  # (H, W)
        normal = (start + ray * depth) / radii  # (3, H, W)
        normal /= np.linalg.norm(normal, axis=0)
        self._paint(depth, root > 0, normal, **surface)

    def _paint(
        self,
        depth: np.ndarray,
        hit: np.ndarray,
        normal: np.ndarray,
        *,
        label: int,
        albedo: tuple,
        emission: tuple = (0, 0, 0),
        heat: float = 0.0,
    ) -> None:
        seen = hit & (depth > NEAR) & (depth < self.depth)  # (H, W)
        for image, value in (
            (self.depth, depth),
            (self.label, label),
            (self.albedo, vector(albedo)),
            (self.emission, vector(emission)),
            (self.normal, normal),
            (self.heat, heat),
        ):
            np.copyto(image, value, where=seen, casting="unsafe")

    def shade(self, lamps: list[Lamp], *, ambient: float) -> np.ndarray:
        """Returns the radiance that reaches the lens, (3, H, W): diffuse surfaces, no shadows."""
        points = self.points
        light = np.full_like(self.albedo, ambient)  # (3, H, W)
        for lamp in lamps:
            away = vector(lamp.position) - points  # (3, H, W)
            square = (away * away).sum(0) + 0.05  # (H, W), kept off 0 next to the lamp
            strength = np.maximum((away * self.normal).sum(0), 0) / square**1.5  # (H, W)
            strength *= points[1] < lamp.cutoff
            light += vector(lamp.color) * strength
        radiance = self.albedo * light + self.emission
        for lamp in lamps:
            radiance += self._glare(lamp)
        return radiance

    def _glare(self, lamp: Lamp) -> np.ndarray | float:
        """Returns the halo of a lamp that the camera sees, (3, H, W), or 0."""
        right, up, depth = self.rotation.T @ (lamp.position - self.position[:, 0, 0])
        if lamp.glare == 0 or depth <= NEAR:
            return 0.0
        height, width = self.depth.shape
        scale = self.focal / depth
        row, column = (height - 1) / 2 - up * scale, (width - 1) / 2 + right * scale
        is_in_view = 0 <= row < height and 0 <= column < width
        if not is_in_view or self.depth[int(row), int(column)] < depth - 0.5:
            return 0.0
        rows, columns = np.ogrid[:height, :width]
        distance = ((rows - row) ** 2 + (columns - column) ** 2) / (0.03 * self.focal) ** 2
        color = vector(lamp.color) / max(lamp.color)
        return lamp.glare * color / (1 + distance.astype(np.float32)) ** 1.2


def take_picture(radiance: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Turns radiance (3, H, W) into what a cheap camera stores in the dark, (H, W, 3) uint8 RGB.

    Color fades with brightness, photon and read-out noise are added, what exceeds 1 saturates.
    """
    noise = rng.uniform(0.003, 0.006)  # deviation of the read-out noise, of full scale
    luminance = (radiance * vector((0.299, 0.587, 0.114))).sum(0)  # (H, W), Rec. 601
    saturation = luminance / (luminance + 2 * noise)  # (H, W)
    signal = luminance + (radiance - luminance) * saturation  # (3, H, W)
    deviation = np.sqrt(noise**2 + 0.5 * noise * luminance)  # (H, W)
    signal = signal + deviation * rng.standard_normal(signal.shape, np.float32)
    stored = np.sqrt(np.clip(signal, 0, 1)) * 255  # gamma 2
    return np.ascontiguousarray(stored.astype(np.uint8).transpose(1, 2, 0))  # (H, W, 3)


def vector(values: tuple) -> np.ndarray:
    """X, Y, Z or R, G, B as they face an image, (3, 1, 1)."""
    return np.array(values, np.float32).reshape(3, 1, 1)
