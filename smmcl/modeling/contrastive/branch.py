"""The contrastive branch of SMMCL: projectors, sampled views and the weighted losses.

Shape shorthand in this module:
    N: images in the batch     H, W: image height and width     h, w: feature height and width
    K: classes     M: views     D: embedding size
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from smmcl.d2 import CfgNode, ShapeSpec, comm, configurable
from smmcl.modeling.contrastive.diagnostics import Diagnostics
from smmcl.modeling.contrastive.loss import contrastive_losses
from smmcl.modeling.contrastive.projector import Projector, check_features
from smmcl.modeling.contrastive.sampling import (
    Views,
    draw_keys,
    sample_views,
    shrink_labels,
    take_cells,
)


class SMMCL(nn.Module):
    """Supervised multi-modal contrastive learning (Section 3.2), in training only."""

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
        has_shared_positions: bool,
        is_gathered: bool,
    ) -> None:
        """
        Args:
            in_features: names of the visible and the auxiliary feature.
            channels: of these features.
            hidden_dim: channels of the projectors' hidden layers.
            embed_dim: D.
            weights: of the terms "cross", "visible" and "auxiliary"; a term of weight 0 is not
                computed, and a projector that no term uses is not built.
            loss: temperatures, positives and symmetry, as `contrastive_losses` takes them.
            num_classes: K; other labels never take part.
            limits: "min_views", "max_views" and "max_features" of `sample_views`.
            has_shared_positions: draw the same places in both modalities.
            is_gathered: contrast the views of all processes, as one process with the whole batch
                would, at the cost of its time on every process.
        """
        super().__init__()
        self.weights = {term: weight for term, weight in weights.items() if weight}
        if not self.weights or min(self.weights.values()) < 0:
            raise ValueError(
                f"The weights of the contrastive terms are {weights}; one must be above 0 and "
                "none below. For the baseline set MODEL.CONTRAST.NAME to ''."
            )
        self.loss = loss
        self.num_classes = num_classes
        self.limits = limits
        self.has_shared_positions = has_shared_positions
        self.is_gathered = is_gathered
        streams = zip(("visible", "auxiliary"), in_features, channels, strict=True)
        used = [entry for entry in streams if {entry[0], "cross"} & set(self.weights)]
        self.in_features = {stream: name for stream, name, _ in used}
        self.projectors = nn.ModuleDict(
            {stream: Projector(width, hidden_dim, embed_dim) for stream, _, width in used}
        )
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

    def forward(
        self, features: Mapping[str, Tensor], labels: Tensor, seeds: list[int]
    ) -> dict[str, Tensor]:
        """
        Args:
            features: by name, (N, C, h, w) each.
            labels: (N, H, W) int64 at the resolution of the images, on the CPU.
            seeds: one per image; its views are drawn from it.

        Returns:
            "loss_contrast_cross", "loss_contrast_visible" and "loss_contrast_auxiliary", weighted;
            those of weight 0 are left out.
        """
        size = features[next(iter(self.in_features.values()))].shape[-2:]
        labels = shrink_labels(labels, size=size)  # (N, h, w)
        first = 0
        if self.is_gathered:
            labels, seeds, first = _gather_labels(labels, seeds)
        views = self._draw(labels, seeds)
        embeddings = {
            stream: self._take(stream, features[name], getattr(views, stream), first)
            for stream, name in self.in_features.items()
        }  # (M, D) each
        self.diagnostics.record(views, embeddings, num_cells=labels[0].numel())
        # Where one stream alone is contrasted, no term looks at the other.
        visible = embeddings.get("visible", embeddings.get("auxiliary"))
        losses = contrastive_losses(
            visible,
            embeddings.get("auxiliary", visible),
            views.labels,
            terms=tuple(self.weights),
            cells=(views.visible, views.auxiliary),
            **self.loss,
        )
        return {f"loss_contrast_{term}": self.weights[term] * losses[term] for term in losses}

    def _draw(self, labels: Tensor, seeds: list[int]) -> Views:
        keys = draw_keys(seeds, size=labels.shape[1:], num_classes=self.num_classes)
        if self.has_shared_positions:
            keys = (keys[0], keys[0], keys[2])
        return sample_views(labels, num_classes=self.num_classes, keys=keys, **self.limits)

    def _take(self, stream: str, feature: Tensor, cells: Tensor, first: int) -> Tensor:
        """Embeddings of the sampled cells; the first cell of this process is number `first`."""
        maps = self.projectors[stream](feature)  # (N, D, h, w)
        if not self.is_gathered:
            return take_cells(maps, cells.to(maps.device, non_blocking=True))  # (M, D)
        num_cells = maps.numel() // maps.shape[1]
        is_own = (cells >= first) & (cells < first + num_cells)  # (M,)
        own = take_cells(maps, (cells[is_own] - first).to(maps.device, non_blocking=True))
        rows = is_own.nonzero().squeeze(1).to(maps.device, non_blocking=True)
        everywhere = own.new_zeros(len(cells), own.shape[1])  # (M, D)
        return _SumOverProcesses.apply(everywhere.index_copy(0, rows, own))


def _gather_labels(labels: Tensor, seeds: list[int]) -> tuple[Tensor, list[int], int]:
    """Labels and seeds of all processes, and the number of cells of the processes before this.

    Few bytes and no GPU: with them every process draws the views of the whole batch by itself.
    """
    everyone = comm.all_gather((labels, seeds))
    if len({theirs.shape[1:] for theirs, _ in everyone}) > 1:
        raise ValueError(
            "MODEL.SMMCL.GATHER needs features of one size on all processes, but they are "
            f"{[tuple(theirs.shape[1:]) for theirs, _ in everyone]}. Train on crops of one size."
        )
    first = sum(theirs.numel() for theirs, _ in everyone[: comm.get_rank()])
    return (
        torch.cat([theirs for theirs, _ in everyone]),
        [seed for _, theirs in everyone for seed in theirs],
        first,
    )


class _SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over all processes, each of which then computes the same loss.

    The derivative of the sum of these losses is that of one times their number. Distributed
    training divides by the number again when it averages gradients.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, own: Tensor) -> Tensor:
        total = own.clone()
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient * comm.get_world_size()
