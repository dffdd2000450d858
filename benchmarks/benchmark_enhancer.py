#!/usr/bin/env python3
"""Scores enhancers on generated night streets whose daylight is known, beside curves by hand.

Three kinds of night: "lit" and "unlit" streets are rendered again in daylight, and "camera" is the
day picture in less light with its noise (INPUT.LOW_LIGHT). With a segmentor, its mIoU on the
enhanced pairs stands beside, too.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from tabulate import tabulate

from smmcl.cli import run
from smmcl.data.appearance.photometric import LowLight, gamma_to_mean
from smmcl.data.datasets.synthetic import night
from smmcl.evaluation.confusion import count_confusion
from smmcl.evaluation.confusion import score as score_segmentation
from smmcl.inference.named_model import load_relighter
from smmcl.inference.predictor import Predictor
from smmcl.inference.relight import relight_image
from smmcl.inference.relight_files import score

DAYLIGHT = (0.5, 0.9)  # as in synthetic_day
MEAN = 0.45  # brightness that a user without truth would aim at
SEED = 2026  # of the scenes
Enhance = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of an image and its truth, in bytes


class Night(NamedTuple):
    """One scene: the visible image by night and by day, (H, W, 3), and what both share."""

    image: np.ndarray
    truth: np.ndarray
    auxiliary: np.ndarray
    label: np.ndarray


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="*", metavar="NAME=FILE", help="enhancers to score")
    parser.add_argument("--scenes", type=int, default=50, help="of each kind; default: 50")
    parser.add_argument("--segmentor", metavar="FILE", help="checkpoint, scored on every way")
    parser.add_argument("--size", type=int, nargs=2, default=(64, 80), metavar=("H", "W"))
    return parser.parse_args()


def pictures(kind: str, count: int, size: tuple[int, int]) -> Iterator[Night]:
    """Yields scenes that no training set has."""
    for index in range(count):
        draws = [np.random.default_rng((SEED, index)) for _ in range(2)]
        options = {"is_lit": kind == "lit"}
        day = night.render(size, rng=draws[0], daylight=DAYLIGHT, **options)
        if kind == "camera":
            dark = {**day, "visible": LowLight(1.0)(day["visible"], day["visible"], draws[1])[0]}
        else:
            dark = night.render(size, rng=draws[1], **options)
        yield Night(dark["visible"], day["visible"], dark["auxiliary"], dark["label"])


def by_model(path: str) -> Enhance:
    model = load_relighter(path, source=path)

    def enhance(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
        relit = relight_image(model, image.astype(np.float32) / 255, seed=0, options={})
        return np.rint(255 * relit)

    return enhance


def mean_iou(segmentor: Predictor, scenes: list[Night], images: list[np.ndarray]) -> float:
    num_classes = len(segmentor.metadata.stuff_classes)
    counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for scene, image in zip(scenes, images, strict=True):
        labels = segmentor(image.astype(np.uint8), scene.auxiliary).labels
        truth = torch.from_numpy(scene.label)
        counts += count_confusion(torch.from_numpy(labels), truth, num_classes=num_classes)
    return score_segmentation(counts, absent_rule="present").mean_iou


def main() -> None:
    args = parse_arguments()
    ways: dict[str, Enhance] = {
        "as it is": lambda image, truth: image,
        f"gamma to {MEAN}": lambda image, truth: gamma_to_mean(image, MEAN),
        "gamma to the mean of the truth": lambda i, truth: gamma_to_mean(i, truth.mean() / 255),
        **{
            name: by_model(path)
            for name, _, path in (text.partition("=") for text in args.checkpoints)
        },
    }
    segmentor = Predictor.from_checkpoint(args.segmentor) if args.segmentor else None
    rows = []
    for kind in ("camera", "lit", "unlit"):
        scenes = list(pictures(kind, args.scenes, tuple(args.size)))
        for name, enhance in ways.items():
            images = [enhance(scene.image, scene.truth) for scene in scenes]
            results = [
                score(image / 255, scene.truth / 255, names=(kind, kind))
                for image, scene in zip(images, scenes, strict=True)
            ]
            means = [np.mean([r[key] for r in results]) for key in ("psnr", "ssim", "loe")]
            iou = [mean_iou(segmentor, scenes, images)] if segmentor else []
            rows.append((kind, name, *means, *iou))
    head = ("night", "way", "PSNR", "SSIM", "LOE", *(["mIoU"] if segmentor else []))
    formats = ("", "", ".1f", ".3f", ".0f", ".1f")[: len(head)]
    print(tabulate(rows, head, tablefmt="pipe", floatfmt=formats))


if __name__ == "__main__":
    run(main)
