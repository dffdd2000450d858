"""CEN (Wang et al., NeurIPS 2020): channels that a norm has scaled to nothing take the other's.

Shape shorthand in this module:
    N: images in the batch     H, W: feature height and width
    v, a: widths of the visible and the auxiliary stream     c: width of the fused feature
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smmcl.modeling.fusion.base import FUSION_REGISTRY, Fusion, match_width
from smmcl.modeling.fusion.token_fusion import exchange, mean_size


def kept_channels(
    scales: Sequence[Tensor], *, threshold: float, all_channels: bool
) -> list[Tensor]:
    """Which channels each stream keeps, (width, 1, 1), of the scales (width,) of its norm.

    Only the penalized half of the channels may be exchanged, unless all may.
    """
    keeps = []
    for i, scale in enumerate(scales):
        is_first = torch.arange(len(scale), device=scale.device) < len(scale) // 2
        is_exempt = torch.zeros_like(is_first) if all_channels else is_first ^ (i == 0)
        keeps.append(((scale.abs() >= threshold) | is_exempt)[:, None, None])
    return keeps


def penalized(scales: Sequence[Tensor]) -> list[Tensor]:
    """The scales that are made sparse: the visible stream's first half, the auxiliary's second."""
    visible, auxiliary = scales
    return [visible[: len(visible) // 2], auxiliary[len(auxiliary) // 2 :]]


@FUSION_REGISTRY.register()
class ChannelExchangeAdapter(Fusion):
    """Channel exchange between the stages of any two streams: an adapted form, not a published one.

        Z = batch norm of F, each stream's own
        F_vis' = Z_vis where the norm's scale is at least the threshold, else Z_aux     by channel
        F_fus = (F_vis' + F_aux') / 2

    A channel means the same in both streams only where they share their filters: prefer the
    published form, smmcl/modeling/backbone/shared.py. 1x1 convolutions match unequal widths.
    """

    def __init__(
        self,
        visible_width: int,
        auxiliary_width: int,
        *,
        threshold: float = 0.02,
        all_channels: bool = False,
        sparsity_weight: float = 1.0,
        **settings: Any,
    ) -> None:
        """
        Args:
            threshold: scale of a norm, without its sign, from which a channel is kept.
            all_channels: exchange outside the penalized halves too, as the released code does.
            sparsity_weight: factor on the mean penalized scale, a training term.
            visible_width, auxiliary_width, settings: as in `Fusion`.
        """
        super().__init__(visible_width, auxiliary_width, **settings)
        widths = (visible_width, auxiliary_width)
        self.rule = {"threshold": threshold, "all_channels": all_channels}
        self.sparsity_weight = sparsity_weight
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.to_visible = match_width(auxiliary_width, visible_width)
        self.to_auxiliary = match_width(visible_width, auxiliary_width)
        self.to_fused = None
        if self.is_read:
            self.to_fused = nn.ModuleList(match_width(width, self.fused_width) for width in widths)

    @classmethod
    def from_config(cls, cfg: Any, *, stage: int) -> dict[str, Any]:
        fusion = cfg.MODEL.FUSION
        return {
            "threshold": fusion.THRESHOLD,
            "all_channels": fusion.ALL_CHANNELS,
            "sparsity_weight": fusion.SPARSITY_WEIGHT,
        }

    def forward(self, visible: Tensor, auxiliary: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        own = (self.norms[0](visible), self.norms[1](auxiliary))
        given = (self.to_visible(own[1]), self.to_auxiliary(own[0]))
        keeps = kept_channels([norm.weight for norm in self.norms], **self.rule)
        new_visible, new_auxiliary = exchange(own, given, keeps)
        if self.to_fused is None:
            return new_visible, new_auxiliary, None
        fused = self.to_fused[0](new_visible) + self.to_fused[1](new_auxiliary)
        return new_visible, new_auxiliary, fused / 2

    def regularization(self) -> dict[str, Tensor]:
        scales = penalized([norm.weight for norm in self.norms])
        return {"loss_sparsity": self.sparsity_weight * mean_size(scales)}
