"""Cross-modal modulation (paper section 3.1): learned coefficients say what a stream takes.

Shape shorthand in this module:
    N: images in the batch     H, W: feature height and width
    v, a: widths of the visible and the auxiliary stream     c: width of the fused feature
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.modeling.fusion.base import FUSION_REGISTRY, Fusion, match_width
from smmcl.modeling.layers.cpu import PointConv
from smmcl.modeling.layers.init import init_encoder


@FUSION_REGISTRY.register()
class CrossModalModulation(Fusion):
    """What each stream takes from the other after one stage, by learned coefficients.

        S = sigmoid(MLP(cat(F_vis, F_aux)))                     where to take from the other
        k = sigmoid(MLP(cat(avg(cat), max(cat))))               which channels to take
        F_vis' = F_vis + s * S * F_aux + s * k * F_aux          Eq. 1, F_aux' likewise: Eq. 2
        F_fus = conv1x1(cat(F_vis', F_aux'))

    Both directions use the same S and, where the streams are equally wide, the same k: the paper's
    module. Where they are not, k has v coefficients for what the visible stream takes and a for
    the auxiliary stream, and what is taken first passes a 1x1 convolution to its receiver's width.
    """

    def __init__(
        self,
        visible_width: int,
        auxiliary_width: int,
        *,
        fused_width: int,
        is_read: bool = True,
        scale: float = 0.5,
    ) -> None:
        """
        Args:
            visible_width, auxiliary_width, fused_width, is_read: as in `Fusion`; the hidden layers
                of the MLPs are 2c (S) and 4c (k) wide.
            scale: s, 1 in the paper's equations and 0.5 in the authors' code.
        """
        super().__init__(visible_width, auxiliary_width, fused_width=fused_width, is_read=is_read)
        both = visible_width + auxiliary_width
        same = visible_width == auxiliary_width
        self.scale = scale
        self.spatial = _mlp(both, 2 * fused_width, 1)
        self.channel = _mlp(2 * both, 4 * fused_width, visible_width if same else both)
        self.to_visible = match_width(auxiliary_width, visible_width)
        self.to_auxiliary = match_width(visible_width, auxiliary_width)
        self.fuse = PointConv(both, fused_width) if is_read else None
        init_encoder(self)

    @classmethod
    def from_config(cls, cfg: Any, *, stage: int) -> dict[str, Any]:
        return {"scale": cfg.MODEL.FUSION.SCALE}

    def forward(self, visible: Tensor, auxiliary: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        spatial, channel = self.coefficients(visible, auxiliary)
        # With one k for both directions, each slice is the whole of it.
        for_visible = channel[:, : self.visible_width]  # (N, v, 1, 1)
        for_auxiliary = channel[:, -self.auxiliary_width :]  # (N, a, 1, 1)
        share_of_auxiliary = self.scale * (spatial + for_visible)  # (N, v, H, W)
        share_of_visible = self.scale * (spatial + for_auxiliary)  # (N, a, H, W)
        new_visible = visible + share_of_auxiliary * self.to_visible(auxiliary)
        new_auxiliary = auxiliary + share_of_visible * self.to_auxiliary(visible)
        if self.fuse is None:
            return new_visible, new_auxiliary, None
        fused = self.fuse(torch.cat((new_visible, new_auxiliary), dim=1))  # (N, fused_width, H, W)
        return new_visible, new_auxiliary, fused

    def coefficients(self, visible: Tensor, auxiliary: Tensor) -> tuple[Tensor, Tensor]:
        """S (N, 1, H, W) and k (N, v, 1, 1), or (N, v + a, 1, 1) for unequal widths; in 0..1."""
        both = torch.cat((visible, auxiliary), dim=1)  # (N, v + a, H, W)
        pooled = (F.adaptive_avg_pool2d(both, 1), F.adaptive_max_pool2d(both, 1))
        channel = self.channel(torch.cat(pooled, dim=1))  # 2(v + a) -> (N, v, 1, 1)
        return torch.sigmoid(self.spatial(both)), torch.sigmoid(channel)


def _mlp(in_width: int, hidden_width: int, out_width: int) -> nn.Sequential:
    """Three layers at every place."""
    return nn.Sequential(
        PointConv(in_width, hidden_width),
        nn.GELU(),
        PointConv(hidden_width, hidden_width),
        nn.GELU(),
        PointConv(hidden_width, out_width),
    )
