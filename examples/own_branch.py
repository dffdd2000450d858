"""A contrastive branch of your own: --config-file FILE IMPORTS "['examples/own_branch.py']" \
MODEL.CONTRAST.NAME ClassMeans"""

import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.d2 import CfgNode, ShapeSpec
from smmcl.modeling.contrastive.base import CONTRAST_REGISTRY
from smmcl.modeling.contrastive.sampling import shrink_labels


@CONTRAST_REGISTRY.register()
class ClassMeans(nn.Module):
    """Contrasts the mean embedding of each class between the modalities, over the whole batch."""

    def __init__(self, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> None:
        super().__init__()
        self.names = ("res5_visible", "res5_auxiliary")
        self.num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        self.projectors = nn.ModuleList(
            nn.Conv2d(input_shape[name].channels, 64, 1) for name in self.names
        )

    def forward(self, features: dict[str, Tensor], labels: Tensor, seeds: list[int]) -> dict:
        maps = [p(features[n]).float() for p, n in zip(self.projectors, self.names, strict=True)]
        labels = shrink_labels(labels, size=maps[0].shape[-2:])  # (N, h, w), on the CPU
        labels = labels.where(labels < self.num_classes, self.num_classes)  # ignored: the last
        members = F.one_hot(labels.flatten(), self.num_classes + 1)[:, :-1]  # (N * h * w, K)
        members = members[:, members.any(0)].float().to(maps[0].device)  # classes present: P
        means = [members.T @ m.movedim(1, -1).flatten(0, 2) for m in maps]  # sums, (P, 64)
        visible, auxiliary = (F.normalize(mean, dim=1) for mean in means)
        targets = members.new_tensor(range(len(visible))).long()  # (P,)
        loss = F.cross_entropy(visible @ auxiliary.T / 0.1, targets, reduction="sum")
        return {"loss_contrast_means": 0.1 * loss / max(1, len(targets))}  # 0 without a class
