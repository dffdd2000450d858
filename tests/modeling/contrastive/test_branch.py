"""The branch: its losses' names and graph, its draws, its log, and its gathering over processes."""

import logging
import pathlib
import re

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor

from smmcl.config import build_config
from smmcl.d2 import CfgNode, EventStorage, ShapeSpec
from smmcl.modeling.contrastive.base import CONTRAST_REGISTRY, ContrastiveBranch
from smmcl.modeling.contrastive.branch import SMMCL
from smmcl.modeling.contrastive.build import build_contrast
from smmcl.modeling.contrastive.diagnostics import similarities
from smmcl.modeling.contrastive.loss import contrastive_losses, normalize
from smmcl.modeling.contrastive.projector import Projector

SHAPES = {
    f"res{stage}_{stream}": ShapeSpec(channels=4 * stage, stride=2**stage)
    for stage in (4, 5)
    for stream in ("visible", "auxiliary")
}
SMALL = ["MODEL.SMMCL.EMBED_DIM", 8, "MODEL.SMMCL.HIDDEN_DIM", 6]
CROSS, VISIBLE, AUXILIARY = (
    f"MODEL.SMMCL.{key}"
    for key in (
        "CROSS_MODAL.WEIGHT", "INTRA_MODAL.VISIBLE_WEIGHT", "INTRA_MODAL.AUXILIARY_WEIGHT",
    )
)  # fmt: skip


def branch_of(*overrides: object) -> SMMCL:
    torch.manual_seed(0)
    branch = build_contrast(build_config("Base-SMMCL.yaml", [*SMALL, *overrides]), SHAPES)
    return branch and branch.double()


def batch_of(count: int = 3) -> tuple[dict[str, Tensor], Tensor, list[int]]:
    """Features of images of 128 x 160, labels in four quarters of one class each, seeds."""
    generator = torch.Generator().manual_seed(0)
    features = {
        name: torch.randn(
            count, shape.channels, 128 // shape.stride, 160 // shape.stride, generator=generator
        ).double()
        for name, shape in SHAPES.items()
    }
    quarters = torch.randint(0, 4, (count, 2, 2), generator=generator)
    labels = quarters.repeat_interleave(64, 1).repeat_interleave(80, 2)  # (N, 128, 160)
    return features, labels, list(range(count))


def test_no_name_builds_no_branch() -> None:
    assert branch_of("MODEL.CONTRAST.NAME", "") is None


def test_the_projectors_have_the_size_of_the_reference() -> None:
    # 1x1 convolutions with bias 512 -> 512 -> 512 -> 256 and two norms: 658,688.
    sizes = [parameter.numel() for parameter in Projector(512, 512, 256)
             .parameters()]  # fmt: skip
    assert sum(sizes) == 658_688


def test_losses_are_those_of_the_drawn_embeddings_weighted() -> None:
    branch = branch_of(CROSS, 0.2, VISIBLE, 0.3, AUXILIARY, 0.5).eval()
    features, labels, seeds = batch_of()
    losses = branch(features, labels, seeds)
    views = branch._draw(labels[:, ::32, ::32], seeds)
    embeddings = [
        branch.projectors[stream](features[f"res5_{stream}"])
        .permute(0, 2, 3, 1)
        .flatten(0, 2)[getattr(views, stream)]
        for stream in ("visible", "auxiliary")
    ]
    expected = contrastive_losses(*embeddings, views.labels)
    assert list(losses) == [
        "loss_contrast_cross", "loss_contrast_visible", "loss_contrast_auxiliary",
    ]  # fmt: skip
    for (term, weight), loss in zip(branch.weights.items(), losses.values(), strict=True):
        assert loss.item() == pytest.approx(weight * expected[term].item(), rel=1e-12)
        assert loss.item() > 0


@pytest.mark.parametrize("labeled", [True, False], ids=["labeled", "nothing labeled"])
@pytest.mark.parametrize(
    ("weights", "streams"),
    [
        ((0.2, 0.2, 0.2), {"visible", "auxiliary"}),
        ((0.2, 0.0, 0.0), {"visible", "auxiliary"}),
        ((0.0, 0.2, 0.2), {"visible", "auxiliary"}),
        ((0.0, 0.2, 0.0), {"visible"}),
        ((0.0, 0.0, 0.2), {"auxiliary"}),
    ],
)
def test_every_parameter_gets_a_gradient_whatever_is_left_out(
    weights: tuple[float, float, float], streams: set[str], labeled: bool
) -> None:
    branch = branch_of(CROSS, weights[0], VISIBLE, weights[1], AUXILIARY, weights[2])
    features, labels, seeds = batch_of()
    losses = branch(features, labels if labeled else torch.full_like(labels, 255), seeds)
    terms = zip(("cross", "visible", "auxiliary"), weights, strict=True)
    assert list(losses) == [f"loss_contrast_{term}" for term, weight in terms if weight]
    assert set(branch.projectors) == streams
    sum(losses.values()).backward()
    for parameter in branch.parameters():
        assert parameter.grad.isfinite().all()
        assert labeled or not parameter.grad.any()
    assert all((loss.item() > 0) == labeled for loss in losses.values())


def test_reordering_the_images_with_their_seeds_changes_nothing() -> None:
    branch = branch_of().eval()
    features, labels, seeds = batch_of()
    order = [2, 0, 1]
    expected = branch(features, labels, seeds)
    actual = branch(
        {name: feature[order] for name, feature in features.items()},
        labels[order],
        [seeds[i] for i in order],
    )
    for name, loss in expected.items():
        assert actual[name].item() == pytest.approx(loss.item(), rel=1e-12)
    other = branch(features, labels, [7, 8, 9])
    assert other["loss_contrast_cross"].item() != expected["loss_contrast_cross"].item()


def test_an_earlier_stage_has_more_views() -> None:
    branch = branch_of("MODEL.SMMCL.IN_FEATURES", ["res4_visible", "res4_auxiliary"])
    features, labels, seeds = batch_of()
    assert branch(features, labels, seeds)["loss_contrast_cross"].item() > 0
    assert len(branch._draw(labels[:, ::16, ::16], seeds).labels) > len(
        branch._draw(labels[:, ::32, ::32], seeds).labels
    )


@pytest.mark.parametrize("size", [(480, 650), (490, 640), (72, 90), (97, 33)])
def test_odd_image_sizes(size: tuple[int, int]) -> None:
    branch = branch_of("MODEL.SMMCL.SAMPLER.MIN_VIEWS", 1)
    height, width = (-(-side // 32) for side in size)
    features = {
        name: torch.randn(2, SHAPES[name].channels, height, width).double()
        for name in ("res5_visible", "res5_auxiliary")
    }
    labels = torch.arange(size[0])[:, None].expand(2, *size) * 2 // size[0]
    losses = branch(features, labels, [0, 1])
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())


@pytest.mark.parametrize("name", ["SMMCL", "UnsupervisedContrast", "RegionContrast"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_branches_compute_in_float32_under_autocast(dtype: torch.dtype, name: str) -> None:
    branch = branch_of("MODEL.CONTRAST.NAME", name).eval().float()
    features, labels, seeds = batch_of()
    low = {name: feature.to(dtype).requires_grad_() for name, feature in features.items()}
    expected = branch({name: feature.float() for name, feature in low.items()}, labels, seeds)
    gradients = torch.autograd.grad(sum(expected.values()), list(branch.parameters()))
    if name == "RegionContrast":
        branch.num_stored.zero_()  # as if the first call had not been
    with torch.autocast("cpu", dtype=dtype):
        losses = branch(low, labels, seeds)
    for key, loss in losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == expected[key].item() > 0
    sum(losses.values()).backward()
    for parameter, gradient in zip(branch.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)
    assert low["res5_visible"].grad.dtype == dtype


def test_a_branch_from_plain_arguments() -> None:
    branch = SMMCL(
        in_features=("v", "a"), channels=(3, 5), hidden_dim=4, embed_dim=2,
        weights={"cross": 1.0}, loss={}, num_classes=2,
        limits={"min_views": 1, "max_views": 9, "max_features": 99},
    )  # fmt: skip
    features = {"v": torch.randn(2, 3, 2, 2), "a": torch.randn(2, 5, 2, 2)}
    labels = torch.arange(2).repeat(2, 4, 2)  # (2, 4, 4)
    assert branch(features, labels, [0, 1])["loss_contrast_cross"].isfinite()


def test_shared_positions() -> None:
    branch = branch_of("MODEL.SMMCL.SAMPLER.SHARED_POSITIONS", True)
    views = branch._draw(batch_of()[1][:, ::16, ::16], [0, 1, 2])
    assert torch.equal(views.visible, views.auxiliary)


def test_unusable_configs_are_refused() -> None:
    with pytest.raises(ValueError, match="none below"):
        branch_of(CROSS, 0.0, VISIBLE, 0.0, AUXILIARY, 0.0)
    with pytest.raises(ValueError, match=r"must name one visible and one.*res4_auxiliary"):
        branch_of("MODEL.SMMCL.IN_FEATURES", ["res3_visible", "res5_auxiliary"])
    with pytest.raises(ValueError, match=re.escape("of strides [16, 32]")):
        branch_of("MODEL.SMMCL.IN_FEATURES", ["res4_visible", "res5_auxiliary"])
    with pytest.raises(KeyError, match=r"'Contrast', but .* RegionContrast, SMMCL, Unsuperv"):
        branch_of("MODEL.CONTRAST.NAME", "Contrast")


def test_a_branch_of_the_users_own_is_found_by_name() -> None:
    @CONTRAST_REGISTRY.register()
    class OwnContrast(ContrastiveBranch):
        def __init__(self, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> None:
            super().__init__()
            self.in_features = {"visible": "res4_visible"}
            self.scale = torch.nn.Parameter(torch.ones(()))

        def losses(self, maps, labels, seeds):
            return {"loss_contrast_own": self.scale * maps["visible"].mean() + labels.numel()}

    features, labels, seeds = batch_of()
    loss = branch_of("MODEL.CONTRAST.NAME", "OwnContrast")(features, labels, seeds)
    expected = features["res4_visible"].mean() + 3 * 8 * 10
    assert loss["loss_contrast_own"].item() == pytest.approx(expected.item())


def test_the_log_says_what_was_contrasted() -> None:
    branch = branch_of()
    features, labels, seeds = batch_of()
    with EventStorage() as storage:
        branch(features, labels, seeds)
        logged = {name: value for name, (value, _) in storage.latest().items()}
    views = branch._draw(labels[:, ::32, ::32], seeds)
    assert logged["contrast/num_sets"] == views.num_sets
    assert logged["contrast/views_per_set"] == views.views_per_set
    same = views.labels[:, None] == views.labels
    assert logged["contrast/positive_share"] == pytest.approx(same.double().mean().item())
    assert set(logged) == {
        f"contrast/{name}" for name in (
            "num_sets", "views_per_set", "positive_share", "positive_similarity",
            "negative_similarity", "alignment", "uniformity",
        )
    }  # fmt: skip


def test_similarities_by_their_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    visible, auxiliary = torch.randn(2, 12, 3, dtype=torch.float64, generator=generator)
    labels = torch.arange(12) // 5
    actual = similarities(labels, {"visible": visible, "auxiliary": auxiliary})
    cosines = normalize(visible) @ normalize(auxiliary).t()
    same = labels[:, None] == labels
    assert actual["positive_similarity"].item() == pytest.approx(cosines[same].mean().item())
    assert actual["negative_similarity"].item() == pytest.approx(cosines[~same].mean().item())
    assert actual["alignment"].item() == pytest.approx(2 - 2 * cosines.diagonal().mean().item())
    unit = normalize(visible)
    distances = torch.stack([(unit[i] - unit[j]).square().sum() for i in range(12)
                             for j in range(i)])  # fmt: skip
    expected = distances.mul(-2).exp().mean().log().item()
    assert actual["uniformity"].item() == pytest.approx(expected)


def test_poor_batches_are_warned_of_once_in_a_hundred(caplog) -> None:
    branch = branch_of()
    features, labels, seeds = batch_of(1)
    poor = torch.zeros_like(labels)
    with EventStorage(), caplog.at_level(logging.WARNING):
        for iteration in range(100):
            branch(features, poor if iteration % 2 else labels, seeds)
    assert len(caplog.messages) == 1
    assert "in 50 of the last 100 iterations: a feature map has 20 cells" in caplog.messages[0]
    assert "MODEL.SMMCL.IN_FEATURES" in caplog.messages[0]


def run_process(rank: int, folder: pathlib.Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    torch.save(losses_and_gradients(rank), folder / f"{rank}.pth")
    torch.distributed.destroy_process_group()


def losses_and_gradients(rank: int | None) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Of the images of one process, or of all; more sets than features lets a cap bite."""
    branch = branch_of(
        "MODEL.SMMCL.GATHER", True, "MODEL.SMMCL.SAMPLER.MAX_FEATURES", 40,
        "MODEL.SMMCL.CROSS_MODAL.POSITIVES", "other_place",
    ).eval()  # fmt: skip
    features, labels, seeds = batch_of(6)
    labels[1] = 255  # processes of unequal numbers of sets
    own = slice(None) if rank is None else slice(3 * rank, 3 * rank + 3)
    losses = branch(
        {name: feature[own] for name, feature in features.items()}, labels[own], seeds[own]
    )
    sum(losses.values()).backward()
    return (
        {name: loss.detach() for name, loss in losses.items()},
        [parameter.grad for parameter in branch.parameters()],
    )


def test_two_processes_equal_one_with_the_whole_batch(tmp_path) -> None:
    torch.multiprocessing.start_processes(
        run_process, args=(tmp_path,), nprocs=2, start_method="fork"
    )
    (losses, *others), gradients = zip(
        *(torch.load(tmp_path / f"{rank}.pth") for rank in range(2)), strict=True
    )
    expected_losses, expected_gradients = losses_and_gradients(None)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(others[0], expected_losses, rtol=1e-12, atol=0)
    averaged = [(first + second) / 2 for first, second in zip(*gradients, strict=True)]
    torch.testing.assert_close(averaged, expected_gradients, rtol=1e-9, atol=1e-12)
