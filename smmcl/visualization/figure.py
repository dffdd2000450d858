"""A paper's figure: rows of pairs, the truth, and the labels of several methods with errors marked.

Shape shorthand in this module:
    H, W: height and width of a pair
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from smmcl.data.reader import PairReader
from smmcl.visualization.panels import color_auxiliary

Method = Callable[[Mapping[str, Any]], np.ndarray]  # from a record to (H, W) class indices
WIDTH = 2.2  # inches of a picture


def spread(records: Sequence[Any], count: int) -> list[Any]:
    """Chooses `count` entries, or all if there are fewer, evenly from the first to the last."""
    places = np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)
    return [records[place] for place in places]


def draw_methods(
    records: Sequence[Mapping[str, Any]], methods: Mapping[str, Method], *, metadata: Any
) -> Figure:
    """Draws a row for each pair: visible, auxiliary, truth, and the labels of each method.

    Where a method is right its colors are pale, where it is wrong they are full.

    Args:
        records: of the catalog.
        methods: by title.
        metadata: of the dataset.
    """
    columns = (3 if PairReader.of(metadata).format else 2) + len(methods)
    size = WIDTH * columns, 0.8 * WIDTH * len(records) + 0.5
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(records), columns, squeeze=False)
    classes = [
        _draw_row(axes, record, methods=methods, metadata=metadata)
        for axes, record in zip(grid, records, strict=True)
    ]
    colors = np.asarray(metadata.stuff_colors) / 255
    seen = sorted(set.union(*classes) - {metadata.ignore_label})
    patches = [Patch(fc=colors[i], ec="0.5", label=metadata.stuff_classes[i]) for i in seen]
    figure.legend(handles=patches, loc="outside lower center", ncols=8, fontsize=7, fancybox=False)
    keep_resolution(figure, grid.flat, dpi=150)
    return figure


def keep_resolution(figure: Figure, axes: Sequence[Axes], *, dpi: float) -> None:
    """Gives a figure the least resolution of `dpi` or above that shrinks none of its images."""
    figure.draw_without_rendering()  # lays it out
    pixels_per_inch = [
        figure.dpi * image.get_array().shape[1] / axis.get_window_extent().width
        for axis in axes
        for image in axis.images
    ]
    figure.set_dpi(math.ceil(max(dpi, *pixels_per_inch)))


def _draw_row(
    axes: Sequence[Axes],
    record: Mapping[str, Any],
    *,
    methods: Mapping[str, Method],
    metadata: Any,
) -> set[int]:
    """Draws one pair; returns the classes that occur."""
    reader = PairReader.of(metadata)
    visible, auxiliary = reader.images(record)
    truth = reader.label(record)
    images = {"visible": visible}
    if auxiliary is not None:
        images[reader.kind] = color_auxiliary(auxiliary, kind=reader.kind)
    images["truth"] = _paint(truth, truth >= 0, metadata=metadata)
    classes = set(np.unique(truth).tolist())
    for axis, (name, predict) in zip(axes[len(images) :], methods.items(), strict=True):
        labels = predict(record)
        is_wrong = (labels != truth) & (truth != metadata.ignore_label)
        images[name] = _paint(labels, is_wrong, metadata=metadata)
        if is_wrong.any():  # a line as well, since a white class has no paler shade
            axis.contour(is_wrong, [0.5], colors="black", linewidths=0.4)
        classes |= set(np.unique(labels).tolist())
    for axis, (title, image) in zip(axes, images.items(), strict=True):
        axis.imshow(image, interpolation="antialiased")
        if axis.get_subplotspec().is_first_row():
            axis.set_title(title, fontsize=9, parse_math=False)
        axis.set_axis_off()
    axes[0].text(0, 1.02, record["image_id"], fontsize=5, transform=axes[0].transAxes)
    return classes


def _paint(labels: np.ndarray, is_full: np.ndarray, *, metadata: Any) -> np.ndarray:
    """Colors (H, W) labels, in full or pale; without a class they are white. (H, W, 3) uint8."""
    palette = np.full((256, 3), 255.0)
    palette[: len(metadata.stuff_colors)] = metadata.stuff_colors
    share = np.where(is_full, 1.0, 0.35)[:, :, None]  # (H, W, 1)
    return (share * palette[labels] + (1 - share) * 255).astype(np.uint8)
