"""Dark rooms as RGB and depth: furniture shows in depth, flat things in RGB alone.

Furniture has nearly the colour of what stands behind it and drowns in the dark, but stands out in
depth; pictures, windows and rugs are flat, so that depth does not know of them; lamps glare.
"""

import numpy as np

from smmcl.data.datasets.synthetic_raycast import Lamp, Scene, take_picture

CLASSES = ("wall", "floor", "bed", "table", "chair", "lamp", "picture", "window", "rug")
COLORS = (
    (120, 120, 120), (80, 50, 50), (4, 90, 230), (255, 122, 8), (190, 30, 160),
    (255, 245, 80), (255, 60, 90), (90, 220, 250), (60, 180, 75),
)  # fmt: skip
WALL, FLOOR, BED, TABLE, CHAIR, LAMP, PICTURE, WINDOW, RUG = range(len(CLASSES))
DEPTH_HIGH = 8000  # millimetres: what is farther is stored as this


def render_indoor(
    size: tuple[int, int], *, is_lit: bool, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draws one room.

    Args:
        size: H, W in pixels.
        is_lit: whether the lamp is on; else there is moonlight only.
        rng: source of everything else.

    Returns:
        `visible` (H, W, 3) uint8 RGB, `auxiliary` (H, W) uint16 depth in millimetres with 0 where
        the sensor got nothing, `label` (H, W) uint8.
    """
    half, length = rng.uniform(2.0, 2.6), rng.uniform(4.2, 5.2)
    scene = Scene(
        size,
        position=(rng.uniform(-0.4, 0.4), 1.5, 0.3),
        pitch=np.radians(rng.uniform(15, 19)),
        yaw=np.radians(rng.uniform(-14, 14)),
    )
    wall, floor = _tone(rng, 0.3, 0.5), _tone(rng, 0.2, 0.4)
    _build_room(scene, half, length, wall, floor)
    _hang_flat_things(scene, half, length, rng)
    _place_rug(scene, half, length, rng)
    bulb = _place_furniture(scene, half, length, wall, floor, rng)
    lamps = []
    if is_lit:
        scene.emission[:, scene.label == LAMP] = 0.5
        power = rng.uniform(0.10, 0.25)
        lamps.append(Lamp(bulb, (power, 0.75 * power, 0.45 * power), glare=0.6))
    radiance = scene.shade(lamps, ambient=rng.uniform(0.02, 0.05))
    return {
        "visible": take_picture(radiance, rng=rng, noise=rng.uniform(0.003, 0.006)),
        "auxiliary": _measure_depth(scene.depth, rng),
        "label": scene.label,
    }


def _tone(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Returns a dull colour: one brightness, channels a little apart."""
    return rng.uniform(low, high) * rng.uniform(0.9, 1.1, 3)


def _build_room(
    scene: Scene, half: float, length: float, wall: np.ndarray, floor: np.ndarray
) -> None:
    scene.add_box((-half, -0.1, -1), (half, 0, length), label=FLOOR, albedo=floor)
    sides = (
        ((-half, 0, length), (half, 4, length + 0.1)),
        ((-half - 0.1, 0, -1), (-half, 4, length)),
        ((half, 0, -1), (half + 0.1, 4, length)),
        ((-half, 4, -1), (half, 4.1, length)),  # the ceiling, which only tall images show
    )
    for low, high in sides:
        scene.add_box(low, high, label=WALL, albedo=wall)


def _hang_flat_things(scene: Scene, half: float, length: float, rng: np.random.Generator) -> None:
    """Hangs a picture and a window, 1 cm thick, on the back wall and the side walls."""
    spots = rng.permutation(["left", "right", "back left", "back right"])[: rng.integers(2, 5)]
    for number, spot in enumerate(spots):
        is_window = number % 2 == 0
        wide, high = rng.uniform(0.9, 1.3), rng.uniform(0.7, 1.0)
        bottom = rng.uniform(1.0, 1.25)
        if spot.startswith("back"):
            across = half * (-0.5 if spot == "back left" else 0.5) + rng.uniform(-0.2, 0.2)
            low = (across - wide / 2, bottom, length - 0.01)
            top = (across + wide / 2, bottom + high, length)
        else:
            start = length - rng.uniform(1.9, 2.4)
            across = -half if spot == "left" else half - 0.01
            low, top = (across, bottom, start), (across + 0.01, bottom + high, start + 1.2 * wide)
        if is_window:
            night = rng.uniform(0.01, 0.03) * np.array([0.5, 0.7, 1.3])
            scene.add_box(low, top, label=WINDOW, albedo=(0, 0, 0), emission=night)
        else:
            scene.add_box(low, top, label=PICTURE, albedo=rng.uniform(0.6, 1, 3))
    _draw_details(scene)


def _draw_details(scene: Scene) -> None:
    """Gives windows their bars and pictures their canvas; both lie in the label's rectangle."""
    x, y, z = scene.points
    bars = (np.abs((x + z) % 0.5 - 0.25) < 0.03) | (np.abs(y % 0.5 - 0.25) < 0.03)
    scene.emission[:, bars & (scene.label == WINDOW)] = 0
    blobs = np.sin(9 * (x + z)) * np.sin(11 * y) > 0.2
    scene.albedo[:, blobs & (scene.label == PICTURE)] *= np.array([[0.3], [0.15], [0.1]])


def _place_rug(scene: Scene, half: float, length: float, rng: np.random.Generator) -> None:
    x, z = rng.uniform(-0.5, 0.5) * half, rng.uniform(0.35, 0.65) * length
    wide, deep = rng.uniform(0.6, 1.1), rng.uniform(0.5, 0.9)
    color = rng.uniform(0.5, 1.0) * np.array([1.0, 0.5, 0.4])
    scene.add_box((x - wide, 0, z - deep), (x + wide, 0.01, z + deep), label=RUG, albedo=color)
    stripes = np.floor(scene.points[0] / 0.15) % 2 == 0
    scene.albedo[:, stripes & (scene.label == RUG)] *= 0.5


def _place_furniture(
    scene: Scene,
    half: float,
    length: float,
    wall: np.ndarray,
    floor: np.ndarray,
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    """Puts bed, table, chair and lamp at places of their own; returns the lamp's bulb."""
    side = rng.choice([-1, 1])  # the bed's side of the room
    near_wall = half - 0.1

    def cover() -> np.ndarray:
        return (wall if rng.random() < 0.5 else floor) * rng.uniform(0.85, 1.15)

    def add(x0: float, x1: float, y0: float, y1: float, z0: float, z1: float, label: int) -> None:
        scene.add_box((min(x0, x1), y0, z0), (max(x0, x1), y1, z1), label=label, albedo=color)

    if rng.random() < 0.8:
        color, inner = cover(), near_wall - rng.uniform(1.3, 1.7)
        start = length - 0.1 - rng.uniform(1.9, 2.2)
        add(side * inner, side * near_wall, 0, 0.5, start, length - 0.1, BED)
        add(side * inner, side * near_wall, 0, 1.0, length - 0.1, length, BED)
    if rng.random() < 0.8:
        color, inner = cover(), near_wall - rng.uniform(0.9, 1.1)
        start = length - rng.uniform(1.7, 2.4)
        add(-side * inner, -side * near_wall, 0.68, 0.76, start, start + 1.4, TABLE)
        for leg in (start + 0.05, start + 1.25):
            add(-side * inner, -side * near_wall, 0, 0.7, leg, leg + 0.1, TABLE)
    if rng.random() < 0.8:
        color = cover()
        x, z = -side * rng.uniform(-0.1, 0.3) * half, rng.uniform(0.36, 0.55) * length
        add(x - 0.35, x + 0.35, 0, 0.42, z, z + 0.6, CHAIR)
        add(x - 0.35, x + 0.35, 0, 0.95, z + 0.6, z + 0.72, CHAIR)
        for arm in (-0.42, 0.3):
            add(x + arm, x + arm + 0.12, 0, 0.62, z, z + 0.72, CHAIR)
    color = cover()
    x, z = -side * rng.uniform(-0.2, 0.3) * half, length - rng.uniform(0.3, 0.6)
    bulb = (x, rng.uniform(1.2, 1.5), z)
    add(x - 0.05, x + 0.05, 0, bulb[1], z - 0.05, z + 0.05, LAMP)
    scene.add_ellipsoid(bulb, (0.3, 0.26, 0.3), label=LAMP, albedo=color)
    return bulb


def _measure_depth(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns millimetres as a structured-light sensor gives them: noise grows with the square."""
    noise = rng.standard_normal(depth.shape, np.float32) * 0.003 * depth**2
    stored = np.clip((depth + noise) * 1000, 1, DEPTH_HIGH)
    stored[rng.random(depth.shape) < 0.01] = 0  # no echo
    return stored.astype(np.uint16)
