#!/usr/bin/env python3
"""Trains the rows of a grid with several seeds, resumes what was stopped, and tables the scores."""

import argparse
from pathlib import Path

from smmcl.cli import run
from smmcl.d2 import setup_logger
from smmcl.engine.experiments import Experiments
from smmcl.engine.grid import Grid, read_grid
from smmcl.evaluation.comparison import Comparison, measure_costs, put_into


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("grid", help="a YAML file, such as configs/experiments/nyudv2.yaml")
    parser.add_argument("--output", default="", metavar="DIR",
                        help="folder of the runs; default: output/experiments/NAME")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="run these rows alone")
    parser.add_argument("--limit-minutes", type=float, metavar="N",
                        help="stop after N minutes; the same command goes on")  # fmt: skip
    parser.add_argument("--table", action="store_true", help="run nothing: table what is finished")
    parser.add_argument("--write", type=Path, metavar="FILE",
                        help="also put the table between its marks in a Markdown file")  # fmt: skip
    return parser.parse_args()


def chosen_jobs(grid: Grid, rows: list[str] | None) -> list:
    for row in rows or ():
        if row not in grid.rows:
            raise ValueError(f"the grid has no row {row!r}. Choose from {', '.join(grid.rows)}.")
    return [job for job in grid.jobs if not rows or job.row in rows]


def main() -> None:
    args = parse_arguments()
    setup_logger(name="smmcl")
    grid = read_grid(args.grid, output=args.output)
    experiments = Experiments(chosen_jobs(grid, args.only), num_parallel=args.jobs)
    if not args.table:
        experiments.run(limit_minutes=args.limit_minutes)
    if not experiments.stopped_by:
        measure_costs(grid)
    comparison = Comparison(grid)
    comparison.save()
    if args.write:
        put_into(args.write, grid.name, comparison.markdown())
    print(comparison.markdown())
    experiments.finish()


if __name__ == "__main__":
    run(main)
