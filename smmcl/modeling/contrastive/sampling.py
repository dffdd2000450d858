"""Which cells of a batch become views: the same number from every class of every image.

Runs on the labels while they are still on the CPU and returns indices, so that nothing waits for
the accelerator. There is no loop over anchor sets.

Shape shorthand in this module:
    N: images in the batch     H, W: label height and width     h, w: feature height and width
    K: classes     S: anchor sets (one class of one image)     V: views per set
    M: views in all     D: embedding size
"""

import dataclasses
from collections.abc import Sequence

import torch


@dataclasses.dataclass(frozen=True)
class Views:
    """The sampled views, sets of one class side by side and classes ascending."""

    visible: torch.Tensor  # (S * V,) cells of the visible feature map, counted along N * h * w
    auxiliary: torch.Tensor  # (S * V,) of the auxiliary feature map
    labels: torch.Tensor  # (S * V,) class of each view, the same for both modalities
    num_sets: int  # S, 0 when there is nothing to contrast
    views_per_set: int  # V, 0 likewise


def shrink_labels(labels: torch.Tensor, *, size: tuple[int, int]) -> torch.Tensor:
    """Bring labels (N, H, W) to (N, h, w): the pixel at the floor of each cell's corner.

    Rows and columns have their own scale. Integers, because a floating-point scale such as
    490 / 16 may land on the neighbour.
    """
    height, width = size
    rows = torch.arange(height) * labels.shape[1] // height
    columns = torch.arange(width) * labels.shape[2] // width
    return labels[:, rows[:, None], columns]  # (N, h, w)


def draw_keys(
    seeds: Sequence[int], *, size: tuple[int, int], num_classes: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random numbers in [0, 1) that decide who is drawn, for `sample_views`: the lowest win.

    Keys and no permutations: those of an image come from its own seed alone, whatever the other
    images of the batch contain.
    """
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        shapes = (size, size, (num_classes,))
        drawn.append([torch.rand(*s, generator=generator, dtype=torch.float64) for s in shapes])
    return tuple(torch.stack(keys) for keys in zip(*drawn, strict=True))


def sample_views(
    labels: torch.Tensor,
    *,
    num_classes: int,
    keys: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
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
        keys: of the visible and the auxiliary cells, (N, h, w) each, the same tensor for shared
            positions; and of the sets, (N, K).
        min_views: smallest number of cells of an anchor set, at least 1.
        max_views: largest V.
        max_features: largest S * V.
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
        visible=_lowest_cells(keys[0], set_of_cell, sizes, kept, num_views),
        auxiliary=_lowest_cells(keys[1], set_of_cell, sizes, kept, num_views),
        labels=(kept // len(labels)).repeat_interleave(num_views),
        num_sets=len(kept),
        views_per_set=num_views,
    )


def take_cells(maps: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Embeddings (M, D) of some cells, without a copy of the maps that has the channels last.

    Args:
        maps: (N, D, h, w).
        cells: (M,) counted along N * h * w, on the device of the maps.
    """
    size, area = maps.shape[1], maps.shape[2] * maps.shape[3]
    first = cells // area * size * area + cells % area  # (M,) entry of the first channel
    entries = first[:, None] + torch.arange(0, size * area, area, device=maps.device)  # (M, D)
    return maps.flatten().index_select(0, entries.flatten()).view(-1, size)  # (M, D)


def sets_of_cells(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Number of each cell's set, class * N + image; K * N where the label is ignored."""
    image = torch.arange(len(labels))[:, None, None]  # (N, 1, 1)
    ignored = (labels < 0) | (labels >= num_classes)
    sets = (labels * len(labels) + image).masked_fill(ignored, num_classes * len(labels))
    return sets.flatten()  # (N * h * w,)


def _lowest_cells(
    keys: torch.Tensor,
    set_of_cell: torch.Tensor,
    sizes: torch.Tensor,
    kept: torch.Tensor,
    num_views: int,
) -> torch.Tensor:
    """The `num_views` cells of each kept set that have the lowest keys, (S * V,)."""
    by_key = keys.flatten().argsort(stable=True)  # (N * h * w,)
    by_set = by_key[set_of_cell[by_key].argsort(stable=True)]  # sets in order, in each by key
    first = (sizes.cumsum(0) - sizes)[kept]  # (S,) where each set begins
    return by_set[first[:, None] + torch.arange(num_views)].flatten()  # (S * V,)
