"""Second views: what they do to light, and that a draw depends on an image's seed alone."""

import pytest
import torch
from torch import Tensor

from smmcl.lowlight.curves import DarkeningCurve, EnhancingCurve
from smmcl.lowlight.darkener import Darkener
from smmcl.lowlight.enhancer import Enhancer
from smmcl.lowlight.relight import ExposureView, GammaView, RelightView, StoredView
from smmcl.lowlight.view import View


def view_of(image: Tensor) -> View:
    return View(image, seeds=range(len(image)))


def darkener_view(**options) -> RelightView:
    torch.manual_seed(0)
    options = {"exposure": (0.0, 0.2), **options}
    return RelightView(Darkener(curve=DarkeningCurve(width=8)), **options)


SOURCES = {
    "gamma": GammaView(),
    "exposure": ExposureView(),
    "darkener": darkener_view(),
    "enhancer": RelightView(Enhancer(curve=EnhancingCurve(width=8))),
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_views_stay_in_range(name: str, value: float) -> None:
    image = torch.full((2, 3, 24, 40), value)
    other = SOURCES[name](view_of(image), [])
    assert other.shape == image.shape
    assert ((other >= 0) & (other <= 1)).all()


@pytest.mark.parametrize("name", ["gamma", "exposure", "darkener"])
def test_draws_follow_the_seed_of_an_image(name: str) -> None:
    image = torch.rand(3, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    together = SOURCES[name](View(image, seeds=[7, 8, 9]), [])
    alone = SOURCES[name](View(image[1:2], seeds=[8]), [])
    torch.testing.assert_close(together[1:2], alone)
    other = SOURCES[name](View(image[1:2], seeds=[9]), [])
    assert not torch.allclose(alone, other, atol=1e-3)
    assert together.mean() < image.mean() - 0.05


def test_gamma_by_hand() -> None:
    view = view_of(torch.full((1, 3, 1, 1), 0.5))
    torch.testing.assert_close(GammaView(3, 3)(view, []), torch.full((1, 3, 1, 1), 0.125))


def test_exposure_by_hand() -> None:
    # Two stops less of white: 250 of 1000 photons, with a deviation of sqrt(250 + 4).
    counts = 1000 * ExposureView((-2, -2))(view_of(torch.ones(1, 3, 100, 100)), []) ** 2.2
    assert counts.mean().item() == pytest.approx(250, abs=0.5)
    assert counts.std().item() == pytest.approx(254**0.5, rel=0.03)


def test_options_that_do_not_fit_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"exposures 0 to 0\.5, but 0 to 0\.7 are wanted"):
        darkener_view(exposure=(0.0, 0.7))


def test_frozen_curves_are_no_part_of_the_view() -> None:
    source = darkener_view()
    assert not list(source.parameters())
    assert not source.state_dict()
    source.double()
    assert next(source.frozen.module.parameters()).dtype == torch.float64
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    assert not SOURCES["darkener"](view_of(image), []).requires_grad


def test_stored_images(inputs, segmentor) -> None:
    pair = segmentor.preprocess(inputs)
    view = View(pair.visible)
    for record in inputs:
        record["translated"] = record["image"] // 2
    other = StoredView()(view, inputs)
    assert other.shape == view.image.shape
    torch.testing.assert_close(other[0, :, :20, :28] * 255, inputs[0]["translated"].float())
    assert not other[0, :, 20:].any()
    with pytest.raises(ValueError, match="The 'night_image' of an input is missing"):
        StoredView("night_image")(view, inputs)
    inputs[0]["translated"] = inputs[0]["translated"].float() / 255
    with pytest.raises(ValueError, match=r"is torch\.float32, but bytes are needed"):
        StoredView()(view, inputs)
    inputs[0]["translated"] = inputs[0]["image"][:, :10]
    with pytest.raises(
        ValueError, match=r"A 'translated' image is \(3, 10, 28\), its image \(3, 20"
    ):
        StoredView()(view, inputs)
