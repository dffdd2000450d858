"""RTFNet's sum (Sun et al., RA-L 2019): the auxiliary map is added to the visible stream."""

from typing import Any

from torch import Tensor

from smmcl.modeling.fusion.base import FUSION_REGISTRY, Fusion, match_width


@FUSION_REGISTRY.register()
class AddToVisible(Fusion):
    """F_vis' = F_vis + F_aux, which is the fused feature too; the auxiliary stream goes on alone.

    Widths that differ are matched by 1x1 convolutions; with equal ones there is no parameter.
    """

    def __init__(self, visible_width: int, auxiliary_width: int, **settings: Any) -> None:
        """Arguments as in `Fusion`."""
        super().__init__(visible_width, auxiliary_width, **settings)
        self.to_visible = match_width(auxiliary_width, visible_width)
        self.to_fused = match_width(visible_width, self.fused_width) if self.is_read else None

    def forward(self, visible: Tensor, auxiliary: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        total = visible + self.to_visible(auxiliary)
        return total, auxiliary, None if self.to_fused is None else self.to_fused(total)
