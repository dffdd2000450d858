"""MSCAN, the stream of SegNeXt (Guo et al., NeurIPS 2022): attention by strip convolutions.

Shape shorthand in this module:
    N: images in the batch     C: channels      H, W: feature height and width
"""

import torch
from torch import Tensor, nn

from smmcl.modeling.layers.cpu import DepthwiseConv, PointConv
from smmcl.modeling.layers.drop_path import DropPath, drop_path_rates
from smmcl.modeling.layers.init import init_encoder
from smmcl.modeling.layers.norm import ChannelNorm
from smmcl.modeling.streams.base import Stream, register_sizes
from smmcl.modeling.streams.names import SHARED_RULES, Names, Publisher

SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "mscan_t": {"widths": (32, 64, 160, 256), "depths": (3, 3, 5, 2)},
    "mscan_s": {"widths": (64, 128, 320, 512), "depths": (2, 2, 4, 2)},
    "mscan_b": {"widths": (64, 128, 320, 512), "depths": (3, 3, 12, 3)},
    "mscan_l": {"widths": (64, 128, 320, 512), "depths": (3, 5, 27, 3)},
}
EXPANSIONS = (8, 8, 4, 4)  # hidden width of the blocks' MLP, in widths of the stage
STRIPS = (7, 11, 21)  # lengths of the strip convolutions

NAMES = Names(
    ("patch_embed1.proj.{0}.", "stages.0.embed.{}."),
    ("block{1}.{0}.attn.proj_1.", "stages.{}.blocks.{}.attention.project_in."),
    ("block{1}.{0}.attn.proj_2.", "stages.{}.blocks.{}.attention.project_out."),
    ("block{1}.{0}.attn.spatial_gating_unit.conv0.", "stages.{}.blocks.{}.attention.local."),
    ("block{1}.{0}.attn.spatial_gating_unit.conv3.", "stages.{}.blocks.{}.attention.mix."),
    (
        "block{1}.{0}.attn.spatial_gating_unit.conv{0}_{1}.",
        "stages.{}.blocks.{}.attention.strips.{}.{}.",
    ),
    *SHARED_RULES,
)


@register_sizes(SIZES)
class MSCAN(Stream):
    """The four stages of MSCAN; `SIZES` lists the sizes."""

    publishers = (Publisher("SegNeXt's MSCAN", NAMES, mark="patch_embed1.proj.0.weight"),)

    def __init__(
        self,
        *,
        widths: tuple[int, int, int, int],
        depths: tuple[int, int, int, int],
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
    ) -> None:
        """
        Args:
            widths: channels of the four stages.
            depths: blocks of the four stages.
            in_channels: channels of the image.
            drop_path_rate: rate of the last block, rising linearly from 0 at the first.
        """
        rates = drop_path_rates(depths, last=drop_path_rate)
        embeddings = [_stem(in_channels, widths[0])]
        embeddings += [_embedding(widths[m - 1], widths[m]) for m in (1, 2, 3)]
        stages = [
            Stage(embeddings[m], widths[m], expansion=EXPANSIONS[m], drop_path_rates=rates[m])
            for m in range(4)
        ]
        super().__init__(stages, widths=widths)
        init_encoder(self)


class Stage(nn.Module):
    """Patch embedding, blocks, and the norm whose output the exchange and the heads read."""

    def __init__(
        self, embed: nn.Module, width: int, *, expansion: int, drop_path_rates: list[float]
    ) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.Sequential(
            *(Block(width, expansion=expansion, drop_path_rate=rate) for rate in drop_path_rates)
        )
        self.norm = ChannelNorm(width)

    def forward(self, feature: Tensor) -> Tensor:
        return self.norm(self.blocks(self.embed(feature)))


class Block(nn.Module):
    """Attention, then an MLP, each on a normalized map, scaled per channel, added to its input."""

    def __init__(self, width: int, *, expansion: int, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width)
        self.attention = StripAttention(width)
        self.norm2 = nn.BatchNorm2d(width)
        self.mlp = ConvMLP(width, hidden_width=width * expansion)
        # Small at first, so that a deep stack starts close to the identity.
        self.layer_scale_1 = nn.Parameter(torch.full((width,), 1e-2))
        self.layer_scale_2 = nn.Parameter(torch.full((width,), 1e-2))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, feature: Tensor) -> Tensor:
        feature = self._add(feature, self.attention(self.norm1(feature)), self.layer_scale_1)
        return self._add(feature, self.mlp(self.norm2(feature)), self.layer_scale_2)

    def _add(self, feature: Tensor, update: Tensor, scale: Tensor | None) -> Tensor:
        """The map plus its update (N, C, H, W), if that is not dropped, times a scale (C,)."""
        if scale is not None:  # else `fold` has made it part of the update
            scale, kept = scale[:, None, None], self.drop_path.draw(feature)
            scale = scale if kept is None else scale * kept  # (C, 1, 1) or (N, C, 1, 1)
            update = scale * update
        return feature + update


class StripAttention(nn.Module):
    """Weighs a map by its surroundings, seen through strip convolutions of several lengths.

    The residual is the map as it comes in, that is, already normalized by the block.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project_in = PointConv(width, width)
        self.local = DepthwiseConv(width, (5, 5))
        self.strips = nn.ModuleList(
            nn.Sequential(DepthwiseConv(width, (1, length)), DepthwiseConv(width, (length, 1)))
            for length in STRIPS
        )
        self.mix = PointConv(width, width)
        self.project_out = PointConv(width, width)
        self.activation = nn.GELU()
        self.shortcut = nn.Identity()

    def forward(self, feature: Tensor) -> Tensor:
        value = self.activation(self.project_in(feature))
        local = self.local(value)
        surroundings = local
        for strip in self.strips:
            surroundings = surroundings + strip(local)
        return self.shortcut(feature) + self.project_out(self.mix(surroundings) * value)


class ConvMLP(nn.Module):
    """A two-layer perceptron at every place, with a 3x3 depthwise convolution in its middle."""

    def __init__(self, width: int, *, hidden_width: int) -> None:
        super().__init__()
        self.expand = PointConv(width, hidden_width)
        self.depthwise = DepthwiseConv(hidden_width, (3, 3))
        self.reduce = PointConv(hidden_width, width)
        self.activation = nn.GELU()

    def forward(self, feature: Tensor) -> Tensor:
        return self.reduce(self.activation(self.depthwise(self.expand(feature))))


class Sum(nn.ModuleList):
    """Modules that read the same map, their results added."""

    def forward(self, feature: Tensor) -> Tensor:
        return sum(module(feature) for module in self)


def _stem(in_channels: int, width: int) -> nn.Sequential:
    """From the image to a quarter of its size."""
    return nn.Sequential(
        nn.Conv2d(in_channels, width // 2, 3, stride=2, padding=1),
        nn.BatchNorm2d(width // 2),
        nn.GELU(),
        nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
        nn.BatchNorm2d(width),
    )


def _embedding(previous_width: int, width: int) -> nn.Sequential:
    """From the last stage's map to half its size."""
    conv = nn.Conv2d(previous_width, width, 3, stride=2, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(width))
