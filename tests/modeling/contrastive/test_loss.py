"""The loss: hand-computed values, a slow loop, invariances, degenerate input, reference numbers."""

import collections
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from smmcl.modeling.contrastive import blocks
from smmcl.modeling.contrastive.loss import POSITIVES, TERMS, contrastive_losses, normalize


def at_angles(*degrees: float) -> Tensor:
    """Unit vectors of the plane, (N, 2): their cosines are those of the differences."""
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def slow_loss(
    anchors: Tensor,
    keys: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    excluded: set[tuple[int, int]],
) -> Tensor:
    """Paper Eqs. 3-6 word for word: one anchor, one positive, one negative at a time."""
    total = 0
    for i, anchor in enumerate(anchors):
        similarity = [anchor @ key / anchor.norm() / key.norm() / temperature for key in keys]
        positives = [
            j for j in range(len(keys)) if labels[j] == labels[i] and (i, j) not in excluded
        ]
        negatives = [similarity[j] for j in range(len(keys)) if labels[j] != labels[i]]
        if positives and negatives:
            terms = [
                torch.logsumexp(torch.stack([similarity[p], *negatives]), 0) - similarity[p]
                for p in positives
            ]
            total = total + sum(terms) / len(terms)
    return total / len(anchors) + 0 * anchors.sum()


def diagonal(count: int) -> set[tuple[int, int]]:
    return {(i, i) for i in range(count)}


def random_problem(
    count: int = 24, *, classes: int = 4, size: int = 5, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of lengths around 2, with labels in no order."""
    generator = torch.Generator().manual_seed(seed)
    visible, auxiliary = torch.randn(2, count, size, dtype=torch.float64, generator=generator)
    return visible, auxiliary, torch.randint(0, classes, (count,), generator=generator)


def test_by_hand() -> None:
    # Two views of label 0 at 0 and 60 degrees, one of label 1 at 180; t = 1.
    # Anchor 0: positive cos 60 = 1/2, negative cos 180 = -1:   log(1 + e^(-1 - 1/2))  = 0.201413
    # Anchor 1: positive 1/2, negative cos 120 = -1/2:          log(1 + e^(-1/2 - 1/2)) = 0.313262
    # Anchor 2: no positive, 0. Mean: 0.171558.
    views, labels = at_angles(0, 60, 180), torch.tensor([0, 0, 1])
    losses = contrastive_losses(views, views, labels, cross_temperature=1, intra_temperature=1)
    assert losses["visible"].item() == pytest.approx(0.1715583, abs=1e-7)
    # Across, with the view itself among the positives (cos 0 = 1):
    # anchor 0: mean of log(1 + e^(-1 - 1)) = 0.126928 and 0.201413, anchor 1: of log(1 + e^(-3/2))
    # and 0.313262, anchor 2: positive 1, negatives -1, -1/2: log(1 + (e^-1 + e^-1/2) / e)
    # = 0.306356.
    assert losses["cross"].item() == pytest.approx(
        ((0.126928 + 0.201413) / 2 + (0.201413 + 0.313262) / 2 + 0.306356) / 3, abs=2e-6
    )


def test_collapsed_embeddings_cost_the_log_of_their_negatives() -> None:
    views, labels = torch.ones(96, 3), torch.arange(6).repeat_interleave(16)
    for loss in contrastive_losses(views, views, labels).values():
        assert loss.item() == pytest.approx(math.log(1 + 80), rel=1e-6)


@pytest.mark.parametrize("block_size", [1, 5, 12, 24, None])
@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
@pytest.mark.parametrize("positives", POSITIVES)
def test_slow_loop(positives: str, temperature: float, block_size: int | None) -> None:
    visible, auxiliary, labels = random_problem()
    cells = (torch.arange(24) % 7, torch.arange(24) % 5)
    losses = contrastive_losses(
        visible, auxiliary, labels, positives=positives, cells=cells,
        cross_temperature=temperature, intra_temperature=temperature, block_size=block_size,
    )  # fmt: skip
    same_place = {(i, j) for i in range(24) for j in range(24) if i % 7 == j % 5}
    excluded = {"all": set(), "other_place": same_place, "other_index": diagonal(24)}[positives]
    for term, anchors, keys, left_out in (
        ("cross", visible, auxiliary, excluded),
        ("visible", visible, visible, diagonal(24)),
        ("auxiliary", auxiliary, auxiliary, diagonal(24)),
    ):
        expected = slow_loss(anchors, keys, labels, temperature=temperature, excluded=left_out)
        assert losses[term].item() == pytest.approx(expected.item(), rel=1e-9), term


@pytest.mark.parametrize("kept_bytes", [0, blocks.KEPT_BYTES])
@pytest.mark.parametrize("block_size", [5, 12, 24])
def test_gradient_of_the_slow_loop(monkeypatch, block_size: int, kept_bytes: int) -> None:
    monkeypatch.setattr(blocks, "KEPT_BYTES", kept_bytes)
    visible, auxiliary, labels = random_problem()
    inputs = (visible.requires_grad_(), auxiliary.requires_grad_())
    losses = contrastive_losses(*inputs, labels, block_size=block_size)
    total = 0.2 * losses["cross"] + 0.3 * losses["visible"] + 0.5 * losses["auxiliary"]
    slow = sum(
        weight * slow_loss(anchors, keys, labels, temperature=0.1, excluded=excluded)
        for weight, anchors, keys, excluded in (
            (0.2, visible, auxiliary, set()),
            (0.3, visible, visible, diagonal(24)),
            (0.5, auxiliary, auxiliary, diagonal(24)),
        )
    )
    actual, expected = (torch.autograd.grad(value, inputs) for value in (total, slow))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("is_symmetric", [False, True])
def test_gradcheck(is_symmetric: bool) -> None:
    visible, auxiliary, labels = random_problem(8, classes=3, size=3)

    def total(*embeddings: Tensor) -> Tensor:
        losses = contrastive_losses(
            *embeddings, labels, is_symmetric=is_symmetric, cross_temperature=0.3
        )
        return losses["cross"] + 2 * losses["visible"] + 3 * losses["auxiliary"]

    assert torch.autograd.gradcheck(total, (visible.requires_grad_(), auxiliary.requires_grad_()))


def test_second_derivatives_are_refused() -> None:
    visible, auxiliary, labels = random_problem()
    loss = contrastive_losses(visible.requires_grad_(), auxiliary, labels)["cross"]
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, visible, create_graph=True)


def test_symmetric_is_the_mean_of_both_directions() -> None:
    visible, auxiliary, labels = random_problem()
    there, back, both = (
        contrastive_losses(a, b, labels, terms=["cross"], is_symmetric=symmetric)["cross"]
        for a, b, symmetric in (
            (visible, auxiliary, False), (auxiliary, visible, False), (visible, auxiliary, True),
        )
    )  # fmt: skip
    assert both.item() == pytest.approx((there + back).item() / 2, rel=1e-12)
    assert there.item() != pytest.approx(back.item(), rel=1e-3)


def test_permuting_the_views_and_scaling_them_changes_nothing() -> None:
    visible, auxiliary, labels = random_problem()
    expected = contrastive_losses(visible, auxiliary, labels, positives="other_index")
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(24, generator=generator)
    lengths = torch.rand(24, 1, dtype=torch.float64, generator=generator) * 1e6 + 1e-6
    actual = contrastive_losses(
        (visible * lengths)[order], (auxiliary * 1e-3)[order], labels[order],
        positives="other_index",
    )  # fmt: skip
    for term in TERMS:
        assert actual[term].item() == pytest.approx(expected[term].item(), rel=1e-12)


def test_gradients_stay_in_their_streams() -> None:
    visible, auxiliary, labels = random_problem()
    losses = contrastive_losses(visible.requires_grad_(), auxiliary.requires_grad_(), labels)
    for term, reaches in (
        ("cross", (True, True)), ("visible", (True, False)), ("auxiliary", (False, True)),
    ):  # fmt: skip
        gradients = torch.autograd.grad(
            losses[term], (visible, auxiliary), retain_graph=True, allow_unused=True
        )
        assert tuple(gradient is not None for gradient in gradients) == reaches
        assert all(gradient.norm() > 0 for gradient in gradients if gradient is not None)


def test_only_the_terms_asked_for() -> None:
    visible, auxiliary, labels = random_problem()
    assert list(contrastive_losses(visible, auxiliary, labels, terms=["visible"])) == ["visible"]


@pytest.mark.parametrize(
    ("labels", "zero_terms"),
    [
        ([], TERMS),
        ([3], TERMS),  # one view
        ([0, 0, 0], TERMS),  # no negatives
        ([0, 1, 2], ("visible", "auxiliary")),  # no positives but the views' own partners
    ],
)
def test_degenerate_values_are_zero_and_attached(
    labels: list[int], zero_terms: tuple[str, ...]
) -> None:
    visible, auxiliary, _ = random_problem(len(labels))
    losses = contrastive_losses(
        visible.requires_grad_(), auxiliary.requires_grad_(), torch.tensor(labels).long()
    )
    for term in TERMS:
        assert (losses[term].item() == 0) == (term in zero_terms)
    sum(losses.values()).backward()
    assert visible.grad.isfinite().all()
    assert auxiliary.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.01, 0.0299, 0.03, 0.1, 1.0])
@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-8, 1.0, 1e15, 1e30])
def test_any_length_and_temperature_stay_finite(temperature: float, length: float) -> None:
    generator = torch.Generator().manual_seed(0)
    unit = normalize(torch.randn(40, 8, generator=generator))
    views = torch.cat([unit, unit[:4], -unit[:4]]) * length  # with 1 and -1 among the cosines
    views.requires_grad_()
    labels = torch.arange(48) % 5
    losses = contrastive_losses(
        views, views, labels, cross_temperature=temperature, intra_temperature=temperature
    )
    for loss in losses.values():
        assert loss.isfinite()
        (gradient,) = torch.autograd.grad(loss, views, retain_graph=True)
        assert gradient.isfinite().all()
        if length >= 1e-8:
            expected = contrastive_losses(
                unit_like(views), unit_like(views), labels, terms=["visible"],
                cross_temperature=temperature, intra_temperature=temperature,
            )["visible"]  # fmt: skip
            assert losses["visible"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_length_is_normalized_away_where_only_one_entry_is_not_zero() -> None:
    views = torch.tensor([[3.0, 0.0], [0.0, -2.0]], dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 2, dtype=torch.float64, generator=generator)
    (gradient,) = torch.autograd.grad((normalize(views) * weights).sum(), views)
    expected = [[0.0, weights[0, 1] / 3], [weights[1, 0] / 2, 0.0]]
    torch.testing.assert_close(gradient, torch.tensor(expected, dtype=torch.float64))


def unit_like(views: Tensor) -> Tensor:
    double = views.detach().double()
    return double / double.norm(dim=1, keepdim=True)


def test_a_nan_is_not_swallowed() -> None:
    visible, auxiliary, labels = random_problem()
    visible[3, 1] = math.nan
    losses = contrastive_losses(visible, auxiliary, labels)
    assert [loss.isnan().item() for loss in losses.values()] == [True, True, False]


def test_blocks_hold_short_labels_together_and_cut_long_ones_evenly() -> None:
    labels = torch.tensor([0] * 2 + [1] * 1 + [3] * 7 + [4] * 1)
    assert [tuple(block) for block in blocks._blocks(labels, 9)] == [
        (0, 3, 0, 3), (3, 10, 3, 10), (10, 11, 10, 11),
    ]  # fmt: skip
    assert [tuple(block) for block in blocks._blocks(labels, 4)] == [
        (0, 2, 0, 2), (2, 3, 2, 3), (3, 6, 3, 10), (6, 10, 3, 10), (10, 11, 10, 11),
    ]  # fmt: skip
    assert not list(blocks._blocks(labels[:0], 4))


class LargestTensor(TorchDispatchMode):
    """Remembers the number of entries of the largest tensor that an operation returns."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.entries = max(self.entries, result.numel())
        return result


@pytest.mark.parametrize("classes", [1, 2, 40, 600])
def test_no_tensor_grows_with_the_square_of_the_views(classes: int) -> None:
    visible, auxiliary, labels = random_problem(600, classes=classes, size=4)
    with LargestTensor() as largest:
        losses = contrastive_losses(
            visible.requires_grad_(), auxiliary.requires_grad_(), labels, block_size=4
        )
        sum(losses.values()).backward()
    # A block of 4 x 600, or the embeddings of 600 x 4; all pairs would be 360,000.
    assert largest.entries <= 4 * 600


@pytest.mark.parametrize(("kept_bytes", "is_kept"), [(8 * 48**2 // 2, True), (0, False)])
def test_a_symmetric_term_is_computed_once_if_it_fits(monkeypatch, kept_bytes, is_kept) -> None:
    monkeypatch.setattr(blocks, "KEPT_BYTES", kept_bytes)
    visible, auxiliary, labels = random_problem(48)
    counts = collections.Counter()

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            counts[str(function)] += 1
            return function(*args, **(kwargs or {}))

    with Count():
        contrastive_losses(visible, auxiliary, labels, terms=["visible"], block_size=6)
    num_blocks = len(list(blocks._blocks(labels.sort().values, 6)))
    assert counts["aten.exp_.default"] == num_blocks * (1 if is_kept else 2)


def test_low_precision_is_refused() -> None:
    visible, auxiliary, labels = random_problem()
    with pytest.raises(ValueError, match=r"bfloat16, autocast is off, but the loss needs float32"):
        contrastive_losses(visible.bfloat16(), auxiliary.bfloat16(), labels)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(ValueError, match=r"autocast is on, but the loss needs float32"),
    ):
        contrastive_losses(visible.float(), auxiliary.float(), labels)


def test_unknown_names_and_too_low_temperatures_are_refused() -> None:
    visible, auxiliary, labels = random_problem()
    with pytest.raises(KeyError, match="other_place"):
        contrastive_losses(visible, auxiliary, labels, positives="some")
    with pytest.raises(KeyError, match="cross, visible, auxiliary"):
        contrastive_losses(visible, auxiliary, labels, terms=["intra"])
    with pytest.raises(ValueError, match="needs the cells"):
        contrastive_losses(visible, auxiliary, labels, positives="other_place")
    with pytest.raises(ValueError, match=r"must be 0\.003 or more"):
        contrastive_losses(visible, auxiliary, labels, cross_temperature=0.0)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=str
)
def test_reference_numbers(golden, dtype: torch.dtype, tolerance: float) -> None:
    archive = np.load(golden / "loss_small.npz")
    for case in sorted({key.split("/")[0] for key in archive.files}):
        data = {key: archive[f"{case}/{key}"] for key in REFERENCE_KEYS}
        features, views, labels, cells = reference_views(data, dtype)
        temperatures = dict(
            zip(("cross_temperature", "intra_temperature"), data["params"][4:], strict=True)
        )
        values = {
            positives: contrastive_losses(
                *views, labels, positives=positives, cells=cells, **temperatures
            )
            for positives in POSITIVES
        }
        official = values["other_index"]
        actual = [
            *(official[term] for term in TERMS),
            values["all"]["cross"],
            values["other_place"]["cross"],
        ]
        expected = [
            *data["loss_f64"], data["alt_cm_keep_all"], data["alt_cm_exclude_position"]
        ]  # fmt: skip
        np.testing.assert_allclose(
            [value.item() for value in actual], expected, rtol=tolerance, atol=1e-12, err_msg=case
        )
        for term, stream, key in REFERENCE_GRADIENTS:
            (gradient,) = torch.autograd.grad(official[term], features[stream], retain_graph=True)
            error = np.linalg.norm(gradient.double().numpy() - data[key])
            # Collapsed and one-class features have no gradient but rounding.
            floor = 1e-6 if dtype == torch.float32 else 1e-12
            assert error <= tolerance * np.linalg.norm(data[key]) + floor, (case, key)


REFERENCE_GRADIENTS = (
    ("cross", 0, "grad_cm_color"),
    ("cross", 1, "grad_cm_other"),
    ("visible", 0, "grad_vis_color"),
    ("auxiliary", 1, "grad_aux_other"),
)
REFERENCE_KEYS = (
    "params", "color", "other", "batch_ids", "classes", "vis_idx", "aux_idx", "loss_f64",
    "alt_cm_keep_all", "alt_cm_exclude_position", *(key for *_, key in REFERENCE_GRADIENTS),
)  # fmt: skip


def reference_views(
    data: dict[str, np.ndarray], dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor], Tensor, tuple[Tensor, Tensor]]:
    """Feature maps, the views taken from them at the recorded cells, their labels and cells."""
    features = [torch.tensor(data[key], dtype=dtype).requires_grad_() for key in ("color", "other")]
    first = data["batch_ids"].astype(int)[:, None] * math.prod(features[0].shape[2:])
    cells = tuple(torch.tensor(first + data[key]).flatten() for key in ("vis_idx", "aux_idx"))
    views = [
        feature.permute(0, 2, 3, 1).flatten(0, 2)[cell]
        for feature, cell in zip(features, cells, strict=True)
    ]
    labels = torch.tensor(data["classes"]).long().repeat_interleave(data["vis_idx"].shape[1])
    return features, views, labels, cells
