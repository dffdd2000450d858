#!/usr/bin/env python3
"""Writes a dataset file and a config for a folder of images; states every guess."""

import argparse
from pathlib import Path

from smmcl.cli import run
from smmcl.data.datasets.new.build import propose, write


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with images, in folders or side by side")
    place = {"default": "", "metavar": "PLACE"}
    parser.add_argument("--visible", **place, help="folder or 'pattern' below FOLDER")
    parser.add_argument("--auxiliary", **place, help="the same, of the other camera")
    parser.add_argument("--labels", **place, help="the same, or COCO or labelme JSON files")
    parser.add_argument("--classes", default="", metavar="NAMES|FILE",
                        help="names by commas, or a file with a line each")  # fmt: skip
    parser.add_argument("--output", type=Path, help="folder to write to; default: FOLDER")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    options = {name: getattr(args, name) for name in ("visible", "auxiliary", "labels", "classes")}
    plan = propose(args.folder, output=args.output or args.folder, **options)
    for sentence in plan.sentences:
        print(sentence)
    write(plan)
    print("\nwritten:", ", ".join(map(str, plan.texts)), end="")
    print(f" and {len(plan.images)} label images" if plan.images else "")
    print("\nnext:", *plan.commands, sep="\n  ")


if __name__ == "__main__":
    run(main)
