"""Dark rooms as RGB and depth: furniture shows in depth, flat things in RGB alone.

Furniture has nearly the color of the wall or the floor and drowns in the dark; pictures, windows
and rugs are flat, so that depth does not know of them; the lamp glares.
"""

from dataclasses import dataclass

import numpy as np

from smmcl.data.datasets.synthetic.raycast import Lamp, Scene, take_picture

CLASSES = ("wall", "floor", "bed", "table", "chair", "lamp", "picture", "window", "rug")
COLORS = (
    (120, 120, 120), (80, 50, 50), (4, 90, 230), (255, 122, 8), (190, 30, 160),
    (255, 245, 80), (255, 60, 90), (90, 220, 250), (60, 180, 75),
)  # fmt: skip
AUXILIARY = {"kind": "depth", "channels": 1, "unit": "mm", "low": 0, "high": 8000, "invalid": 0}
WALL, FLOOR, BED, TABLE, CHAIR, LAMP, PICTURE, WINDOW, RUG = range(len(CLASSES))


@dataclass
class Room:
    """Half the width and the distance of the back wall in meters; colors of walls and floor."""

    half: float
    back: float
    wall: np.ndarray
    floor: np.ndarray


def render(
    size: tuple[int, int], *, is_lit: bool, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draws one room of H, W pixels as `render_pair` returns it; unlit, it has moonlight only."""
    wall = rng.uniform(0.3, 0.5) * rng.uniform(0.9, 1.1, 3)
    floor = rng.uniform(0.2, 0.4) * rng.uniform(0.9, 1.1, 3)
    room = Room(rng.uniform(2.0, 2.6), rng.uniform(4.2, 5.2), wall, floor)
    position = (rng.uniform(-0.4, 0.4), 1.5, 0.3)
    pitch, yaw = np.radians(rng.uniform(15, 19)), np.radians(rng.uniform(-14, 14))
    scene = Scene(size, position=position, pitch=pitch, yaw=yaw)
    _build_walls(scene, room)
    _hang_flat_things(scene, room, rng)
    _lay_rug(scene, room, rng)
    side = rng.choice([-1, 1])
    _place_furniture(scene, room, side, rng)
    lamp = _place_lamp(scene, room, side, is_lit, rng)
    radiance = scene.shade([lamp] if is_lit else [], ambient=rng.uniform(0.02, 0.05))
    return {
        "visible": take_picture(radiance, rng=rng),
        "auxiliary": _measure_depth(scene.depth, rng),
        "label": scene.label,
    }


def _build_walls(scene: Scene, room: Room) -> None:
    half, back = room.half, room.back
    scene.add_box((-half, -0.1, -1), (half, 0, back), label=FLOOR, albedo=room.floor)
    # Boxes overlap behind what is seen, so that no ray slips through a joint.
    wall = {"label": WALL, "albedo": room.wall}
    scene.add_box((-half, -0.1, back), (half, 4, back + 0.1), **wall)
    scene.add_box((-half - 0.1, -0.1, -1), (-half, 4, back + 0.1), **wall)
    scene.add_box((half, -0.1, -1), (half + 0.1, 4, back + 0.1), **wall)
    scene.add_box((-half, 4, -1), (half, 4.1, back), **wall)  # the ceiling, in tall images only


def _hang_flat_things(scene: Scene, room: Room, rng: np.random.Generator) -> None:
    """Hangs windows and pictures in turn, 1 cm thick, on the back wall and the side walls."""
    half, back = room.half, room.back
    spots = rng.permutation(["left", "right", "back left", "back right"])[: rng.integers(2, 5)]
    for number, spot in enumerate(spots):
        side = -1 if "left" in spot else 1
        wide, bottom = rng.uniform(0.9, 1.3), rng.uniform(1.0, 1.25)
        top = bottom + rng.uniform(0.7, 1.0)
        if "back" in spot:
            x = side * 0.5 * half + rng.uniform(-0.2, 0.2)
            place = (x - wide / 2, bottom, back - 0.01), (x + wide / 2, top, back)
        else:
            z = back - rng.uniform(1.9, 2.4)
            place = (side * (half - 0.01), bottom, z), (side * half, top, z + 1.2 * wide)
        if number % 2 == 0:
            night = rng.uniform(0.01, 0.03) * np.array([0.5, 0.7, 1.3])
            scene.add_box(*place, label=WINDOW, albedo=(0, 0, 0), emission=night)
        else:
            scene.add_box(*place, label=PICTURE, albedo=rng.uniform(0.6, 1, 3))
    x, y, z = scene.points
    bars = (np.abs((x + z) % 0.5 - 0.25) < 0.03) | (np.abs(y % 0.5 - 0.25) < 0.03)
    scene.emission[:, bars & (scene.label == WINDOW)] = 0
    blobs = np.sin(9 * (x + z)) * np.sin(11 * y) > 0.2
    scene.albedo[:, blobs & (scene.label == PICTURE)] *= np.array([[0.3], [0.15], [0.1]])


def _lay_rug(scene: Scene, room: Room, rng: np.random.Generator) -> None:
    x, z = rng.uniform(-0.5, 0.5) * room.half, rng.uniform(0.35, 0.65) * room.back
    wide, deep = rng.uniform(0.6, 1.1), rng.uniform(0.5, 0.9)
    color = rng.uniform(0.5, 1.0) * np.array([1.0, 0.5, 0.4])
    scene.add_box((x - wide, 0, z - deep), (x + wide, 0.01, z + deep), label=RUG, albedo=color)
    stripes = np.floor(scene.points[0] / 0.15) % 2 == 0
    scene.albedo[:, stripes & (scene.label == RUG)] *= 0.5


def _place_furniture(scene: Scene, room: Room, side: int, rng: np.random.Generator) -> None:
    """Puts the bed on one side (-1 or 1), the table on the other, the chair between; some miss."""

    def add(label: int, *boxes: tuple) -> None:
        color = (room.wall if rng.random() < 0.5 else room.floor) * rng.uniform(0.85, 1.15)
        if rng.random() < 0.8:
            for corner, opposite in boxes:
                scene.add_box(corner, opposite, label=label, albedo=color)

    x = side * (room.half - 0.1)
    inner, head = x - side * rng.uniform(1.3, 1.7), room.back - 0.1
    foot = head - rng.uniform(1.9, 2.2)
    add(BED, ((inner, 0, foot), (x, 0.5, head)), ((inner, 0, head), (x, 1.0, room.back)))
    inner, z = -x + side * rng.uniform(0.9, 1.1), room.back - rng.uniform(1.7, 2.4)
    legs = (((inner, 0, z + shift), (-x, 0.7, z + shift + 0.1)) for shift in (0.05, 1.25))
    add(TABLE, ((inner, 0.68, z), (-x, 0.76, z + 1.4)), *legs)
    x, z = -side * rng.uniform(-0.1, 0.3) * room.half, rng.uniform(0.36, 0.55) * room.back
    seat = (x - 0.35, 0, z), (x + 0.35, 0.42, z + 0.6)
    rest = (x - 0.35, 0, z + 0.6), (x + 0.35, 0.95, z + 0.72)
    arms = (((x + a, 0, z), (x + a + 0.12, 0.62, z + 0.72)) for a in (-0.42, 0.3))
    add(CHAIR, seat, rest, *arms)


def _place_lamp(
    scene: Scene, room: Room, side: int, is_lit: bool, rng: np.random.Generator
) -> Lamp:
    x, z = -side * rng.uniform(-0.2, 0.3) * room.half, room.back - rng.uniform(0.3, 0.6)
    y, surface = rng.uniform(1.2, 1.5), {"label": LAMP, "albedo": room.wall}
    scene.add_box((x - 0.05, 0, z - 0.05), (x + 0.05, y, z + 0.05), **surface)
    glow = (0.5, 0.45, 0.35) if is_lit else (0, 0, 0)
    scene.add_ellipsoid((x, y, z), (0.3, 0.26, 0.3), **surface, emission=glow)
    power = rng.uniform(0.10, 0.25)
    return Lamp((x, y, z), (power, 0.75 * power, 0.45 * power), glare=0.6)


def _measure_depth(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns millimeters as a structured-light sensor gives them: noise grows with the square."""
    noise = rng.standard_normal(depth.shape, np.float32) * 0.003 * depth**2
    stored = np.clip((depth + noise) * 1000, 1, AUXILIARY["high"])
    stored[rng.random(depth.shape) < 0.01] = AUXILIARY["invalid"]  # no echo
    return stored.astype(np.uint16)
