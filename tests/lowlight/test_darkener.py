"""The darkener's training: what it learns, what stays frozen, what it refuses."""

import copy

import pytest
import torch
from torch import nn

from smmcl.lowlight.curves import DarkeningCurve
from smmcl.lowlight.darkener import Darkener
from smmcl.lowlight.photometric import brightness


def darkener_of(segmentor: nn.Module, **options) -> Darkener:
    torch.manual_seed(1)
    curve = DarkeningCurve(width=16)
    return Darkener(model=segmentor, curve=curve, in_features=["visible", "fused"], **options)


def test_losses_by_name(segmentor, inputs) -> None:
    losses = darkener_of(segmentor)(inputs)
    assert sorted(losses) == [
        "loss_color", "loss_exposure", "loss_flexibility", "loss_similarity", "loss_smooth",
    ]  # fmt: skip
    doubled = darkener_of(segmentor, weights={n: 2 * w for n, w in Darkener.WEIGHTS.items()})
    for name, loss in doubled(inputs).items():
        torch.testing.assert_close(loss, 2 * losses[name])
    with pytest.raises(KeyError, match="Weights are of color"):
        darkener_of(segmentor, weights={"color": 1.0})(inputs)


def test_similarity_is_that_of_the_frozen_features(segmentor, inputs) -> None:
    model = darkener_of(segmentor)
    # A curve that changes nothing leaves the features as they are, of cosine 1.
    model.curve.forward = lambda image, exposure: (image, 0 * image, 1 + 0 * image)
    losses = model(inputs)
    assert losses["loss_similarity"].item() == pytest.approx(0.1, abs=1e-3)
    assert losses["loss_smooth"].item() == losses["loss_flexibility"].item() == 0


def test_the_model_stays_as_it_was(segmentor, inputs) -> None:
    before = copy.deepcopy(segmentor.state_dict())
    model = darkener_of(segmentor).train()
    assert not segmentor.training
    assert set(model.state_dict()) == {
        "exposure_range", *(f"curve.{name}" for name in model.curve.state_dict())
    }  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    sum(model(inputs).values()).backward()
    assert all(p.grad is None for p in segmentor.parameters())
    assert all(p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
    for name, value in segmentor.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_gradients_flow_through_the_frozen_model(segmentor, inputs) -> None:
    zeros = dict.fromkeys(Darkener.WEIGHTS, 0.0)
    model = darkener_of(segmentor, weights={**zeros, "similarity": 1.0})
    sum(model(inputs).values()).backward()
    assert all(p.grad.any() for name, p in model.named_parameters() if name.endswith("weight"))


def test_the_curve_learns_to_follow_the_exposure(segmentor, inputs) -> None:
    model = darkener_of(segmentor)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = None
    for step in range(60):
        for seed, record in enumerate(inputs):
            record["view_seed"] = 2 * step + seed
        losses = model(inputs)
        first = first or losses["loss_exposure"].item()
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    image = torch.full((1, 3, 16, 16), 0.5)
    low, high = (
        brightness(model.curve(image, torch.full((1, 1, 1, 1), e))[0]).mean() for e in (0.05, 0.45)
    )
    assert high > low + 0.1


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_images(value: int, segmentor, inputs) -> None:
    for record in inputs:
        record["image"].fill_(value)
        record["auxiliary"].fill_(value)
    model = darkener_of(segmentor)
    losses = model(inputs)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_dark_images_have_their_own_sizes(segmentor, inputs) -> None:
    results = darkener_of(segmentor).eval()(inputs)
    for result, record in zip(results, inputs, strict=True):
        assert result["dark"].shape == record["image"].shape
        assert (result["dark"] <= record["image"] / 255 + 1e-6).all()


def test_draws_follow_the_seed_of_an_image(segmentor) -> None:
    model, wanted = darkener_of(segmentor), (0.0, 0.2)
    image = torch.rand(3, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    together = model.relight(image, seeds=[7, 8, 9], exposure=wanted)
    torch.testing.assert_close(together[1:2], model.relight(image[1:2], seeds=[8], exposure=wanted))
    other = model.relight(image[1:2], seeds=[9], exposure=wanted)
    assert not torch.allclose(together[1:2], other, atol=1e-4)
    assert not together.requires_grad


def test_wanted_brightness_has_the_stated_spread(segmentor) -> None:
    model, seen = darkener_of(segmentor), []
    model.curve.forward = lambda image, exposure: (seen.append(exposure) or image, None, None)
    night = torch.zeros(400, 3, 224, 224)
    model.relight(night, seeds=range(400), exposure=(0.0, 0.2), patch_size=16)
    (maps,) = seen
    assert maps.min() == 0
    means = maps.mean((1, 2, 3))
    assert means.mean().item() == pytest.approx(0.1, abs=0.01)
    assert means.std().item() == pytest.approx(0.2 / 12**0.5, abs=0.006)
    far = maps[means > 0.15]  # five deviations from 0
    assert far.std((1, 2, 3)).mean().item() == pytest.approx(0.0304, abs=0.0015)
    model.relight(torch.zeros(1, 3, 5, 7), seeds=[0], exposure=(0.3, 0.3), has_noise=False)
    assert seen[1].shape == (1, 1, 1, 1)
    assert seen[1].item() == pytest.approx(0.3)


@pytest.mark.parametrize("wanted", [(0.0, 0.6), (-0.1, 0.2), (0.3, 0.2)])
def test_exposures_that_were_not_trained_are_refused(wanted, segmentor) -> None:
    model = darkener_of(segmentor)
    with pytest.raises(ValueError, match=r"trained for exposures 0 to 0\.5, but .* are wanted"):
        model.relight(torch.zeros(1, 3, 8, 8), seeds=[0], exposure=wanted)


def test_a_checkpoint_of_another_range_is_refused(segmentor) -> None:
    state = darkener_of(segmentor, exposure_range=(0.1, 0.4)).state_dict()
    darkener_of(segmentor, exposure_range=(0.1, 0.4)).load_state_dict(state)
    with pytest.raises(
        ValueError, match=r"exposures 0\.1 to 0\.4, but the range here is 0 to 0\.5"
    ):
        darkener_of(segmentor).load_state_dict(state)


def test_models_without_the_methods_are_refused() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(
        ValueError, match="Linear has no preprocess, normalize, features, losses, inf"
    ):
        darkener_of(model)
    model.preprocess = model.features = model.losses = model.infer = model.forward
    with pytest.raises(ValueError, match="Linear has no normalize"):
        darkener_of(model)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.int32, torch.float32])
def test_images_that_are_not_bytes_are_refused(dtype: torch.dtype, segmentor, inputs) -> None:
    inputs[1]["image"] = inputs[1]["image"].to(dtype)
    with pytest.raises(ValueError, match=f"'image' of an input is {dtype}, but"):
        darkener_of(segmentor)(inputs)
