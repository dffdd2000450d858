#!/usr/bin/env python3
"""Writes brightened copies of images, folders, videos or a dataset, by a trained enhancer."""

import argparse

from smmcl.cli import run
from smmcl.d2 import setup_logger
from smmcl.inference.relight_files import add_arguments, describe, relight_all


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--truth", default="", metavar="FOLDER",
                        help="well lit images of the same scenes, named alike: prints PSNR, SSIM "
                        "and LOE")  # fmt: skip
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    setup_logger(name="smmcl")
    result = relight_all(args, options={}, truth=args.truth)
    print(describe(result, verb="enhanced", output=args.output))


if __name__ == "__main__":
    run(main)
