"""The rivals: what they contrast, by embeddings whose loss can be computed by hand."""

import math

import pytest
import torch
from torch import Tensor

from smmcl.config import build_config
from smmcl.d2 import ShapeSpec
from smmcl.modeling.contrastive.build import build_contrast
from smmcl.modeling.contrastive.region import RegionContrast

SHAPES = {f"res5_{stream}": ShapeSpec(channels=6, stride=32) for stream in ("visible", "auxiliary")}


def branch_of(name: str, *overrides: object) -> torch.nn.Module:
    torch.manual_seed(0)
    cfg = build_config(
        overrides=["MODEL.CONTRAST.NAME", name, "MODEL.SMMCL.EMBED_DIM", 8, *overrides]
    )
    return build_contrast(cfg, SHAPES)


def features_of(count: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(count, 6, 3, 4, generator=generator) for name in SHAPES}


def test_unsupervised_is_cross_entropy_over_places_both_ways() -> None:
    branch = branch_of("UnsupervisedContrast").eval().double()
    features = {name: feature.double() for name, feature in features_of().items()}
    (loss,) = branch(features, torch.full((2, 96, 128), 255), [0, 1]).values()
    visible, auxiliary = (
        torch.nn.functional.normalize(
            branch.projectors[stream](features[f"res5_{stream}"]).permute(0, 2, 3, 1).flatten(0, 2)
        )
        for stream in ("visible", "auxiliary")
    )  # (24, 8) each
    logits, places = visible @ auxiliary.t() / 0.1, torch.arange(24)
    expected = (
        torch.nn.functional.cross_entropy(logits, places)
        + torch.nn.functional.cross_entropy(logits.t(), places)
    ) / 2
    assert loss.item() == pytest.approx(0.2 * expected.item(), rel=1e-12)


def test_unsupervised_draws_as_many_places_of_every_image_as_the_limit_allows() -> None:
    branch = branch_of("UnsupervisedContrast", "MODEL.SMMCL.SAMPLER.MAX_FEATURES", 9)
    views = branch._draw(torch.zeros(2, 3, 4, dtype=torch.int64), [0, 1])
    assert torch.equal(views.visible, views.auxiliary)
    assert [int((views.visible // 12 == image).sum()) for image in range(2)] == [4, 4]


def test_region_means_by_hand() -> None:
    branch = branch_of("RegionContrast")
    cells = [[[3.0, 0.0], [3.0, 8.0]], [[0.0, 1.0], [5.0, 5.0]]]
    maps = torch.tensor(cells).transpose(1, 2)[:, :, None]  # (2, 2, 1, 2)
    means, classes = branch.region_means(maps, torch.tensor([[[2, 2]], [[0, 255]]]))
    assert classes.tolist() == [0, 2]
    # The mean of (3, 0) and (3, 8) is (3, 4), of length 5.
    torch.testing.assert_close(means, torch.tensor([[0.0, 1.0], [0.6, 0.8]]))


def region(memory_size: int) -> RegionContrast:
    """A branch whose embeddings are its features: of two channels, at temperature 1."""
    branch = RegionContrast(
        in_feature="visible", channels=2, hidden_dim=2, embed_dim=2, weight=1.0, temperature=1.0,
        num_classes=3, memory_size=memory_size,
    )  # fmt: skip
    branch.projector.forward = lambda feature: feature
    return branch


def test_region_contrast_by_hand() -> None:
    # Three images of one cell: class 0 at 0 and 90 degrees, class 1 at 180.
    features = {"visible": torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])[:, :, None, None]}
    labels = torch.tensor([0, 0, 1])[:, None, None]
    branch = region(memory_size=2)
    first = branch(features, labels, [0, 1, 2])["loss_contrast_visible"]
    # Positive cos 90 = 0; negative cos 180 = -1, and cos 90 = 0; the third has no positive.
    assert first.item() == pytest.approx((math.log1p(math.exp(-1)) + math.log1p(1)) / 3)
    assert branch.num_stored.tolist() == [2, 1, 0]
    # Now each meets the remembered three as well: positives of the first 0 (90) and 1 and 0,
    # negatives two of -1; of the second 0, 0 and 1, negatives two of 0; the third has its own
    # memory 1 and negatives -1, 0, -1, 0.
    second = branch(features, labels, [0, 1, 2])["loss_contrast_visible"]
    softplus = lambda negatives, positive: math.log1p(negatives / math.exp(positive))  # noqa: E731
    by_hand = (
        (2 * softplus(2 * math.exp(-1), 0) + softplus(2 * math.exp(-1), 1)) / 3,
        (2 * softplus(2, 0) + softplus(2, 1)) / 3,
        softplus(2 * math.exp(-1) + 2, 1),
    )
    assert second.item() == pytest.approx(sum(by_hand) / 3, rel=1e-5)
    assert branch.num_stored.tolist() == [4, 2, 0]


def test_region_memory_forgets_the_oldest() -> None:
    branch = region(memory_size=2)
    for angle in (1.0, 2.0, 3.0):
        branch._remember(torch.tensor([[angle, 0.0]]), torch.tensor([1]))
    assert branch.memory[1, :, 0].tolist() == [3.0, 2.0]
    assert not branch.memory[0].any()


@pytest.mark.parametrize("name", ["UnsupervisedContrast", "RegionContrast"])
@pytest.mark.parametrize("label", [0, 255])
def test_every_parameter_gets_a_finite_gradient(name: str, label: int) -> None:
    branch = branch_of(name)
    losses = branch(features_of(), torch.full((2, 96, 128), label), [0, 1])
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in branch.parameters())
    if name == "RegionContrast":
        assert losses["loss_contrast_visible"].item() == 0
