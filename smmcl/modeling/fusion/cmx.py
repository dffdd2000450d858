"""CMX (Zhang et al., T-ITS 2023): rectified streams, and for the head a fusion by attention.

Shape shorthand in this module:
    N: images in the batch     H, W: feature height and width
    v, a: widths of the visible and the auxiliary stream     c: width of the fused feature
    M: heads                   D: channels of a head, c / M
"""

from typing import Any

import torch
from torch import Tensor, nn

from smmcl.modeling.fusion.base import FUSION_REGISTRY, Fusion, match_width
from smmcl.modeling.layers.cpu import DepthwiseConv, PointConv
from smmcl.modeling.layers.init import init_encoder

HEADS = (1, 2, 5, 8)  # of the published encoder, by stage


@FUSION_REGISTRY.register()
class CMX(Fusion):
    """Each stream takes from the other by channel and by place; the head reads their attention.

        g = sigmoid(MLP(cat(avg(cat), max(cat))))       which channels a stream gives, its own part
        S = sigmoid(MLP(cat(F_vis, F_aux)))             where it gives them, two maps
        F_vis' = F_vis + (g_aux + S_aux) / 2 * F_aux    F_aux' likewise, of the old pair

    What is taken passes a 1x1 convolution where the streams are not equally wide.
    """

    def __init__(
        self,
        visible_width: int,
        auxiliary_width: int,
        *,
        fused_width: int,
        is_read: bool = True,
        max_heads: int = 1,
    ) -> None:
        """
        Args:
            visible_width, auxiliary_width, fused_width, is_read: as in `Fusion`; the hidden layers
                of the MLPs are c (S) and 4c (g) wide.
            max_heads: of the attention; the most up to it that divide c.
        """
        super().__init__(visible_width, auxiliary_width, fused_width=fused_width, is_read=is_read)
        both = visible_width + auxiliary_width
        self.channel = nn.Sequential(
            nn.Linear(2 * both, 4 * fused_width), nn.ReLU(), nn.Linear(4 * fused_width, both)
        )
        self.spatial = nn.Sequential(
            PointConv(both, fused_width), nn.ReLU(), PointConv(fused_width, 2)
        )
        self.to_visible = match_width(auxiliary_width, visible_width)
        self.to_auxiliary = match_width(visible_width, auxiliary_width)
        self.fuse = None
        if is_read:
            widths = (visible_width, auxiliary_width)
            self.fuse = ContextFusion(widths, fused_width, max_heads=max_heads)
        init_encoder(self)

    @classmethod
    def from_config(cls, cfg: Any, *, stage: int) -> dict[str, Any]:
        return {"max_heads": HEADS[stage]}

    def forward(self, visible: Tensor, auxiliary: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        both = torch.cat((visible, auxiliary), dim=1)  # (N, v + a, H, W)
        pooled = torch.cat((both.mean((2, 3)), both.amax((2, 3))), dim=1)  # (N, 2(v + a))
        channel = self.channel(pooled).sigmoid()[:, :, None, None]  # (N, v + a, 1, 1)
        spatial = self.spatial(both).sigmoid()  # (N, 2, H, W)
        v = self.visible_width
        of_visible = (channel[:, :v] + spatial[:, :1]) / 2 * visible  # (N, v, H, W)
        of_auxiliary = (channel[:, v:] + spatial[:, 1:]) / 2 * auxiliary  # (N, a, H, W)
        new_visible = visible + self.to_visible(of_auxiliary)
        new_auxiliary = auxiliary + self.to_auxiliary(of_visible)
        fused = None if self.fuse is None else self.fuse(new_visible, new_auxiliary)
        return new_visible, new_auxiliary, fused


class ContextFusion(nn.Module):
    """Each stream's places look the other's context up; both results are mixed to one map.

    A context is a matrix per head, softmax(K^T V / sqrt(D)) over its rows. As published, the
    products are summed over all places, so the softmax is the harder the larger the map.
    """

    def __init__(self, widths: tuple[int, int], fused_width: int, *, max_heads: int) -> None:
        super().__init__()
        c = fused_width
        self.num_heads = next(m for m in range(max_heads, 0, -1) if c % m == 0)
        self.match = nn.ModuleList(match_width(width, c) for width in widths)
        self.project = nn.ModuleList(nn.Linear(c, 2 * c) for _ in widths)
        self.key_value = nn.ModuleList(nn.Linear(c, 2 * c, bias=False) for _ in widths)
        self.merge = nn.ModuleList(nn.Linear(2 * c, c) for _ in widths)
        self.norms = nn.ModuleList(nn.LayerNorm(c) for _ in widths)
        self.shortcut = PointConv(2 * c, c, bias=False)
        self.mix = nn.Sequential(
            PointConv(2 * c, c),
            DepthwiseConv(c, (3, 3)),
            nn.ReLU(),
            PointConv(c, c),
            nn.BatchNorm2d(c),
        )
        self.norm = nn.BatchNorm2d(c)

    def forward(self, visible: Tensor, auxiliary: Tensor) -> Tensor:
        """Maps (N, v, H, W) and (N, a, H, W) to (N, c, H, W)."""
        tokens, kept, queries, contexts = [], [], [], []
        for i, feature in enumerate((visible, auxiliary)):
            tokens.append(self.match[i](feature).flatten(2).mT)  # (N, H * W, c)
            own, query = self.project[i](tokens[i]).relu().chunk(2, dim=-1)  # (N, H * W, c)
            key, value = map(self._split, self.key_value[i](query).chunk(2, dim=-1))
            context = key.mT @ value / key.shape[-1] ** 0.5  # (N, M, D, D)
            kept.append(own)
            queries.append(self._split(query))
            contexts.append(context.softmax(dim=-2))
        results = []
        for i in range(2):
            found = (queries[i] @ contexts[1 - i]).transpose(1, 2).flatten(2)  # (N, H * W, c)
            taken = self.merge[i](torch.cat((kept[i], found), dim=-1))
            results.append(self.norms[i](tokens[i] + taken))
        both = torch.cat(results, dim=-1).mT.unflatten(2, visible.shape[-2:])  # (N, 2c, H, W)
        return self.norm(self.shortcut(both) + self.mix(both))

    def _split(self, feature: Tensor) -> Tensor:
        """(N, H * W, c) -> (N, M, H * W, D)."""
        return feature.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
