#!/usr/bin/env python3
"""Draws what the model really receives: pairs after the mapper, with labels and padding."""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from smmcl.cli import run
from smmcl.d2 import CfgNode, setup_logger
from smmcl.data.datasets.build import agreed_metadata
from smmcl.data.reader import PairReader
from smmcl.engine.trainer import Trainer
from smmcl.files.atomic import atomic
from smmcl.inference.named_model import add_model_arguments, named_config
from smmcl.visualization.panels import draw_pair, pictures


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model_arguments(parser)
    parser.add_argument("--split", choices=("train", "test"), default="train",
                        help="train: augmented; test: as stored")  # fmt: skip
    parser.add_argument("--dataset", metavar="NAME", help="instead of the config's")
    parser.add_argument("--limit", type=int, default=8, help="number of pairs to draw")
    parser.add_argument("--output", type=Path, default=Path("output/data"),
                        help="folder; default: output/data")  # fmt: skip
    return parser.parse_args()


def samples(cfg: CfgNode, *, split: str) -> Iterator[dict[str, Any]]:
    """What the loader of a split gives the model, pair by pair, in its order."""
    if split == "train":
        loaders = [Trainer.build_train_loader(cfg)]
    else:
        loaders = [Trainer.build_test_loader(cfg, name) for name in cfg.DATASETS.TEST]
    for batch in itertools.chain.from_iterable(loaders):
        yield from batch


def draw_sample(sample: dict[str, Any], *, cfg: CfgNode, metadata: Any) -> np.ndarray:
    """The panel of one sample: (height, width, 3) uint8."""
    visible, auxiliary = pictures(sample, fmt=cfg.INPUT.FORMAT)
    if "sem_seg" in sample:
        maps = {"labels": sample["sem_seg"].numpy()}  # (H, W)
    elif "sem_seg_file_name" in sample:
        # At test the model gets no labels; the evaluator reads them.
        maps = {"labels": PairReader.of(metadata).label(sample)}
    else:
        maps = {}
    top, left, bottom, right = sample["valid_box"]
    heading = (
        f"{Path(sample['file_name']).stem}    {visible.shape[0]}x{visible.shape[1]}, of these "
        f"{bottom - top}x{right - left} from the stored {sample['height']}x{sample['width']}"
    )
    return draw_pair(
        visible,
        auxiliary,
        maps=maps,
        kind=PairReader.of(metadata).kind,
        metadata=metadata,
        heading=heading,
        valid_box=sample["valid_box"],
    )


def main() -> None:
    args = parse_arguments()
    setup_logger(name="smmcl")
    key = f"DATASETS.{args.split.upper()}"
    named = [key, (args.dataset,)] if args.dataset else []
    cfg = named_config(args, "DATALOADER.NUM_WORKERS", 0, *named)
    metadata = agreed_metadata(cfg.DATASETS.TRAIN if args.split == "train" else cfg.DATASETS.TEST)
    limited = itertools.islice(samples(cfg, split=args.split), args.limit)
    count = 0
    for sample in tqdm(limited, total=args.limit, unit="pair"):
        picture = Image.fromarray(draw_sample(sample, cfg=cfg, metadata=metadata))
        with atomic(args.output / f"{count:05d}_{Path(sample['file_name']).stem}.png") as path:
            picture.save(path)
        count += 1
    print(f"{count} pairs of {key} drawn into {args.output}")


if __name__ == "__main__":
    run(main)
