"""The contrastive branch of SMMCL: projectors, sampled views and the weighted losses.

Shape shorthand in this module:
    N: images in the batch     h, w: feature height and width
    K: classes     M: views     D: embedding size
"""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from smmcl.d2 import CfgNode, ShapeSpec, comm, configurable
from smmcl.modeling.contrastive.base import CONTRAST_REGISTRY, ContrastiveBranch, check_features
from smmcl.modeling.contrastive.diagnostics import Diagnostics
from smmcl.modeling.contrastive.loss import contrastive_losses
from smmcl.modeling.contrastive.projector import Projector
from smmcl.modeling.contrastive.sampling import Views, draw_keys, sample_views, take_cells


@CONTRAST_REGISTRY.register()
class SMMCL(ContrastiveBranch):
    """Supervised multi-modal contrastive learning (Section 3.2)."""

    @configurable
    def __init__(
        self,
        *,
        in_features: tuple[str, str],
        channels: tuple[int, int],
        hidden_dim: int,
        embed_dim: int,
        weights: dict[str, float],
        loss: dict[str, Any],
        num_classes: int,
        limits: dict[str, int],
        has_shared_positions: bool = False,
        is_gathered: bool = False,
    ) -> None:
        """
        Args:
            in_features, channels: of the visible and the auxiliary feature.
            hidden_dim, embed_dim: channels of the projectors' hidden layers, and D.
            weights: of the terms "cross", "visible" and "auxiliary". A term of weight 0 is not
                computed, and a projector that no term uses is not built.
            loss: keywords of `contrastive_losses`: temperatures, positives, symmetry.
            num_classes: K; other labels never take part.
            limits: "min_views", "max_views" and "max_features" of `sample_views`.
            has_shared_positions: draw the same places in both modalities.
            is_gathered: contrast the views of all processes, as one process with the whole batch
                would. Each process takes as long as that one.
        """
        super().__init__()
        self.weights, self.loss, self.limits = _above_zero(weights), loss, limits
        self.num_classes = num_classes
        self.has_shared_positions, self.is_gathered = has_shared_positions, is_gathered
        self.in_features, self.projectors = {}, nn.ModuleDict()
        streams = zip(("visible", "auxiliary"), in_features, channels, strict=True)
        for stream, name, width in streams:
            if stream in self.weights or "cross" in self.weights:
                self.in_features[stream] = name
                self.projectors[stream] = Projector(width, hidden_dim, embed_dim)
        self.diagnostics = Diagnostics(limits["min_views"])

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict:
        node = cfg.MODEL.SMMCL
        return {
            "in_features": tuple(node.IN_FEATURES),
            "channels": tuple(check_features(node.IN_FEATURES, input_shape)),
            "hidden_dim": node.HIDDEN_DIM,
            "embed_dim": node.EMBED_DIM,
            "weights": {
                "cross": node.CROSS_MODAL.WEIGHT,
                "visible": node.INTRA_MODAL.VISIBLE_WEIGHT,
                "auxiliary": node.INTRA_MODAL.AUXILIARY_WEIGHT,
            },
            "loss": {
                "cross_temperature": node.CROSS_MODAL.TEMPERATURE,
                "intra_temperature": node.INTRA_MODAL.TEMPERATURE,
                "positives": node.CROSS_MODAL.POSITIVES,
                "is_symmetric": node.CROSS_MODAL.SYMMETRIC,
            },
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "limits": {
                "min_views": node.SAMPLER.MIN_VIEWS,
                "max_views": node.SAMPLER.MAX_VIEWS,
                "max_features": node.SAMPLER.MAX_FEATURES,
            },
            "has_shared_positions": node.SAMPLER.SHARED_POSITIONS,
            "is_gathered": node.GATHER,
        }

    def losses(
        self, maps: dict[str, Tensor], labels: Tensor, seeds: list[int]
    ) -> dict[str, Tensor]:
        first = 0
        if self.is_gathered:
            labels, seeds, first = _gather_labels(labels, seeds)
        views = self._draw(labels, seeds)
        embeddings = {
            stream: self._take(self.projectors[stream](feature), getattr(views, stream), first)
            for stream, feature in maps.items()
        }  # (M, D) each
        self.diagnostics.record(views, embeddings, num_cells=labels[0].numel())
        streams = list(embeddings.values())  # one alone stands for both: no term reads the other
        terms, cells = tuple(self.weights), (views.visible, views.auxiliary)
        losses = contrastive_losses(
            streams[0], streams[-1], views.labels, terms=terms, cells=cells, **self.loss
        )
        return {f"loss_contrast_{term}": self.weights[term] * losses[term] for term in losses}

    def _draw(self, labels: Tensor, seeds: list[int]) -> Views:
        keys = draw_keys(seeds, size=labels.shape[1:], num_classes=self.num_classes)
        if self.has_shared_positions:
            keys = (keys[0], keys[0], keys[2])
        return sample_views(labels, num_classes=self.num_classes, keys=keys, **self.limits)

    def _take(self, maps: Tensor, cells: Tensor, first: int) -> Tensor:
        """(M, D) of the (N, D, h, w) maps; the first cell of this process is number `first`."""
        if not self.is_gathered:
            return take_cells(maps, cells.to(maps.device, non_blocking=True))  # (M, D)
        num_cells = maps.numel() // maps.shape[1]
        is_own = (cells >= first) & (cells < first + num_cells)  # (M,)
        own = take_cells(maps, (cells[is_own] - first).to(maps.device, non_blocking=True))
        rows = is_own.nonzero().squeeze(1).to(maps.device, non_blocking=True)
        everywhere = own.new_zeros(len(cells), own.shape[1])  # (M, D)
        return _SumOverProcesses.apply(everywhere.index_copy(0, rows, own))


def _above_zero(weights: dict[str, float]) -> dict[str, float]:
    kept = {term: weight for term, weight in weights.items() if weight}
    if not kept or min(kept.values()) < 0:
        raise ValueError(
            f"The weights of the contrastive terms are {weights}; one must be above 0 and none "
            "below. For the baseline set MODEL.CONTRAST.NAME to ''."
        )
    return kept


def _gather_labels(labels: Tensor, seeds: list[int]) -> tuple[Tensor, list[int], int]:
    """Labels and seeds of all processes, and the number of cells of the processes before this.

    From these few bytes, every process draws the views of the whole batch by itself.
    """
    all_labels, all_seeds = zip(*comm.all_gather((labels, seeds)), strict=True)
    sizes = [tuple(labels.shape[1:]) for labels in all_labels]
    if len(set(sizes)) > 1:
        raise ValueError(
            "MODEL.SMMCL.GATHER needs features of one size on all processes, but they are "
            f"{sizes}. Train on crops of one size."
        )
    first = sum(labels.numel() for labels in all_labels[: comm.get_rank()])
    return torch.cat(all_labels), list(itertools.chain(*all_seeds)), first


class _SumOverProcesses(torch.autograd.Function):
    """Sum over all processes, each of which then computes the same loss.

    The gradient is that of the sum of their losses; distributed training averages it again.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, own: Tensor) -> Tensor:
        total = own.clone()
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient * comm.get_world_size()
