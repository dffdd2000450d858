#!/usr/bin/env python3
"""Draws features and embeddings of models side by side, and what their streams exchange."""

import argparse
import json
from pathlib import Path

from tqdm import tqdm

from smmcl.cli import run
from smmcl.d2 import DatasetCatalog, MetadataCatalog, setup_logger
from smmcl.data.datasets.build import ensure_registered
from smmcl.files.atomic import atomic, write_text
from smmcl.inference.predictor import Predictor
from smmcl.modeling.classifier import check_segments
from smmcl.visualization.feature_plots import draw_modulation, draw_spaces, look, methods
from smmcl.visualization.figure import spread


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="mfnet_test, or dataset.yaml:val")
    parser.add_argument("models", nargs="+", metavar="NAME=CHECKPOINT")
    parser.add_argument("--limit", type=int, default=50, help="pairs, evenly spread")
    parser.add_argument("--cells", type=int, default=100, help="of each class, drawn by chance")
    parser.add_argument("--short-side", type=int, metavar="PIXELS", help="resizes the pairs")
    parser.add_argument("--output", type=Path, default=Path("output/features"),
                        help="folder; default: output/features")  # fmt: skip
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    setup_logger(name="smmcl")
    ensure_registered([args.dataset])
    metadata, records = MetadataCatalog.get(args.dataset), DatasetCatalog.get(args.dataset)
    records = spread(records, args.limit)
    seen = {}
    for model in args.models:
        name, _, path = model.rpartition("=")
        predictor = Predictor.from_checkpoint(path, overrides=("DATASETS.TEST", (args.dataset,)))
        check_segments(predictor.model, "visualize_features")
        chosen = tqdm(records, desc=name, unit="pair")
        seen[name] = [look(predictor, one, short_side=args.short_side) for one in chosen]
    if "t-SNE" not in methods():
        print("t-SNE is left out: scikit-learn is missing (pip install 'smmcl[visualization]')")
    figure, numbers = draw_spaces(seen, metadata=metadata, limit=args.cells)
    write_text(args.output / "features.json", json.dumps(numbers, indent=1))
    modulation = draw_modulation(seen, predictor=predictor)
    for name, drawn in (("features", figure), ("modulation", modulation)):
        with atomic(args.output / f"{name}.png") as path:
            drawn.savefig(path, dpi=drawn.dpi)
    print(f"{len(records)} pairs by {len(seen)} model(s) drawn into {args.output}")


if __name__ == "__main__":
    run(main)
