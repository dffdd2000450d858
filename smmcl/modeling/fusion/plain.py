"""The plain sum: no exchange between the streams, their features added for the head. A baseline.

Shape shorthand in this module:
    N: images in the batch     H, W: feature height and width
    v, a: widths of the visible and the auxiliary stream
"""

import torch
from torch import nn

from smmcl.modeling.fusion.cross_modal import match_width
from smmcl.modeling.layers.init import init_encoder


class PlainSum(nn.Module):
    """Leaves both streams as they are and fuses by F_vis + F_aux.

    A stream that is not as wide as the fused feature passes a 1x1 convolution first; with equal
    widths the module has no parameter at all.
    """

    def __init__(
        self,
        visible_width: int,
        auxiliary_width: int,
        *,
        hidden_width: int,
        fused_width: int | None,
        scale: float,
    ) -> None:
        """Takes what `CrossModalModulation` does; `hidden_width` and `scale` have no effect."""
        super().__init__()
        self.is_fused = fused_width is not None
        if fused_width is not None:
            self.project_visible = match_width(visible_width, fused_width)
            self.project_auxiliary = match_width(auxiliary_width, fused_width)
        init_encoder(self)

    def forward(
        self, visible: torch.Tensor, auxiliary: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Both unchanged, (N, v, H, W) and (N, a, H, W), and (N, fused_width, H, W) or None."""
        if not self.is_fused:
            return visible, auxiliary, None
        return visible, auxiliary, self.project_visible(visible) + self.project_auxiliary(auxiliary)
