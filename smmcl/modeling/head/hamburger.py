"""Hamburger (Geng et al., ICLR 2021): global context by non-negative matrix factorization.

Shape shorthand in this module:
    N: images in the batch     C: channels     H, W: feature height and width
    R: rank, the number of bases
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.modeling.layers.cpu import PointConv
from smmcl.modeling.layers.init import init_decoder

EPSILON = 1e-6  # keeps the multiplicative updates finite where a factor is zero


class Hamburger(nn.Module):
    """A factorization between two 1x1 convolutions, around it a residual; keeps the map's shape."""

    def __init__(self, channels: int, *, rank: int, steps_train: int, steps_test: int) -> None:
        """
        Args:
            channels: C.
            rank, steps_train, steps_test: see `MatrixFactorization`.
        """
        super().__init__()
        self.conv_in = PointConv(channels, channels)
        self.factorization = MatrixFactorization(
            channels, rank=rank, steps_train=steps_train, steps_test=steps_test
        )
        self.conv_out = PointConv(channels, channels)
        init_decoder(self)

    def forward(self, feature: Tensor, *, bases: Tensor | None = None) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W); for `bases` see `MatrixFactorization`."""
        context = self.factorization(F.relu(self.conv_in(feature)), bases=bases)
        return F.relu(feature + self.conv_out(context))


class MatrixFactorization(nn.Module):
    """Approximates each image's map, a non-negative matrix (C, H * W), by bases times weights.

    A few multiplicative updates end where their start lets them, so it is part of the result:

    - Training draws it anew for each image and step, as the authors do, such that the network
      learns not to depend on it.
    - Evaluation starts every image from the same fixed draw: a result depends neither on the rest
      of the batch nor on what ran before. The same shape, threads and machine give equal bits,
      others agree up to rounding. The draw comes from numpy's legacy generator, whose stream is
      frozen, so it need not be in the state dict and any checkpoint evaluates the same everywhere.
    - `bases` overrules both, for references and for the spread over several draws.

    Computes in float32 under autocast: bfloat16 cannot hold the quotients of the updates.
    """

    def __init__(self, channels: int, *, rank: int, steps_train: int, steps_test: int) -> None:
        """
        Args:
            channels: C.
            rank: R.
            steps_train, steps_test: updates of both factors, in training and at evaluation.
        """
        super().__init__()
        self.rank = rank
        self.steps_train = steps_train
        self.steps_test = steps_test
        self.register_buffer("start", _fixed_draw(0, channels, rank), persistent=False)  # (C, R)

    def forward(self, feature: Tensor, *, bases: Tensor | None = None) -> Tensor:
        """
        Args:
            feature: (N, C, H, W), non-negative.
            bases: the start (C, R) or (N, C, R), columns of unit length; None as the class says.

        Returns:
            the approximation (N, C, H, W).
        """
        data = feature.flatten(2)  # (N, C, H * W)
        data = data.to(torch.promote_types(data.dtype, torch.float32))
        if bases is None:
            bases = self._draw(data) if self.training else self.start
        bases = bases.to(data).expand(data.shape[0], -1, -1)  # (N, C, R)
        with torch.autocast(data.device.type, enabled=False):
            approximation = self._factorize(data, bases)  # (N, H * W, C)
        approximation = approximation.mT.unflatten(2, feature.shape[2:])  # (N, C, H, W)
        return approximation.to(feature.dtype)

    def choose_start(self, seed: int) -> None:
        """Lets evaluation start from the fixed draw number `seed`; without it, from number 0."""
        self.start.copy_(_fixed_draw(seed, *self.start.shape))

    def _draw(self, data: Tensor) -> Tensor:
        shape = (data.shape[0], data.shape[1], self.rank)
        return F.normalize(torch.rand(shape, dtype=data.dtype, device=data.device), dim=1)

    def _factorize(self, data: Tensor, bases: Tensor) -> Tensor:
        coefficients = torch.softmax(data.mT @ bases, dim=-1)  # (N, H * W, R)
        for _ in range(self.steps_train if self.training else self.steps_test):
            coefficients = _update(coefficients, bases, data.mT)
            bases = _update(bases, coefficients, data)
        coefficients = _update(coefficients, bases, data.mT)
        return coefficients @ bases.mT


def _fixed_draw(seed: int, channels: int, rank: int) -> Tensor:
    start = np.random.RandomState(seed).random_sample((channels, rank))
    return F.normalize(torch.from_numpy(start).float(), dim=0)  # (C, R)


def _update(factor: Tensor, other: Tensor, product: Tensor) -> Tensor:
    """One multiplicative update (Lee and Seung, 2001) of a factor toward product = factor other^T.

    Args:
        factor: (N, I, R), non-negative.
        other: (N, J, R), the factor that stays.
        product: (N, I, J).
    """
    wanted = product @ other  # (N, I, R)
    present = factor @ (other.mT @ other)  # (N, I, R)
    return factor * wanted / (present + EPSILON)
