"""What all heads share: which features they read, and the cross-entropy over labeled pixels.

Shape shorthand in this module:
    N: images in the batch     K: classes     H, W: of the input     h, w: of the logits
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.d2 import CfgNode, ShapeSpec, comm, configurable
from smmcl.modeling.layers.cpu import PointConv
from smmcl.modeling.layers.init import init_decoder
from smmcl.modeling.layers.resize import resize


class SemSegHead(nn.Module):
    """Base of the heads: a subclass gives `build` and `layers`, the way from features to logits."""

    takes_any_size = True  # it resizes one map to another, not by a factor as Detectron2's heads do

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        in_channels: list[int],
        channels: int,
        num_classes: int,
        dropout: float,
        ignore_value: int,
        loss_weight: float = 1.0,
        class_weights: Sequence[float] = (),
        hard_share: float = 1.0,
        **settings: Any,
    ) -> None:
        """
        Args:
            in_features, in_channels: names of the features read, from fine to coarse, and their C.
            channels: before the classifier.
            num_classes: K.
            dropout: probability of dropping a channel before the classifier.
            ignore_value: label of the pixels that take no part in the loss.
            loss_weight: factor on the cross-entropy.
            class_weights: K factors on the pixels of a class, or none.
            hard_share: of an image's labeled pixels, those of the highest loss that count.
            settings: of the subclass's `build`.
        """
        super().__init__()
        self.in_features = in_features
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight
        if class_weights and len(class_weights) != num_classes:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS has {len(class_weights)} values but there are "
                f"{num_classes} classes. Give each class one, or none at all."
            )
        if not 0 < hard_share <= 1:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.HARD_SHARE is {hard_share}. Set it above 0, up to 1 (off)."
            )
        self.hard_share = hard_share
        weights = torch.tensor(class_weights).float() if class_weights else None  # (K,)
        self.register_buffer("class_weights", weights, persistent=False)
        self.build(in_channels, channels, **settings)
        init_decoder(self)
        conv = PointConv(channels, num_classes)  # its bias starts as torch's does
        nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
        self.classifier = nn.Sequential(nn.Dropout2d(dropout), conv)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.SEM_SEG_HEAD
        return {
            "in_features": list(head.IN_FEATURES),
            "in_channels": [input_shape[name].channels for name in head.IN_FEATURES],
            "channels": head.CONVS_DIM,
            "num_classes": head.NUM_CLASSES,
            "dropout": head.DROPOUT,
            "ignore_value": head.IGNORE_VALUE,
            "loss_weight": head.LOSS_WEIGHT,
            "class_weights": head.CLASS_WEIGHTS,
            "hard_share": head.HARD_SHARE,
        }

    def forward(
        self,
        features: dict[str, Tensor],
        targets: Tensor | None = None,
        loss_divisor: Tensor | None = None,
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """
        Args:
            features: the backbone's, by name.
            targets: (N, H, W) int64 labels, read in training only.
            loss_divisor: see `loss`.

        Returns:
            logits (N, K, h, w) at the finest feature's resolution and no loss at inference,
            None and {"loss_sem_seg"} in training.
        """
        logits = self.layers([features[name] for name in self.in_features])  # (N, K, h, w)
        if not self.training:
            return logits, {}
        return None, {"loss_sem_seg": self.loss(logits, targets, loss_divisor)}

    def loss(self, logits: Tensor, targets: Tensor, divisor: Tensor | None = None) -> Tensor:
        """Mean cross-entropy over the labeled pixels of all processes; 0 if there are none.

        The divisor of the sum is this batch's own, unless it is given as part of a larger one.
        """
        # The softmax would bring channels-last maps into this layout when they are large.
        logits = resize(precise(logits).contiguous(), targets.shape[-2:])  # (N, K, H, W)
        weights = None if self.class_weights is None else self.class_weights.to(logits.dtype)
        is_whole = self.hard_share == 1
        losses = F.cross_entropy(
            logits,
            targets,
            weight=weights,
            ignore_index=self.ignore_value,
            reduction="sum" if is_whole else "none",
        )  # a scalar, or (N, H, W)
        if not is_whole:
            ranked = losses.flatten(1).sort(descending=True).values  # (N, H * W)
            count = (targets != self.ignore_value).flatten(1).sum(1, keepdim=True)  # (N, 1)
            place = torch.arange(ranked.shape[1], device=ranked.device)
            losses = ranked * (place < self._num_hard(count))
        if divisor is None:
            divisor = self.divisor(targets)
        return self.loss_weight * losses.sum() / divisor

    def divisor(self, targets: Tensor, *, num_parts: int = 1) -> Tensor:
        """What the sum over a part's pixels is divided by: the mean weight of all parts.

        Gradients are averaged over processes and parts, whose pixels differ in number; so the
        mean over all pixels needs the mean number, not the part's own. It is known before any
        forward pass: of which class the hard pixels will be is not, so each counts the mean
        weight of its image.

        Args:
            targets: (N, H, W) labels of this process in this step.
            num_parts: that N images are split into.
        """
        targets = targets.flatten(1)  # (N, H * W)
        is_labeled = targets != self.ignore_value
        count = is_labeled.sum(1)  # (N,)
        weight = count.float()
        if self.class_weights is not None:
            weight = (self.class_weights[targets.where(is_labeled, 0)] * is_labeled).sum(1)
        if self.hard_share < 1:
            weight = weight * self._num_hard(count) / count.clamp(min=1)
        total = weight.sum()
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(total)
        total = total / (comm.get_world_size() * num_parts)
        return total.where(total > 0, 1)

    def _num_hard(self, count: Tensor) -> Tensor:
        return (self.hard_share * count).round().clamp(min=1)


def precise(logits: Tensor) -> Tensor:
    """Logits in float32 or better: bfloat16 makes neighbors equal and sums wrong."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
