#!/usr/bin/env python3
"""Draws pairs in rows, methods side by side: visible, auxiliary, truth, then each prediction.

A method is NAME=PLACE: a checkpoint (.pth), a predictions.json, or a folder of label images in the
dataset's own ids. Where a method is right its colors are pale, where it is wrong they are full.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from smmcl.cli import run
from smmcl.d2 import DatasetCatalog, MetadataCatalog, setup_logger
from smmcl.data.datasets.build import ensure_registered
from smmcl.data.image_pair import auxiliary_contract, label_facts, read_label, read_pair
from smmcl.evaluation.predictions import open_predictions
from smmcl.files.atomic import atomic
from smmcl.predictor import Predictor
from smmcl.visualization.panels import color_auxiliary

Method = Callable[[dict[str, Any]], np.ndarray]  # from a record to (H, W) class indices
WIDTH = 2.2  # inches of a picture


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="a registered dataset, such as mfnet_test_night")
    parser.add_argument("methods", nargs="+", metavar="NAME=PLACE")
    parser.add_argument("--pairs", nargs="+", metavar="ID", help="default: 4, evenly spread")
    parser.add_argument("--label-offset", type=int,
                        help="value of class 0 in label images, if not the dataset's")  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("output/figure.png"),
                        help="ends in .png, .pdf, .svg, .jpg or .webp")  # fmt: skip
    return parser.parse_args()


def open_method(place: str, args: argparse.Namespace) -> Method:
    if place.endswith(".pth"):
        predictor = Predictor.from_checkpoint(place, overrides=("DATASETS.TEST", (args.dataset,)))
        return lambda record: predictor.predict([predictor.mapper(record)])[0].labels
    labels = label_facts(MetadataCatalog.get(args.dataset))
    read = open_predictions(place, labels=labels, label_offset=args.label_offset)
    return lambda record: read(str(record["image_id"]))


def choose(records: Sequence[dict[str, Any]], names: Sequence[str] | None) -> list[dict[str, Any]]:
    """The records with these image ids, or four that are evenly spread."""
    if not names:
        places = np.linspace(0, len(records) - 1, min(4, len(records))).round().astype(int)
        return [records[place] for place in places]
    by_name = {str(record["image_id"]): record for record in records}
    if unknown := [name for name in names if name not in by_name]:
        some = ", ".join(list(by_name)[:4])
        raise ValueError(f"no pair is called {', '.join(unknown)}. Names are: {some}, ...")
    return [by_name[name] for name in names]


def paint(labels: np.ndarray, is_full: np.ndarray, metadata: Any) -> np.ndarray:
    """Colors (H, W) labels, in full or pale; without a class they are white. (H, W, 3) uint8."""
    palette = np.full((256, 3), 255.0)
    palette[: len(metadata.stuff_colors)] = metadata.stuff_colors
    share = np.where(is_full, 1.0, 0.35)[:, :, None]  # (H, W, 1)
    return (share * palette[labels] + (1 - share) * 255).astype(np.uint8)


def draw_row(
    axes: Sequence[Axes], record: dict[str, Any], *, methods: dict[str, Method], metadata: Any
) -> set[int]:
    """Draws one pair; returns the classes that occur."""
    contract = auxiliary_contract(metadata)
    paths = record["file_name"], record["auxiliary_file_name"]
    visible, auxiliary = read_pair(*paths, fmt="RGB", contract=contract)
    truth = read_label(record["sem_seg_file_name"], **label_facts(metadata))
    classes = set(np.unique(truth).tolist())
    images = {
        "visible": visible,
        contract.kind: color_auxiliary(auxiliary, kind=contract.kind),
        "truth": paint(truth, truth >= 0, metadata),
    }
    for axis, (name, predict) in zip(axes[3:], methods.items(), strict=True):
        labels = predict(record)
        is_wrong = (labels != truth) & (truth != metadata.ignore_label)
        images[name] = paint(labels, is_wrong, metadata)
        if is_wrong.any():  # a line as well, since a white class has no paler shade
            axis.contour(is_wrong, [0.5], colors="black", linewidths=0.4)
        classes |= set(np.unique(labels).tolist())
    for axis, (title, image) in zip(axes, images.items(), strict=True):
        axis.imshow(image, interpolation="antialiased")
        if axis.get_subplotspec().is_first_row():
            axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    axes[0].text(0, 1.02, record["image_id"], fontsize=5, transform=axes[0].transAxes)
    return classes


def main() -> None:
    args = parse_arguments()
    setup_logger(name="smmcl")
    ensure_registered([args.dataset])
    metadata = MetadataCatalog.get(args.dataset)
    records = choose(DatasetCatalog.get(args.dataset), args.pairs)
    pairs = [method.partition("=") for method in args.methods]
    methods = {name: open_method(place, args) for name, _, place in pairs}
    size = WIDTH * (3 + len(methods)), 0.8 * WIDTH * len(records) + 0.5
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(records), 3 + len(methods), squeeze=False)
    classes = [
        draw_row(axes, record, methods=methods, metadata=metadata)
        for axes, record in zip(grid, records, strict=True)
    ]
    colors = np.asarray(metadata.stuff_colors) / 255
    seen = sorted(set.union(*classes) - {metadata.ignore_label})
    patches = [Patch(fc=colors[i], ec="0.5", label=metadata.stuff_classes[i]) for i in seen]
    figure.legend(handles=patches, loc="outside lower center", ncols=8, fontsize=7, frameon=False)
    with atomic(args.output) as path:
        figure.savefig(path, dpi=150)
    print(f"{len(records)} pairs by {len(methods)} methods drawn into {args.output}")


if __name__ == "__main__":
    run(main)
