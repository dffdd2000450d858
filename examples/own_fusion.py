"""A fusion of your own: --config-file FILE IMPORTS "['examples/own_fusion.py']" \
MODEL.FUSION.NAME GatedMaximum"""

import torch
from torch import Tensor, nn

from smmcl.modeling.fusion.base import FUSION_REGISTRY, Fusion


@FUSION_REGISTRY.register()
class GatedMaximum(Fusion):
    """Each stream adds the stronger of the two responses, with a learned weight per channel."""

    def __init__(self, visible_width, auxiliary_width, *, fused_width, is_read=True) -> None:
        super().__init__(visible_width, auxiliary_width, fused_width=fused_width, is_read=is_read)
        if visible_width != auxiliary_width:
            raise ValueError(
                f"GatedMaximum got streams of {visible_width} and {auxiliary_width} channels, but "
                "needs equal widths. Choose two streams of one family."
            )
        self.weight = nn.Parameter(torch.full((visible_width, 1, 1), 0.5))
        self.fuse = nn.Conv2d(visible_width, fused_width, 1) if is_read else None

    def forward(self, visible: Tensor, auxiliary: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        strongest = self.weight * torch.maximum(visible, auxiliary)  # (N, C, H, W)
        visible, auxiliary = visible + strongest, auxiliary + strongest
        return visible, auxiliary, None if self.fuse is None else self.fuse(visible + auxiliary)
