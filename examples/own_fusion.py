"""A fusion of your own. Run: python examples/own_fusion.py MODEL.FUSION.NAME GatedMaximum ..."""

import runpy

import torch
from torch import Tensor, nn

from smmcl.modeling.fusion.base import FUSION_REGISTRY, Fusion


@FUSION_REGISTRY.register()
class GatedMaximum(Fusion):
    """Each stream takes the stronger of the two responses, by a learned share per channel."""

    def __init__(self, visible_width, auxiliary_width, *, fused_width, is_read=True):
        super().__init__(visible_width, auxiliary_width, fused_width=fused_width, is_read=is_read)
        if visible_width != auxiliary_width:
            raise ValueError("GatedMaximum needs two streams of the same widths.")
        self.share = nn.Parameter(torch.full((visible_width, 1, 1), 0.5))
        self.fuse = nn.Conv2d(visible_width, fused_width, 1) if is_read else None

    def forward(self, visible: Tensor, auxiliary: Tensor):
        strongest = self.share * torch.maximum(visible, auxiliary)  # (N, C, H, W)
        visible, auxiliary = visible + strongest, auxiliary + strongest
        return visible, auxiliary, None if self.fuse is None else self.fuse(visible + auxiliary)


if __name__ == "__main__":
    runpy.run_path("tools/train_net.py", run_name="__main__")
