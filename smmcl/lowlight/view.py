"""What masks and second views are made of: the bright view of a batch, and draws by its seeds.

Shape shorthand in this module:
    N: images     H, W: height and width     A: channels of the auxiliary image
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from smmcl.modeling.wrapping import images_of, pad


@dataclass(frozen=True)
class View:
    """A batch of pairs before normalization."""

    image: Tensor  # (N, 3, H, W) RGB in 0..1
    auxiliary: Tensor | None = None  # (N, A, H, W)
    labels: Tensor | None = None  # (N, H, W)
    seeds: Sequence[int] = ()  # one per image, for sources that draw

    def need(self, name: str) -> Tensor:
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"The view has no {name}. Provide it, or choose another mask.")
        return value

    def generators(self, stream: int) -> list[np.random.Generator]:
        """One per image. Sources with different streams draw independently."""
        if len(self.seeds) != len(self.image):
            counts = f"{len(self.seeds)} seeds for {len(self.image)} images"
            raise ValueError(f"The view has {counts}. Provide one per image.")
        return [np.random.default_rng((seed, stream)) for seed in self.seeds]

    def uniform(self, low: float, high: float) -> Tensor:
        """One number per image, (N, 1, 1, 1)."""
        numbers = [generator.uniform(low, high) for generator in self.generators(stream=3)]
        return self.image.new_tensor(numbers).view(-1, 1, 1, 1)

    def normal(self, *shape: int, stream: int = 4) -> Tensor:
        """Standard normal numbers, (N, *shape), those of an image from its seed alone."""
        draws = [g.standard_normal(shape, dtype=np.float32) for g in self.generators(stream)]
        return torch.from_numpy(np.stack(draws)).to(self.image)


def preprocess(model: nn.Module, inputs: list[dict], ignore_value: int = 255) -> tuple[Any, View]:
    """The model's pair, and the view of it, with labels where all inputs have them."""
    images_of(inputs, "image")
    pair, labels = model.preprocess(inputs), None
    if all("sem_seg" in record for record in inputs):
        labels = pad([record["sem_seg"] for record in inputs], pair.visible.shape[2:], ignore_value)
        labels = labels.to(pair.visible.device)  # (N, H, W)
    seeds = [record["view_seed"] for record in inputs if "view_seed" in record]
    return pair, View(pair.visible, pair.auxiliary, labels, seeds)
