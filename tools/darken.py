#!/usr/bin/env python3
"""Writes darkened copies of images, folders, videos or a dataset, by a trained darkener."""

import argparse
import re

from smmcl.cli import run
from smmcl.d2 import setup_logger
from smmcl.inference.relight_files import add_arguments, describe, relight_all

RANGE = re.compile(r"U?\(?([\d.]+)(?:,([\d.]+))?\)?")


def exposure(text: str) -> tuple[float, float]:
    """The range of a wanted brightness: of "0.2", or of "U(0,0.2)"."""
    match = RANGE.fullmatch(text.replace(" ", ""))
    try:
        low, high = float(match[1]), float(match[2] or match[1])
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no brightness. Give a number of 0 to 1, such as 0.1, or 'U(0,0.2)'"
        ) from None
    return low, high


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--exposure", type=exposure, default=(0.0, 0.2), metavar="E",
                        help="wanted mean brightness of 0 to 1, or a range to draw it from for "
                        "each image; default: 'U(0,0.2)'")  # fmt: skip
    parser.add_argument("--noise", action="store_true",
                        help="wants a brightness with noise per pixel and patch")  # fmt: skip
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    setup_logger(name="smmcl")
    options = {"exposure": args.exposure, "has_noise": args.noise}
    low, high = args.exposure
    result = relight_all(args, options=options, wanted=low if low == high else None)
    print(describe(result, verb="darkened", output=args.output))


if __name__ == "__main__":
    run(main)
