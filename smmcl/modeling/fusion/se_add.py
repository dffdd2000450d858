"""ESANet's sum (Seichter et al., ICRA 2021): both maps are reweighted by channel, then added."""

from typing import Any

from torch import Tensor

from smmcl.modeling.fusion.base import FUSION_REGISTRY, Fusion, channel_gate, match_width


@FUSION_REGISTRY.register()
class SEAdd(Fusion):
    """F_vis' = gate(F_vis) * F_vis + gate(F_aux) * F_aux, which is the fused feature too.

    The auxiliary stream goes on alone, not reweighted. Widths that differ are matched by 1x1
    convolutions.
    """

    def __init__(self, visible_width: int, auxiliary_width: int, **settings: Any) -> None:
        """Arguments as in `Fusion`."""
        super().__init__(visible_width, auxiliary_width, **settings)
        self.gate_visible = channel_gate(visible_width, visible_width)
        self.gate_auxiliary = channel_gate(auxiliary_width, auxiliary_width)
        self.to_visible = match_width(auxiliary_width, visible_width)
        self.to_fused = match_width(visible_width, self.fused_width) if self.is_read else None

    def forward(self, visible: Tensor, auxiliary: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        given = self.to_visible(self.gate_auxiliary(auxiliary) * auxiliary)
        total = self.gate_visible(visible) * visible + given
        return total, auxiliary, None if self.to_fused is None else self.to_fused(total)
