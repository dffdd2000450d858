#!/usr/bin/env python3
"""Brings NYU Depth v2, as its authors publish it, into the documented tree.

It needs three files: nyu_depth_v2_labeled.mat and splits.mat of the dataset's page, and
classMapping40.mat of Gupta et al., which maps the 894 labels to 40 classes. Files that are there
already are kept, so a stopped run goes on where it was:

    pip install -e '.[nyudv2]'
    python datasets/prepare_nyudv2.py nyu_depth_v2_labeled.mat splits.mat classMapping40.mat \\
        datasets/nyudv2
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from smmcl.cli import run
from smmcl.files.atomic import write_new_image, write_new_text


def convert(
    images: Any, depths: Any, labels: Any, *, class_of_label: np.ndarray, output: Path
) -> None:
    """Writes all pairs.

    Args:
        images: (N, 3, W, H) uint8, as MATLAB's order of axes is read from HDF5.
        depths: (N, W, H) meters.
        labels: (N, W, H), 0 unlabeled, 1..894.
        class_of_label: (894,) class 1..40 of each label, 0 for none.
        output: folder of the tree.
    """
    table = np.concatenate([[0], class_of_label]).astype(np.uint8)  # by label, 0 stays void
    for index in tqdm(range(len(images)), unit="pair"):
        paths = [output / part / f"{index}.png" for part in ("RGB", "Depth", "Label")]
        if all(path.exists() for path in paths):
            continue
        millimeters = np.rint(1000 * np.asarray(depths[index]).T)  # (H, W)
        write_new_image(paths[0], np.asarray(images[index]).transpose(2, 1, 0).copy())  # (H, W, 3)
        write_new_image(paths[1], np.clip(millimeters, 0, 65535).astype(np.uint16))
        write_new_image(paths[2], table[np.asarray(labels[index]).T])


def write_lists(splits: dict[str, Sequence[int]], *, output: Path, num_pairs: int) -> None:
    """Writes train.txt and test.txt; the indices of the splits count from 1, the files from 0."""
    together = sorted(index for indices in splits.values() for index in indices)
    if together != list(range(1, num_pairs + 1)):
        raise ValueError(
            f"the splits name {len(together)} pairs, not each of the {num_pairs} once. "
            "Give the splits.mat that belongs to the dataset."
        )
    for name, indices in splits.items():
        write_new_text(output / f"{name}.txt", "".join(f"{i - 1}\n" for i in sorted(indices)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("labeled", "splits", "mapping", "output"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    for path in (args.labeled, args.splits, args.mapping):
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist. The top of this tool says what it is.")
    try:
        import h5py
        from scipy.io import loadmat
    except ModuleNotFoundError as error:
        message = f"{error.name} is needed to read .mat files: pip install -e '.[nyudv2]'."
        raise ValueError(message) from error
    splits = loadmat(args.splits)
    indices = {"train": splits["trainNdxs"].ravel(), "test": splits["testNdxs"].ravel()}
    mapping = loadmat(args.mapping)["mapClass"].ravel()
    with h5py.File(args.labeled, "r") as file:
        write_lists(
            {name: [int(i) for i in values] for name, values in indices.items()},
            output=args.output,
            num_pairs=len(file["images"]),
        )
        convert(
            file["images"],
            file["depths"],
            file["labels"],
            class_of_label=mapping,
            output=args.output,
        )
    print(f"Check it: python tools/check_dataset.py nyudv2, with {args.output.parent} as root")


if __name__ == "__main__":
    run(main)
