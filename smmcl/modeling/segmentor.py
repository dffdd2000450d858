"""The whole model: a backbone for pairs, a head, and in training a contrastive branch.

Read this file first, then `PairModel`, whose `forward` is `preprocess`, `normalize`, `features`,
then `losses` or `infer`.

Shape shorthand in this module:
    N: images in the batch     K: classes     H, W: height and width of the padded batch
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from smmcl.d2 import (
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    CfgNode,
    ShapeSpec,
    build_backbone,
    build_sem_seg_head,
    configurable,
    sem_seg_postprocess,
)
from smmcl.modeling.backbone.shared import SharedPairBackbone
from smmcl.modeling.contrastive.build import build_contrast
from smmcl.modeling.head.base import precise
from smmcl.modeling.head.ensemble import build_ensemble_head
from smmcl.modeling.layers.resize import resize
from smmcl.modeling.pair_model import PairModel

logger = logging.getLogger(__name__)


@META_ARCH_REGISTRY.register()
class MultiModalSegmentor(PairModel):
    """Semantic segmentation of pairs (Figure 2): streams, fused features, head, contrast."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        contrast: nn.Module | None,
        ignore_value: int = 255,
        **pixels: Any,
    ) -> None:
        """
        Args:
            backbone: maps (visible, auxiliary) to features by name.
            sem_seg_head: maps features to (logits, {}), in training with targets to
                (None, losses); ours, or any with the interface of Detectron2's.
            contrast: branch that maps features, labels and seeds to its losses; None for the
                baseline. Inference never runs it.
            ignore_value: label of the pixels that count nowhere, for a head that states none.
            pixels: statistics of the images, as `PairModel` takes them.
        """
        super().__init__(backbone=backbone, **pixels)
        self.sem_seg_head = sem_seg_head
        self.contrast = contrast
        self.ignore_value = getattr(sem_seg_head, "ignore_value", ignore_value)
        # Convolutions are most of the time, and fastest with the channels innermost.
        self.to(memory_format=torch.channels_last)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        backbone = build_backbone(cfg)
        shape = backbone.output_shape()
        is_shared = isinstance(backbone, SharedPairBackbone)
        return {
            "backbone": backbone,
            "sem_seg_head": (build_ensemble_head if is_shared else _head_from_config)(cfg, shape),
            "contrast": build_contrast(cfg, shape),
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            **cls.pixels_from_config(cfg),
        }

    @property
    def size_divisibility(self) -> int:
        """What the sides of a batch are padded to multiples of; 0 for no demand.

        Detectron2's heads enlarge each feature by its stride, which must then divide the sides.
        """
        if getattr(self.sem_seg_head, "takes_any_size", False):
            return self.backbone.size_divisibility
        strides = [shape.stride for shape in self.backbone.output_shape().values()]
        return self.backbone.size_divisibility or max(strides)

    def losses(self, features: dict[str, Tensor], batched_inputs: list[dict]) -> dict[str, Tensor]:
        """The head's, the fusions' and the branch's losses, weighted, each named `loss_*`.

        Args:
            features: by name, of the backbone.
            batched_inputs: one dict per pair, with

                * "sem_seg": (H, W) int64 labels
                * "view_seed": int, from which the branch draws its views; drawn where a loader
                  gives none
                * "loss_divisor": see `with_divisor`, where these pairs are a part of a batch
        """
        labels = self._labels(batched_inputs)  # (N, H, W)
        is_empty = not (labels != self.ignore_value).any()
        if is_empty:
            names = ", ".join(str(inputs.get("sem_seg_file_name")) for inputs in batched_inputs)
            logger.warning(f"A batch has no labeled pixel, so its losses are 0: {names}")
        targets = labels.to(self.device, non_blocking=True)
        divisor = batched_inputs[0].get("loss_divisor")
        if is_empty and not hasattr(self.sem_seg_head, "divisor"):
            # The mean over no pixel is NaN, but every parameter needs a gradient: of a class, by 0.
            _, losses = self.sem_seg_head(features, torch.zeros_like(targets))
            losses = {name: 0 * loss for name, loss in losses.items()}
        elif divisor is None:
            _, losses = self.sem_seg_head(features, targets)
        else:
            _, losses = self.sem_seg_head(features, targets, divisor)
        losses = {**losses, **self.regularization()}
        if self.contrast is not None:
            seeds = [
                inputs["view_seed"] if "view_seed" in inputs else int(torch.randint(2**62, ()))
                for inputs in batched_inputs
            ]
            losses.update(self.contrast(features, labels, seeds))
        return losses

    def infer(self, features: dict[str, Tensor], batched_inputs: list[dict]) -> list[dict]:
        """One {"sem_seg": (K, height, width) logits} per pair, at the size that it asks for."""
        logits, _ = self.sem_seg_head(features)
        places = self._pad([inputs["image"][0].to("meta") for inputs in batched_inputs])
        logits = resize(precise(logits), places.shape[-2:])  # (N, K, H, W)
        results = []
        for scores, inputs in zip(logits, batched_inputs, strict=True):
            height, width = inputs["image"].shape[-2:]
            size = inputs.get("height", height), inputs.get("width", width)
            if size == (height, width):  # resizing would copy the largest map twice
                scores = scores[:, :height, :width]
            else:
                scores = sem_seg_postprocess(scores, (height, width), *size)
            results.append({"sem_seg": scores})
        return results

    def with_divisor(self, batched_inputs: list[dict], *, num_parts: int) -> list[dict]:
        """A whole batch, each pair with the divisor of the loss of its part, of `num_parts` parts.

        A head without a `divisor` takes the mean over each part for itself, as Detectron2's do.
        """
        if not hasattr(self.sem_seg_head, "divisor"):
            return batched_inputs
        labels = self._labels(batched_inputs).to(self.device, non_blocking=True)
        divisor = self.sem_seg_head.divisor(labels, num_parts=num_parts)
        return [{**inputs, "loss_divisor": divisor} for inputs in batched_inputs]

    def _labels(self, batched_inputs: list[dict]) -> Tensor:
        """(N, H, W), on the CPU: sampling reads them without waiting for the device."""
        for inputs in batched_inputs:
            if "sem_seg" not in inputs:
                raise ValueError(
                    f"{inputs.get('file_name', 'a record')} comes without 'sem_seg', but training "
                    "needs labels. Use MultiModalDatasetMapper(cfg, is_train=True), or name a set "
                    "with labels in DATASETS.TRAIN."
                )
        return self._pad([inputs["sem_seg"] for inputs in batched_inputs], self.ignore_value)


def _head_from_config(cfg: CfgNode, shape: dict[str, ShapeSpec]) -> nn.Module:
    try:
        return build_sem_seg_head(cfg, shape)
    except KeyError as error:
        name = cfg.MODEL.SEM_SEG_HEAD.NAME
        if name not in SEM_SEG_HEADS_REGISTRY:
            raise
        raise ValueError(
            f"{name} reads the feature {error}, but the backbone has {', '.join(shape)}. Name "
            "every fused feature that it reads in MODEL.SEM_SEG_HEAD.IN_FEATURES."
        ) from error
