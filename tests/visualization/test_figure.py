"""Figures: which pairs are chosen, and no picture is shrunk."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from smmcl.visualization.figure import keep_resolution, spread


def test_pairs_are_spread_from_the_first_to_the_last() -> None:
    assert spread(range(11), 3) == [0, 5, 10]
    assert spread(range(2), 4) == [0, 1]


@pytest.mark.parametrize(("width", "is_raised"), [(50, False), (2000, True)])
def test_a_figure_has_a_pixel_for_each_pixel_of_its_images(width: int, is_raised: bool) -> None:
    figure = Figure((4, 3), layout="constrained")
    axes = figure.subplots(1, 2)
    axes[0].imshow(np.zeros((width // 2, width)))
    keep_resolution(figure, axes, dpi=100)
    figure.draw_without_rendering()
    assert (figure.dpi > 100) == is_raised
    assert axes[0].get_window_extent().width >= min(width, 100)
