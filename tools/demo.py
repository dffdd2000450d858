#!/usr/bin/env python3
"""Predicts pairs of your own, or of a dataset, and draws each as an overlay and a panel."""

import argparse
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from smmcl.cli import run, user_message
from smmcl.config import build_config
from smmcl.d2 import DatasetCatalog, setup_logger
from smmcl.data.datasets.build import ensure_registered
from smmcl.files.atomic import atomic
from smmcl.files.pairing import find_images, match_pairs, unique_names
from smmcl.files.video import VideoWriter, is_video, read_frame_pairs
from smmcl.inference.predictor import Predictor
from smmcl.visualization.panels import class_shares, color, enlarge, fit, overlay, pictures

UNPAINTED = 255  # label of pixels without a class


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", metavar="PATH", help="instead of MODEL.WEIGHTS")
    parser.add_argument("--config-file", help="default: what the checkpoint holds")
    pairs = parser.add_mutually_exclusive_group(required=True)
    pairs.add_argument("--visible", metavar="PLACE", help="image, folder, 'pattern' or video")
    pairs.add_argument("--input", metavar="PLACE", help="the same, of 4-channel images")
    pairs.add_argument("--dataset", metavar="NAME", help="registered dataset, with its truth")
    parser.add_argument("--auxiliary", metavar="PLACE", help="as --visible, named alike")
    parser.add_argument("--truth", metavar="PLACE", help="label images, named alike")
    parser.add_argument("--limit", type=int, help="number of pairs to draw")
    parser.add_argument("--short-side", type=int, metavar="PIXELS",
                        help="resizes the pairs for the model, and its result back")  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("output/pictures"))
    parser.add_argument("--confidence", type=float, default=0.0, metavar="P",
                        help="leaves pixels unpainted that are less probable")  # fmt: skip
    parser.add_argument("--probabilities", action="store_true",
                        help="draws that of the label, writes all as .npz")  # fmt: skip
    parser.add_argument("--keep-going", action="store_true", help="skips pairs it cannot read")
    parser.add_argument("--json", action="store_true", help="prints one JSON object per pair")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE",
                        help="config overrides, such as MODEL.WEIGHTS model_final.pth")  # fmt: skip
    args = parser.parse_args()
    if not (args.checkpoint or args.config_file):
        parser.error("give --checkpoint, or the --config-file of a run")
    return args


def list_records(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The pairs asked for, in the form of the catalog, each with the name of its pictures."""
    if is_video(args.visible):
        for count, pair in enumerate(read_frame_pairs(args.visible, args.auxiliary)):
            name = f"{Path(args.visible).stem}_{count:05d}"
            yield {"file_name": pair[0], "auxiliary_file_name": pair[1], "name": name}
        return
    if args.dataset:
        ensure_registered([args.dataset])
        records = DatasetCatalog.get(args.dataset)
    else:
        images = find_images(args.visible or args.input)
        records = [{"file_name": path} for path in images]
        for key in ("auxiliary", "truth"):
            if place := getattr(args, key):
                name = {"auxiliary": "auxiliary_file_name", "truth": "sem_seg_file_name"}[key]
                matched = match_pairs(images, find_images(place))
                records = [{**r, name: m[1]} for r, m in zip(records, matched, strict=True)]
    names = unique_names([Path(record["file_name"]) for record in records])
    for record, name in zip(records, names, strict=True):
        yield {**record, "name": name}


def demonstrate(
    predictor: Predictor, record: dict[str, Any], *, args: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Predicts and draws one pair; returns what is known about it, and its pictures."""
    pair = (record["file_name"], record.get("auxiliary_file_name"))
    inputs = predictor.prepare(*pair, short_side=args.short_side)
    start = time.perf_counter()
    labels, probabilities = predictor.predict([inputs])[0]
    seconds = time.perf_counter() - start
    certainty = probabilities.max(axis=0)  # (H, W)
    labels = np.where(certainty < args.confidence, UNPAINTED, labels)
    maps, heading = {"prediction": labels}, record["name"]
    if "sem_seg_file_name" in record:
        maps["truth"] = truth = predictor.mapper.reader.label(record)
        is_right = (labels == truth)[truth != UNPAINTED]
        heading += f"    {100 * is_right.mean():.1f}% of pixels right" if is_right.size else ""
    entry = {
        "name": record["name"],
        "visible": record["file_name"] if isinstance(record["file_name"], str | Path) else None,
        "seconds": seconds,
        "confidence": float(certainty.mean()),
        "shares": class_shares(labels, metadata=predictor.metadata),
    }
    if args.probabilities:
        entry["probabilities"] = str(args.output / f"{record['name']}_probabilities.npz")
        with atomic(entry["probabilities"]) as path:
            np.savez_compressed(path, probabilities=probabilities.astype("float16"))
    visible, _ = pictures(inputs, fmt=predictor.cfg.INPUT.FORMAT)
    maps = {title: fit(labels, visible.shape[:2]) for title, labels in maps.items()}
    panel = predictor.draw(
        inputs,
        maps=maps,
        heading=heading,
        extras={"probability, 0 to 1": color(fit(certainty, visible.shape[:2]))}
        if args.probabilities
        else {},
        is_steady=is_video(args.visible),
    )
    painted = overlay(enlarge(visible), enlarge(maps["prediction"]), metadata=predictor.metadata)
    return entry, {"overlay": painted, "panel": panel}


def main() -> None:
    args = parse_arguments()
    if not args.json:
        setup_logger(name="smmcl")
    overrides = [*(["DATASETS.TEST", (args.dataset,)] if args.dataset else []), *args.opts]
    if args.checkpoint:
        predictor = Predictor.from_checkpoint(
            args.checkpoint, config_file=args.config_file, overrides=overrides
        )
    else:
        predictor = Predictor(build_config(args.config_file, overrides))
    args.output.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as writers:
        draw_all(predictor, args=args, writers=writers)


def draw_all(predictor: Predictor, *, args: argparse.Namespace, writers: Any) -> None:
    """Draws pair after pair; what is written stays when a later one cannot be read."""
    videos: dict[str, VideoWriter] = {}
    if is_video(args.visible):
        records, total = itertools.islice(list_records(args), args.limit), args.limit
        for part in ("overlay", "panel"):
            videos[part] = VideoWriter(args.output / f"{Path(args.visible).stem}_{part}.mp4")
            writers.callback(videos[part].close)
    else:
        records = list(list_records(args))[: args.limit]
        total = len(records)
    start, seconds, skipped = time.perf_counter(), [], 0
    records, name = iter(records), ""
    with tqdm(total=total, unit="pair", disable=args.json) as bar:
        while True:
            try:
                record = next(records, None)  # of a video that ends early, this raises once
                if record is None:
                    break
                name = record["name"]
                entry, drawn = demonstrate(predictor, record, args=args)
                for part, picture in drawn.items():
                    if videos:
                        videos[part].write(picture)
                    else:
                        entry[part] = str(args.output / f"{name}_{part}.png")
                        with atomic(entry[part]) as path:
                            Image.fromarray(picture).save(path)
                seconds.append(entry["seconds"])
            except (ValueError, OSError) as error:
                if not args.keep_going:
                    raise
                entry, skipped = {"name": name, "error": user_message(error)}, skipped + 1
                bar.write(f"skipped: {entry['error']}", file=sys.stderr)
            bar.update()
            if args.json:
                print(json.dumps(entry, default=str), flush=True)
    if skipped and not seconds:
        raise SystemExit(f"error: none of {skipped} pairs could be predicted")
    if args.json:
        return
    rate = len(seconds) / max(time.perf_counter() - start, 1e-9)
    print(
        f"{len(seconds)} pairs drawn into {args.output}, {skipped} skipped: {rate:.1f} pairs/s, "
        f"the model alone {len(seconds) / max(sum(seconds), 1e-9):.1f} pairs/s"
    )


if __name__ == "__main__":
    run(main)
