"""The plain sum: the streams take nothing from each other. A baseline."""

from typing import Any

from torch import Tensor

from smmcl.modeling.fusion.base import FUSION_REGISTRY, Fusion, match_width
from smmcl.modeling.layers.init import init_encoder


@FUSION_REGISTRY.register()
class PlainSum(Fusion):
    """Leaves both streams as they are and fuses by F_vis + F_aux.

    A stream that is not as wide as the fused feature passes a 1x1 convolution first; with equal
    widths the module has no parameter at all.
    """

    def __init__(self, visible_width: int, auxiliary_width: int, **settings: Any) -> None:
        """Arguments as in `Fusion`."""
        super().__init__(visible_width, auxiliary_width, **settings)
        if self.is_read:
            self.project_visible = match_width(visible_width, self.fused_width)
            self.project_auxiliary = match_width(auxiliary_width, self.fused_width)
        init_encoder(self)

    def forward(self, visible: Tensor, auxiliary: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        if not self.is_read:
            return visible, auxiliary, None
        return visible, auxiliary, self.project_visible(visible) + self.project_auxiliary(auxiliary)
