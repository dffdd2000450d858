"""Streets like those of `night`, by day: what they look like where labels are cheap."""

import numpy as np

from smmcl.data.datasets.synthetic import night

CLASSES, COLORS, AUXILIARY = night.CLASSES, night.COLORS, night.AUXILIARY


def render(
    size: tuple[int, int], *, is_lit: bool, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draws one street of H, W pixels as `render_pair` returns it, never one of `night`."""
    return night.render(size, is_lit=is_lit, rng=rng.spawn(1)[0], daylight=(0.5, 0.9))
