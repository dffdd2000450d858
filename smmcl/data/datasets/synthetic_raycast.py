"""A small ray caster: boxes and ellipsoids, lit by lamps, taken by a noisy camera.

The generated rooms and streets are built of it. World axes: X right, Y up, Z forward, in metres;
the image axes come last, so that a vector image is (3, H, W).

Shape shorthand in this module:
    H, W: image height and width     h, w: the part of the image that a solid can cover
"""

from dataclasses import dataclass

import numpy as np

NEAR = 0.1  # metres: what is closer to the camera is not seen
CORNERS = np.indices((2, 2, 2)).reshape(3, 8) == 0  # which corners of a box are low, per axis
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32).reshape(3, 1, 1)  # Rec. 601 weights


@dataclass
class Lamp:
    """A point light.

    Args:
        position: X, Y, Z in metres.
        color: radiant power per channel; 1 lights a white wall 1 m away to full scale.
        glare: brightness of the halo that the lens shows around the lamp, 0 for none.
        cutoff: height in metres above which it sheds no light, as a low beam.
    """

    position: tuple[float, float, float]
    color: tuple[float, float, float]
    glare: float = 0.0
    cutoff: float = np.inf


class Scene:
    """Surfaces nearest to the camera, per pixel: what, how far, of what colour, how warm.

    Args:
        size: H, W in pixels.
        position: the camera's X, Y, Z in metres.
        pitch: downward tilt in radians.
        yaw: turn to the right in radians.
    """

    def __init__(self, size: tuple[int, int], *, position: tuple, pitch: float, yaw: float) -> None:
        height, width = size
        self.position = np.array(position, np.float32).reshape(3, 1, 1)
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
        self.albedo = np.zeros((3, *size), np.float32)
        self.emission = np.zeros((3, *size), np.float32)
        self.normal = np.zeros((3, *size), np.float32)
        self.heat = np.zeros(size, np.float32)

    @property
    def points(self) -> np.ndarray:
        """World coordinates of what each pixel sees, (3, H, W)."""
        return self.position + self.rays * np.minimum(self.depth, 1e3)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Returns the row, the column and the depth (3, P) of points given as X, Y, Z (3, P)."""
        right, up, forward = self.rotation.T @ (points - self.position[:, 0])  # (P,) each
        height, width = self.depth.shape
        scale = self.focal / np.maximum(forward, NEAR)
        row, column = (height - 1) / 2 - up * scale, (width - 1) / 2 + right * scale
        return np.stack([row, column, forward])

    def add_box(self, low: tuple, high: tuple, **surface) -> None:
        """Adds an axis-aligned box between two corners; `surface` as in `_paint`."""
        part = self._part(low, high)
        inverse = self.inverse[part]
        low = (np.array(low, np.float32).reshape(3, 1, 1) - self.position) * inverse
        high = (np.array(high, np.float32).reshape(3, 1, 1) - self.position) * inverse
        entries = np.minimum(low, high)  # (3, h, w)
        depth, leave = entries.max(0), np.maximum(low, high).min(0)  # (h, w)
        facing = entries == depth  # (3, h, w), the face that the ray enters by
        normal = np.where(facing, -np.sign(inverse), 0)  # (3, h, w)
        self._paint(part, depth, depth < leave, normal, **surface)

    def add_ellipsoid(self, center: tuple, radii: tuple, **surface) -> None:
        """Adds an ellipsoid with half-axes `radii` along X, Y, Z; `surface` as in `_paint`."""
        center, radii = np.array(center, np.float32), np.array(radii, np.float32)
        part = self._part(center - radii, center + radii)
        radii = radii.reshape(3, 1, 1)
        ray = self.rays[part] / radii  # (3, h, w), in the space where the ellipsoid is a ball
        start = (self.position - center.reshape(3, 1, 1)) / radii  # (3, 1, 1)
        square, half = (ray * ray).sum(0), (ray * start).sum(0)  # (h, w)
        root = half * half - square * ((start * start).sum() - 1)  # (h, w)
        depth = (-half - np.sqrt(np.maximum(root, 0))) / square  # (h, w)
        normal = (start + ray * depth) / radii  # (3, h, w)
        normal /= np.linalg.norm(normal, axis=0)
        self._paint(part, depth, root > 0, normal, **surface)

    def _part(self, low: tuple, high: tuple) -> tuple[slice, slice, slice]:
        """Returns the slices of the image outside of which the box between two corners is not."""
        corners = np.where(CORNERS, np.reshape(low, (3, 1)), np.reshape(high, (3, 1)))  # (3, 8)
        rows, columns, depths = self.project(corners)  # (8,) each
        if depths.min() <= NEAR:
            return slice(None), slice(None), slice(None)
        first = np.maximum([rows.min(), columns.min()], 0).astype(int)
        last = np.maximum([rows.max() + 2, columns.max() + 2], 0).astype(int)
        return slice(None), slice(first[0], last[0]), slice(first[1], last[1])

    def _paint(
        self,
        part: tuple[slice, slice, slice],
        depth: np.ndarray,
        hit: np.ndarray,
        normal: np.ndarray,
        *,
        label: int,
        albedo: tuple,
        emission: tuple = (0, 0, 0),
        heat: float = 0.0,
    ) -> None:
        area = part[1:]
        seen = hit & (depth > NEAR) & (depth < self.depth[area])  # (h, w)
        np.copyto(self.depth[area], depth, where=seen)
        np.copyto(self.label[area], label, where=seen, casting="unsafe")
        np.copyto(self.heat[area], heat, where=seen)
        np.copyto(self.normal[part], normal, where=seen)
        np.copyto(self.albedo[part], np.reshape(albedo, (3, 1, 1)), where=seen, casting="unsafe")
        np.copyto(
            self.emission[part], np.reshape(emission, (3, 1, 1)), where=seen, casting="unsafe"
        )

    def shade(self, lamps: list[Lamp], *, ambient: float) -> np.ndarray:
        """Returns the radiance that reaches the lens, (3, H, W): diffuse surfaces, no shadows."""
        points = self.points
        light = np.full_like(self.albedo, ambient)  # (3, H, W)
        for lamp in lamps:
            away = np.array(lamp.position, np.float32).reshape(3, 1, 1) - points  # (3, H, W)
            square = (away * away).sum(0) + 0.05  # (H, W), kept off 0 next to the lamp
            strength = np.maximum((away * self.normal).sum(0), 0) / square**1.5  # (H, W)
            strength *= points[1] < lamp.cutoff
            light += np.array(lamp.color, np.float32).reshape(3, 1, 1) * strength
        radiance = self.albedo * light + self.emission
        for lamp in lamps:
            radiance += self._glare(lamp)
        return radiance

    def _glare(self, lamp: Lamp) -> np.ndarray | float:
        """Returns the halo of a lamp that the camera sees, (3, H, W), or 0."""
        row, column, depth = self.project(np.reshape(lamp.position, (3, 1)))[:, 0]
        height, width = self.depth.shape
        if lamp.glare == 0 or depth <= NEAR or not (0 <= row < height and 0 <= column < width):
            return 0.0
        if self.depth[int(row), int(column)] < depth - 0.5:
            return 0.0
        rows, columns = np.ogrid[:height, :width]
        distance = ((rows - row) ** 2 + (columns - column) ** 2) / (0.03 * self.focal) ** 2
        color = np.array(lamp.color, np.float32) / max(lamp.color)
        return lamp.glare * color.reshape(3, 1, 1) / (1 + distance.astype(np.float32)) ** 1.2


def take_picture(radiance: np.ndarray, *, rng: np.random.Generator, noise: float) -> np.ndarray:
    """Turns radiance into what a cheap camera stores in the dark.

    Colour fades with brightness, photon and read-out noise are added, bright parts saturate.

    Args:
        radiance: (3, H, W), 1 is full scale.
        rng: source of the noise.
        noise: standard deviation of the read-out noise, relative to full scale.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    luminance = (radiance * LUMINANCE).sum(0)  # (H, W)
    saturation = luminance / (luminance + 2 * noise)  # (H, W)
    signal = luminance + (radiance - luminance) * saturation  # (3, H, W)
    deviation = np.sqrt(noise**2 + 0.5 * noise * luminance)  # (H, W)
    signal = signal + deviation * rng.standard_normal(signal.shape, np.float32)
    stored = np.sqrt(np.clip(signal, 0, 1)) * 255  # gamma 2
    return np.ascontiguousarray(stored.astype(np.uint8).transpose(1, 2, 0))  # (H, W, 3)
