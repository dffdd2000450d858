"""One head for both streams, and a learned mix of its two predictions.

Shape shorthand in this module:
    N: pairs in the batch     K: classes     H, W: of the input     h, w: of the logits
"""

import torch
from torch import Tensor, nn

from smmcl.d2 import CfgNode, ShapeSpec, build_sem_seg_head
from smmcl.modeling.head.base import SemSegHead

STREAMS = ("visible", "auxiliary")


class EnsembleHead(nn.Module):
    """Predicts from each stream by the same head; at inference their mix counts.

    The mix has two weights, softmax(alpha). Its loss trains these alone: it sees the two
    predictions detached, each of which has a loss of its own.
    """

    def __init__(self, head: SemSegHead) -> None:
        """
        Args:
            head: reads the features `in_features`, here with `_visible` or `_auxiliary` appended.
        """
        super().__init__()
        self.head = head
        self.alpha = nn.Parameter(torch.ones(len(STREAMS)))
        self.ignore_value = head.ignore_value

    def forward(
        self,
        features: dict[str, Tensor],
        targets: Tensor | None = None,
        loss_divisor: Tensor | None = None,
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """As `SemSegHead.forward`; in training a loss of the mix and one for each stream."""
        logits = self.predictions(features)
        if not self.training:
            return logits["ensemble"], {}
        losses = {
            name: self.head.loss(value, targets, loss_divisor) for name, value in logits.items()
        }
        streams = {f"loss_sem_seg_{name}": losses[name] for name in STREAMS}
        return None, {"loss_sem_seg": losses["ensemble"], **streams}

    def predictions(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits (N, K, h, w) of "visible", "auxiliary" and "ensemble"."""
        both = [
            torch.cat([features[f"{name}_{stream}"] for stream in STREAMS])  # (2N, C, ., .)
            for name in self.head.in_features
        ]
        visible, auxiliary = self.head.layers(both).unflatten(0, (2, -1)).unbind()
        weights = self.alpha.softmax(dim=0)
        ensemble = weights[0] * visible.detach() + weights[1] * auxiliary.detach()
        return {"visible": visible, "auxiliary": auxiliary, "ensemble": ensemble}

    def divisor(self, targets: Tensor, *, num_parts: int = 1) -> Tensor:
        """As `SemSegHead.divisor`."""
        return self.head.divisor(targets, num_parts=num_parts)


def build_ensemble_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> EnsembleHead:
    """The head of MODEL.SEM_SEG_HEAD, for streams of these shapes."""
    suffix = f"_{STREAMS[0]}"
    shape = {
        name.removesuffix(suffix): spec
        for name, spec in input_shape.items()
        if name.endswith(suffix)
    }
    head = build_sem_seg_head(cfg, shape)
    if not isinstance(head, SemSegHead):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.NAME is {cfg.MODEL.SEM_SEG_HEAD.NAME!r}, whose predictions cannot "
            "be mixed. Name a subclass of smmcl.modeling.head.base.SemSegHead, such as MLPHead."
        )
    return EnsembleHead(head)
