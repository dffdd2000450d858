"""SA-Gate (Chen et al., ECCV 2020): separation and aggregation, propagated in both directions.

Shape shorthand in this module:
    N: images in the batch     H, W: feature height and width
    v, a: widths of the visible and the auxiliary stream     c: width of the fused feature
"""

from typing import Any

import torch
from torch import Tensor, nn

from smmcl.modeling.fusion.base import FUSION_REGISTRY, Fusion, channel_gate, match_width
from smmcl.modeling.layers.cpu import PointConv


@FUSION_REGISTRY.register()
class SAGate(Fusion):
    """The two maps are merged by weights of each place, and each stream takes half of the merger.

        R_vis = F_vis + gate(cat(F_aux, F_vis)) * F_aux     R_aux likewise
        w = softmax(conv1x1(cat(R_vis, R_aux)))             two weights at each place
        M = w_vis * F_vis + w_aux * F_aux                   the fused feature
        F_vis' = (F_vis + M) / 2                            F_aux' likewise

    Where the streams are not equally wide, each receives the other through a 1x1 convolution, and
    the fused feature is that of the visible stream.
    """

    def __init__(
        self,
        visible_width: int,
        auxiliary_width: int,
        *,
        fused_width: int,
        is_read: bool = True,
        relu: bool = False,
    ) -> None:
        """
        Args:
            visible_width, auxiliary_width, fused_width, is_read: as in `Fusion`.
            relu: after F' as published. It does nothing to maps that are not negative, a ResNet's,
                and deletes half of the normalized maps of the others.
        """
        super().__init__(visible_width, auxiliary_width, fused_width=fused_width, is_read=is_read)
        both = visible_width + auxiliary_width
        self.gate_visible = channel_gate(both, visible_width)
        self.gate_auxiliary = channel_gate(both, auxiliary_width)
        self.weigh = PointConv(both, 2)
        self.to_visible = match_width(auxiliary_width, visible_width)
        self.to_auxiliary = match_width(visible_width, auxiliary_width)
        self.to_fused = match_width(visible_width, fused_width) if is_read else None
        self.activation = nn.ReLU() if relu else nn.Identity()

    @classmethod
    def from_config(cls, cfg: Any, *, stage: int) -> dict[str, Any]:
        return {"relu": cfg.MODEL.FUSION.SAGATE_RELU}

    def forward(self, visible: Tensor, auxiliary: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        for_visible = self.to_visible(auxiliary)  # (N, v, H, W)
        for_auxiliary = self.to_auxiliary(visible)  # (N, a, H, W)
        gate_visible = self.gate_visible(torch.cat((auxiliary, visible), dim=1))  # (N, v, 1, 1)
        gate_auxiliary = self.gate_auxiliary(torch.cat((visible, auxiliary), dim=1))
        recalibrated = torch.cat(
            (visible + gate_visible * for_visible, auxiliary + gate_auxiliary * for_auxiliary),
            dim=1,
        )  # (N, v + a, H, W)
        weights = self.weigh(recalibrated).softmax(dim=1)  # (N, 2, H, W)
        of_visible, of_auxiliary = weights[:, :1], weights[:, 1:]
        merged = of_visible * visible + of_auxiliary * for_visible  # (N, v, H, W)
        other = of_visible * for_auxiliary + of_auxiliary * auxiliary  # (N, a, H, W)
        new_visible = self.activation((visible + merged) / 2)
        new_auxiliary = self.activation((auxiliary + other) / 2)
        fused = None if self.to_fused is None else self.to_fused(merged)
        return new_visible, new_auxiliary, fused
