#!/usr/bin/env python3
"""Scores enhancers on generated night streets whose daylight is known, beside curves by hand.

Three kinds of night: "lit" and "unlit" streets are rendered again in daylight, and "camera" is the
day picture in less light with its noise (INPUT.LOW_LIGHT).
"""

import argparse
from collections.abc import Callable, Iterator

import numpy as np
from tabulate import tabulate

from smmcl.cli import run
from smmcl.data.appearance.photometric import LowLight, gamma_to_mean
from smmcl.data.datasets.synthetic import night
from smmcl.inference.named_model import load_relighter
from smmcl.inference.relight import relight_image
from smmcl.inference.relight_files import score

DAYLIGHT = (0.5, 0.9)  # as in synthetic_day
MEAN = 0.45  # brightness that a user without truth would aim at
Enhance = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of an image and its truth, in bytes


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="*", metavar="NAME=FILE", help="enhancers to score")
    parser.add_argument("--scenes", type=int, default=50, help="of each kind; default: 50")
    parser.add_argument("--size", type=int, nargs=2, default=(64, 80), metavar=("H", "W"))
    return parser.parse_args()


def pictures(kind: str, count: int, size: tuple[int, int]) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields night and truth, (H, W, 3) uint8 each, of scenes that no training set has."""
    for index in range(count):
        draws = [np.random.default_rng((12345, index)) for _ in range(2)]
        options = {"is_lit": kind == "lit"}
        truth = night.render(size, rng=draws[0], daylight=DAYLIGHT, **options)["visible"]
        if kind == "camera":
            yield LowLight(1.0)(truth, truth, draws[1])[0], truth
        else:
            yield night.render(size, rng=draws[1], **options)["visible"], truth


def by_model(path: str) -> Enhance:
    model = load_relighter(path, source=path)

    def enhance(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
        relit = relight_image(model, image.astype(np.float32) / 255, seed=0, options={})
        return np.rint(255 * relit)

    return enhance


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
    rows = []
    for kind in ("camera", "lit", "unlit"):
        scenes = list(pictures(kind, args.scenes, tuple(args.size)))
        for name, enhance in ways.items():
            results = [
                score(enhance(image, truth) / 255, truth / 255, names=(kind, kind))
                for image, truth in scenes
            ]
            means = {key: np.mean([r[key] for r in results]) for key in results[0]}
            rows.append((kind, name, means["psnr"], means["ssim"], means["loe"]))
    head = ("night", "way", "PSNR", "SSIM", "LOE")
    print(tabulate(rows, head, tablefmt="pipe", floatfmt=("", "", ".1f", ".3f", ".0f")))


if __name__ == "__main__":
    run(main)
