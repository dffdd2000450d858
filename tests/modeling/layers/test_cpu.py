"""Convolutions that train on a CPU in ways of their own: the same values and gradients."""

import pytest
import torch
from torch import Tensor, nn

from smmcl.modeling.layers.cpu import DepthwiseConv, PointConv

KERNELS = [(1, 7), (7, 1), (5, 5), (1, 21), (21, 1), (3, 3), (9, 7)]


def results(conv: nn.Conv2d, feature: Tensor) -> list[Tensor]:
    """The output, and the gradients of the input, the weight and the bias."""
    feature = feature.detach().requires_grad_()
    output = conv(feature)
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)
    gradients = torch.autograd.grad((output * weights).sum(), [feature, *conv.parameters()])
    return [output.detach(), *gradients]


def plain(conv: nn.Conv2d) -> nn.Conv2d:
    copy = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,
        groups=conv.groups, bias=conv.bias is not None, dtype=conv.weight.dtype,
    )  # fmt: skip
    copy.load_state_dict(conv.state_dict())
    return copy


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("size", [(24, 25), (8, 30), (30, 8), (3, 4)], ids=str)
def test_a_depthwise_convolution_has_torchs_gradients(
    kernel: tuple[int, int], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    conv = DepthwiseConv(4, kernel).double()
    feature = torch.randn(2, 4, *size, dtype=torch.float64)
    for layout in (torch.contiguous_format, torch.channels_last):
        ours, torchs = (
            results(layer, feature.contiguous(memory_format=layout))
            for layer in (conv, plain(conv))
        )
        for actual, expected in zip(ours, torchs, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(5, 5), (9, 12), (12, 9)], ids=str)
def test_a_stride_gives_torchs_gradients(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    conv = DepthwiseConv(3, (5, 5), stride=2, bias=False).double()
    feature = torch.randn(2, 3, *size, dtype=torch.float64)
    for actual, expected in zip(results(conv, feature), results(plain(conv), feature), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_1x1_convolution_has_torchs_gradients(has_bias: bool) -> None:
    torch.manual_seed(0)
    conv = PointConv(3, 5, bias=has_bias).double()
    feature = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    for actual, expected in zip(results(conv, feature), results(plain(conv), feature), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("conv", [DepthwiseConv(4, (1, 7)), PointConv(4, 4)])
def test_maps_stay_channels_last(conv: nn.Conv2d) -> None:
    feature = torch.randn(2, 4, 9, 8).contiguous(memory_format=torch.channels_last)
    assert conv(feature).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("conv", [DepthwiseConv(4, (5, 5)), PointConv(4, 4)])
def test_autocast_applies_as_to_torchs_own(conv: nn.Conv2d) -> None:
    feature = torch.randn(2, 4, 9, 8)
    with torch.autocast("cpu", torch.bfloat16):
        output = conv(feature)
        expected = plain(conv)(feature)
    assert output.dtype == expected.dtype == torch.bfloat16
    # Both round the same products' sums to bfloat16, each at most by half of eps.
    sizes = plain(conv)
    for parameter in sizes.parameters():
        parameter.data.abs_()
    bound = torch.finfo(torch.bfloat16).eps * sizes(feature.abs())
    assert ((output.float() - expected.float()).abs() <= bound).all()
    (gradient,) = torch.autograd.grad(output.float().sum(), conv.weight)
    assert gradient.dtype == torch.float32


def test_frozen_parts_get_no_gradient() -> None:
    conv = DepthwiseConv(4, (5, 5))
    conv.weight.requires_grad_(False)
    conv(torch.randn(1, 4, 9, 8)).sum().backward()
    assert conv.weight.grad is None
    assert conv.bias.grad.tolist() == [72.0] * 4
