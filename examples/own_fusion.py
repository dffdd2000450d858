"""A fusion of your own, from outside the package: register a class, name it in the config."""

import torch
from torch import Tensor, nn

from smmcl.modeling.fusion.build import FUSION_REGISTRY


@FUSION_REGISTRY.register()
class GatedMaximum(nn.Module):
    """Each stream takes the stronger of the two responses, by a learned share per channel."""

    def __init__(self, visible_width, auxiliary_width, *, hidden_width, fused_width, scale):
        super().__init__()
        if visible_width != auxiliary_width:
            raise ValueError("GatedMaximum needs two streams of the same widths.")
        self.share = nn.Parameter(torch.full((visible_width, 1, 1), scale))
        self.fuse = None if fused_width is None else nn.Conv2d(visible_width, fused_width, 1)

    def forward(self, visible: Tensor, auxiliary: Tensor):
        strongest = torch.maximum(visible, auxiliary)  # (N, C, H, W)
        visible = visible + self.share * strongest
        auxiliary = auxiliary + self.share * strongest
        fused = None if self.fuse is None else self.fuse(strongest)
        return visible, auxiliary, fused


# python -c "import own_fusion, runpy; runpy.run_path('tools/train_net.py', run_name='__main__')" ...
