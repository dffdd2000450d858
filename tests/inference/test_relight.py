"""Images in other light while pairs are read: what changes, how often, by which draw."""

import numpy as np
import torch
from torch import Tensor, nn

from smmcl.inference.relight import Relit


class Dim(nn.Module):
    """Less light by a factor drawn from the seed."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    @torch.no_grad()
    def relight(self, visible: Tensor, *, seeds: list[int], low: float) -> Tensor:
        drawn = [np.random.default_rng(seed).uniform(low, 1) for seed in seeds]
        return visible * self.factor * visible.new_tensor(drawn).view(-1, 1, 1, 1)


def test_reading_darkens_the_visible_image_alone() -> None:
    rng = np.random.default_rng(0)
    visible = rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)
    auxiliary = rng.integers(0, 256, (24, 40, 1), dtype=np.uint8)
    change = Relit(1.0, Dim(), {"low": 1.0})
    dark, other = change(visible, auxiliary, np.random.default_rng(1))
    assert other is auxiliary
    assert dark.dtype == np.uint8
    assert np.abs(dark - visible / 2).max() <= 0.51
    change = Relit(1.0, Dim(), {"low": 0.5})
    one, same, third = (change(visible, auxiliary, np.random.default_rng(s))[0] for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, third)
    never = Relit(0.0, Dim(), {"low": 1.0})
    assert never(visible, auxiliary, np.random.default_rng(1))[0] is visible
