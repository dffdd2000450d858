#!/usr/bin/env python3
"""Draws pairs in rows, methods side by side: visible, auxiliary, truth, then each prediction.

A method is NAME=PLACE: a checkpoint, zoo://MODEL, a predictions.json, or a folder of label images
in the dataset's own ids. Where a method is right its colors are pale, where it is wrong full.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smmcl.cli import run
from smmcl.d2 import DatasetCatalog, MetadataCatalog, setup_logger
from smmcl.data.datasets.build import ensure_registered
from smmcl.data.reader import PairReader
from smmcl.evaluation.predictions import open_predictions
from smmcl.files.atomic import atomic
from smmcl.inference.predictor import Predictor
from smmcl.modeling.classifier import check_segments
from smmcl.visualization.figure import Method, draw_methods, spread
from smmcl.weights.files import WEIGHT_SUFFIXES
from smmcl.weights.zoo import PREFIX


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="mfnet_test_night, or dataset.yaml:val")
    parser.add_argument("methods", nargs="+", metavar="NAME=PLACE")
    parser.add_argument("--pairs", nargs="+", metavar="ID", help="default: 4, evenly spread")
    parser.add_argument("--label-offset", type=int,
                        help="value of class 0 in label images, if not the dataset's")  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("output/figure.png"),
                        help="ends in .png, .pdf, .svg, .jpg or .webp; default: "
                        "output/figure.png")  # fmt: skip
    return parser.parse_args()


def open_method(place: str, args: argparse.Namespace) -> Method:
    if place.startswith(PREFIX) or place.endswith(WEIGHT_SUFFIXES):
        predictor = Predictor.from_checkpoint(place, overrides=("DATASETS.TEST", (args.dataset,)))
        check_segments(predictor.model, "make_figure")
        return lambda record: predictor.predict([predictor.mapper(record)])[0].labels
    reader = PairReader.of(MetadataCatalog.get(args.dataset))
    read = open_predictions(place, reader=reader, label_offset=args.label_offset)
    return lambda record: read(str(record["image_id"]))


def choose(records: Sequence[dict[str, Any]], names: Sequence[str] | None) -> list[dict[str, Any]]:
    """The records with these image ids, or four that are evenly spread."""
    if not names:
        return spread(records, 4)
    by_name = {str(record["image_id"]): record for record in records}
    if unknown := [name for name in names if name not in by_name]:
        some = ", ".join(list(by_name)[:4])
        raise ValueError(f"no pair is called {', '.join(unknown)}. Names are: {some}, ...")
    return [by_name[name] for name in names]


def main() -> None:
    args = parse_arguments()
    setup_logger(name="smmcl")
    ensure_registered([args.dataset])
    metadata = MetadataCatalog.get(args.dataset)
    records = choose(DatasetCatalog.get(args.dataset), args.pairs)
    pairs = [method.partition("=") for method in args.methods]
    methods = {name: open_method(place, args) for name, _, place in pairs}
    figure = draw_methods(records, methods, metadata=metadata)
    with atomic(args.output) as path:
        figure.savefig(path, dpi=figure.dpi)
    print(f"{len(records)} pairs by {len(methods)} methods drawn into {args.output}")


if __name__ == "__main__":
    run(main)
