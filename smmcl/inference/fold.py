"""What inference need not compute anew for every pair: norms and scales become weights.

Shape shorthand in this module:
    C: channels of a map     E: hidden channels of a block's MLP
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from smmcl.modeling.head.mlp_head import MLPHead
from smmcl.modeling.layers.cpu import DepthwiseConv, MixConv, PointConv
from smmcl.modeling.layers.norm import FrozenNorm
from smmcl.modeling.layers.resize import resize
from smmcl.modeling.streams.mscan import MSCAN, Block, ConvMLP, Sum

# Most hidden channels of an MLP that are computed at once, by stage: of a pair of 480x640 a map of
# 5 MB each, which a processor still has in its cache for the next operation.
PART_WIDTHS = (64, 256, 1024, 4096)


# What oneDNN calls them, with their bounds.
ACTIVATIONS = {
    nn.GELU: ("gelu", [], "none"),
    nn.ReLU6: ("hardtanh", [0.0, 6.0], ""),
    nn.Identity: ("none", [], ""),
}
PLAIN = (nn.Conv2d, PointConv, DepthwiseConv)  # they differ in training only


class PackedConv(nn.Conv2d):
    """A convolution that on a CPU keeps its weight in oneDNN's own layout.

    It applies its activation to each piece of the map as it is made. Without the layout, which
    torch makes anew at every call, two lite0 streams and their head take 1.4 times as long for
    240x320 pixels in float32 and 1.2 times in bfloat16 (CPU time of one thread, AMD EPYC).
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module | None = None) -> None:
        super().__init__(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,
            conv.dilation, conv.groups, conv.bias is not None, device="meta",
        )  # fmt: skip
        self.weight, self.bias = conv.weight, conv.bias
        self.activation = activation or nn.Identity()
        self.packed: dict[torch.dtype, tuple[tuple, Tensor, Tensor | None]] = {}

    def forward(self, feature: Tensor) -> Tensor:
        dtype = self.weight.dtype
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
        is_captured = torch.compiler.is_compiling()  # an exported file runs where oneDNN is not
        is_learned = torch.is_grad_enabled() and feature.requires_grad
        on_cpu = feature.device.type == self.weight.device.type == "cpu"
        if is_captured or is_learned or not on_cpu or not _is_fused(dtype):
            return self.activation(super().forward(feature))
        # oneDNN's own, as torch.compile calls it; autocast does not know it.
        return torch.ops.mkldnn._convolution_pointwise(
            feature.to(dtype), *self._packed(dtype, feature.shape),
            self.padding, self.stride, self.dilation, self.groups,
            *ACTIVATIONS[type(self.activation)],
        )  # fmt: skip

    def _packed(self, dtype: torch.dtype, size: torch.Size) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in a type; the layout suits the first size, and serves any other."""
        weight, bias = self.weight, self.bias
        state = (weight.data_ptr(), None if weight.is_inference() else weight._version)
        if dtype not in self.packed or self.packed[dtype][0] != state:
            layout = torch.ops.mkldnn._reorder_convolution_weight(
                weight.to(dtype), self.padding, self.stride, self.dilation, self.groups, [*size]
            )
            self.packed[dtype] = (state, layout, bias if bias is None else bias.to(dtype))
        return self.packed[dtype][1:]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "packed": {}}  # of tensors that can be neither copied nor saved


class ResizedSum(nn.Module):
    """What a `MixConv` is once its weight is part of its maps' projections."""

    def forward(self, maps: list[tuple[Tensor, nn.Module]]) -> Tensor:
        """Maps (N, ., ., .) with their projections to (N, channels, h, w) of the last one."""
        size = maps[-1][0].shape[-2:]
        first, *others = (resize(projection(feature), size) for feature, projection in maps)
        return sum(others, start=first)


def _is_fused(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there and computes in this type on this processor."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32


def fold(model: nn.Module, *, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy for inference alone: the same function up to rounding, by the same forward passes.

    Batch norms, MSCAN's layer scales and on a CPU GELUs and ReLU6s become part of the convolutions
    beside them, and wide MLPs sums of narrower ones, since hidden channels do not see each other.

    Args:
        model: any module; what has nothing to fold is copied as it is.
        dtype: of the convolutions' weights. torch.bfloat16 spares autocast, under which the copy
            then has to run, to convert them for every pair. It pays on GPUs and on CPUs with
            amx_bf16 or avx512_bf16; on others it takes longer than torch.float32.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            _fold_sequence(module)
        if isinstance(module, MSCAN):
            for stage, width in zip(module.stages, PART_WIDTHS, strict=True):
                for block in stage.blocks:
                    if block.layer_scale_1 is not None:  # not folded before
                        _fold_block(block)
                        block.mlp = _split(block.mlp, width)
                        _activate(block.attention, "project_in")
                        for part in block.mlp:
                            _activate(part, "depthwise")
        if isinstance(module, MLPHead) and isinstance(module.mix[1], MixConv):
            _fold_mix(module)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d):
                child.to(dtype)
            if type(child) in PLAIN and child.padding_mode == "zeros":
                setattr(module, name, PackedConv(child))
    return model


def _fold_sequence(layers: nn.Sequential) -> None:
    """A norm, then an activation goes into the convolution before it, which takes its place."""
    for i in range(1, len(layers)):
        conv = layers[i - 1]
        if not isinstance(conv, nn.Conv2d) or isinstance(conv, PackedConv):
            continue
        if isinstance(layers[i], (nn.BatchNorm2d, FrozenNorm)):
            layers[i - 1], layers[i] = nn.Identity(), fuse_conv_bn_eval(conv, layers[i])
        elif type(layers[i]) in ACTIVATIONS and type(conv) in PLAIN:
            layers[i - 1], layers[i] = nn.Identity(), PackedConv(conv, layers[i])


def _activate(module: nn.Module, name: str) -> None:
    """The module's activation goes into its convolution of this name."""
    setattr(module, name, PackedConv(getattr(module, name), module.activation))
    module.activation = nn.Identity()


def _fold_mix(head: MLPHead) -> None:
    """The mix goes into the projections before it, once and not for every pair."""
    mix = head.mix[1]
    parts = mix.weight.flatten(1).split([p.out_channels for p in head.projections][::-1], dim=1)
    for projection, part in zip(reversed(head.projections), parts, strict=True):
        projection.weight.data = (part @ projection.weight.flatten(1))[..., None, None]
        projection.bias.data = part @ projection.bias
        projection.out_channels = len(part)
    head.projections[-1].bias += mix.bias  # once in the sum
    head.mix[1] = ResizedSum()


def _fold_block(block: Block) -> None:
    attention, mlp = block.attention, block.mlp
    _fold_before(block.norm1, attention.project_in)
    _fold_before(block.norm2, mlp.expand)
    _scale(attention.project_out, block.layer_scale_1)
    _scale(mlp.reduce, block.layer_scale_2)
    # Around the attention goes what the norm gave, times the scale.
    attention.shortcut = block.norm1
    attention.shortcut.weight *= block.layer_scale_1
    attention.shortcut.bias *= block.layer_scale_1
    block.norm1, block.norm2 = nn.Identity(), nn.Identity()
    block.layer_scale_1, block.layer_scale_2 = None, None


def _fold_before(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> None:
    """Into a 1x1 convolution, which pads nothing."""
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)  # (C,)
    conv.bias += conv.weight.flatten(1) @ (norm.bias - norm.running_mean * scale)
    conv.weight *= scale[:, None, None]


def _scale(conv: nn.Conv2d, scale: Tensor) -> None:
    """Multiplies what the convolution gives by a scale (C,)."""
    conv.weight *= scale[:, None, None, None]
    conv.bias *= scale


def _split(mlp: ConvMLP, width: int) -> Sum:
    """MLPs of at most `width` hidden channels each, whose sum is the given one."""
    state, parts = mlp.state_dict(), []
    num_hidden = mlp.expand.out_channels
    for hidden in torch.arange(num_hidden).chunk(-(-num_hidden // width)):  # some of 0..E - 1
        with torch.device("meta"):
            part = ConvMLP(mlp.expand.in_channels, hidden_width=len(hidden))
        narrow = {
            name: value[:, hidden] if name == "reduce.weight" else value[hidden]
            for name, value in state.items()
            if name != "reduce.bias"
        }
        narrow["reduce.bias"] = state["reduce.bias"] * (not parts)  # only once in the sum
        part.load_state_dict(narrow, assign=True)
        parts.append(part.requires_grad_(False))
    return Sum(parts)
