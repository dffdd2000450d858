"""One image in other light, by any model with `relight`: for files, and for what others train on.

`relight(visible, *, seeds, **options)` takes RGB (N, 3, H, W) in 0..1 to the same.

Shape shorthand in this module:
    H, W: height and width
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn


def relight_image(
    model: nn.Module, image: np.ndarray, *, seed: int, options: Mapping[str, Any]
) -> np.ndarray:
    """(H, W, 3) float32 in 0..1 to the same; what is drawn follows from the seed."""
    batch = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    relit = model.relight(batch.to(next(model.parameters())), seeds=[seed], **options)[0]
    return relit.permute(1, 2, 0).cpu().numpy()


@dataclass(frozen=True)
class Relit:
    """Changes the visible image while pairs are read, as INPUT.LOW_LIGHT does."""

    probability: float  # of a change
    model: nn.Module
    options: Mapping[str, Any]

    def __call__(
        self, visible: np.ndarray, auxiliary: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        if generator.random() >= self.probability:
            return visible, auxiliary
        image = visible.astype(np.float32) / 255
        seed = int(generator.integers(2**62))
        relit = relight_image(self.model, image, seed=seed, options=self.options)
        return np.rint(255 * relit).astype(np.uint8), auxiliary
