"""Night streets as RGB and thermal: what is unlit shows by its heat, what is painted in RGB alone.

Sky, facades, trees and people in dark clothes are black on black in RGB, but differ in heat; road,
pavement, crossing and shop windows have no heat of their own; headlights dazzle.
"""

import numpy as np

from smmcl.data.datasets.synthetic.raycast import Lamp, Scene, take_picture

CLASSES = (
    "road", "pavement", "crossing", "building", "shop window", "sky", "tree", "car", "person",
)  # fmt: skip
COLORS = (
    (128, 64, 128), (244, 35, 232), (250, 250, 250), (90, 90, 90), (250, 170, 30),
    (70, 130, 180), (107, 142, 35), (0, 60, 200), (220, 20, 60),
)  # fmt: skip
AUXILIARY = {
    "kind": "thermal", "channels": 1, "unit": "8-bit", "low": 0, "high": 255, "invalid": None,
}  # fmt: skip
ROAD, PAVEMENT, CROSSING, BUILDING, SHOP, SKY, TREE, CAR, PERSON = range(len(CLASSES))
GROUND_HEAT, BODY_HEAT, ENGINE_HEAT = 0.5, 0.33, 0.8
SIDES = (-1, 1)  # left, right


def render(
    size: tuple[int, int],
    *,
    is_lit: bool,
    rng: np.random.Generator,
    daylight: tuple[float, float] | None = None,
) -> dict[str, np.ndarray]:
    """Draws one street of H, W pixels as `render_pair` returns it.

    Unlit, only cars give light; `daylight` is the range of what falls on everything by day.
    """
    position = (rng.uniform(-1.5, 1.5), 1.6, 0.0)
    pitch, yaw = np.radians(rng.uniform(3, 7)), np.radians(rng.uniform(-14, 14))
    scene = Scene(size, position=position, pitch=pitch, yaw=yaw)
    scene.label[:] = SKY
    scene.heat[:] = 0.32 - 0.5 * np.sqrt(np.clip(scene.rays[1], 0, 1))  # colder higher up
    edges = rng.uniform(-3.4, -2.4), rng.uniform(2.4, 3.4)  # X of the kerbs
    _lay_ground(scene, edges, rng)
    for side, edge in zip(SIDES, edges, strict=True):
        _build_facades(scene, side, edge, rng)
    _cut_windows(scene, rng)
    lamps = [Lamp((position[0], 0.6, 1.0), (1.6, 1.6, 1.5), cutoff=0.8)]  # the own car's
    for side, edge in zip(SIDES, edges, strict=True):
        _plant_trees(scene, side, edge, rng)
        lamps += _add_cars(scene, side, edge, rng)
        if is_lit:
            spot = (edge + side * 0.5, 5.0, rng.uniform(7, 13))
            lamps.append(Lamp(spot, (0.6, 0.42, 0.2), glare=0.5))
    _add_people(scene, edges, rng)
    ambient = rng.uniform(*(daylight or (0.0005, 0.003)))
    # At night the sky is as dark as what stands before it.
    sky = np.array([[0.6], [0.75], [0.95]]) if daylight else rng.uniform(0.1, 0.3)
    scene.emission[:, scene.label == SKY] = ambient * sky
    radiance = scene.shade(lamps, ambient=ambient)
    return {
        "visible": take_picture(radiance, rng=rng),
        "auxiliary": measure_heat(scene.heat, rng),
        "label": scene.label,
    }


def _lay_ground(scene: Scene, edges: tuple[float, float], rng: np.random.Generator) -> None:
    tar = {"albedo": rng.uniform(0.12, 0.2) * np.ones(3), "heat": GROUND_HEAT}
    slabs = {"albedo": rng.uniform(0.4, 0.6) * np.array([1, 0.9, 0.8]), "heat": GROUND_HEAT}
    left, right = edges
    scene.add_box((left, -1, -5), (right, 0, 80), label=ROAD, **tar)
    scene.add_box((-40, -1, -5), (left, 0.1, 80), label=PAVEMENT, **slabs)
    scene.add_box((right, -1, -5), (40, 0.1, 80), label=PAVEMENT, **slabs)
    x, _, z = scene.points
    joints = (x % 0.8 < 0.12) | (z % 0.8 < 0.12)
    scene.albedo[:, joints & (scene.label == PAVEMENT)] *= 0.6
    if rng.random() < 0.9:
        start = rng.uniform(3.2, 6)
        end = start + rng.uniform(2.5, 3.5)
        scene.add_box((left, 0, start), (right, 0.01, end), label=CROSSING, **tar)
        stripes = np.floor(x / 0.5) % 2 == 0
        scene.albedo[:, stripes & (scene.label == CROSSING)] = 0.9


def _build_facades(scene: Scene, side: int, edge: float, rng: np.random.Generator) -> None:
    """Builds a row of houses along one pavement, near ones with shop windows, some gaps between."""
    face, z = edge + side * rng.uniform(2.4, 3.4), rng.uniform(-3, 3)
    while z < 40:
        end, height = z + rng.uniform(6, 10), rng.uniform(3.5, 12)
        heat = rng.uniform(0.3, 0.54)
        tone = rng.uniform(0.15, 0.35) * rng.uniform(0.85, 1.1, 3)
        house = {"label": BUILDING, "albedo": tone, "heat": heat}
        scene.add_box((face, 0, z), (face + side * 8, height, end), **house)
        if rng.random() < 0.75 and z < 14:
            light = rng.uniform(0.1, 0.5) * rng.uniform(0.4, 1, 3)
            shop = {"label": SHOP, "albedo": (0, 0, 0), "emission": light, "heat": heat}
            scene.add_box((face - side * 0.02, 0.6, z + 0.5), (face, 3.2, end - 0.5), **shop)
        z = end + (rng.uniform(2, 5) if rng.random() < 0.5 else 0)


def _cut_windows(scene: Scene, rng: np.random.Generator) -> None:
    """Gives the upper floors windows behind some of which it is warm, or light."""
    facade = (scene.label == BUILDING) & (np.abs(scene.normal[0]) > 0.5)  # (H, W)
    x, y, z = scene.points[:, facade]  # (P,) each, for the P pixels of facades
    is_window = (y > 4) & (y % 2.5 > 1) & (z % 2.2 > 1)  # (P,)
    cell = (x > 0).astype(int), (y // 2.5).astype(int) % 8, (z // 2.2).astype(int) % 32
    heat = rng.choice([0.3, 0.45, 0.85], (2, 8, 32))[cell]  # (P,)
    light = (rng.uniform(0.05, 0.3, (2, 8, 32)) * (rng.random((2, 8, 32)) < 0.2))[cell]  # (P,)
    scene.heat[facade] = np.where(is_window, heat, scene.heat[facade])
    scene.emission[:, facade] = light * is_window * np.array([[1], [0.8], [0.5]])


def _plant_trees(scene: Scene, side: int, edge: float, rng: np.random.Generator) -> None:
    z = rng.uniform(5, 11)
    for _ in range(rng.integers(0, 3)):
        x, height = edge + side * rng.uniform(1.2, 2.0), rng.uniform(3.2, 4.2)
        tree = {"label": TREE, "albedo": (0.2, 0.25, 0.15), "heat": rng.uniform(0.16, 0.32)}
        scene.add_box((x - 0.2, 0, z - 0.2), (x + 0.2, height, z + 0.2), **tree)
        radius = rng.uniform(1.3, 1.9)
        scene.add_ellipsoid((x, height, z), (radius, 1.1 * radius, radius), **tree)
        z += rng.uniform(4, 8)


def _add_cars(scene: Scene, side: int, edge: float, rng: np.random.Generator) -> list[Lamp]:
    """Puts cars on one lane, oncoming on the left; returns the lights of those that drive."""
    lamps, z = [], rng.uniform(4.5, 8)
    color, glare = ((0.3, 0.3, 0.25), 0.9) if side < 0 else ((0.15, 0.012, 0.009), 0.35)
    for _ in range(rng.integers(0, 3)):
        x, car = edge - side * rng.uniform(1.1, 1.7), {"label": CAR}
        car["albedo"] = rng.uniform(0.05, 0.3) * np.ones(3)
        scene.add_box((x - 0.9, 0.25, z), (x + 0.9, 0.95, z + 4), **car, heat=BODY_HEAT)
        scene.add_box((x - 0.75, 0.95, z + 0.8), (x + 0.75, 1.55, z + 3.4), **car, heat=BODY_HEAT)
        for wheel in (x - 0.85, x + 0.6):
            scene.add_box((wheel, 0, z + 0.3), (wheel + 0.25, 0.35, z + 0.9), **car, heat=0.6)
        if rng.random() < 0.6:
            scene.add_box((x - 0.8, 0.3, z - 0.02), (x + 0.8, 0.9, z), **car, heat=ENGINE_HEAT)
            lamps += [Lamp((x + shift, 0.7, z - 0.1), color, glare) for shift in (-0.65, 0.65)]
        z += rng.uniform(6, 9)
    return lamps


def _add_people(scene: Scene, edges: tuple[float, float], rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 4)):
        x, z = rng.uniform(edges[0] - 1.2, edges[1] + 1.2), rng.uniform(3.5, 8)
        black = {"label": PERSON, "albedo": (0.04, 0.04, 0.04), "heat": rng.uniform(0.65, 0.95)}
        scene.add_box((x - 0.22, 0, z - 0.12), (x + 0.22, 0.9, z + 0.12), **black)
        scene.add_ellipsoid((x, 1.1, z), (0.36, 0.45, 0.2), **black)
        scene.add_ellipsoid((x, 1.65, z), (0.16, 0.18, 0.16), **black)


def measure_heat(heat: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns what a thermal camera stores: its own gain and offset, rows that drift, noise."""
    drift = 0.015 * rng.standard_normal((heat.shape[0], 1), np.float32)
    noise = 0.02 * rng.standard_normal(heat.shape, np.float32)
    signal = rng.uniform(0.6, 0.8) * (heat + drift + noise) + rng.uniform(0, 0.25)
    return (np.clip(signal, 0, 1) * 255).astype(np.uint8)
