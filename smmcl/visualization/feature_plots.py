"""Draws the last features and embeddings of models side by side, and what their streams exchange.

Shape shorthand in this module:
    M: cells that are compared     D: channels     K: classes
    H, W: size of a pair     h, w: size of a feature
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from tabulate import tabulate
from torch import Tensor

from smmcl.inference.predictor import Predictor
from smmcl.modeling.contrastive.sampling import shrink_labels
from smmcl.visualization.features import class_similarity, describe_pair, normalize
from smmcl.visualization.figure import keep_resolution
from smmcl.visualization.panels import brighten, color_auxiliary, fit, pictures

MARKERS = {"visible": "o", "auxiliary": "^"}
DPI = 120


class Seen(NamedTuple):
    """What a model makes of one pair."""

    cells: dict[str, tuple[np.ndarray, ...]]  # visible and auxiliary (h * w, D), by space
    labels: np.ndarray  # (h * w,) classes
    inputs: dict[str, Any]
    modulation: list[tuple[np.ndarray, float]]  # (h, w) S and the mean k of each stage


@torch.inference_mode()
def look(predictor: Predictor, record: Mapping[str, Any], *, short_side: int | None) -> Seen:
    """Runs the model on one pair and keeps what passes its backbone."""
    model, features, modulation = predictor.model, {}, []
    names = predictor.cfg.MODEL.SMMCL.IN_FEATURES
    shape = model.backbone.output_shape()
    if not set(names) <= set(shape):
        raise ValueError(
            f"MODEL.SMMCL.IN_FEATURES is {list(names)} but the model has {sorted(shape)}. Its two "
            "streams are compared, so a model of one stream cannot be."
        )

    def keep(fusion: torch.nn.Module, pair: tuple[Tensor, ...], _: object) -> None:
        if hasattr(fusion, "coefficients"):
            spatial, channel = fusion.coefficients(*pair)
            modulation.append((spatial[0, 0].cpu().numpy(), float(channel.mean())))

    hooks = [model.backbone.register_forward_hook(lambda *call: features.update(call[2]))]
    hooks += [fusion.register_forward_hook(keep) for fusion in model.backbone.fusions]
    paths = record["file_name"], record["auxiliary_file_name"]
    inputs = predictor.prepare(*paths, short_side=short_side)
    model([inputs])
    for hook in hooks:
        hook.remove()
    maps = {"features": [features[name] for name in names]}  # (1, D, h, w) each
    projectors = getattr(model.contrast, "projectors", {})
    if set(projectors) == set(MARKERS):
        pairs = zip(MARKERS, maps["features"], strict=True)
        maps["embeddings"] = [projectors[stream](part) for stream, part in pairs]
    truth = predictor.mapper.reader.label(record)
    truth = fit(truth, inputs["image"].shape[-2:])  # (H, W)
    size, ignore = maps["features"][0].shape[-2:], predictor.metadata.ignore_label
    padding = [(0, shape[names[0]].stride * n - m) for n, m in zip(size, truth.shape, strict=True)]
    truth = torch.from_numpy(np.pad(truth, padding, constant_values=ignore))  # as images are padded
    cells = {
        title: tuple(normalize(part[0].flatten(1).T.double().cpu().numpy()) for part in pair)
        for title, pair in maps.items()
    }
    return Seen(cells, shrink_labels(truth[None], size=size).flatten().numpy(), inputs, modulation)


def methods() -> tuple[str, ...]:
    """Returns the projections to a plane that can be drawn here; t-SNE needs scikit-learn."""
    return ("PCA", "t-SNE") if importlib.util.find_spec("sklearn") else ("PCA",)


def _project(points: np.ndarray, *, method: str) -> np.ndarray:
    """Brings (M, D) to a plane, (M, 2)."""
    if method == "PCA":
        points = points - points.mean(axis=0)
        return points @ np.linalg.svd(points, full_matrices=False)[2][:2].T
    from sklearn.manifold import TSNE  # an extra

    return TSNE(perplexity=min(30, (len(points) - 1) / 3), random_state=0).fit_transform(points)


def _draw_space(
    axes: Sequence[Axes], pair: tuple[np.ndarray, ...], labels: np.ndarray, *, metadata: Any
) -> dict[str, dict[str, float]]:
    """Draws a column: both modalities in planes, the similarity of classes; returns the numbers."""
    *planes, matrix, text = axes
    for axis, method in zip(planes, methods(), strict=True):
        halves = np.split(_project(np.concatenate(pair), method=method), 2)
        for marker, points in zip(MARKERS.values(), halves, strict=True):
            colors = np.asarray(metadata.stuff_colors)[labels] / 255
            axis.scatter(*points.T, s=12, c=colors, marker=marker, ec="0.3", lw=0.2)
        axis.set(xticks=[], yticks=[], aspect="auto")
    seen = np.unique(labels)
    similarity = class_similarity(*pair, labels, num_classes=seen[-1] + 1)[np.ix_(seen, seen)]
    matrix.imshow(similarity, cmap="RdBu_r", vmin=-1, vmax=1)
    names, size = [metadata.stuff_classes[i] for i in seen], min(7, 70 / len(seen))
    matrix.set_xticks(range(len(seen)), names, rotation=90, fontsize=size)
    matrix.set_yticks(range(len(seen)), names, fontsize=size)
    for (row, column), value in np.ndenumerate(similarity):
        style = {"fontsize": size, "ha": "center", "va": "center", "in_layout": False}
        matrix.text(column, row, f"{value:z.1f}", **style)
    numbers = describe_pair(*pair, labels)
    measures = numbers["visible"] | numbers["across"]
    lines = [[name, *(part.get(name) for part in numbers.values())] for name in measures]
    words = tabulate(lines, ["", *numbers], floatfmt=".3f", tablefmt="plain")
    style = {"family": "monospace", "fontsize": 6, "ha": "right", "va": "top", "ma": "left"}
    text.text(1, 1, words, **style, in_layout=False)
    text.set_axis_off()
    return numbers


def draw_spaces(
    seen: Mapping[str, Sequence[Seen]], *, metadata: Any, limit: int
) -> tuple[Figure, dict[str, dict[str, dict[str, float]]]]:
    """A column for each model's features and embeddings; also the numbers by column."""
    columns, numbers = {}, {}
    for name, pairs in seen.items():
        labels = np.concatenate([one.labels for one in pairs])
        rng = np.random.default_rng(0)  # the same cells for every model
        each = [np.flatnonzero(labels == i) for i in range(len(metadata.stuff_classes))]
        chosen = np.concatenate([rng.permutation(places)[:limit] for places in each])  # (M,)
        for title in pairs[0].cells:
            parts = zip(*(one.cells[title] for one in pairs), strict=True)
            cells = tuple(np.concatenate(part)[chosen] for part in parts)  # (M, D) each
            columns[f"{name}: {title}"] = cells, labels[chosen]
    rows = methods()
    heights = [*(2.8 for _ in rows), 3.4, 1.2]
    figure = Figure(figsize=(3.4 * len(columns), sum(heights) + 0.6), layout="constrained")
    grid = figure.subplots(len(heights), len(columns), squeeze=False, height_ratios=heights)
    for axes, (title, (cells, labels)) in zip(grid.T, columns.items(), strict=True):
        axes[0].set_title(title, fontsize=9)
        numbers[title] = _draw_space(axes, cells, labels, metadata=metadata)
    titles = (*rows, "mean cosine, visible over auxiliary")
    for axis, title in zip(grid[:-1, 0], titles, strict=True):
        axis.set_ylabel(title, fontsize=8)
    styles = {stream: {"c": "0.5", "marker": marker} for stream, marker in MARKERS.items()}
    for i in np.unique(np.concatenate([labels for _, labels in columns.values()])):
        color = np.asarray(metadata.stuff_colors[i]) / 255
        styles[metadata.stuff_classes[i]] = {"c": color, "marker": "s"}
    keys = [Line2D([], [], lw=0, label=name, **style) for name, style in styles.items()]
    figure.legend(handles=keys, loc="outside lower center", ncols=6, fontsize=7, fancybox=False)
    figure.set_dpi(DPI)
    return figure, numbers


def draw_modulation(seen: Mapping[str, Sequence[Seen]], *, predictor: Predictor) -> Figure:
    """The first and the last pair by models: visible, auxiliary, S of each stage over the pair."""
    rows = [(name, pairs[place]) for place in (0, -1) for name, pairs in seen.items()]
    stages, kind = max(len(one.modulation) for _, one in rows), predictor.mapper.reader.format.kind
    figure = Figure(figsize=(2.2 * (2 + stages), 1.9 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 2 + stages, squeeze=False)
    for axis in grid.flat:
        axis.set_axis_off()
    for (name, one), axes in zip(rows, grid, strict=True):
        visible, auxiliary = pictures(one.inputs, fmt=predictor.mapper.reader.channel_order)
        shown = brighten(visible)
        axes[0].imshow(shown)
        axes[0].set_title(f"{name}: {Path(one.inputs['file_name']).stem}", fontsize=8)
        axes[1].imshow(color_auxiliary(auxiliary, kind=kind))
        axes[1].set_title(kind, fontsize=8)
        for stage, (spatial, channel) in enumerate(one.modulation):
            axis, stride = axes[2 + stage], 4 * 2**stage
            axis.imshow(shown.mean(axis=2), cmap="gray")
            extent = (0, stride * spatial.shape[1], stride * spatial.shape[0], 0)
            axis.imshow(spatial, extent=extent, vmin=0, vmax=1, alpha=0.7)
            axis.set(xlim=(0, shown.shape[1]), ylim=(shown.shape[0], 0))
            span = f"{spatial.min():.2f} to {spatial.max():.2f}"
            axis.set_title(f"stage {stage + 1}: S {span}, mean k {channel:.2f}", fontsize=7)
    keep_resolution(figure, grid[:, :2].flat, dpi=DPI)
    return figure
