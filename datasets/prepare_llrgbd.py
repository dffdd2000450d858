#!/usr/bin/env python3
"""Brings LLRGBD-synthetic into the documented tree, by symbolic links to the files as they were
released.

It takes three folders whose files share their names. With the published lists, the split is the
published one; without them it is drawn by seed, 1418 for training, and SPLIT.txt says "own draw":
scores on it do not stand beside published ones.

    python datasets/prepare_llrgbd.py --rgb low_light --depth depth --label label datasets/llrgbd
"""

import argparse
import os
import random
from pathlib import Path

from tqdm import tqdm

from smmcl.cli import run
from smmcl.files.atomic import write_new_text

NUM_TRAIN, NUM_PAIRS = 1418, 1897


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for part in ("rgb", "depth", "label"):
        parser.add_argument(f"--{part}", type=Path, required=True, help=f"folder of {part} .png")
    parser.add_argument("--lists", type=Path, help="folder with the published train.txt, test.txt")
    parser.add_argument("--seed", type=int, default=0, help="of an own draw")
    parser.add_argument("output", type=Path)
    return parser.parse_args()


def find_names(folders: dict[str, Path]) -> list[str]:
    """Names that all folders have; one that a folder lacks is an error."""
    names = {part: {path.stem for path in folder.glob("*.png")} for part, folder in folders.items()}
    everywhere, anywhere = set.intersection(*names.values()), set.union(*names.values())
    if not anywhere or everywhere != anywhere:
        lacking = sorted(anywhere - everywhere)[:3]
        counts = ", ".join(f"{part} {len(found)}" for part, found in names.items())
        raise ValueError(
            f"the folders do not hold the same names ({counts}; {', '.join(lacking) or 'no'} .png "
            "is missing somewhere). Give folders whose files belong together."
        )
    return sorted(everywhere)


def split(names: list[str], *, lists: Path | None, seed: int) -> tuple[dict[str, list[str]], str]:
    """Returns the names of both splits, and where the split comes from."""
    if lists is not None:
        splits = {part: (lists / f"{part}.txt").read_text().split() for part in ("train", "test")}
        if unknown := set(splits["train"] + splits["test"]) - set(names):
            raise ValueError(f"{lists} names {sorted(unknown)[:3]}, of which there are no files.")
        return splits, f"published lists of {lists.name}\n"
    if len(names) != NUM_PAIRS:
        raise ValueError(f"{len(names)} pairs are here, {NUM_PAIRS} are published: fetch the rest.")
    drawn = random.Random(seed).sample(names, len(names))
    splits = {"train": sorted(drawn[:NUM_TRAIN]), "test": sorted(drawn[NUM_TRAIN:])}
    return splits, f"own draw, seed {seed}: not the published split\n"


def main() -> None:
    args = parse_arguments()
    folders = {"rgb": args.rgb, "depth": args.depth, "label": args.label}
    splits, origin = split(find_names(folders), lists=args.lists, seed=args.seed)
    write_new_text(args.output / "SPLIT.txt", origin)
    for part, names in splits.items():
        write_new_text(args.output / part / f"{part}.txt", "".join(f"{name}\n" for name in names))
        for kind, folder in folders.items():
            (args.output / part / kind).mkdir(exist_ok=True)
            for name in tqdm(names, unit="file", desc=f"{part}/{kind}", disable=None):
                target = args.output / part / kind / f"{name}.png"
                if not os.path.lexists(target):
                    target.symlink_to((folder / f"{name}.png").resolve())
    print(f"{args.output}: {len(splits['train'])} + {len(splits['test'])} pairs, {origin}", end="")


if __name__ == "__main__":
    run(main)
