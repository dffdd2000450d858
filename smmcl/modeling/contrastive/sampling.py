"""Which cells of a batch become views: the same number from every class of every image.

Sampling reads the labels on the CPU and returns indices, so nothing waits for the accelerator.

Shape shorthand in this module:
    N: images in the batch     H, W: label height and width     h, w: feature height and width
    K: classes     S: anchor sets (one class of one image)     V: views per set
    M: views in all     D: embedding size
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Views:
    """The sampled views, sets of one class side by side and classes ascending."""

    visible: Tensor  # (S * V,) cells of the visible feature map, counted along N * h * w
    auxiliary: Tensor  # (S * V,) of the auxiliary feature map
    labels: Tensor  # (S * V,) class of each view, the same for both modalities
    num_sets: int  # S, 0 when there is nothing to contrast
    views_per_set: int  # V, 0 likewise


def shrink_labels(labels: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Bring labels (N, H, W) to (N, h, w): the pixel at the floor of each cell's corner.

    In integers, because a floating-point scale such as 490 / 16 may land on the neighbor.
    """
    rows, columns = (torch.arange(n) * m // n for n, m in zip(size, labels.shape[1:], strict=True))
    return labels[:, rows[:, None], columns]  # (N, h, w)


def draw_keys(
    seeds: Sequence[int], *, size: tuple[int, int], num_classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Random numbers in [0, 1) for `sample_views`, which draws the lowest.

    The keys of an image depend on its own seed alone, not on the other images of the batch.
    """
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        shapes = (size, size, (num_classes,))
        drawn.append([torch.rand(*s, generator=generator, dtype=torch.float64) for s in shapes])
    return tuple(torch.stack(keys) for keys in zip(*drawn, strict=True))


def sample_views(
    labels: Tensor,
    *,
    num_classes: int,
    keys: tuple[Tensor, Tensor, Tensor],
    min_views: int,
    max_views: int,
    max_features: int,
) -> Views:
    """Draw V cells without replacement from every (image, class) with enough of them.

    V is the size of the smallest such set, at most `max_views` and at most `max_features` / S.
    With more sets than `max_features`, that many random sets give one view each.

    Args:
        labels: (N, h, w); values outside 0..K-1, the ignored ones, never take part.
        num_classes: K.
        keys: of the visible and the auxiliary cells, (N, h, w) each, and of the sets, (N, K).
        min_views: smallest number of cells of an anchor set.
        max_views, max_features: largest V and S * V.
    """
    if min(min_views, max_views, max_features) < 1:
        raise ValueError(
            f"min_views is {min_views}, max_views {max_views} and max_features {max_features}, "
            "but each counts views and must be at least 1. Change MODEL.SMMCL.SAMPLER."
        )
    set_of_cell = sets_of_cells(labels, num_classes)  # (N * h * w,)
    sizes = torch.bincount(set_of_cell, minlength=num_classes * len(labels) + 1)  # (K * N + 1,)
    kept = (sizes[:-1] >= min_views).nonzero().squeeze(1)  # (S,)
    if len(kept) == 0:
        nothing = torch.zeros(0, dtype=torch.int64)
        return Views(nothing, nothing, nothing, num_sets=0, views_per_set=0)
    if len(kept) > max_features:
        lowest = keys[2].t().flatten()[kept].argsort(stable=True)[:max_features]
        kept = kept[lowest].sort().values  # (S,)
    num_views = min(int(sizes[kept].min()), max_views, max_features // len(kept))
    return Views(
        *(_lowest_cells(part, set_of_cell, sizes, kept, num_views) for part in keys[:2]),
        labels=(kept // len(labels)).repeat_interleave(num_views),
        num_sets=len(kept),
        views_per_set=num_views,
    )


def take_cells(maps: Tensor, cells: Tensor) -> Tensor:
    """(M, D) from (N, D, h, w) maps at (M,) cells on their device, counted along N * h * w."""
    area = maps.shape[2] * maps.shape[3]
    return maps.flatten(2)[cells // area, :, cells % area]  # (M, D)


def sets_of_cells(labels: Tensor, num_classes: int) -> Tensor:
    """Number of each cell's set, class * N + image; K * N where the label is ignored."""
    image = torch.arange(len(labels))[:, None, None]  # (N, 1, 1)
    ignored = (labels < 0) | (labels >= num_classes)
    sets = (labels * len(labels) + image).masked_fill(ignored, num_classes * len(labels))
    return sets.flatten()  # (N * h * w,)


def _lowest_cells(
    keys: Tensor,
    set_of_cell: Tensor,
    sizes: Tensor,
    kept: Tensor,
    num_views: int,
) -> Tensor:
    """The cells of each kept set that have the lowest keys, (S * V,)."""
    by_key = keys.flatten().argsort(stable=True)  # (N * h * w,)
    by_set = by_key[set_of_cell[by_key].argsort(stable=True)]  # sets in order, in each by key
    first = (sizes.cumsum(0) - sizes)[kept]  # (S,) where each set begins
    return by_set[first[:, None] + torch.arange(num_views)].flatten()  # (S * V,)
