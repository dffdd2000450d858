#!/usr/bin/env python3
"""Converts the authors' checkpoints into this project's and back, and names every leftover."""

import argparse
from pathlib import Path

from smmcl.cli import run
from smmcl.d2 import setup_logger
from smmcl.engine.checkpoint import with_new_names, write_tensors
from smmcl.weights.convert import convert_from_authors, convert_to_authors
from smmcl.weights.files import read_file

CONVERSIONS = {"ours": convert_from_authors, "authors": convert_to_authors}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input", help="checkpoint, by path or URL")
    parser.add_argument("output", type=Path, help=".pth file to write")
    parser.add_argument("--to", choices=CONVERSIONS, default="ours", help="names to write")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    setup_logger(name="smmcl")
    converted = CONVERSIONS[args.to](with_new_names(read_file(args.input)), args.input)
    write_tensors(args.output, converted)


if __name__ == "__main__":
    run(main)
