"""The enhancer's training: each loss, what stays frozen, and networks to measure style with."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.lowlight.curves import EnhancingCurve
from smmcl.lowlight.enhancer import Enhancer
from smmcl.modeling.perceptual import VGG16, PerceptualFeatures


class Stages(nn.Module):
    """A stream that returns its maps in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, stride=2)])

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            image = stage(image).relu()
            maps.append(image)
        return maps


def enhancer_of(segmentor: nn.Module, **options) -> Enhancer:
    torch.manual_seed(1)
    perceptual = PerceptualFeatures(
        network=Stages(), pixel_mean=[0.5] * 3, pixel_std=[0.25] * 3, style=[0, 1], content=1
    )
    curve = EnhancingCurve(width=8)
    return Enhancer(curve=curve, segmentor=segmentor, perceptual=perceptual, **options)


@pytest.fixture
def unpaired(inputs) -> list[dict]:
    """Inputs with a bright and a black image of other sizes."""
    for record in inputs:
        record["positive"] = torch.full((3, 30, 20), 160, dtype=torch.uint8)
        record["negative"] = torch.zeros(3, 9, 50, dtype=torch.uint8)
    return inputs


def test_losses_by_hand(segmentor, unpaired) -> None:
    model = enhancer_of(segmentor)
    pair = segmentor.eval().preprocess(unpaired)
    # A curve that changes nothing: content, maps and color are those of the image itself.
    model.curve.forward = lambda image: (image, torch.zeros(2, 24, *image.shape[2:]))
    losses = model(unpaired)
    assert set(losses) == {f"loss_{name}" for name in Enhancer.WEIGHTS}
    assert losses["loss_content"].item() == losses["loss_smooth"].item() == 0
    gray = pair.visible.mean(1)
    near, far = (gray - 160 / 255).abs().mean(), gray.abs().mean()
    expected = 10 * (near - far + 0.3).clamp_min(0)
    torch.testing.assert_close(losses["loss_exposure"], expected)
    task = segmentor.losses(segmentor.features(segmentor.normalize(pair)), unpaired)
    torch.testing.assert_close(losses["loss_segmentation"], task["loss_sem_seg"])
    variances = [
        gray[i, : r["sem_seg"].shape[0], : r["sem_seg"].shape[1]][r["sem_seg"] == k].var(
            correction=0
        )
        for i, r in enumerate(unpaired)
        for k in (0, 1)
    ]
    torch.testing.assert_close(losses["loss_class"], sum(variances) / 2)


def test_the_segmentation_loss_reaches_the_curve_alone(segmentor, unpaired) -> None:
    zeros = dict.fromkeys(Enhancer.WEIGHTS, 0.0)
    model = enhancer_of(segmentor, weights={**zeros, "segmentation": 1.0}).train()
    assert not segmentor.training
    sum(model(unpaired).values()).backward()
    assert all(p.grad.any() for p in model.curve.parameters())
    assert all(p.grad is None for p in segmentor.parameters())
    assert list(model.state_dict()) == [f"curve.{name}" for name in model.curve.state_dict()]


def test_training_lowers_the_loss_and_brightens(segmentor, unpaired) -> None:
    model = enhancer_of(segmentor)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    totals = []
    for _ in range(30):
        total = sum(model(unpaired).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]
    image = torch.full((1, 3, 16, 16), 0.3)
    assert model.curve(image)[0].mean() > 0.3


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_images(value: int, segmentor, unpaired) -> None:
    for record in unpaired:
        record["image"].fill_(value)
        record["sem_seg"].fill_(255 if value else 0)
    model = enhancer_of(segmentor)
    losses = model(unpaired)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_enhanced_images_have_their_own_sizes_and_range(segmentor, inputs) -> None:
    model = enhancer_of(segmentor).eval()
    model.curve.forward = lambda image: (image + 0.5, None)
    for result, record in zip(model(inputs), inputs, strict=True):
        expected = (record["image"] / 255 + 0.5).clamp(0, 1)
        torch.testing.assert_close(result["enhanced"], expected)


def test_missing_images_are_named(segmentor, unpaired) -> None:
    del unpaired[1]["negative"]
    with pytest.raises(ValueError, match="The 'negative' of an input is missing"):
        enhancer_of(segmentor)(unpaired)
    del unpaired[0]["sem_seg"]
    unpaired[1]["negative"] = unpaired[1]["positive"]
    with pytest.raises(ValueError, match="The view has no labels"):
        enhancer_of(segmentor)(unpaired)


def test_vgg_takes_the_names_of_its_publishers(numbers) -> None:
    network = VGG16()
    names = [f"features.{name}" for name in network.state_dict()]
    assert names == numbers["scl/vgg/weight_names"]
    perceptual = PerceptualFeatures(
        network=network, pixel_mean=VGG16.PIXEL_MEAN, pixel_std=VGG16.PIXEL_STD,
        style=["relu1_2", "relu2_2"], content="relu4_3",
    )  # fmt: skip
    style, content = perceptual(torch.rand(1, 3, 16, 24))
    assert [x.shape[1:] for x in style] == [(64, 16, 24), (128, 8, 12)]
    assert content.shape == (1, 512, 2, 3)
    # An image of the mean is 0 after normalization: its first map is the bias.
    mean = torch.tensor(VGG16.PIXEL_MEAN).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    with torch.no_grad():
        for layer in (network[0], network[2]):
            layer.bias.fill_(1)
            layer.weight.zero_()
    torch.testing.assert_close(perceptual(mean)[0][0], torch.ones(1, 64, 16, 16))
    assert F.mse_loss(*(perceptual(mean)[1] for _ in range(2))) == 0
