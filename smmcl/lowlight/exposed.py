"""Well and badly exposed images for the enhancer: of folders, or made from training images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from smmcl.d2 import CfgNode
from smmcl.data.appearance.photometric import gamma_to_mean
from smmcl.data.loader import Record, extends_training
from smmcl.data.mapper import channels_first
from smmcl.data.reader import PairReader
from smmcl.files.images import decode
from smmcl.files.pairing import find_images


@dataclass(frozen=True)
class ExposedImages(Dataset):
    """An image drawn for each position of the stream, as (3, h, w) bytes in RGB."""

    paths: Sequence[str | Path]
    ranges: Sequence[tuple[float, float]]  # of the mean brightness to bring it to; none: as it is
    seed: int

    def __getitem__(self, position: int) -> Tensor:
        generator = np.random.default_rng((self.seed, position))
        path = self.paths[generator.integers(len(self.paths))]
        reader = PairReader(format=None, num_classes=1)
        image = reader.visible(decode(path, role="exposed image"))
        if self.ranges:
            low, high = self.ranges[generator.integers(len(self.ranges))]
            image = gamma_to_mean(image, generator.uniform(low, high))
        return channels_first(image)


@extends_training
def add_exposed_images(cfg: CfgNode, records: list[Record], beside: dict[str, Dataset]) -> None:
    if cfg.MODEL.META_ARCHITECTURE != "Enhancer":
        return
    node = cfg.MODEL.ENHANCER
    kinds = {
        "positive": (node.POSITIVES, node.WELL_EXPOSED),
        "negative": (node.NEGATIVES, node.BADLY_EXPOSED),
    }
    for place, (name, (folder, ranges)) in enumerate(kinds.items(), start=2):
        seed = (cfg.SEED + place) % 2**32
        if folder:
            beside[name] = ExposedImages(find_images(folder), (), seed)
        else:
            beside[name] = ExposedImages([r["file_name"] for r in records], ranges, seed)
