#!/usr/bin/env python3
"""Converts the authors' checkpoints into this project's and back, or ours into a zoo file."""

import argparse
from pathlib import Path

from smmcl.cli import run
from smmcl.d2 import setup_logger
from smmcl.engine.checkpoint import with_new_names, write_tensors
from smmcl.inference.publish import publish
from smmcl.weights.convert import convert_from_authors, convert_to_authors
from smmcl.weights.files import read_file

CONVERSIONS = {"ours": convert_from_authors, "authors": convert_to_authors}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input", help="checkpoint, by path or URL")
    parser.add_argument("output", type=Path, help=".pth file to write; for the zoo, .safetensors")
    parser.add_argument("--to", choices=[*CONVERSIONS, "zoo"], default="ours",
                        help="names to write, or zoo: in half precision, with a card")  # fmt: skip
    parser.add_argument("--command", help="that trained the model, for its card in the zoo")
    parser.add_argument("--notes", default="", help="further sentences for the card")
    args = parser.parse_args()
    if (args.to == "zoo") != bool(args.command):
        parser.error("--to zoo and --command go together: the card states how to train the model")
    return args


def main() -> None:
    args = parse_arguments()
    setup_logger(name="smmcl")
    if args.to == "zoo":
        publish(args.input, args.output, command=args.command, notes=args.notes)
        print(f"{args.output}, its card and its checksum in zoo.json written")
        return
    converted = CONVERSIONS[args.to](with_new_names(read_file(args.input)), args.input)
    write_tensors(args.output, converted)
    print(f"{args.output} written")


if __name__ == "__main__":
    run(main)
