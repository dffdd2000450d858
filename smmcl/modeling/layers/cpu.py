"""Convolutions that are trained on a CPU around oneDNN's slow spots, and else are torch's own.

The gradient of a depthwise weight wider than three columns takes up to 90 times as long there as
that of a narrow one: it is computed of turned maps, or three columns at a time. 1x1 convolutions of
several images take up to 1.4 times as long as the matrix products that they are.

Shape shorthand in this module:
    N: images in the batch     C: channels     H, W: height and width
    K: output channels, or with L the height and width of a kernel, both odd
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.grad import conv2d_input, conv2d_weight

FAST_COLUMNS = 3


class PointConv(nn.Conv2d):
    """A 1x1 convolution, in training on a CPU a matrix product for each image."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, feature: Tensor) -> Tensor:
        if not _is_trained_on_cpu(feature):
            return super().forward(feature)
        tensors = _autocast(feature.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
        return _Products.apply(*tensors).permute(0, 3, 1, 2)


class DepthwiseConv(nn.Conv2d):
    """A depthwise convolution that keeps the size of its map."""

    def __init__(self, channels: int, kernel: tuple[int, int]) -> None:
        padding = (kernel[0] // 2, kernel[1] // 2)
        super().__init__(channels, channels, kernel, padding=padding, groups=channels)

    def forward(self, feature: Tensor) -> Tensor:
        if not _is_trained_on_cpu(feature) or max(self.kernel_size) <= FAST_COLUMNS:
            return super().forward(feature)
        return _LongDepthwise.apply(*_autocast(feature, self.weight, self.bias), self.padding)


def _is_trained_on_cpu(feature: Tensor) -> bool:
    if torch.compiler.is_compiling():  # it has ways of its own, and export keeps plain operators
        return False
    return torch.is_grad_enabled() and feature.device.type == "cpu"


def _autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    if not torch.is_autocast_enabled("cpu"):
        return tensors
    return tuple(t if t is None else t.to(torch.get_autocast_dtype("cpu")) for t in tensors)


class _Products(torch.autograd.Function):
    """Every image for itself: what one gives must not depend on how many others there are.

    But all at once in the lower precisions, whose rounded sums should not be summed again.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        feature: Tensor,  # (N, H, W, C)
        weight: Tensor,  # (K, C)
        bias: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(feature, weight)
        output = feature.new_empty(*feature.shape[:3], len(weight))  # (N, H, W, K)
        for image, result in zip(_images(feature), _images(output), strict=True):
            if bias is None:
                torch.mm(image, weight.t(), out=result)
            else:
                torch.addmm(bias, image, weight.t(), out=result)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        feature, weight = ctx.saved_tensors
        needs_feature, needs_weight, needs_bias = ctx.needs_input_grad
        grad = grad.contiguous()
        grad_feature = torch.empty_like(feature, memory_format=torch.contiguous_format)
        grad_weight = torch.empty_like(weight)
        images = zip(*map(_images, (feature, grad, grad_feature)), strict=True)
        for i, (image, change, result) in enumerate(images):
            if needs_feature:
                torch.mm(change, weight, out=result)
            if needs_weight:  # the first overwrites what was there
                torch.addmm(grad_weight, change.t(), image, beta=min(i, 1), out=grad_weight)
        return (
            grad_feature if needs_feature else None,
            grad_weight if needs_weight else None,
            grad.sum((0, 1, 2)) if needs_bias else None,
        )


def _images(tensor: Tensor) -> Tensor:
    """(N, H, W, C) -> (N, H * W, C), or (1, N * H * W, C) in the lower precisions."""
    is_low = torch.finfo(tensor.dtype).bits < 32
    return tensor.flatten(0, 2).unsqueeze(0) if is_low else tensor.flatten(1, 2)


class _LongDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        feature: Tensor,
        weight: Tensor,
        bias: Tensor,
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(feature, weight)
        ctx.options = {"padding": padding, "groups": len(weight)}
        return F.conv2d(feature, weight, bias, **ctx.options)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        feature, weight = ctx.saved_tensors
        needs_feature, needs_weight, needs_bias, _ = ctx.needs_input_grad
        return (
            conv2d_input(feature.shape, weight, grad, **ctx.options) if needs_feature else None,
            weight_gradient(feature, grad, weight.shape[2:]) if needs_weight else None,
            grad.sum((0, 2, 3)) if needs_bias else None,
            None,
        )


def weight_gradient(feature: Tensor, grad: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Gradient (C, 1, K, L) of the weight, of the layer's input and its output's gradient.

    Both are (N, C, H, W). Columns are fast, unless they are longer than the map is high.
    """
    is_wide = kernel[1] > kernel[0]
    fits = max(kernel) <= feature.shape[3 if is_wide else 2]
    if is_wide != fits:
        return _by_columns(feature, grad, kernel)
    turned = [
        tensor.mT.contiguous(memory_format=torch.channels_last)  # (N, C, W, H)
        for tensor in (feature, grad)
    ]
    return _by_columns(*turned, kernel[::-1]).mT


def _by_columns(feature: Tensor, grad: Tensor, kernel: tuple[int, int]) -> Tensor:
    num_channels, (height, width) = feature.shape[1], kernel
    padded = F.pad(feature, (width // 2, width // 2)) if width > 1 else feature
    parts = []
    for first in range(0, width, FAST_COLUMNS):
        num_columns = min(FAST_COLUMNS, width - first)
        seen = padded[..., first : first + grad.shape[3] + num_columns - 1]
        size = (num_channels, 1, height, num_columns)
        parts.append(conv2d_weight(seen, size, grad, padding=(height // 2, 0), groups=num_channels))
    return torch.cat(parts, dim=3)
