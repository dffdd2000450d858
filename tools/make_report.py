#!/usr/bin/env python3
"""Makes one HTML page, without scripts or network, of one run or of several side by side."""

import argparse
from pathlib import Path

from smmcl.cli import run
from smmcl.d2 import setup_logger
from smmcl.files.atomic import write_text
from smmcl.visualization.report import make_report
from smmcl.visualization.runs import read_runs


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path,
                        help="OUTPUT_DIR of each run; the first is the reference")  # fmt: skip
    parser.add_argument("--output", type=Path, help="default: report.html in the first folder")
    parser.add_argument("--pairs", type=int, default=3,
                        help="pairs to draw of the most gained and the most lost")  # fmt: skip
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    setup_logger(name="smmcl")
    output = args.output or args.folders[0] / "report.html"
    write_text(output, make_report(read_runs(args.folders), num_pairs=args.pairs))
    print(f"report on {len(args.folders)} run(s): {output}")


if __name__ == "__main__":
    run(main)
