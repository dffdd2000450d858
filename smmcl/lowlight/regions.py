"""Masks that leave parts of a view: by saliency, motion, labels, auxiliary image, or blocks.

A source of masks is anything with `mask(view)`, which returns (N, 1, H, W) bool: True keeps a
pixel, False sets it to 0 after normalization. One mask serves both views of a pair. A mask that
would keep nothing of an image keeps all of it.

Shape shorthand in this module:
    N: images     H, W: height and width
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from smmcl.data.appearance.motion import moving
from smmcl.data.appearance.saliency import spectral_residual
from smmcl.lowlight.view import View


class MaskSource(Protocol):
    def mask(self, view: View) -> Tensor: ...


def or_all(keep: Tensor) -> Tensor:
    """(N, 1, H, W): keeps all of an image of which nothing is kept."""
    return keep | ~keep.flatten(1).any(1).view(-1, 1, 1, 1)


def keep_above(values: Tensor, quantile: float) -> Tensor:
    """Keeps 1 - quantile of an image's places: those of its largest values (N, 1, H, W)."""
    if not 0 <= quantile < 1:
        raise ValueError(f"quantile is {quantile}. Set it to 0 or more, and below 1.")
    flat = values.flatten(1)  # (N, H * W)
    rank = math.floor(quantile * (flat.shape[1] - 1)) + 1
    threshold = flat.kthvalue(rank, dim=1).values  # (N,)
    return or_all(values > threshold.view(-1, 1, 1, 1))


@dataclass(frozen=True)
class SaliencyMask:
    """Keeps the salient part of the visible image (WiiD's target highlighting)."""

    quantile: float = 0.5  # of saliency, erased. Authors' code: 0.004 or 0.005
    is_rounded: bool = False  # to steps of 1/255 before the quantile. Authors' code: True

    def mask(self, view: View) -> Tensor:
        saliency = spectral_residual(view.image)
        return keep_above((255 * saliency).floor() if self.is_rounded else saliency, self.quantile)


@dataclass(frozen=True)
class AuxiliaryMask:
    """Keeps the highest values of the auxiliary image (warm, or far), or the lowest."""

    quantile: float = 0.5
    keeps_low: bool = False

    def mask(self, view: View) -> Tensor:
        values = view.need("auxiliary").mean(1, keepdim=True)  # (N, 1, H, W)
        return keep_above(-values if self.keeps_low else values, self.quantile)


@dataclass(frozen=True)
class LabelMask:
    """Erases random cells of a grid that have no pixel of the target classes (WiiD detection).

    An exact mask would give the labels away. Beyond the last whole cells all is kept.
    """

    classes: Sequence[int]  # of the targets
    share: float = 0.3  # of the cells without targets, erased
    num_cells: int = 5  # along each side

    def mask(self, view: View) -> Tensor:
        labels = view.need("labels")[:, None]  # (N, 1, H, W)
        is_target = torch.isin(labels, torch.tensor(self.classes, device=labels.device))
        height, width = (side // self.num_cells for side in labels.shape[-2:])  # of a cell
        cells = F.max_pool2d(is_target.float(), (height, width))[:, 0].cpu().numpy()
        keep = torch.ones_like(is_target)
        for image, generator in enumerate(view.generators(stream=0)):
            places = np.argwhere(cells[image, : self.num_cells, : self.num_cells] == 0)
            chosen = generator.permutation(places)[: int(self.share * len(places))]
            for top, left in chosen * (height, width):
                keep[image, :, top : top + height, left : left + width] = False
        return or_all(keep)


def erase_blocks(size: tuple[int, int], corners: np.ndarray, side: int) -> Tensor:
    """(H, W) bool, False in squares whose top left corners (row, column) are given."""
    keep = torch.ones(size, dtype=torch.bool)
    for row, column in corners.tolist():
        keep[row : row + side, column : column + side] = False
    return keep


@dataclass(frozen=True)
class BlockMask:
    """Erases random squares of one side per image, which may overlap."""

    sides: tuple[int, int] = (32, 63)  # smallest and largest, in pixels
    shares: tuple[float, ...] = (0.5, 0.6)  # of the image, if squares did not overlap

    def mask(self, view: View) -> Tensor:
        size = tuple(view.image.shape[-2:])
        keeps = []
        for generator in view.generators(stream=1):
            side = min(int(generator.integers(*self.sides, endpoint=True)), *size)
            num = int(math.prod(size) * generator.choice(self.shares) / side**2)
            corners = generator.integers(0, [length - side + 1 for length in size], (num, 2))
            keeps.append(erase_blocks(size, corners, side))
        return or_all(torch.stack(keeps)[:, None].to(view.image.device))


@dataclass(frozen=True)
class RandomMask:
    """One of several sources for each image. WiiD masks 10 % by saliency and 60 % by blocks."""

    sources: Sequence[MaskSource]
    shares: Sequence[float]  # of the images, one per source; the rest is not masked

    def mask(self, view: View) -> Tensor:
        draws = [generator.random() for generator in view.generators(stream=2)]
        choices = torch.from_numpy(np.searchsorted(np.cumsum(self.shares), draws, side="right"))
        keep = torch.ones_like(view.image[:, :1], dtype=torch.bool)
        for index, source in enumerate(self.sources):
            chosen = (choices == index).to(keep.device)
            if chosen.any():
                keep[chosen] = source.mask(view)[chosen]
        return keep


@dataclass(frozen=True)
class TemporalMixture:
    """Keeps what moves, when the images of a view are the frames of one clip in order.

    A mixture of Gaussians per pixel, OpenCV's MOG2, learns the background of the bright clip; on
    dark clips it fails. The first frame has no past and is kept.
    """

    rate: float = 0.05  # of learning
    deviations: float = 2.5  # a value further from a mode than these is not its

    def mask(self, view: View) -> Tensor:
        frames = (255 * view.image).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        keep = moving(frames, rate=self.rate, deviations=self.deviations)  # (N, H, W)
        return or_all(torch.from_numpy(keep)[:, None].to(view.image.device))
