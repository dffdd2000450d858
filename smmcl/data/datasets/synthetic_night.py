"""Night streets as RGB and thermal: what is unlit shows by its heat, what is painted in RGB alone.

Sky, facades, trees and people in dark clothes are black on black in RGB, but differ in heat; road,
pavement, crossing and shop windows have one heat, but differ in RGB; headlights dazzle.
"""

import numpy as np

from smmcl.data.datasets.synthetic_raycast import Lamp, Scene, take_picture

CLASSES = (
    "road", "pavement", "crossing", "building", "shop window", "sky", "tree", "car", "person",
)  # fmt: skip
COLORS = (
    (128, 64, 128), (244, 35, 232), (250, 250, 250), (90, 90, 90), (250, 170, 30),
    (70, 130, 180), (107, 142, 35), (0, 60, 200), (220, 20, 60),
)  # fmt: skip
ROAD, PAVEMENT, CROSSING, BUILDING, SHOP, SKY, TREE, CAR, PERSON = range(len(CLASSES))
HEAT = {"ground": 0.5, "building": 0.42, "tree": 0.24, "car": 0.33, "engine": 0.8}


def render_night(
    size: tuple[int, int], *, is_lit: bool, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draws one street.

    Args:
        size: H, W in pixels.
        is_lit: whether the street lamps are on.
        rng: source of everything else.

    Returns:
        `visible` (H, W, 3) uint8 RGB, `auxiliary` (H, W) uint8 thermal, brighter is warmer, with
        the gain and the offset of a camera that sets itself, `label` (H, W) uint8.
    """
    camera = (rng.uniform(-1.5, 1.5), 1.6, 0.0)
    scene = Scene(
        size,
        position=camera,
        pitch=np.radians(rng.uniform(3, 7)),
        yaw=np.radians(rng.uniform(-10, 10)),
    )
    scene.label[:] = SKY
    rise = np.clip(scene.rays[1], 0, 1)  # (H, W), the sky is warm at the horizon, cold above
    scene.heat[:] = 0.32 - 0.5 * np.sqrt(rise)
    edges = rng.uniform(-3.4, -2.4), rng.uniform(2.4, 3.4)
    _lay_ground(scene, edges, rng)
    for side, edge in zip((-1, 1), edges, strict=True):
        _build_facades(scene, side, edge, rng)
    _cut_windows(scene, rng)
    for side, edge in zip((-1, 1), edges, strict=True):
        _plant_trees(scene, side, edge, rng)
    lamps = _park_cars(scene, edges, rng)
    _add_people(scene, edges, rng)
    if is_lit:
        for side, edge in zip((-1, 1), edges, strict=True):
            spot = (edge + side * 0.5, 5.0, rng.uniform(7, 13))
            lamps.append(Lamp(spot, (1.0, 0.7, 0.35), glare=0.5))
    # The own car's low beam: bright on the ground ahead, nothing above the hood line.
    lamps.append(Lamp((camera[0], 0.6, 1.0), (1.6, 1.6, 1.5)))
    radiance = scene.shade(lamps, ambient=rng.uniform(0.004, 0.012))
    return {
        "visible": take_picture(radiance, rng=rng, noise=rng.uniform(0.003, 0.006)),
        "auxiliary": _measure_heat(scene.heat, rng),
        "label": scene.label,
    }


def _lay_ground(scene: Scene, edges: tuple[float, float], rng: np.random.Generator) -> None:
    dull = rng.uniform(0.12, 0.2) * np.ones(3)
    slabs = rng.uniform(0.4, 0.6) * np.array([1.0, 0.9, 0.8])
    ground = {"heat": HEAT["ground"]}
    scene.add_box((edges[0], -1, -5), (edges[1], 0, 80), label=ROAD, albedo=dull, **ground)
    for low, high in ((-40, edges[0]), (edges[1], 40)):
        scene.add_box((low, -1, -5), (high, 0.1, 80), label=PAVEMENT, albedo=slabs, **ground)
    x, _, z = scene.points
    joints = (x % 0.8 < 0.12) | (z % 0.8 < 0.12)
    scene.albedo[:, joints & (scene.label == PAVEMENT)] *= 0.6
    if rng.random() < 0.9:
        start = rng.uniform(3.2, 6)
        end = start + rng.uniform(2.5, 3.5)
        scene.add_box(
            (edges[0], 0, start), (edges[1], 0.01, end), label=CROSSING, albedo=dull, **ground
        )
        stripes = np.floor(scene.points[0] / 0.5) % 2 == 0
        scene.albedo[:, stripes & (scene.label == CROSSING)] = 0.9


def _build_facades(scene: Scene, side: int, edge: float, rng: np.random.Generator) -> None:
    """Builds a row of houses along one pavement, some with a shop window, with gaps between."""
    face, z = edge + side * rng.uniform(2.4, 3.4), rng.uniform(-3, 3)
    while z < 40:
        end, height = z + rng.uniform(6, 10), rng.uniform(4, 11)
        heat = HEAT["building"] + rng.uniform(-0.12, 0.12)
        low, high = sorted((face, face + side * 8))
        tone = rng.uniform(0.15, 0.35) * rng.uniform(0.85, 1.1, 3)
        scene.add_box((low, 0, z), (high, height, end), label=BUILDING, albedo=tone, heat=heat)
        if rng.random() < 0.75 and z < 14:
            light = rng.uniform(0.1, 0.5) * rng.uniform(0.4, 1, 3)
            low, high = sorted((face, face - side * 0.02))
            scene.add_box(
                (low, 0.6, z + 0.5), (high, 3.2, end - 0.5),
                label=SHOP, albedo=(0, 0, 0), emission=light, heat=heat,
            )  # fmt: skip
        z = end + (rng.uniform(2, 5) if rng.random() < 0.5 else 0)


def _cut_windows(scene: Scene, rng: np.random.Generator) -> None:
    """Gives the upper floors windows behind some of which it is warm, or light."""
    facade = (scene.label == BUILDING) & (np.abs(scene.normal[0]) > 0.5)  # (H, W)
    x, y, z = scene.points[:, facade]  # (P,) each, for the P pixels of facades
    is_window = (y > 4) & (y % 2.5 > 1) & (z % 2.2 > 1)  # (P,)
    side, floor, column = x > 0, (y // 2.5).astype(int) % 8, (z // 2.2).astype(int) % 32
    heat = rng.choice([0.3, 0.45, 0.85], (2, 8, 32))[side.astype(int), floor, column]  # (P,)
    light = rng.uniform(0.05, 0.3, (2, 8, 32)) * (rng.random((2, 8, 32)) < 0.2)
    light = light[side.astype(int), floor, column] * is_window  # (P,)
    scene.heat[facade] = np.where(is_window, heat, scene.heat[facade])
    scene.emission[:, facade] = light * np.array([[1], [0.8], [0.5]])


def _plant_trees(scene: Scene, side: int, edge: float, rng: np.random.Generator) -> None:
    z = rng.uniform(6, 10)
    for _ in range(rng.integers(1, 3)):
        x, height = edge + side * rng.uniform(1.2, 2.0), rng.uniform(3.2, 4.2)
        surface = {
            "label": TREE,
            "albedo": (0.15, 0.2, 0.1),
            "heat": HEAT["tree"] + rng.uniform(-0.08, 0.08),
        }
        scene.add_box((x - 0.2, 0, z - 0.2), (x + 0.2, height, z + 0.2), **surface)
        radius = rng.uniform(1.3, 1.9)
        scene.add_ellipsoid((x, height, z), (radius, 1.1 * radius, radius), **surface)
        z += rng.uniform(4, 8)


def _park_cars(scene: Scene, edges: tuple, rng: np.random.Generator) -> list[Lamp]:
    """Puts cars on both lanes, some driving with their lights on; returns those lights."""
    lamps = []
    for side, edge in zip((-1, 1), edges, strict=True):
        z = rng.uniform(4.5, 8)
        for _ in range(rng.integers(1, 3)):
            x, is_driving = edge - side * rng.uniform(1.1, 1.7), rng.random() < 0.6
            body = {"label": CAR, "albedo": rng.uniform(0.05, 0.3) * np.ones(3)}
            cold = {**body, "heat": HEAT["car"]}
            scene.add_box((x - 0.9, 0.25, z), (x + 0.9, 0.95, z + 4), **cold)
            scene.add_box((x - 0.75, 0.95, z + 0.8), (x + 0.75, 1.55, z + 3.4), **cold)
            for wheel in (-0.85, 0.6):
                scene.add_box(
                    (x + wheel, 0, z + 0.3), (x + wheel + 0.25, 0.35, z + 0.9), **body, heat=0.6
                )
            if is_driving:
                lamps += _light_car(scene, x, z, body, is_oncoming=side < 0)
            z += rng.uniform(6, 9)
    return lamps


def _light_car(scene: Scene, x: float, z: float, body: dict, *, is_oncoming: bool) -> list[Lamp]:
    """Warms the engine side and adds two head- or tail-lights at the car's visible end."""
    scene.add_box((x - 0.8, 0.3, z - 0.02), (x + 0.8, 0.9, z), **body, heat=HEAT["engine"])
    color, glare = ((1.0, 1.0, 0.85), 0.9) if is_oncoming else ((0.5, 0.04, 0.03), 0.35)
    power = tuple(0.3 * part for part in color)
    return [Lamp((x + shift, 0.7, z - 0.1), power, glare) for shift in (-0.65, 0.65)]


def _add_people(scene: Scene, edges: tuple, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 4)):
        x, z = rng.uniform(edges[0] - 1.2, edges[1] + 1.2), rng.uniform(3.5, 8)
        black = {"label": PERSON, "albedo": (0.04, 0.04, 0.04), "heat": rng.uniform(0.65, 0.95)}
        scene.add_box((x - 0.22, 0, z - 0.12), (x + 0.22, 0.9, z + 0.12), **black)
        scene.add_ellipsoid((x, 1.1, z), (0.36, 0.45, 0.2), **black)
        scene.add_ellipsoid((x, 1.65, z), (0.16, 0.18, 0.16), **black)


def _measure_heat(heat: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns what a thermal camera stores: its own gain and offset, rows that drift, noise."""
    drift = 0.015 * rng.standard_normal((heat.shape[0], 1), np.float32)
    noise = 0.02 * rng.standard_normal(heat.shape, np.float32)
    signal = rng.uniform(0.6, 0.8) * (heat + drift + noise) + rng.uniform(0, 0.25)
    return (np.clip(signal, 0, 1) * 255).astype(np.uint8)
