"""Similarity and MMD by hand, against slow loops and reference numbers."""

import math

import pytest
import torch
from torch import Tensor

from smmcl.lowlight.alignment import BANDWIDTHS, cosine_similarity, maximum_mean_discrepancy


def test_similarity_by_hand() -> None:
    # Two places at 0 and 60 degrees: cosines 1 and 1/2. The other level is orthogonal.
    level = torch.tensor([[1.0, 2.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    turned = torch.tensor([[3.0, 0.5], [0.0, math.sqrt(3) / 2]]).view(1, 2, 1, 2)
    vector, orthogonal = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    similarity = cosine_similarity([level, vector], [turned, orthogonal])
    assert similarity.item() == pytest.approx(0.75 / 2)


def test_similarity_of_zeros_is_zero() -> None:
    zeros = torch.zeros(1, 4, 2, 2, requires_grad=True)
    loss = cosine_similarity([zeros], [torch.ones(1, 4, 2, 2)])
    loss.backward()
    assert loss.item() == 0
    assert zeros.grad.isfinite().all()


def test_similarity_matches_the_reference(normal, near, numbers) -> None:
    sizes = ((2, 8, 6, 8), (2, 16, 3, 4))
    first = [normal(314 + i, *size) for i, size in enumerate(sizes)]
    second = [normal(316 + i, *size).requires_grad_() for i, size in enumerate(sizes)]
    similarity = cosine_similarity(first, second)
    similarity.backward()
    near(similarity, numbers["simminmax/loss/f64/sim"])
    near(second[0].grad.norm(), numbers["simminmax/loss/f64/sim_grad_l2"])
    near(second[0].grad.flatten()[:8], numbers["simminmax/loss/f64/sim_grad_head8"])


def slow_mmd(source: Tensor, target: Tensor) -> float:
    rows = [*source.tolist(), *target.tolist()]
    squares = [[math.dist(a, b) ** 2 for b in rows] for a in rows]
    scale = sum(map(sum, squares)) / (len(rows) ** 2 - len(rows))

    def mean_kernel(those: range, others: range) -> float:
        values = [
            sum(math.exp(-squares[i][j] / (c * scale)) for c in (0.25, 0.5, 1, 2, 4))
            for i in those
            for j in others
        ]
        return sum(values) / len(values)

    a, b = range(len(source)), range(len(source), len(rows))
    return mean_kernel(a, a) + mean_kernel(b, b) - mean_kernel(a, b) - mean_kernel(b, a)


@pytest.mark.parametrize("counts", [(4, 4), (2, 5), (1, 1)])
def test_mmd_is_that_of_a_slow_loop(counts: tuple[int, int]) -> None:
    torch.manual_seed(0)
    source, target = (torch.randn(count, 3).double() for count in counts)
    slow = slow_mmd(source, target)
    ours = maximum_mean_discrepancy(source, target, is_normalized=False)
    assert ours.item() == pytest.approx(slow, abs=1e-10)
    assert maximum_mean_discrepancy(target, source, is_normalized=False).item() == (
        pytest.approx(slow, abs=1e-10)
    )
    long = maximum_mean_discrepancy(7 * source, 0.1 * target)
    assert long.item() == pytest.approx(
        slow_mmd(*(x / x.norm(dim=1, keepdim=True) for x in (source, target))), abs=1e-10
    )


@pytest.mark.parametrize("name", ["equal", "shifted", "unequal", "resnet"])
def test_mmd_matches_the_reference(name, normal, near, numbers) -> None:
    theirs = {k.rpartition("/")[2]: v for k, v in numbers.items() if f"mmd/{name}/" in k}
    *sizes, shift = theirs["sizes_seed_shift"].tolist()
    num_source, num_target, channels, seed = map(int, sizes)
    source = normal(seed, num_source, channels)
    target = (1.1 * normal(seed + 1, num_target, channels).float() + shift).double()
    if name == "resnet":
        source, target = (
            (f * x.float().abs()).double() for f, x in ((0.4, source), (0.42, target))
        )
    source.requires_grad_()
    target.requires_grad_()
    value = maximum_mean_discrepancy(source, target, is_normalized=False, eps=0)
    value.backward()
    near(value, theirs["value"])
    for leaf, side in ((source, "source"), (target, "target")):
        near(leaf.grad.norm(), theirs[f"grad_{side}_l2"])
        near(leaf.grad.flatten()[:8], theirs[f"grad_{side}_head8"])
    scale = 2 * sum((a - b).square().sum() for a in source for b in target)  # across the sets
    scale += sum((a - b).square().sum() for x in (source, target) for a in x for b in x)
    num = num_source + num_target
    torch.testing.assert_close(
        torch.tensor(BANDWIDTHS) * scale.item() / (num**2 - num), theirs["bandwidths"]
    )


def test_mmd_of_fixed_bandwidth_and_of_identical_sets(normal, near, numbers) -> None:
    source, target = normal(401, 8, 16), 1.1 * normal(402, 8, 16)
    fixed = maximum_mean_discrepancy(source, target, bandwidth=4.0, is_normalized=False)
    near(fixed, numbers["wiid/mmd/fixed_sigma_4"])
    near(maximum_mean_discrepancy(source, source), numbers["wiid/mmd/identical_sets"])


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("is_normalized", [False, True])
def test_mmd_of_equal_features_is_zero(value: float, is_normalized: bool) -> None:
    source = torch.full((3, 4), value, requires_grad=True)
    target = torch.full((2, 4), value)
    loss = maximum_mean_discrepancy(source, target, is_normalized=is_normalized)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert not source.grad.any()
    if not is_normalized:  # as released, it is not a number
        assert maximum_mean_discrepancy(source, target, is_normalized=False, eps=0).isnan()


def test_gradients() -> None:
    torch.manual_seed(0)
    a, b = (torch.randn(3, 4).double().requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda x, y: cosine_similarity([x], [y]), (a, b))
    # The bandwidth is a constant, which gradcheck can only follow where it is given.
    mmd = maximum_mean_discrepancy
    assert torch.autograd.gradcheck(lambda x, y: mmd(x, y, bandwidth=1.0), (a, b))
