"""What all heads share: which features they read, and the cross-entropy over labelled pixels.

Shape shorthand in this module:
    N: images in the batch     K: classes     H, W: of the input     h, w: of the logits
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.d2 import CfgNode, ShapeSpec, comm


class SemSegHead(nn.Module):
    """Base of the heads: a subclass gives `layers`, from a list of features to logits."""

    def __init__(
        self, *, in_features: list[str], ignore_value: int, loss_weight: float = 1.0
    ) -> None:
        """
        Args:
            in_features: names of the features read, from fine to coarse.
            ignore_value: label of the pixels that take no part in the loss.
            loss_weight: factor on the cross-entropy.
        """
        super().__init__()
        self.in_features = in_features
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight

    @classmethod
    def base_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Arguments that every head takes from the config, and the channels of its inputs."""
        head = cfg.MODEL.SEM_SEG_HEAD
        return {
            "in_features": list(head.IN_FEATURES),
            "in_channels": [input_shape[name].channels for name in head.IN_FEATURES],
            "ignore_value": head.IGNORE_VALUE,
            "loss_weight": head.LOSS_WEIGHT,
            "channels": head.CONVS_DIM,
            "num_classes": head.NUM_CLASSES,
            "dropout": head.DROPOUT,
        }

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """
        Args:
            features: the backbone's, by name.
            targets: (N, H, W) int64 labels, read in training only.

        Returns:
            logits (N, K, h, w) at the finest feature's resolution and no loss at inference,
            None and {"loss_sem_seg"} in training.
        """
        logits = self.layers([features[name] for name in self.in_features])  # (N, K, h, w)
        if not self.training:
            return logits, {}
        return None, {"loss_sem_seg": self.loss(logits, targets)}

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over the labelled pixels of all processes; 0 if there are none.

        DDP averages gradients over processes, so the sum over this process's pixels is divided
        by the mean count of a process, not by its own.
        """
        precise = torch.promote_types(logits.dtype, torch.float32)
        logits = resize(logits.to(precise), targets.shape[-2:])  # (N, K, H, W)
        total = F.cross_entropy(logits, targets, ignore_index=self.ignore_value, reduction="sum")
        count = (targets != self.ignore_value).sum().to(total.dtype)
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(count)
            count = count / comm.get_world_size()
        return self.loss_weight * total / count.clamp(min=1.0 / comm.get_world_size())


def classifier(channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    """Drops channels, then (N, channels, h, w) to logits; its bias starts as torch's does."""
    conv = nn.Conv2d(channels, num_classes, 1)
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
    return nn.Sequential(nn.Dropout2d(dropout), conv)


def resize(features: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Bilinear, (N, C, h, w) -> (N, C, *size), as the references do it (corners not aligned)."""
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)
