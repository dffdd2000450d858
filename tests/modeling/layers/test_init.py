"""Weight initialization: the standard deviations by hand."""

import pytest
import torch
from torch import nn

from smmcl.modeling.layers.init import init_decoder, init_encoder


@pytest.mark.parametrize(
    ("conv", "std"),
    [
        (nn.Conv2d(64, 200, 1), 0.1),  # sqrt(2 / 200)
        (nn.Conv2d(16, 200, 3), 1 / 30),  # sqrt(2 / (9 * 200))
        (nn.Conv2d(800, 800, (5, 4), groups=800), 0.1**0.5),  # sqrt(2 / 20)
    ],
)
def test_encoder_convolutions_have_variance_two_over_fan_out(conv: nn.Conv2d, std: float) -> None:
    torch.manual_seed(0)
    init_encoder(conv)
    assert conv.weight.std().item() == pytest.approx(std, rel=0.03)
    assert conv.weight.mean().item() == pytest.approx(0, abs=0.03 * std)
    assert not conv.bias.any()


def test_encoder_linear_layers_are_cut_normals_and_norms_the_identity() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(100, 100), nn.BatchNorm2d(3), nn.LayerNorm(3))
    for parameter in layers.parameters():
        nn.init.constant_(parameter, 7)
    init_encoder(layers)
    assert layers[0].weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert not layers[0].bias.any()
    for norm in layers[1:]:
        assert norm.weight.tolist() == [1, 1, 1]
        assert norm.bias.tolist() == [0, 0, 0]


def test_bare_parameters_keep_their_value() -> None:
    holder = nn.Module()
    holder.layer_scale = nn.Parameter(torch.full((3,), 0.01))
    init_encoder(holder)
    assert holder.layer_scale.tolist() == pytest.approx([0.01] * 3)


def test_decoder_convolutions_have_variance_two_over_fan_in() -> None:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Conv2d(200, 300, 1), nn.ReLU(), nn.Conv2d(50, 100, 3, bias=False))
    init_decoder(head)
    assert head[0].weight.std().item() == pytest.approx(0.1, rel=0.03)  # sqrt(2 / 200)
    assert head[2].weight.std().item() == pytest.approx(1 / 15, rel=0.03)  # sqrt(2 / 450)
    assert not head[0].bias.any()
