"""MiT, the stream of SegFormer (Xie et al., NeurIPS 2021): attention to a coarser copy of the map.

Shape shorthand in this module:
    N: images in the batch     C: channels      H, W: feature height and width
    M: heads                   D: channels of a head     h, w: size of the coarser copy
"""

import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.modeling.layers.drop_path import DropPath, drop_path_rates
from smmcl.modeling.layers.init import init_encoder
from smmcl.modeling.layers.norm import ChannelNorm
from smmcl.modeling.streams.base import Stream, register_sizes
from smmcl.modeling.streams.names import SHARED_RULES, Names, Publisher

SMALL, USUAL = (32, 64, 160, 256), (64, 128, 320, 512)

SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "mit_b0": {"widths": SMALL, "depths": (2, 2, 2, 2)},
    "mit_b1": {"widths": USUAL, "depths": (2, 2, 2, 2)},
    "mit_b2": {"widths": USUAL, "depths": (3, 4, 6, 3)},
    "mit_b3": {"widths": USUAL, "depths": (3, 4, 18, 3)},
    "mit_b4": {"widths": USUAL, "depths": (3, 8, 27, 3)},
    "mit_b5": {"widths": USUAL, "depths": (3, 6, 40, 3)},
}
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)  # how much coarser the copy is that a stage attends to
EXPANSION = 4  # hidden width of the MLP, in widths of the stage
NORM_EPS = 1e-6  # of blocks and stages; embeddings and reductions keep torch's default

NAMES = Names(
    ("block{1}.{0}.attn.q.", "stages.{}.blocks.{}.attention.query."),
    ("block{1}.{0}.attn.kv.", "stages.{}.blocks.{}.attention.key_value."),
    ("block{1}.{0}.attn.proj.", "stages.{}.blocks.{}.attention.project."),
    ("block{1}.{0}.attn.sr.", "stages.{}.blocks.{}.attention.reduce.0."),
    ("block{1}.{0}.attn.norm.", "stages.{}.blocks.{}.attention.reduce.1."),
    *SHARED_RULES,
)


@register_sizes(SIZES)
class MiT(Stream):
    """The four stages of a Mix Transformer encoder; `SIZES` lists the sizes."""

    publishers = (Publisher("SegFormer's MiT", NAMES, mark="block1.0.attn.q.weight"),)

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
        patches = [nn.Conv2d(in_channels, widths[0], 7, stride=4, padding=3)]
        patches += [nn.Conv2d(widths[m - 1], widths[m], 3, stride=2, padding=1) for m in (1, 2, 3)]
        stages = [
            Stage(
                patches[m],
                num_heads=HEADS[m],
                reduction=REDUCTIONS[m],
                drop_path_rates=rates[m],
            )
            for m in range(4)
        ]
        super().__init__(stages, widths=widths)
        init_encoder(self)


class Stage(nn.Module):
    """Overlapping patches, blocks, and the norm whose output the exchange and the heads read."""

    def __init__(
        self, patches: nn.Conv2d, *, num_heads: int, reduction: int, drop_path_rates: list[float]
    ) -> None:
        super().__init__()
        width = patches.out_channels
        self.embed = nn.Sequential(patches, ChannelNorm(width))
        self.blocks = nn.Sequential(
            *(
                Block(width, num_heads=num_heads, reduction=reduction, drop_path_rate=rate)
                for rate in drop_path_rates
            )
        )
        self.norm = ChannelNorm(width, eps=NORM_EPS)

    def forward(self, feature: Tensor) -> Tensor:
        feature = self.embed(feature).permute(0, 2, 3, 1)  # (N, H, W, C)
        feature = self.blocks(feature)
        return self.norm(feature.permute(0, 3, 1, 2))  # (N, C, H, W)


class Block(nn.Module):
    """Attention, then an MLP, each on a normalized map (N, H, W, C) and added to its input."""

    def __init__(
        self, width: int, *, num_heads: int, reduction: int, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = ReducedAttention(width, num_heads=num_heads, reduction=reduction)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MixMLP(width, hidden_width=width * EXPANSION)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, feature: Tensor) -> Tensor:
        feature = feature + self.drop_path(self.attention(self.norm1(feature)))
        return feature + self.drop_path(self.mlp(self.norm2(feature)))


class ReducedAttention(nn.Module):
    """Every place of the map attends to the places of a coarser copy of it."""

    def __init__(self, width: int, *, num_heads: int, reduction: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        self.reduce = nn.Identity()
        if reduction > 1:
            coarser = nn.Conv2d(width, width, reduction, stride=reduction)
            self.reduce = nn.Sequential(coarser, ChannelNorm(width))

    def forward(self, feature: Tensor) -> Tensor:
        coarse = self.reduce(feature.permute(0, 3, 1, 2))  # (N, C, h, w)
        key, value = self.key_value(coarse.permute(0, 2, 3, 1)).chunk(2, dim=-1)  # (N, h, w, C)
        query = self._split(self.query(feature))  # (N, M, H * W, D)
        attended = F.scaled_dot_product_attention(query, self._split(key), self._split(value))
        attended = attended.transpose(1, 2).reshape(feature.shape)  # (N, H, W, C)
        return self.project(attended)

    def _split(self, feature: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, M, H * W, D)."""
        return feature.flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class MixMLP(nn.Module):
    """A two-layer perceptron at every place, with a 3x3 depthwise convolution in its middle."""

    def __init__(self, width: int, *, hidden_width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden_width)
        self.depthwise = nn.Conv2d(hidden_width, hidden_width, 3, padding=1, groups=hidden_width)
        self.reduce = nn.Linear(hidden_width, width)

    def forward(self, feature: Tensor) -> Tensor:
        hidden = self.expand(feature).permute(0, 3, 1, 2)  # (N, hidden_width, H, W)
        hidden = F.gelu(self.depthwise(hidden)).permute(0, 2, 3, 1)  # (N, H, W, hidden_width)
        return self.reduce(hidden)
