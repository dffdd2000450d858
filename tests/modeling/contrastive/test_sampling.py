"""Sampling against counts a person can check, and against the sets of the reference numbers."""

import numpy as np
import pytest
import torch
from torch import Tensor

from smmcl.modeling.contrastive.sampling import (
    Views,
    draw_keys,
    sample_views,
    shrink_labels,
    take_cells,
)

# Image 0: five cells of class 0, three of class 2. Image 1: four of class 2, two of class 1, two
# ignored. With at least three cells there are three sets, of 5, 3 and 4 cells.
LABELS = torch.tensor([[[0, 0, 0, 2], [2, 0, 2, 0]], [[2, 1, 2, 255], [2, 1, 255, 2]]])


def sample(labels: Tensor, seed: int = 0, **changes: object) -> Views:
    arguments = {"num_classes": 3, "min_views": 3, "max_views": 300, "max_features": 4800} | changes
    seeds = range(seed, seed + len(labels))
    keys = draw_keys(seeds, size=labels.shape[1:], num_classes=arguments["num_classes"])
    return sample_views(labels, keys=keys, **arguments)


def test_every_set_gives_as_many_views_as_the_smallest_has_cells() -> None:
    views = sample(LABELS)
    assert (views.num_sets, views.views_per_set) == (3, 3)
    assert views.labels.tolist() == [0, 0, 0, 2, 2, 2, 2, 2, 2]
    # The set of three cells is taken whole, whatever the draw.
    assert sorted(views.visible[3:6].tolist()) == [3, 4, 6]
    for cells in (views.visible, views.auxiliary):
        assert len(set(cells.tolist())) == 9
        assert torch.equal(LABELS.flatten()[cells], views.labels)
        assert (cells[6:] >= 8).all(), "the last set is of image 1"


def test_the_views_are_a_uniform_draw_and_independent_in_the_modalities() -> None:
    labels = torch.zeros(1, 2, 2, dtype=torch.int64)
    labels[0, 0, 0] = 1  # V = 1: one of three cells of class 0
    draws = [sample(labels, seed, min_views=1) for seed in range(600)]
    visible = torch.tensor([views.visible[0] for views in draws])
    auxiliary = torch.tensor([views.auxiliary[0] for views in draws])
    # Each of the 3 x 3 outcomes 600 / 9 = 67 times; standard deviation 7.7.
    outcomes = torch.bincount((visible - 1) * 3 + auxiliary - 1, minlength=9)
    assert ((outcomes - 600 / 9).abs() < 35).all(), outcomes


def test_the_same_keys_give_the_same_views() -> None:
    first, again, other = sample(LABELS), sample(LABELS), sample(LABELS, seed=1)
    assert torch.equal(first.visible, again.visible)
    assert torch.equal(first.auxiliary, again.auxiliary)
    assert not torch.equal(first.visible, other.visible)


def test_shared_keys_share_positions() -> None:
    cells, _, sets = draw_keys([0, 1], size=(2, 4), num_classes=3)
    views = sample_views(
        LABELS, num_classes=3, keys=(cells, cells, sets), min_views=3, max_views=2, max_features=99
    )
    assert torch.equal(views.visible, views.auxiliary)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_views": 2}, (3, 2)),
        ({"max_features": 8}, (3, 2)),  # 8 // 3
        ({"max_features": 3}, (3, 1)),
        ({"max_features": 2}, (2, 1)),  # fewer features than sets: two sets of one view
        ({"min_views": 1}, (4, 2)),  # class 1 joins with its two cells
        ({"min_views": 5}, (1, 5)),
        ({"min_views": 6}, (0, 0)),
        ({"num_classes": 2, "min_views": 2}, (2, 2)),  # class 2 is no class: sets of 5 and 2
    ],
)
def test_limits(changes: dict[str, int], expected: tuple[int, int]) -> None:
    views = sample(LABELS, **changes)
    assert (views.num_sets, views.views_per_set) == expected
    assert len(views.labels) == len(views.visible) == len(views.auxiliary) == np.prod(expected)
    assert torch.equal(LABELS.flatten()[views.visible], views.labels)


def test_every_set_is_equally_likely_to_stay_when_there_are_too_many() -> None:
    # Class 0 has 15 cells and class 1 one: the size must not matter.
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    labels[0, 3, 3] = 1
    kept = [sample(labels, seed, min_views=1, max_features=1).labels.item() for seed in range(400)]
    assert 160 <= sum(kept) <= 240  # 200, standard deviation 10


def test_nothing_labeled_gives_no_views() -> None:
    views = sample(torch.full((2, 3, 3), 255))
    assert (views.num_sets, views.views_per_set, len(views.labels)) == (0, 0, 0)


def test_an_ignored_image_does_not_change_the_views_of_the_others() -> None:
    ignored = torch.full_like(LABELS[:1], 255)
    few, more = sample(LABELS), sample(torch.cat([LABELS, ignored]))
    assert torch.equal(few.visible, more.visible)
    assert torch.equal(few.labels, more.labels)


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_features 0.*MODEL.SMMCL.SAMPLER"):
        sample(LABELS, max_features=0)


def test_labels_shrink_by_the_floor_of_each_side() -> None:
    # 5 rows to 2: rows 0 and 2. 7 columns to 3: columns 0, 2 and 4.
    labels = torch.arange(35).reshape(1, 5, 7)
    assert shrink_labels(labels, size=(2, 3)).tolist() == [[[0, 2, 4], [14, 16, 18]]]


@pytest.mark.parametrize("size", [(480, 640), (490, 640), (480, 650), (72, 90), (512, 683)])
def test_labels_of_any_size_reach_every_cell(size: tuple[int, int]) -> None:
    height, width = (-(-side // 32) for side in size)
    rows = torch.arange(size[0])[None, :, None].expand(1, *size)
    shrunk = shrink_labels(rows, size=(height, width))
    assert shrunk.shape == (1, height, width)
    assert shrunk[0, :, 0].tolist() == [row * size[0] // height for row in range(height)]


def test_cells_are_taken_across_the_channels() -> None:
    # Two maps of 3 channels and 1 x 2 cells: entry 100 * image + 10 * channel + cell.
    image, channel, cell = torch.meshgrid(*map(torch.arange, (2, 3, 2)), indexing="ij")
    maps = (100 * image + 10 * channel + cell)[:, :, None].double().requires_grad_()
    taken = take_cells(maps, torch.tensor([3, 0]))
    assert taken.tolist() == [[101, 111, 121], [0, 10, 20]]
    taken[0].sum().backward()
    assert maps.grad.flatten(1).tolist() == [[0] * 6, [0, 1] * 3]


def test_reference_sets(golden) -> None:
    archive = np.load(golden / "loss_small.npz")
    for case in sorted({key.split("/")[0] for key in archive.files}):
        data = {key: archive[f"{case}/{key}"] for key in REFERENCE_KEYS}
        # The value 1 means "no cap" to the authors' code.
        num_classes, min_views, max_views, max_features = data["params"][:4].astype(int).tolist()
        height, width = data["color"].shape[2:]
        labels = shrink_labels(torch.tensor(data["label"]).long(), size=(height, width))
        keys = [ranked_keys(data, name, labels.shape) for name in ("vis_idx", "aux_idx")]
        views = sample_views(
            labels, num_classes=num_classes, min_views=min_views,
            keys=(*keys, torch.zeros(len(labels), num_classes)),
            max_views=10**6 if max_views == 1 else max_views, max_features=max_features,
        )  # fmt: skip
        assert (views.num_sets, views.views_per_set) == data["vis_idx"].shape, case
        order = np.lexsort((data["batch_ids"], data["classes"]))
        for name, cells in (("vis_idx", views.visible), ("aux_idx", views.auxiliary)):
            expected = data["batch_ids"][:, None] * height * width + data[name]
            assert np.array_equal(cells.numpy(), expected[order].flatten()), case


REFERENCE_KEYS = ("params", "color", "label", "batch_ids", "classes", "vis_idx", "aux_idx")


def ranked_keys(data: dict[str, np.ndarray], name: str, shape: tuple[int, int, int]) -> Tensor:
    """Keys that draw the cells of the reference in its order."""
    num_views = data[name].shape[1]
    keys = np.ones((shape[0], shape[1] * shape[2]))
    keys[data["batch_ids"][:, None], data[name]] = np.arange(num_views) / num_views
    return torch.tensor(keys).reshape(shape)
