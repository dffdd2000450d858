"""Stochastic depth: residual branches that are dropped for some images in training.

Shape shorthand in this module:
    N: images in the batch
"""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Drops a residual branch for some images of the batch, in training only (stochastic depth).

    Each call draws for itself, so the two streams and the two branches of a block drop
    independently. What is kept is scaled by 1 / (1 - rate), such that the expected output equals
    the one at evaluation.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop path rate is {rate}, but must be at least 0 and below 1.")
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        weights = self.draw(branch)
        return branch if weights is None else branch * weights.to(branch.dtype)

    def draw(self, branch: Tensor) -> Tensor | None:
        """What `forward` multiplies by, (N, 1, 1, 1): 0 for the dropped images; None for all 1."""
        if not self.training or self.rate == 0:
            return None
        shape = (branch.shape[0],) + (1,) * (branch.dim() - 1)
        dtype = torch.promote_types(branch.dtype, torch.float32)
        return branch.new_empty(shape, dtype=dtype).bernoulli_(1 - self.rate) / (1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


def drop_path_rates(depths: tuple[int, ...], *, last: float) -> list[list[float]]:
    """Rates that rise linearly over all blocks, from 0 at the first to `last`, grouped by stage."""
    total = sum(depths)
    rates = iter(last * i / max(total - 1, 1) for i in range(total))
    return [[next(rates) for _ in range(depth)] for depth in depths]
