"""Rival: supervised region-aware contrast of one modality, after Hu, Cui and Wang (ICCV 2021).

Shape shorthand in this module:
    N: images in the batch     h, w: feature height and width
    K: classes     S: regions (one class of one image)     Q: remembered regions per class
    D: embedding size
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from smmcl.d2 import CfgNode, ShapeSpec, configurable
from smmcl.modeling.contrastive.base import CONTRAST_REGISTRY, ContrastiveBranch, check_features
from smmcl.modeling.contrastive.loss import normalize
from smmcl.modeling.contrastive.projector import Projector
from smmcl.modeling.contrastive.sampling import sets_of_cells, take_cells


@CONTRAST_REGISTRY.register()
class RegionContrast(ContrastiveBranch):
    """Contrasts mean embeddings of class regions with those of this and of earlier batches.

    It ignores the auxiliary image. The labels' regions and the visible feature replace the
    predicted regions and the decoder feature of the original.
    """

    @configurable
    def __init__(
        self,
        *,
        in_feature: str,
        channels: int,
        hidden_dim: int,
        embed_dim: int,
        weight: float,
        temperature: float,
        num_classes: int,
        memory_size: int,
    ) -> None:
        """
        Args:
            in_feature, channels: of the visible feature.
            hidden_dim, embed_dim, num_classes: as for `SMMCL`.
            weight, temperature: of the loss.
            memory_size: Q, 0 to contrast the regions of the batch alone.
        """
        super().__init__()
        self.in_features = {"visible": in_feature}
        self.weight, self.temperature, self.num_classes = weight, temperature, num_classes
        self.projector = Projector(channels, hidden_dim, embed_dim)
        self.register_buffer("memory", torch.zeros(num_classes, memory_size, embed_dim))
        self.register_buffer("num_stored", torch.zeros(num_classes, dtype=torch.int64))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict:
        node = cfg.MODEL.SMMCL
        return {
            "in_feature": node.IN_FEATURES[0],
            "channels": check_features(node.IN_FEATURES, input_shape)[0],
            "hidden_dim": node.HIDDEN_DIM,
            "embed_dim": node.EMBED_DIM,
            "weight": node.INTRA_MODAL.VISIBLE_WEIGHT,
            "temperature": node.INTRA_MODAL.TEMPERATURE,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "memory_size": cfg.MODEL.REGION_CONTRAST.MEMORY_SIZE,
        }

    def losses(
        self, maps: dict[str, Tensor], labels: Tensor, seeds: list[int]
    ) -> dict[str, Tensor]:
        """ "loss_contrast_visible" alone; nothing is drawn from the seeds."""
        means, classes = self.region_means(self.projector(maps["visible"]), labels)  # (S, D), (S,)
        loss = self._loss(means, classes)
        self._remember(means.detach(), classes)
        return {"loss_contrast_visible": self.weight * loss}

    def region_means(self, maps: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Unit mean embeddings (S, D) and classes (S,), ascending, of every class of every image.

        Args:
            maps: (N, D, h, w).
            labels: (N, h, w) on the CPU.
        """
        sets = sets_of_cells(labels, self.num_classes)  # (N * h * w,)
        cells = (sets < self.num_classes * len(labels)).nonzero().squeeze(1)
        names, region, sizes = sets[cells].unique(return_inverse=True, return_counts=True)
        classes = names // len(labels)  # (S,)
        cells, region, sizes, classes = (
            part.to(maps.device, non_blocking=True) for part in (cells, region, sizes, classes)
        )
        sums = maps.new_zeros(len(sizes), maps.shape[1])
        sums = sums.index_add(0, region, take_cells(maps, cells))  # (S, D)
        return normalize(sums / sizes[:, None]), classes

    def _loss(self, means: Tensor, classes: Tensor) -> Tensor:
        num_classes, memory_size, _ = self.memory.shape
        keys = torch.cat([means, self.memory.flatten(0, 1)])  # (S + K * Q, D)
        device = means.device
        known = torch.arange(memory_size, device=device) < self.num_stored[:, None]  # (K, Q)
        owner = torch.arange(num_classes, device=device).repeat_interleave(memory_size)
        is_key = torch.cat([torch.ones_like(classes, dtype=torch.bool), known.flatten()])
        is_same = classes[:, None] == torch.cat([classes, owner])  # (S, S + K * Q)
        is_positive = is_same & is_key
        is_positive.fill_diagonal_(False)
        similarity = means @ keys.t() / self.temperature  # (S, S + K * Q)
        # The lowest number and not -inf, whose row without negatives has no derivative.
        lowest = torch.finfo(similarity.dtype).min
        negatives = similarity.masked_fill(is_same | ~is_key, lowest).logsumexp(1)  # (S,)
        losses = F.softplus(negatives[:, None] - similarity) * is_positive
        counts = is_positive.sum(1).clamp_min(1)  # (S,)
        return (losses.sum(1) / counts).sum() / max(len(means), 1)

    @torch.no_grad()
    def _remember(self, means: Tensor, classes: Tensor) -> None:
        """Put the means into the memory of their class, each over the oldest of it."""
        memory_size = self.memory.shape[1]
        if memory_size == 0 or len(classes) == 0:
            return
        # Classes ascend, so the first of a class is where its value would be inserted.
        rank = torch.arange(len(classes), device=classes.device)
        rank = rank - torch.searchsorted(classes, classes)  # (S,)
        slot = (self.num_stored[classes] + rank) % memory_size
        self.memory[classes, slot] = means
        self.num_stored.index_add_(0, classes, torch.ones_like(classes))
