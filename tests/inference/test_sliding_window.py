"""Windows, scales and mirror images: positions by hand, and the authors' scores where trusted."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smmcl.inference.sliding_window import WindowedInference, window_starts

MEAN = torch.tensor([0.485, 0.456, 0.406]).double().view(3, 1, 1) * 255
STD = torch.tensor([0.229, 0.224, 0.225]).double().view(3, 1, 1) * 255
TRUSTED = {
    "same_size": {},
    "same_size_flip": {},
    "smaller": {},
    "taller_only": {"size": (70, 64)},  # there the whole height is one window
    "slide_square_crop": {},
    "ms_le1_flip": {},
    "ms_square_flip": {},
}


class WindowNetwork(nn.Module):
    """The reference's made-up network: its answer depends on the whole window."""

    def __init__(self, data):
        super().__init__()
        self.A, self.B = torch.from_numpy(data["A"]), torch.from_numpy(data["B"])
        self.shapes = []

    def forward(self, batched_inputs):
        return [{"sem_seg": self.one(inputs)} for inputs in batched_inputs]

    def one(self, inputs):
        parts = []
        for key in ("image", "auxiliary"):
            image = (inputs[key].double() - MEAN) / STD  # (3, h, w)
            top, left, bottom, right = inputs["valid_box"]
            real = torch.zeros_like(image)
            real[:, top:bottom, left:right] = image[:, top:bottom, left:right]
            parts.append(real)
        z = torch.cat(parts)  # (6, h, w)
        self.shapes.append(tuple(z.shape[-2:]))
        ramp = torch.linspace(-1, 1, z.shape[-1], dtype=torch.float64)
        k = torch.arange(5, dtype=torch.float64).view(5, 1, 1)
        own = torch.einsum("kc,chw->khw", self.A, z)
        mean = (self.B @ z.mean(dim=(1, 2))).view(5, 1, 1)
        return (0.5 * own + 0.5 * mean + 0.1 * k * ramp).float()


def to_tensor(image):
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("case", TRUSTED)
def test_scores_equal_the_reference(golden, case, batch_size):
    data = np.load(golden / "sliding.npz")
    network = WindowNetwork(data)
    inputs = {
        "image": to_tensor(data[f"{case}/rgb"]),
        "auxiliary": to_tensor(np.repeat(data[f"{case}/x"][..., None], 3, axis=2)),
    }
    options = {
        "size": tuple(data[f"{case}/crop"].tolist()),
        "overlap": 1 - data[f"{case}/rate"].item(),
        "flip": bool(data[f"{case}/flip"]),
        "add": "exp",
        "batch_size": batch_size,
        **TRUSTED[case],
    }
    scales = data[f"{case}/scales"].tolist()
    total = 0
    for index, scale in enumerate(scales):
        wrapped = WindowedInference(network, scales=[scale], **options)
        scores = wrapped([inputs])[0]["sem_seg"].exp().numpy().transpose(1, 2, 0)
        reference = data[f"{case}/score{index}"]
        np.testing.assert_allclose(scores, reference, rtol=2e-5, atol=1e-6)
        total = total + reference
    together = WindowedInference(network, scales=scales, **options)([inputs])[0]["sem_seg"]
    np.testing.assert_allclose(together.exp().numpy().transpose(1, 2, 0), total, rtol=3e-5)
    agree = (together.argmax(0).numpy() == data[f"{case}/pred"]).mean()
    assert agree > 0.9995


@pytest.mark.parametrize(
    ("extent", "window", "overlap", "starts"),
    [
        (64, 64, 1 / 3, [0]),
        (50, 64, 1 / 3, [0]),  # padded to one window
        (100, 48, 1 / 3, [0, 32, 52]),  # the last one ends with the image
        (96, 48, 0.0, [0, 48]),
        (49, 48, 0.9, [0, 1]),
    ],
)
def test_window_positions(extent, window, overlap, starts):
    assert window_starts(extent, window, overlap=overlap) == starts


class PixelNetwork(nn.Module):
    """Says of each pixel what its own value says, at the wanted size."""

    def forward(self, batched_inputs):
        outputs = []
        for inputs in batched_inputs:
            value = inputs["image"][:1].float() + inputs["auxiliary"][:1].float()
            logits = torch.cat([value, 100 - value]) / 50  # (2, h, w)
            size = inputs.get("height", logits.shape[1]), inputs.get("width", logits.shape[2])
            outputs.append({"sem_seg": F.interpolate(logits[None], size, mode="bilinear")[0]})
        return outputs


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(0, 80, (3, 50, 70), generator=generator, dtype=torch.uint8),
        "auxiliary": torch.randint(0, 80, (1, 50, 70), generator=generator).float(),
        "valid_box": (0, 0, 50, 70),
        "height": 50,
        "width": 70,
    }


@pytest.mark.parametrize("size", [(16, 24), (24, 16), (50, 30), (64, 20), (64, 96), None])
@pytest.mark.parametrize("flip", [False, True])
def test_windows_of_any_shape_change_nothing_for_a_model_of_single_pixels(pair, size, flip):
    probabilities = PixelNetwork()([pair])[0]["sem_seg"].softmax(0)
    wrapped = WindowedInference(PixelNetwork(), size=size, overlap=0.25, flip=flip, batch_size=3)
    scores = wrapped([pair])[0]["sem_seg"]
    torch.testing.assert_close(scores.exp(), probabilities)
    torch.testing.assert_close(scores.softmax(0), probabilities)


def test_scales_have_equal_weight_whatever_their_windows(pair):
    def scores(scales):
        options = {"size": (32, 32), "overlap": 0.5}
        return WindowedInference(PixelNetwork(), scales=scales, **options)([pair])[0]["sem_seg"]

    small, large = scores([1.0]).exp(), scores([2.0]).exp()
    torch.testing.assert_close(scores([1.0, 2.0]).exp(), small + large)
    torch.testing.assert_close(large.sum(0), torch.ones(50, 70))


def test_output_has_the_wanted_size(pair):
    pair = {**pair, "height": 100, "width": 140}
    wrapped = WindowedInference(PixelNetwork(), size=(32, 32))
    assert wrapped([pair])[0]["sem_seg"].shape == (2, 100, 140)


def test_unknown_sum_names_the_key():
    with pytest.raises(ValueError, match=r"TEST\.AUG\.SUM is 'mean'"):
        WindowedInference(PixelNetwork(), add="mean")


def test_overlap_of_a_whole_window():
    with pytest.raises(ValueError, match=r"TEST\.SLIDING\.OVERLAP is 1"):
        WindowedInference(PixelNetwork(), overlap=1)


@pytest.mark.parametrize("is_training", [False, True])
def test_wrapping_leaves_the_mode_of_the_model(is_training):
    model = PixelNetwork().train(is_training)
    assert WindowedInference(model).training is model.training is is_training
