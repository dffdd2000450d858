"""TokenFusion (Wang et al., CVPR 2022): places of little worth to a stream take the other's values.

Shape shorthand in this module:
    N: images in the batch     H, W: feature height and width
    v, a: widths of the visible and the auxiliary stream     c: width of the fused feature
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from smmcl.modeling.fusion.base import FUSION_REGISTRY, Fusion, match_width
from smmcl.modeling.layers.init import init_encoder


class ScorePredictor(nn.Sequential):
    """What each place is worth to its stream, 0 to 1: (N, H, W, width) to (N, H, W, 1)."""

    def __init__(self, width: int) -> None:
        layers: list[nn.Module] = [nn.LayerNorm(width)]
        widths = (width, width, max(width // 2, 1), max(width // 4, 1), 2)
        for in_width, out_width in pairwise(widths):
            layers += [nn.Linear(in_width, out_width), nn.GELU()]
        super().__init__(*layers[:-1])

    def forward(self, tokens: Tensor) -> Tensor:
        logits = super().forward(tokens)  # (N, H, W, 2)
        return torch.sigmoid(logits[..., :1] - logits[..., 1:])


def exchange(
    own: Sequence[Tensor], given: Sequence[Tensor], keeps: Sequence[Tensor]
) -> list[Tensor]:
    """Of each stream its own values where it keeps them, else what the other gives."""
    return [torch.where(keep, *values) for keep, *values in zip(keeps, own, given, strict=True)]


def mean_size(values: Sequence[Tensor]) -> Tensor:
    """Mean of the numbers in all tensors, without their signs; in float32 or better."""
    flat = torch.cat([value.flatten() for value in values])
    return flat.to(torch.promote_types(flat.dtype, torch.float32)).abs().mean()


@FUSION_REGISTRY.register()
class TokenFusionAdapter(Fusion):
    """TokenFusion between the stages of any two streams: an adapted form, not a published one.

        B = score * F                                   of each stream
        F_vis' = F_vis + (B_vis where score_vis >= threshold, else B_aux)      F_aux' likewise
        F_fus = (F_vis' + F_aux') / 2

    The published form exchanges inside the blocks of streams that share their weights:
    smmcl/modeling/backbone/shared.py. Widths that differ are matched by 1x1 convolutions.
    """

    def __init__(
        self,
        visible_width: int,
        auxiliary_width: int,
        *,
        threshold: float = 0.02,
        sparsity_weight: float = 1.0,
        **settings: Any,
    ) -> None:
        """
        Args:
            threshold: score from which a place keeps its own values.
            sparsity_weight: factor on the mean score, a training term.
            visible_width, auxiliary_width, settings: as in `Fusion`.
        """
        super().__init__(visible_width, auxiliary_width, **settings)
        widths = (visible_width, auxiliary_width)
        self.threshold = threshold
        self.sparsity_weight = sparsity_weight
        self.predictors = nn.ModuleList(ScorePredictor(width) for width in widths)
        self.to_visible = match_width(auxiliary_width, visible_width)
        self.to_auxiliary = match_width(visible_width, auxiliary_width)
        self.to_fused = None
        if self.is_read:
            self.to_fused = nn.ModuleList(match_width(width, self.fused_width) for width in widths)
        self.scores: list[Tensor] = []
        init_encoder(self)

    @classmethod
    def from_config(cls, cfg: Any, *, stage: int) -> dict[str, Any]:
        fusion = cfg.MODEL.FUSION
        return {"threshold": fusion.THRESHOLD, "sparsity_weight": fusion.SPARSITY_WEIGHT}

    def forward(self, visible: Tensor, auxiliary: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        maps = (visible, auxiliary)
        scores = [
            predictor(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (N, 1, H, W)
            for predictor, feature in zip(self.predictors, maps, strict=True)
        ]
        if self.training:
            self.scores = scores
        own = [score * feature for score, feature in zip(scores, maps, strict=True)]
        given = (self.to_visible(own[1]), self.to_auxiliary(own[0]))
        taken = exchange(own, given, [score >= self.threshold for score in scores])
        new_visible, new_auxiliary = visible + taken[0], auxiliary + taken[1]
        if self.to_fused is None:
            return new_visible, new_auxiliary, None
        fused = self.to_fused[0](new_visible) + self.to_fused[1](new_auxiliary)
        return new_visible, new_auxiliary, fused / 2

    def regularization(self) -> dict[str, Tensor]:
        return {"loss_sparsity": self.sparsity_weight * mean_size(self.scores)}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "scores": []}  # a graph cannot be copied
