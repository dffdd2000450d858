"""Photometric losses by hand, against slow loops and reference numbers, and at their edges."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smmcl.lowlight.photometric import (
    brightness,
    class_brightness_loss,
    color_loss,
    exposure_loss,
    exposure_triplet_loss,
    flexibility_loss,
    total_variation,
)
from smmcl.modeling.perceptual import VGG16, gram_distance, gram_triplet_loss


@pytest.fixture
def theirs(numbers):
    """Asserts a value and its gradient against the reference of one name."""

    def check(group: str, name: str, loss: Tensor, leaf: Tensor) -> None:
        (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        ours = [loss.detach(), gradient.norm(), *gradient.flatten()[:8]]
        expected = [numbers[f"{group}/loss/f64/{name}{end}"] for end in ("", "_grad_l2")]
        head = numbers.get(f"{group}/loss/f64/{name}_grad_head8", gradient.flatten()[:8])
        torch.testing.assert_close(
            torch.stack(ours), torch.stack([*expected, *head]), rtol=1e-10, atol=1e-10
        )

    return check


def released_class_brightness_loss(image: Tensor, labels: Tensor) -> Tensor:
    """The control: what SCL-LLE's released code computes for `class_brightness_loss`.

    Each image meets the labels of every image, sums are divided by all pixels, and the mean of a
    class is a float32 constant: a class-constant image has a loss, and its gradient darkens.
    """
    total = image.sum() * 0
    for label in range(35):  # Cityscapes' ids, of which the train ids 0..18 occur
        mask = (labels == label).to(image.dtype)  # (N, H, W), against brightness (N, 1, H, W)
        mean = (mask * brightness(image)).mean().detach().float()
        total = total + (mask * (brightness(image) - mean).square()).mean()
    return total


def constant(*values: float, size: tuple[int, int] = (2, 3)) -> Tensor:
    """(1, 3, H, W) of one color."""
    return torch.tensor(values).view(1, 3, 1, 1).expand(-1, -1, *size).clone()


def test_exposure_by_hand() -> None:
    # Brightness .3 against .1: the square is .04; against the map (.3, .1, .3), a third of it.
    image = constant(0.2, 0.3, 0.4)
    assert exposure_loss(image, torch.full((1, 1, 1, 1), 0.1)).item() == pytest.approx(0.04)
    wanted = torch.tensor([0.3, 0.1, 0.3]).expand(1, 1, 2, 3)
    assert exposure_loss(image, wanted).item() == pytest.approx(0.04 / 3)
    # A checkerboard of 0 and 1 is .5 in every cell of two pixels.
    board = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).expand(1, 3, 2, 2)
    half = torch.full((1, 1, 1, 1), 0.5)
    assert exposure_loss(board, half, cell=2).item() == 0
    assert exposure_loss(board, half).item() == 0.25


def test_color_by_hand() -> None:
    # Differences .1, .3, .2: sqrt(1e-4 + 81e-4 + 16e-4) = sqrt(98e-4)
    assert color_loss(constant(0.5, 0.4, 0.2)).item() == pytest.approx(98**0.5 / 100, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_gray_images_have_a_finite_color_gradient(value: float) -> None:
    image = constant(value, value, value).requires_grad_()
    color_loss(image).backward()
    assert not image.grad.any()
    released = constant(value, value, value).requires_grad_()
    color_loss(released, eps=0).backward()
    assert released.grad.isnan().all()  # which is why eps is not 0


def test_total_variation_by_hand() -> None:
    # Down: .1 and -.1, mean square .01. Across: .2 and 0, mean square .02. Twice the sum is .06.
    maps = torch.tensor([[0.0, 0.2], [0.1, 0.1]]).expand(1, 1, 2, 2)
    assert total_variation(maps).item() == pytest.approx(0.06)
    # Under the tent .06, .1 counts .06 - |.1 - .06| = .02, and .2 counts 0: twice 4e-4.
    assert total_variation(maps, tent=0.06).item() == pytest.approx(2 * 4e-4)
    assert total_variation(maps.expand(5, 3, 2, 2)).item() == pytest.approx(3 * 0.06)


@pytest.mark.parametrize("tent", [None, 0.06])
def test_total_variation_of_a_single_row(tent: float | None) -> None:
    # Differences .04, .04 and 0, in one direction only: twice 32e-4 / 3.
    row = torch.tensor([0.0, 0.04, 0.08, 0.08])
    for size in ((1, 4), (4, 1)):
        loss = total_variation(row.view(1, 1, *size), tent=tent)
        assert loss.item() == pytest.approx(2 * 32e-4 / 3, rel=1e-5)
    pixel = torch.ones(1, 3, 1, 1, requires_grad=True)
    total_variation(pixel, tent=tent).backward()
    assert not pixel.grad.any()


def test_class_brightness_by_hand() -> None:
    # Class 0: .2 and .4, variance .01. Class 1: .1, .1 and .7, variance .08. The last is void.
    values = torch.tensor([[0.2, 0.4, 0.1], [0.1, 0.7, 0.9]])
    image = values.expand(1, 3, 2, 3)
    labels = torch.tensor([[[0, 0, 1], [1, 1, 255]]])
    assert class_brightness_loss(image, labels).item() == pytest.approx(0.09)
    # The mean over images counts one of class-constant brightness, and one without labels, as 0.
    three = torch.cat((image, torch.ones_like(image), image))
    all_labels = torch.cat((labels, labels, torch.full_like(labels, 255)))
    assert class_brightness_loss(three, all_labels).item() == pytest.approx(0.03)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("label", [0, 255])
def test_class_brightness_of_constant_images(value: float, label: int) -> None:
    image = constant(value, value, value).requires_grad_()
    loss = class_brightness_loss(image, torch.full((1, 2, 3), label))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert image.grad.abs().max() < 1e-7


def test_class_brightness_neither_brightens_nor_darkens() -> None:
    image = torch.rand(2, 3, 6, 6).double().requires_grad_()
    labels = torch.randint(0, 4, (2, 6, 6))
    class_brightness_loss(image, labels).backward()
    assert image.grad.sum().abs() < 1e-12
    # The released form gives a class-constant image a loss, and a gradient that darkens.
    flat = (labels[:, None].double() / 4).expand(-1, 3, -1, -1).clone().requires_grad_()
    loss = released_class_brightness_loss(flat, labels)
    loss.backward()
    assert loss > 0.01
    assert (flat.grad[flat > 0] > 0).all()


def test_exposure_triplet_by_hand() -> None:
    image, positive, negative = (constant(v, v, v) for v in (0.3, 0.5, 0.2))
    # .2 - .1 + .3
    assert exposure_triplet_loss(image, positive, negative).item() == pytest.approx(0.4)
    # .2 - .7 + .3 is below 0
    image = constant(0.3, 0.3, 0.3).requires_grad_()
    loss = exposure_triplet_loss(image, positive, constant(1.0, 1.0, 1.0))
    loss.backward()
    assert loss.item() == 0
    assert not image.grad.any()


def test_gram_by_hand() -> None:
    # Channels (1, 2) and (0, 1) over two places: products 5, 2, 1, divided by 2 * 1 * 2.
    features = [torch.tensor([[1.0, 2.0], [0.0, 1.0]]).view(1, 2, 1, 2)]
    zeros = [torch.zeros(1, 2, 1, 2)]
    by_hand = (25 + 4 + 4 + 1) / 16
    assert gram_distance(features, zeros).item() == pytest.approx(by_hand)
    two_levels = gram_distance(features * 2, zeros * 2).item()
    assert two_levels == pytest.approx(2 * by_hand)
    assert gram_triplet_loss(zeros, features, features).item() == pytest.approx(0.04)
    # Places can be permuted: only products of channels count.
    assert gram_distance(features, [features[0].flip(3)]).item() == 0


def test_darkener_losses_match_the_reference(unit, normal, near, theirs, numbers) -> None:
    dark = (0.4 * unit(311, 2, 3, 16, 24).float()).double().requires_grad_()
    curve = (0.02 * normal(312, 2, 3, 16, 24).float()).double().requires_grad_()
    scale = (0.95 + 0.05 * unit(313, 2, 3, 16, 24).float()).double().requires_grad_()
    exposure = numbers["simminmax/loss/exposure_target"].double().view(2, 1, 1, 1)
    losses = {
        "exposure": (exposure_loss(dark, exposure), dark),
        "exposure_patch4": (exposure_loss(dark, exposure, cell=4), dark),
        "color": (color_loss(dark, eps=0), dark),
        "tv_tent": (total_variation(curve, tent=0.02), curve),
        "tv_plain": (total_variation(curve), curve),
        "flex": (flexibility_loss(scale), scale),
    }
    for name, (loss, leaf) in losses.items():
        theirs("simminmax", name, loss, leaf)
    value = {name: loss for name, (loss, _) in losses.items()}
    total = 10 * value["exposure"] + 25 * value["color"] + 1600 * value["tv_tent"]
    total = total + 0.1 * numbers["simminmax/loss/f64/sim"]
    near(total + 5 * value["flex"], numbers["simminmax/loss/f64/total_cls"])
    near(total + 1 * value["flex"], numbers["simminmax/loss/f64/total_seg"])


def test_enhancer_losses_match_the_reference(unit, normal, near, theirs, numbers, fill) -> None:
    shape = (2, 3, 32, 48)
    image = (0.3 * unit(501, *shape).float()).double()
    enhanced = (0.1 + 0.6 * unit(502, *shape).float()).double().requires_grad_()
    positive = (0.4 + 0.5 * unit(503, *shape).float()).double()
    negative = (0.25 * unit(504, *shape).float()).double()
    maps = (0.1 * normal(505, 2, 24, 32, 48).float()).double().requires_grad_()
    labels = numbers["scl/loss/labels"].long()
    network = VGG16()
    vgg = fill(network, {name: f"features.{name}" for name in network.state_dict()})
    *style, meaning = vgg(enhanced).values()
    *near_style, _ = vgg(positive).values()
    *far_style, _ = vgg(negative).values()
    content = vgg(image)["relu4_3"]
    # The mean of a class over the batch is that over one image made of all.
    rows = enhanced.transpose(0, 1).reshape(1, 3, -1, 48), labels.view(1, -1, 48)
    losses = {
        "exposure_raw": exposure_triplet_loss(enhanced, positive, negative),
        "exposure_triplet": 10 * exposure_triplet_loss(enhanced, positive, negative),
        "gram_pos": gram_distance(style, near_style),
        "gram_neg": gram_distance(style, far_style),
        "gram_raw": gram_triplet_loss(style, near_style, far_style),
        "gram_triplet": 5 * gram_triplet_loss(style, near_style, far_style),
        "color": 8 * color_loss(enhanced, eps=0),
        "perception": F.mse_loss(content, meaning),
        "class_released": released_class_brightness_loss(enhanced, labels),
        "class_intended_batch": class_brightness_loss(*rows),
        "class_intended_image": class_brightness_loss(enhanced, labels),
    }
    for name, loss in losses.items():
        theirs("scl", name, loss, enhanced)
    losses["tv"] = 200 * total_variation(maps)
    theirs("scl", "tv", losses["tv"], maps)
    parts = ("exposure_triplet", "gram_triplet", "class_released", "perception", "color", "tv")
    total = sum(losses[name] for name in parts)
    near(total, numbers["scl/loss/f64/total_released_without_ce"])


def test_gradients() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 3, 4, 4).double().requires_grad_()
    labels = torch.randint(0, 3, (2, 4, 4))
    others = torch.rand(2, 2, 3, 4, 4).double()
    exposure = torch.rand(2, 1, 1, 1).double()
    for loss in (
        lambda x: exposure_loss(x, exposure, cell=2),
        color_loss,
        lambda x: total_variation(x, tent=0.2),
        lambda x: class_brightness_loss(x, labels),
        lambda x: exposure_triplet_loss(x, *others),
        lambda x: gram_triplet_loss([x], [others[0]], [others[1]], margin=1),
    ):
        assert torch.autograd.gradcheck(loss, image)
