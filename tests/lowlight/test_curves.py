"""Curves by hand and against reference numbers, and what no image can break."""

import numpy as np
import pytest
import torch

from smmcl.lowlight.curves import (
    DarkeningCurve,
    EnhancingCurve,
    apply_curves,
    encode_exposure,
    noisy_exposure,
    quadratic,
    reciprocal,
)


def darkener_names(num_chain: int = 5) -> dict[str, str]:
    """Our names of the darkener's weights to the authors'."""
    places = [f"chain.{i}" for i in range(num_chain)] + [f"joins.{i}" for i in range(3)]
    return {
        f"network.{place}.{i}.{kind}": f"e_conv{number}.{part}_conv.{kind}"
        for number, place in enumerate(places)
        for i, part in enumerate(("depth", "point"))
        for kind in ("weight", "bias")
    }


def enhancer_names() -> dict[str, str]:
    places = [f"chain.{i}" for i in range(4)] + [f"joins.{i}" for i in range(3)]
    return {
        f"network.{place}.{kind}": f"e_conv{number}.{kind}"
        for number, place in enumerate(places, start=1)
        for kind in ("weight", "bias")
    }


def test_steps_by_hand() -> None:
    half = torch.tensor(0.5)
    # .5 + 1 (.25 - .5) = .25, then .25 - 1 (.0625 - .25) = .4375
    assert apply_curves(half, [torch.tensor(1.0), torch.tensor(-1.0)]).item() == 0.4375
    # b = -2: (-1) .5 / (-2 + .5) = 1/3
    bent = apply_curves(half, [half], reciprocal).item()
    assert bent == pytest.approx(1 / 3, abs=1e-5)
    for end in (torch.tensor(0.0), torch.tensor(1.0)):
        for step in (quadratic, reciprocal):
            assert apply_curves(end, [half] * 8, step).item() == pytest.approx(end.item(), abs=1e-6)


def test_curves_match_the_reference(numbers, near) -> None:
    image, A, B = (numbers[f"simminmax/curve/{name}"] for name in ("image", "A", "B"))
    for name, curve, step in (
        ("quadratic_8", A, quadratic),
        ("quadratic_8_absA", A.abs(), quadratic),
        ("reciprocal_8_absA", A.abs(), reciprocal),
    ):
        near(apply_curves(image * B, [curve] * 8, step) / B, numbers[f"simminmax/curve/{name}"])
    A, B, gray = (numbers[f"simminmax/curve/grid_{name}"].double() for name in ("A", "B", "grey"))
    A, B = A.view(-1, 1, 1), B.view(-1, 1)
    near(apply_curves(gray * B, [A] * 8) / B, numbers["simminmax/curve/grid_values"])


def test_exposure_code(numbers, near) -> None:
    # At exposure 0 the code is 1: sin(pi), cos(pi), sin(2 pi), cos(2 pi).
    by_hand = torch.tensor([0.0, -1.0, 0.0, 1.0], dtype=torch.float64)
    near(encode_exposure(torch.zeros(1, 1, 1, 1).double(), 4).flatten(), by_hand)
    exposure = numbers["simminmax/encode/E"].view(-1, 1, 1, 1)
    theirs = numbers["simminmax/encode/dim6"]
    near(encode_exposure(exposure, 6)[:, :, 0, 0], theirs.T)


@pytest.mark.parametrize(
    ("name", "size", "patch"),
    [("cls", (64, 96), 16), ("odd", (70, 90), 16), ("seg", (128, 192), 64)],
)
def test_exposure_maps_match_the_reference(name, size, patch, numbers, near) -> None:
    rng = np.random.RandomState(351)
    few = [side // patch for side in size]
    patches, pixels = (
        torch.from_numpy(rng.standard_normal((1, 1, *sides))) for sides in (few, size)
    )
    level = torch.full((1, 1, 1, 1), 0.13, dtype=torch.float64)
    ours = noisy_exposure(level, pixels, patches)
    near(ours[..., ::8, ::8], numbers[f"simminmax/noise/{name}"])


@pytest.mark.parametrize("kind", ["const", "map"])
def test_darkener_matches_the_reference(kind, numbers, unit, fill, near) -> None:
    # Their 0.95 is a float32.
    model = DarkeningCurve(is_signed=True, lowest_scale=float(np.float32(0.95)))
    assert sum(p.numel() for p in model.parameters()) == 40_686
    fill(model, darkener_names())
    image = unit(301, 2, 3, 32, 48).requires_grad_()
    exposure = torch.tensor([0.1, 0.35]).double().view(2, 1, 1, 1)
    if kind == "map":
        exposure = 0.5 * unit(302, 2, 1, 32, 48)
    exposure.requires_grad_()
    outputs = model(image, exposure)
    outputs[0].square().sum().backward()
    theirs = {k.rpartition("/")[2]: v for k, v in numbers.items() if f"net/{kind}/f64/" in k}
    for ours, name in zip(outputs, ("dark", "A", "B"), strict=True):
        near(ours[..., ::4, ::4], theirs[name])
    torch.testing.assert_close(image.grad.norm(), theirs["grad_image_l2"], rtol=1e-12, atol=0)
    near(image.grad.flatten()[:8], theirs["grad_image_head8"])
    near(exposure.grad.norm(), theirs["grad_exposure_l2"])
    inverse = {name: ours for ours, name in darkener_names().items()}
    gradients = {name: parameter.grad.norm() for name, parameter in model.named_parameters()}
    ours = torch.stack([gradients[inverse[n]] for n in numbers["simminmax/net/weight_names"]])
    torch.testing.assert_close(ours, theirs["param_grad_l2"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (7, 5)])
def test_dark_images_stay_between_black_and_the_image(value: float, size: tuple) -> None:
    torch.manual_seed(0)
    model = DarkeningCurve(width=8)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=2)
    image = torch.full((2, 3, *size), value)
    dark, curve, scale = model(image, torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
    assert (dark >= 0).all()
    assert (dark <= image + 1e-6).all()
    assert (curve >= 0).all()
    assert ((scale >= 0.95) & (scale <= 1)).all()
    dark.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_signed_curves_pass_white() -> None:
    # A = -1 and B = 0.95: 0.95 goes to 1 within eight steps, and 1 / 0.95 is beyond white.
    white, B = torch.ones(1).double(), 0.95
    bright = apply_curves(white * B, [-white] * 8) / B
    assert bright.item() == pytest.approx(1.0526, abs=1e-4)


def test_darkener_options() -> None:
    torch.manual_seed(0)
    image, exposure = torch.rand(1, 3, 4, 4), torch.full((1, 1, 1, 1), 0.2)
    plain, signed, coded, other = (
        DarkeningCurve(width=4, **options)(image, exposure)[0]
        for options in ({}, {"is_signed": True}, {"code_channels": 6}, {"step": reciprocal})
    )
    assert all(dark.shape == image.shape for dark in (plain, signed, coded, other))
    assert ((other >= 0) & (other <= image)).all()
    for channels in (0, 3):
        with pytest.raises(ValueError, match=f"code_channels is {channels}. Set it to 1"):
            DarkeningCurve(code_channels=channels)


def test_enhancer_matches_the_reference(numbers, unit, fill, near) -> None:
    model = EnhancingCurve()
    assert sum(p.numel() for p in model.parameters()) == 79_416
    fill(model, enhancer_names())
    image = (0.3 * unit(501, 2, 3, 32, 48).float()).double().requires_grad_()
    enhanced, curves = model(image)
    enhanced.square().sum().backward()
    theirs = {k.rpartition("/")[2]: v for k, v in numbers.items() if "scl/net/f64/" in k}
    near(enhanced[..., ::4, ::4], theirs["enhanced"])
    after_four = apply_curves(image, curves.chunk(8, 1)[:4])
    near(after_four[..., ::4, ::4], theirs["after4"])
    near(image.grad.norm(), theirs["grad_image_l2"])
    near(image.grad.flatten()[:8], theirs["grad_image_head8"])
    inverse = {name: ours for ours, name in enhancer_names().items()}
    gradients = {name: parameter.grad.norm() for name, parameter in model.named_parameters()}
    ours = torch.stack([gradients[inverse[n]] for n in numbers["scl/net/weight_names"]])
    torch.testing.assert_close(ours, theirs["param_grad_l2"], rtol=1e-12, atol=1e-10)


def test_enhancer_starts_near_the_identity() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 6, 9)
    enhanced, curves = EnhancingCurve()(image)
    assert curves.shape == (1, 24, 6, 9)
    torch.testing.assert_close(enhanced, image, rtol=0, atol=0.2)


def test_a_shrunk_enhancer_sees_the_whole_image() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 30, 50)
    brighter = image.clone()
    brighter[..., 40:] = 1
    for shrink, reaches in ((1, False), (8, True)):
        model = EnhancingCurve(shrink=shrink)
        before, after = (model(x)[1][..., 0] for x in (image, brighter))
        assert before.shape == (1, 24, 30)
        assert torch.equal(before, after) != reaches


def test_gradients_of_the_curve() -> None:
    image = torch.rand(1, 3, 2, 2).double().requires_grad_()
    curve = torch.rand(1, 3, 2, 2).double().requires_grad_()
    for step in (quadratic, reciprocal):
        assert torch.autograd.gradcheck(
            lambda y, a, s=step: apply_curves(y, [a] * 3, s), (image, curve)
        )
