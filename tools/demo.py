#!/usr/bin/env python3
"""Predicts images, folders, videos, cameras or a dataset: labels, pictures, probabilities."""

import argparse
import json
import sys
import time
from pathlib import Path

from tqdm import tqdm

from smmcl.cli import run
from smmcl.d2 import setup_logger
from smmcl.inference.index import identity
from smmcl.inference.named_model import add_model_arguments, named_config, separate_overrides
from smmcl.inference.predict_files import FilePredictor, check_of_classes
from smmcl.inference.predictor import Predictor
from smmcl.inference.results import OF_CLASSES, PARTS, PICTURES, Results
from smmcl.inference.sources import Source
from smmcl.weights.files import local_file


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    pairs = parser.add_mutually_exclusive_group(required=True)
    places = {"nargs": "+", "default": [], "metavar": "PLACE"}
    pairs.add_argument("--visible", **places, help="image, folder with all below it, 'pattern', "
                       "video, or number of a camera")  # fmt: skip
    pairs.add_argument("--input", "--source", "--video-input", **places,
                       help="the same, of 4-channel images or of visible images alone")  # fmt: skip
    pairs.add_argument("--webcam", action="store_const", const=["0"], dest="input",
                       help="the first camera, as --input 0")  # fmt: skip
    pairs.add_argument("--dataset", default="", metavar="NAME",
                       help="mfnet_test, or dataset.yaml:val, with its truth")  # fmt: skip
    parser.add_argument("--auxiliary", **places, help="as --visible, named alike")
    parser.add_argument("--truth", **places, help="label images, named alike")
    parser.add_argument("--limit", type=int, help="number of pairs")
    parser.add_argument("--output", type=Path, default=Path("output/predictions"),
                        help="folder; default: output/predictions")  # fmt: skip
    parser.add_argument("--write", nargs="+", metavar="PART", default=[],
                        help=f"of {', '.join(PARTS)}; default: labels overlays panels, "
                        "of a classifier panels")  # fmt: skip
    parser.add_argument("--pictures", choices=("all", "none"), default="all",
                        help="none: without overlays and panels, which is faster")  # fmt: skip
    parser.add_argument("--confidence", "--confidence-threshold", type=float, default=0.0,
                        metavar="P", help="less probable pixels get no class")  # fmt: skip
    parser.add_argument("--short-side", type=int, metavar="PIXELS",
                        help="resizes the pairs for the model, and its result back")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true",
                        help="predicts pairs again that are done")  # fmt: skip
    parser.add_argument("--keep-going", action="store_true", help="skips pairs it cannot read")
    parser.add_argument("--json", action="store_true", help="prints one JSON object per pair")
    add_model_arguments(parser)
    args = parser.parse_args()
    separate_overrides(args, ("visible", "input", "auxiliary", "truth", "write"))
    if unknown := [part for part in args.write if part not in PARTS]:
        parser.error(f"--write has no part {unknown[0]!r}. Choose from {', '.join(PARTS)}")
    if args.auxiliary and not args.visible:
        parser.error("--auxiliary goes with --visible: the visible images of the same pairs")
    if args.truth and args.dataset:
        parser.error("--dataset has its own truth. Leave out --truth, or name places of images")
    return args


def main() -> None:
    args = parse_arguments()
    if not args.json:
        setup_logger(name="smmcl")
    overrides = ("DATASETS.TEST", (args.dataset,)) if args.dataset else ()
    predictor = Predictor(named_config(args, *overrides))
    source = Source(
        visible=args.visible or args.input, auxiliary=args.auxiliary, truth=args.truth,
        dataset=args.dataset, limit=args.limit, results=[args.output / part for part in PARTS],
    )  # fmt: skip
    default = OF_CLASSES if predictor.classifies else ("labels", *PICTURES)
    parts = set(args.write or default) - (set(PICTURES) if args.pictures == "none" else set())
    if predictor.classifies:
        check_of_classes(parts, confidence=args.confidence, truth=args.truth)
    cfg = predictor.cfg.clone()
    cfg.merge_from_list(["MODEL.WEIGHTS", "", "MODEL.DEVICE", "", "OUTPUT_DIR", ""])
    weights = local_file(predictor.cfg.MODEL.WEIGHTS)
    made_by = identity(weights, cfg.dump(), args.short_side, args.confidence)
    records = source.records() if source.video else list(source.records())
    total = source.limit if source.video else len(records)
    with Results(
        args.output, [*parts], made_by=made_by, source=source, is_new=args.overwrite
    ) as results:
        options = {"short_side": args.short_side, "confidence": args.confidence}
        work = FilePredictor(predictor, results, keep_going=args.keep_going, **options)
        count_and_print(work(records), total=total, args=args)


def count_and_print(entries, *, total: int | None, args: argparse.Namespace) -> None:
    start, seconds, before, skipped = time.perf_counter(), [], 0, 0
    with tqdm(total=total, unit="pair", disable=args.json) as bar:
        for entry, was_done in entries:
            before += was_done
            if "error" in entry:
                skipped += 1
                bar.write(f"skipped: {entry['error']}", file=sys.stderr)
            elif not was_done and "seconds" in entry:
                seconds.append(entry["seconds"])
            bar.update()
            if args.json:
                print(json.dumps(entry, default=str), flush=True)
    if skipped and not seconds and not before:
        raise SystemExit(f"error: none of {skipped} pairs could be predicted")
    if args.json:
        return
    earlier = f"{before} done before, " if before else ""
    text = f"{len(seconds)} pairs predicted into {args.output}, {earlier}{skipped} skipped"
    if seconds:
        rate = len(seconds) / max(time.perf_counter() - start, 1e-9)
        alone = len(seconds) / max(sum(seconds), 1e-9)
        text += f": {rate:.1f} pairs/s, the model alone {alone:.1f} pairs/s"
    print(text)


if __name__ == "__main__":
    run(main)
