"""HHA of rooms whose gravity and floor are known, and of depth images with faults."""

import collections
import sys

import numpy as np
import pytest

from smmcl.data.hha import NYU_CAMERA, Camera, compute_hha, estimate_gravity

CAMERA = Camera(259.429, 259.735, 163.041, 127.118)  # NYU_CAMERA at 240x320
FLOOR, CEILING = 1.4, 1.2  # m below and above the camera


def room(pitch, roll, *, camera=CAMERA, size=(240, 320)):
    """A box seen from inside: depth in meters, surface of each pixel, and gravity.

    Surfaces are 0 floor, 1 ceiling, 2 to 4 walls; angles of the camera in degrees.
    """
    u = (np.arange(size[1]) + 1 - camera.cx) / camera.fx
    v = ((np.arange(size[0]) + 1 - camera.cy) / camera.fy)[:, None]
    rays = np.stack([u + 0 * v, v + 0 * u, np.ones(size)])
    p, r = np.radians([pitch, roll])
    gravity = np.array([np.sin(r) * np.cos(p), np.cos(r) * np.cos(p), np.sin(p)])
    forward = np.array([0, 0, 1]) - gravity * gravity[2]
    forward /= np.linalg.norm(forward)
    side = np.cross(gravity, forward)
    depth, surface = np.full(size, np.inf), np.zeros(size, int)
    for index, (normal, distance) in enumerate(
        [(gravity, FLOOR), (-gravity, CEILING), (forward, 4.0), (side, 2.0), (-side, 2.5)]
    ):
        toward = np.tensordot(normal, rays, axes=1)
        hit = np.where(toward > 1e-6, distance / np.maximum(toward, 1e-6), np.inf)
        surface, depth = np.where(hit < depth, index, surface), np.minimum(depth, hit)
    return depth, surface, gravity


def interior(surface, margin=4):
    """True where all pixels of the window lie on one surface."""
    result = np.zeros(surface.shape, bool)
    inner = (slice(margin, -margin), slice(margin, -margin))
    same = np.ones(surface[inner].shape, bool)
    for dy in range(-margin, margin + 1):
        for dx in range(-margin, margin + 1):
            same &= surface[inner] == np.roll(surface, (dy, dx), axis=(0, 1))[inner]
    result[inner] = same
    return result


@pytest.mark.parametrize(("pitch", "roll"), [(0, 0), (15, 0), (-12, 0), (25, 6), (8, -10)])
def test_room_with_known_gravity_and_floor(pitch, roll):
    depth, surface, gravity = room(pitch, roll)
    hha = compute_hha(depth, camera=CAMERA)
    assert np.degrees(np.arccos(hha.gravity @ gravity)) < 0.5
    inside = interior(surface)
    for index, angle in enumerate((0, 180, 90, 90, 90)):
        seen = inside & (surface == index)
        assert np.abs(hha.angle[seen] - angle).max(initial=0) < 2
    if (surface == 0).any():
        assert np.abs(hha.height[surface == 0]).max() < 2  # cm
        assert np.abs(hha.height[surface == 1] - 260).max(initial=0) < 2


def test_noisy_depth_with_holes():
    depth, surface, gravity = room(20, 3)
    rng = np.random.default_rng(0)
    depth = depth * (1 + 0.003 * rng.standard_normal(depth.shape))
    depth[rng.random(depth.shape) < 0.1] = 0
    depth[100:130, 50:90] = 0
    hha = compute_hha(depth, camera=CAMERA)
    assert np.degrees(np.arccos(hha.gravity @ gravity)) < 2
    floor = (surface == 0) & (depth > 0)
    assert np.median(hha.angle[floor]) < 15
    hole = (slice(105, 125), slice(55, 85))
    assert (hha.angle[hole] == 180).all()
    assert (hha.disparity[hole] == 0).all()
    assert (hha.height[hole] == 0).all()


def test_channels_by_hand():
    # A wall 2 m ahead, upright camera: disparity 31000 / 200 = 155, angle 90 + 38 = 128.
    camera = Camera(100, 100, 20.5, 15.5)
    hha = compute_hha(np.full((30, 40), 2.0), camera=camera)
    image = hha.image()
    assert image.dtype == np.uint8
    assert np.unique(image[..., 0]).tolist() == [155]
    assert np.unique(image[..., 2]).tolist() == [128]
    # The lowest point, 14.5 / 100 * 200 = 29 cm below the camera, is no floor: it is at -130.
    assert image[0, 0, 1] == 159
    assert image[-1, 0, 1] == 101


def test_near_points_have_the_disparity_of_one_meter():
    hha = compute_hha(np.full((30, 40), 0.5), camera=Camera(100, 100, 20.5, 15.5))
    assert hha.disparity.max() == 310
    assert hha.image()[..., 0].max() == 255


def test_filled_in_depth_does_not_shape_the_normals():
    depth, surface, _ = room(15, 0)
    missing = np.zeros(depth.shape, bool)
    missing[200:230, 100:200] = True
    filled = np.where(missing, 1.0, depth)
    hha = compute_hha(filled, camera=CAMERA, missing=missing)
    beside = (surface == 0) & ~missing & interior(surface)
    assert np.abs(hha.angle[beside]).max() < 2
    assert hha.disparity[215, 150] == 310


def test_normals_equal_a_slow_fit():
    depth, _, _ = room(10, 4, size=(24, 26), camera=Camera(30, 30, 13, 12))
    camera = Camera(30, 30, 13, 12)
    hole = np.random.default_rng(1).random(depth.shape) < 0.3
    depth = np.where(hole, 0, depth)
    angle = compute_hha(depth, camera=camera).angle
    gravity = compute_hha(depth, camera=camera).gravity
    for y, x in [(0, 0), (5, 20), (12, 12), (23, 25), (17, 3)]:
        rows, columns = np.mgrid[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4]
        inside = (rows < 24) & (columns < 26)
        rows, columns = rows[inside], columns[inside]
        there = depth[rows, columns] > 0
        rows, columns = rows[there], columns[there]
        u, v = (columns + 1 - 13) / 30, (rows + 1 - 12) / 30
        design = np.stack([u, v, np.ones_like(u)], axis=1)
        normal = np.linalg.lstsq(design, 1 / depth[rows, columns], rcond=None)[0]
        ray = np.array([(x + 1 - 13) / 30, (y + 1 - 12) / 30, 1])
        normal *= np.sign(normal @ ray) / np.linalg.norm(normal)
        assert angle[y, x] == pytest.approx(np.degrees(np.arccos(normal @ gravity)), abs=1e-5)


def test_unknown_normals_do_not_move_gravity():
    floor = np.tile([[0.0], [0.98], [0.199]], 50)
    unknown = np.full((3, 20), np.nan)
    gravity = estimate_gravity(np.concatenate([floor, unknown], axis=1))
    np.testing.assert_allclose(gravity, floor[:, 0] / np.linalg.norm(floor[:, 0]), atol=1e-6)


def test_no_depth_at_all():
    hha = compute_hha(np.zeros((30, 40)), camera=CAMERA)
    assert hha.gravity.tolist() == [0, 1, 0]
    assert np.unique(hha.image().reshape(-1, 3), axis=0).tolist() == [[0, 0, 218]]


def test_mirrored_and_smaller_images():
    depth, _, _ = room(15, 6)
    plain = compute_hha(depth, camera=CAMERA).image()
    mirrored = compute_hha(depth[:, ::-1], camera=CAMERA.mirrored(320)).image()
    assert np.abs(plain[:, ::-1].astype(int) - mirrored).max() <= 1
    full, _, _ = room(15, 6, camera=NYU_CAMERA, size=(480, 640))
    large = compute_hha(full, camera=NYU_CAMERA).image()[::2, ::2]
    assert np.median(np.abs(large.astype(int) - plain)) <= 1


def test_image_smaller_than_a_window():
    with pytest.raises(ValueError, match="larger than 20 pixels"):
        compute_hha(np.ones((20, 40)), camera=CAMERA)


def test_no_call_is_made_for_each_pixel():
    """Which took seconds, where an image takes 0.1 s; time itself is the processor's."""
    depth, _, _ = room(15, 6, camera=NYU_CAMERA, size=(480, 640))
    calls = collections.Counter()
    sys.setprofile(lambda frame, event, argument: calls.update([event]))
    compute_hha(depth, camera=NYU_CAMERA)
    sys.setprofile(None)
    assert 0 < calls["call"] + calls["c_call"] < depth.size / 10


def test_strips_join_without_a_seam():
    # 31 rows leave a strip of one; the wall is the same everywhere.
    hha = compute_hha(np.full((31, 40), 2.0), camera=Camera(100, 100, 20.5, 15.5))
    assert np.unique(hha.angle.round(6)).tolist() == [90]
    assert hha.angle.shape == (31, 40)
