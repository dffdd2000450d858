#!/usr/bin/env python3
"""Checks every file of a dataset and draws a contact sheet; exit status 1 on any problem."""

import argparse
import functools
import itertools
from pathlib import Path

from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from smmcl.cli import run
from smmcl.d2 import setup_logger
from smmcl.data.datasets.build import builtin_splits, ensure_registered
from smmcl.data.datasets.check import SplitReport, check_between, check_split
from smmcl.data.datasets.description import read_description
from smmcl.files.atomic import atomic
from smmcl.visualization.sheet import contact_sheet


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", metavar="NAME|PATH", help="a set (mfnet), one split of it "
                        "(mfnet_train), a registered dataset, or a dataset file")  # fmt: skip
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="contact sheet to write")
    parser.add_argument("--sheet-pairs", type=int, default=6, help="pairs of each split on it")
    return parser.parse_args()


def register(name: str) -> list[str]:
    """Registers what is to be checked: of a set, the splits that are here and share no list."""
    builtin = {path.stem: path for path, _ in builtin_splits().values()}
    if name not in builtin and Path(name).suffix not in (".yaml", ".yml"):
        ensure_registered([name])
        return [name]
    names, used, errors = [], set(), []
    for split, facts in read_description(builtin.get(name, name)).splits.items():
        if facts.only is not None or used & set(facts.lists):
            continue  # a part or a union of other splits
        try:
            names.append(f"{name}{'_' if name in builtin else ':'}{split}")
            ensure_registered(names[-1:])
        except FileNotFoundError as error:
            errors.append(error)
            print(f"split {split} is not checked: {error}")
            names.pop()
            continue
        used |= {entry for entry in facts.lists if "{split}" not in entry}
    if not names:
        raise errors[0]
    return names


def describe(report: SplitReport) -> str:
    """What a person wants to know of a split: counts, sizes, statistics, classes, problems."""
    mean, std = report.visible.mean_and_std()
    auxiliary_mean, auxiliary_std = report.auxiliary.mean_and_std()
    facts = {
        "pairs": f"{report.num_pairs}, of which {report.num_sound} sound",
        "sizes": ", ".join(f"{h}x{w}: {n}" for (h, w), n in report.sizes.most_common(8)),
        "tags": ", ".join(f"{tag} {count}" for tag, count in report.tags.items()) or "none",
        "visible": f"mean {mean}, std {std} (RGB, 0..255)",
        "auxiliary": f"mean {auxiliary_mean}, std {auxiliary_std} (on the scale 0..255)"
        if report.alignments
        else "none",
    }
    pixels = max(1, report.class_pixels.sum() + report.ignored_pixels)
    rows = [
        [name, count, 100 * count / pixels, images]
        for name, count, images in zip(
            report.classes, report.class_pixels, report.class_images, strict=True
        )
    ]
    rows.append(["(ignored)", report.ignored_pixels, 100 * report.ignored_pixels / pixels, None])
    lines = [f"\n{report.name}", *(f"  {name}: {value}" for name, value in facts.items())]
    lines.append(tabulate(rows, ["class", "pixels", "%", "images"], floatfmt=".3f"))
    lines += [f"  note: {note}" for note in report.notes]
    lines += [f"  PROBLEM: {problem}" for problem in report.problems]
    return "\n".join(lines)


def main() -> None:
    args = parse_arguments()
    setup_logger(name="smmcl")
    names = register(args.name)
    progress = functools.partial(tqdm, unit="pair", disable=None)
    reports = [check_split(name, progress=progress) for name in names]
    for report in reports:
        print(describe(report))
    shared = [
        problem
        for first, second in itertools.combinations(reports, 2)
        for problem in check_between(first, second)
    ]
    for problem in shared:
        print(f"PROBLEM: {problem}")
    if args.sheet:
        sheet = contact_sheet(names, num_pairs=args.sheet_pairs)
        with atomic(args.sheet) as path:
            Image.fromarray(sheet).save(path)
        print(f"contact sheet: {args.sheet}")
    num_problems = len(shared) + sum(len(report.problems) for report in reports)
    print(f"{args.name}: {num_problems} problems in {sum(r.num_pairs for r in reports)} pairs")
    raise SystemExit(1 if num_problems else 0)


if __name__ == "__main__":
    run(main)
