"""Depth to HHA: horizontal disparity, height above ground, and angle with gravity.

After Gupta et al., ECCV 2014. Planes are fitted to inverse depth, w = a u + b v + c with the ray
(u, v, 1) of a pixel and w = 1 / z: the normal of that plane is (a, b, c) itself.

Shape shorthand in this module:
    H, W: height and width of the depth image

Axes are the camera's: x to the right, y down, z forward. Normals point away from the camera.
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray

NORMAL_RADIUS = 3  # pixels, of the normals in the angle
GRAVITY_RADIUS = 10  # pixels, of the smoother normals that gravity is estimated from
GRAVITY_STEP = 4  # pixels between these: neighbors share most of their windows
GRAVITY_THRESHOLDS = (45.0, 15.0)  # degrees, five iterations each
LOWEST_POINT = -130.0  # cm below the camera, taken for a scene whose floor is not in view
STRIP = 30  # rows
NEAREST = 100.0  # cm; nearer points have this point's disparity
VERSION = 1  # goes up when the images change, so that cached ones are made anew


@dataclass(frozen=True)
class Camera:
    """Focal lengths and principal point in pixels, which count from 1."""

    fx: float
    fy: float
    cx: float
    cy: float

    def mirrored(self, width: int) -> "Camera":
        """Returns the camera of images of this width that are flipped left to right."""
        return Camera(self.fx, self.fy, width + 1 - self.cx, self.cy)


NYU_CAMERA = Camera(518.858, 519.470, 325.582, 253.736)  # the color camera, at 480x640


@dataclass(frozen=True)
class HHA:
    """The three channels, (H, W) each, and the direction they are measured along."""

    disparity: Array  # 31000 / depth in cm, at most 310; 0 without depth
    height: Array  # in cm above the lowest point; 0 without depth
    angle: Array  # of normal and gravity in degrees: 0 floor, 90 wall, 180 ceiling or unknown
    gravity: Array  # (3,) unit vector in the camera's axes

    def image(self) -> Array:
        """Returns (H, W, 3) uint8: disparity, height, angle + 38; the slack keeps it above 0."""
        channels = np.stack([self.disparity, self.height, self.angle + 128 - 90], axis=2)
        return np.clip(np.rint(channels), 0, 255).astype(np.uint8)  # (H, W, 3)


def compute_hha(depth: Array, *, camera: Camera, missing: Array | None = None) -> HHA:
    """Computes the channels of one depth image.

    Args:
        depth: (H, W) in meters; 0 and non-finite values are missing.
        camera: of this image.
        missing: (H, W), True where filled-in depth must not shape the normals; depth and height
            use it all the same.
    """
    has_depth = np.isfinite(depth) & (depth > 0)
    z = np.where(has_depth, depth, 1.0).astype(np.float64)
    measured = has_depth if missing is None else has_depth & ~missing
    u = (np.arange(depth.shape[1]) + 1 - camera.cx) / camera.fx  # (W,)
    v = ((np.arange(depth.shape[0]) + 1 - camera.cy) / camera.fy)[:, None]  # (H, 1)
    mask = measured.astype(np.float64)
    w = mask / z
    rows = [_cumulate(one, axis=1) for one in (mask, mask * u, mask * (u * u), w, w * u)]
    smooth = _fit_planes(rows, v, GRAVITY_RADIUS, step=GRAVITY_STEP)
    gravity = estimate_gravity(smooth.reshape(3, -1))
    height = -100 * z * (gravity[0] * u + gravity[1] * v + gravity[2])
    lowest = height[has_depth].min(initial=0.0)
    height -= lowest if lowest <= -90 else LOWEST_POINT
    return HHA(
        disparity=np.where(has_depth, 31000 / np.maximum(100 * z, NEAREST), 0),
        height=np.where(has_depth, height, 0),
        angle=_angles(rows, u, v, gravity),
        gravity=gravity,
    )


def estimate_gravity(normals: Array) -> Array:
    """Estimates the direction of gravity, (3,), from normals (3, any number) with NaN for unknown.

    It starts from the camera's y axis. Normals near the axis are floor or ceiling, those near its
    perpendicular are wall; the axis that fits them best is the next one.
    """
    normals = normals[:, np.isfinite(normals).all(axis=0)]
    gravity = np.array([0.0, 1.0, 0.0])
    for threshold in np.radians(GRAVITY_THRESHOLDS).repeat(5):
        cosine = np.abs(gravity @ normals)
        floor = normals[:, cosine > np.cos(threshold)]
        wall = normals[:, cosine < np.sin(threshold)]
        # The last axis breaks ties: walls of one direction alone fit any axis in their plane.
        tie = 1e-6 * (1 + normals.shape[1]) * np.outer(gravity, gravity)
        _, vectors = np.linalg.eigh(wall @ wall.T - floor @ floor.T - tie)
        smallest = vectors[:, 0]
        gravity = smallest * (1 if smallest @ gravity >= 0 else -1)
    return gravity


def _angles(rows: list[Array], u: Array, v: Array, gravity: Array) -> Array:
    """Angles (H, W) of the normals with gravity in degrees, 180 where there is no normal.

    It goes through a few rows at a time: what fits into the cache takes half the time.
    """
    height, strips = len(v), []
    for top in range(0, height, STRIP):
        last = min(height, top + STRIP + NORMAL_RADIUS)
        first = max(0, min(top - NORMAL_RADIUS, last - 2 * NORMAL_RADIUS - 1))
        part = slice(first, last)
        a, b, c = _fit_planes([one[part] for one in rows], v[part], NORMAL_RADIUS)
        cosine = gravity[0] * a + gravity[1] * b + gravity[2] * c
        # Away from the camera: the points p of the plane have normal . p > 0.
        cosine *= np.where(a * u + b * v[part] + c < 0, -1, 1)
        angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        angle[np.isnan(angle)] = 180
        strips.append(angle[top - first : top - first + STRIP])
    return np.concatenate(strips)


def _fit_planes(rows: list[Array], v: Array, radius: int, *, step: int = 1) -> Array:
    """Fits a plane in the window around each step-th pixel: unit normals, (3, H / step, W / step).

    A normal without three measured pixels in its window, or with all on a line, is NaN.

    Args:
        rows: cumulative sums along the rows, (H, W + 1), of 1, u, u^2, w and w u.
        v: (H, 1).
    """
    n, u, uu, w, uw = (_windows(one, radius, axis=1)[:, ::step] for one in rows)
    sums = [n, u, n * v, uu, u * v, n * (v * v), w, uw, w * v]
    columns = (_windows(_cumulate(one, axis=0), radius, axis=0)[::step] for one in sums)
    n, u, v, uu, uv, vv, w, uw, vw = columns
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v, w = u / n, v / n, w / n  # means, and then covariances
        uu, uv, vv = uu / n - u * u, uv / n - u * v, vv / n - v * v
        uw, vw = uw / n - u * w, vw / n - v * w
        determinant = uu * vv - uv * uv
        a = (vv * uw - uv * vw) / determinant
        b = (uu * vw - uv * uw) / determinant
        c = w - a * u - b * v
        length = np.sqrt(a * a + b * b + c * c)
        # Of one or two pixels, or a line, the determinant is rounding error.
        length[(n < 3) | (determinant < 1e-6 * uu * vv) | (uu * vv == 0)] = np.nan
        return np.stack([a / length, b / length, c / length])


def _cumulate(values: Array, *, axis: int) -> Array:
    """Cumulative sums along an axis, with a leading 0."""
    shape = [side + (index == axis) for index, side in enumerate(values.shape)]
    result = np.zeros(shape)
    np.cumsum(values, axis=axis, out=result[1:] if axis == 0 else result[:, 1:])
    return result


def _windows(cumulative: Array, radius: int, *, axis: int) -> Array:
    """Sums over the window around each place along an axis, cut off at both ends."""
    sums = np.moveaxis(cumulative, axis, 0)
    length = len(sums) - 1
    if length <= 2 * radius:
        raise ValueError(f"depth images must be larger than {2 * radius} pixels on both sides.")
    first = sums[radius + 1 : 2 * radius + 1] - sums[:1]
    middle = sums[2 * radius + 1 :] - sums[: -2 * radius - 1]
    last = sums[-1:] - sums[length - 2 * radius : length - radius]
    return np.concatenate([np.moveaxis(part, 0, axis) for part in (first, middle, last)], axis)
