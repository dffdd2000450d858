"""Convolutions that are trained on a CPU around oneDNN's slow spots, and else are torch's own.

The gradient of a depthwise weight wider than three columns takes up to 90 times as long there as
that of a narrow one: it is computed of turned maps, or three columns at a time. 1x1 convolutions of
several images take up to 1.4 times as long as the matrix products that they are.

Shape shorthand in this module:
    N: images in the batch     C: channels     H, W: height and width
    K: output channels, or with L the height and width of a kernel, both odd
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.grad import conv2d_weight

from smmcl.modeling.layers.resize import resize

FAST_COLUMNS = 3


class PointConv(nn.Conv2d):
    """A 1x1 convolution, in training on a CPU a matrix product for each image."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, feature: Tensor) -> Tensor:
        return point_conv(feature, self.weight, self.bias)


def point_conv(feature: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`PointConv` as a function: (N, C, H, W) by the weight (K, C, 1, 1) to (N, K, H, W)."""
    if not _is_trained_on_cpu(feature):
        return F.conv2d(feature, weight, bias)
    tensors = _autocast(feature.permute(0, 2, 3, 1), weight.flatten(1), bias)
    return _Products.apply(*tensors).permute(0, 3, 1, 2)


class MixConv(PointConv):
    """A 1x1 convolution of maps, each projected, resized to the last one's size, concatenated.

    All this is linear, so a map's two convolutions are one by the product of their weights, and
    come before the resize: the same at a third of the multiplications.
    """

    def forward(self, maps: list[tuple[Tensor, nn.Conv2d]]) -> Tensor:
        """Maps (N, ., ., .) with their projections to (N, channels, h, w) of the last one."""
        size = maps[-1][0].shape[-2:]
        parts = self.weight.flatten(1).split([p.out_channels for _, p in maps], dim=1)
        mixed, bias = None, self.bias
        for (feature, projection), part in zip(maps, parts, strict=True):
            weight = part @ projection.weight.flatten(1)  # (channels, C)
            offset = part @ projection.bias  # (channels,)
            if bias is not None:  # once in the sum
                offset, bias = offset + bias, None
            update = resize(point_conv(feature, weight[..., None, None], offset), size)
            mixed = update if mixed is None else mixed + update
        return mixed


class DepthwiseConv(nn.Conv2d):
    """A depthwise convolution that keeps the size of its map or, with a stride, pads nothing."""

    def __init__(
        self, channels: int, kernel: tuple[int, int], *, stride: int = 1, bias: bool = True
    ) -> None:
        padding = (kernel[0] // 2, kernel[1] // 2) if stride == 1 else 0
        super().__init__(channels, channels, kernel, stride, padding, groups=channels, bias=bias)

    def forward(self, feature: Tensor) -> Tensor:
        if not _is_trained_on_cpu(feature) or max(self.kernel_size) <= FAST_COLUMNS:
            return super().forward(feature)
        return _LongDepthwise.apply(
            *_autocast(feature, self.weight, self.bias), self.stride, self.padding
        )


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
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(feature, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(feature, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        feature, weight = ctx.saved_tensors
        needs_feature, needs_weight, needs_bias, _, _ = ctx.needs_input_grad
        grad_feature, _, grad_bias = torch.ops.aten.convolution_backward(
            grad, feature, weight, [len(weight)], ctx.stride, ctx.padding, (1, 1), False, (0, 0),
            len(weight), (needs_feature, False, needs_bias),
        )  # fmt: skip
        grad_weight = None
        if needs_weight:
            grad_weight = weight_gradient(feature, grad, weight.shape[2:], stride=ctx.stride)
        return grad_feature, grad_weight, grad_bias, None, None


def weight_gradient(
    feature: Tensor, grad: Tensor, kernel: tuple[int, int], *, stride: tuple[int, int] = (1, 1)
) -> Tensor:
    """Gradient (C, 1, K, L) of the weight, of the layer's input and its output's gradient.

    Both are (N, C, H, W). Columns are fast, unless they are longer than the map is high. With a
    stride, every stride-th row and column of the weight sees a smaller map of its own.
    """
    if max(stride) > 1:
        weight = grad.new_empty(feature.shape[1], 1, *kernel)
        for top, left in itertools.product(*map(range, stride)):
            part = weight[:, :, top :: stride[0], left :: stride[1]]
            height, width = (
                size + k - 1 for size, k in zip(grad.shape[2:], part.shape[2:], strict=True)
            )
            seen = feature[:, :, top :: stride[0], left :: stride[1]][:, :, :height, :width]
            part.copy_(_by_columns(seen, grad, part.shape[2:], padding=(0, 0)))
        return weight
    padding = (kernel[0] // 2, kernel[1] // 2)
    is_wide = kernel[1] > kernel[0]
    fits = max(kernel) <= feature.shape[3 if is_wide else 2]
    if is_wide != fits:
        return _by_columns(feature, grad, kernel, padding=padding)
    turned = [
        tensor.mT.contiguous(memory_format=torch.channels_last)  # (N, C, W, H)
        for tensor in (feature, grad)
    ]
    return _by_columns(*turned, kernel[::-1], padding=padding[::-1]).mT


def _by_columns(
    feature: Tensor, grad: Tensor, kernel: tuple[int, int], *, padding: tuple[int, int]
) -> Tensor:
    num_channels, (height, width) = feature.shape[1], kernel
    rows, columns = padding
    padded = F.pad(feature, (columns, columns)) if columns > 0 else feature
    parts = []
    for first in range(0, width, FAST_COLUMNS):
        num_columns = min(FAST_COLUMNS, width - first)
        seen = padded[..., first : first + grad.shape[3] + num_columns - 1]
        size = (num_channels, 1, height, num_columns)
        parts.append(conv2d_weight(seen, size, grad, padding=(rows, 0), groups=num_channels))
    return torch.cat(parts, dim=3)
