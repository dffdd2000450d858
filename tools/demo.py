#!/usr/bin/env python3
"""Predicts pairs of your own, or of a dataset, and draws each as an overlay and a panel."""

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from smmcl.cli import run, user_message
from smmcl.config import build_config
from smmcl.d2 import DatasetCatalog, setup_logger
from smmcl.data.image_pair import read_label
from smmcl.data.listing import find_images, match_pairs, unique_names
from smmcl.predictor import Predictor
from smmcl.visualizer import class_shares, enlarge, overlay, pictures

UNPAINTED = 255  # label of pixels without a class


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True, help="config.yaml of a training run")
    pairs = parser.add_mutually_exclusive_group(required=True)
    pairs.add_argument("--visible", metavar="PLACE", help="image, folder or 'pattern'")
    pairs.add_argument("--input", metavar="PLACE", help="the same, of 4-channel images")
    pairs.add_argument("--dataset", metavar="NAME", help="registered dataset, with its truth")
    parser.add_argument("--auxiliary", metavar="PLACE", help="as --visible, named alike")
    parser.add_argument("--limit", type=int, help="number of pairs to draw")
    parser.add_argument("--output", type=Path, default=Path("output/pictures"))
    parser.add_argument("--confidence", type=float, default=0.0, metavar="P",
                        help="leaves pixels unpainted that are less probable")  # fmt: skip
    parser.add_argument("--probabilities", action="store_true", help="writes them as .npz")
    parser.add_argument("--keep-going", action="store_true", help="skips pairs it cannot read")
    parser.add_argument("--json", action="store_true", help="prints one JSON object per pair")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE",
                        help="config overrides, such as MODEL.WEIGHTS model_final.pth")  # fmt: skip
    return parser.parse_args()


def list_records(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The pairs asked for, in the form of the catalog, each with the name of its pictures."""
    if args.dataset:
        records = DatasetCatalog.get(args.dataset)
    elif args.visible and args.auxiliary:
        matched = match_pairs(find_images(args.visible), find_images(args.auxiliary))
        records = [{"file_name": a, "auxiliary_file_name": b} for a, b in matched]
    else:
        records = [{"file_name": path} for path in find_images(args.visible or args.input)]
    records = list(itertools.islice(records, args.limit))
    names = unique_names([Path(record["file_name"]) for record in records])
    return [{**record, "name": name} for record, name in zip(records, names, strict=True)]


def demonstrate(
    predictor: Predictor, record: dict[str, Any], *, args: argparse.Namespace
) -> dict[str, Any]:
    """Predicts and draws one pair; returns what is known about it."""
    inputs = predictor.prepare(record["file_name"], record.get("auxiliary_file_name"))
    start = time.perf_counter()
    labels, probabilities = predictor.predict([inputs])[0]
    seconds = time.perf_counter() - start
    labels = np.where(probabilities.max(axis=0) < args.confidence, UNPAINTED, labels)
    maps, heading = {"prediction": labels}, record["name"]
    if "sem_seg_file_name" in record:
        maps["truth"] = truth = read_label(record["sem_seg_file_name"], **predictor.mapper.labels)
        is_right = (labels == truth)[truth != UNPAINTED]
        heading += f"    {100 * is_right.mean():.1f}% of pixels right" if is_right.size else ""
    files = {part: args.output / f"{record['name']}_{part}.png" for part in ("overlay", "panel")}
    visible, _ = pictures(inputs, fmt=predictor.cfg.INPUT.FORMAT)
    painted = overlay(enlarge(visible), enlarge(labels), metadata=predictor.metadata)
    Image.fromarray(painted).save(files["overlay"])
    panel = predictor.draw(inputs, maps=maps, heading=heading)
    Image.fromarray(panel).save(files["panel"])
    if args.probabilities:
        files["probabilities"] = args.output / f"{record['name']}_probabilities.npz"
        np.savez_compressed(files["probabilities"], probabilities=probabilities.astype("float16"))
    return {
        "name": record["name"],
        "visible": str(record["file_name"]),
        **{part: str(path) for part, path in files.items()},
        "seconds": seconds,
        "confidence": float(probabilities.max(axis=0).mean()),
        "shares": class_shares(labels, metadata=predictor.metadata),
    }


def main() -> None:
    args = parse_arguments()
    if not args.json:
        setup_logger(name="smmcl")
    is_dataset = ["DATASETS.TEST", (args.dataset,)] if args.dataset else []
    predictor = Predictor(build_config(args.config_file, [*is_dataset, *args.opts]))
    records = list_records(args)
    args.output.mkdir(parents=True, exist_ok=True)
    start, seconds, skipped = time.perf_counter(), [], 0
    for record in tqdm(records, unit="pair", disable=args.json):
        try:
            entry = demonstrate(predictor, record, args=args)
            seconds.append(entry["seconds"])
        except (ValueError, OSError) as error:
            if not args.keep_going:
                raise
            entry, skipped = {"name": record["name"], "error": user_message(error)}, skipped + 1
            print(f"skipped: {entry['error']}", file=sys.stderr)
        if args.json:
            print(json.dumps(entry), flush=True)
    if args.json:
        return
    rate = len(seconds) / max(time.perf_counter() - start, 1e-9)
    print(
        f"{len(seconds)} pairs drawn into {args.output}, {skipped} skipped: {rate:.1f} pairs/s, "
        f"the model alone {len(seconds) / max(sum(seconds), 1e-9):.1f} pairs/s"
    )


if __name__ == "__main__":
    run(main)
