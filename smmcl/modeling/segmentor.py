"""The whole model: a backbone for pairs, a head, and in training a contrastive branch.

Read this file first. `forward` is `preprocess`, `normalize`, `features`, then `losses` or `infer`.

Shape shorthand in this module:
    N: images in the batch     A: channels of the auxiliary image
    K: classes                 H, W: height and width of the padded batch
"""

import logging
from typing import NamedTuple

import torch
from torch import Tensor, nn

from smmcl.d2 import (
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    CfgNode,
    ImageList,
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

logger = logging.getLogger(__name__)


class PairBatch(NamedTuple):
    """The images of a batch, padded to one size, on the model's device.

    visible: (N, 3, H, W).
    auxiliary: (N, A, H, W); None where the model reads the visible image alone.
    boxes: (top, left, bottom, right) of each pair's real pixels; the rest is padding.
    """

    visible: Tensor
    auxiliary: Tensor | None
    boxes: list[tuple[int, int, int, int]]


@META_ARCH_REGISTRY.register()
class MultiModalSegmentor(nn.Module):
    """Semantic segmentation of pairs (Figure 2): streams, fused features, head, contrast."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        contrast: nn.Module | None,
        pixel_mean: list[float],
        pixel_std: list[float],
        auxiliary_mean: list[float],
        auxiliary_std: list[float],
        ignore_value: int = 255,
    ) -> None:
        """
        Args:
            backbone: maps (visible, auxiliary) to features by name.
            sem_seg_head: maps features to (logits, {}), in training with targets to
                (None, losses); ours, or any with the interface of Detectron2's.
            contrast: branch that maps features, labels and seeds to its losses; None for the
                baseline. Inference never runs it.
            pixel_mean, pixel_std: of the visible image on the scale 0..255, one per channel.
            auxiliary_mean, auxiliary_std: the same of the auxiliary image.
            ignore_value: label of the pixels that count nowhere, for a head that states none.
        """
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.contrast = contrast
        self.ignore_value = getattr(sem_seg_head, "ignore_value", ignore_value)
        for name, values in (
            ("pixel_mean", pixel_mean), ("pixel_std", pixel_std),
            ("auxiliary_mean", auxiliary_mean), ("auxiliary_std", auxiliary_std),
        ):  # fmt: skip
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
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
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "auxiliary_mean": cfg.MODEL.AUXILIARY.PIXEL_MEAN,
            "auxiliary_std": cfg.MODEL.AUXILIARY.PIXEL_STD,
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def reads_auxiliary(self) -> bool:
        """Whether the backbone takes pairs; one of Detectron2's takes the visible image alone."""
        return getattr(self.backbone, "reads_auxiliary", False)

    @property
    def size_divisibility(self) -> int:
        """What the sides of a batch are padded to multiples of; 0 for no demand.

        Detectron2's heads enlarge each feature by its stride, which must then divide the sides.
        """
        if getattr(self.sem_seg_head, "takes_any_size", False):
            return self.backbone.size_divisibility
        strides = [shape.stride for shape in self.backbone.output_shape().values()]
        return self.backbone.size_divisibility or max(strides)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: one dict per pair, as the mapper makes them, with

                * "image": (3, H, W), "auxiliary": (A, H, W), values 0..255
                * "valid_box": (top, left, bottom, right) of the pixels that are not padding
                * "sem_seg": (H, W) int64 labels, in training
                * "view_seed": int, from which the branch draws its views, in training; drawn
                  where a loader gives none
                * "loss_divisor": see `with_divisor`, where these pairs are a part of a batch
                * "height", "width": of the wanted prediction, if not the input's own

        Returns:
            in training, losses by name, weighted; else one {"sem_seg": (K, height, width) logits}
            per pair.
        """
        pair = self.preprocess(batched_inputs)
        pair = self.normalize(pair)
        features = self.features(pair)
        if self.training:
            return self.losses(features, batched_inputs)
        return self.infer(features, batched_inputs)

    def preprocess(self, batched_inputs: list[dict]) -> PairBatch:
        """Moves the images to the device and pads them to one size; values 0..1."""
        visible, auxiliary = self._padded(batched_inputs, "image", self.pixel_mean), None
        if self.reads_auxiliary:
            auxiliary = self._padded(batched_inputs, "auxiliary", self.auxiliary_mean)
        boxes = [
            inputs.get("valid_box", (0, 0, *inputs["image"].shape[-2:]))
            for inputs in batched_inputs
        ]
        return PairBatch(visible, auxiliary, boxes)

    def normalize(self, pair: PairBatch) -> PairBatch:
        """Subtracts the means, divides by the deviations, and makes all padding 0.

        That is the mean color, which no real border of a scene is.
        """
        visible, auxiliary, boxes = pair
        visible = (visible * 255 - self.pixel_mean) / self.pixel_std
        _clear_padding(visible, boxes)
        if auxiliary is not None:
            auxiliary = (auxiliary * 255 - self.auxiliary_mean) / self.auxiliary_std
            _clear_padding(auxiliary, boxes)
        return PairBatch(visible, auxiliary, boxes)

    def features(self, pair: PairBatch) -> dict[str, Tensor]:
        """The backbone's features of a normalized pair, by name."""
        images = (
            image.contiguous(memory_format=torch.channels_last)
            for image in (pair.visible, pair.auxiliary)
            if image is not None
        )
        return self.backbone(*images)

    def losses(self, features: dict[str, Tensor], batched_inputs: list[dict]) -> dict[str, Tensor]:
        """The head's, the fusions' and the branch's losses, weighted, each named `loss_*`."""
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
        if hasattr(self.backbone, "regularization"):
            losses = {**losses, **self.backbone.regularization()}
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

    def _padded(self, batched_inputs: list[dict], key: str, mean: Tensor) -> Tensor:
        """The images under a key, (N, C, H, W), in 0..1."""
        images = []
        for inputs in batched_inputs:
            if key not in inputs:
                raise ValueError(
                    f"{inputs.get('file_name', 'a record')} comes without {key!r}, but the model "
                    "reads pairs. Use MultiModalDatasetMapper or smmcl.Predictor, which read both "
                    "images, or a model of one stream (MODEL.PAIR.AUXILIARY.NAME '')."
                )
            if len(inputs[key]) != len(mean):
                count = len(inputs[key])
                raise ValueError(
                    f"{key!r} of {inputs.get('file_name', 'this pair')} has {count} channels but "
                    f"its PIXEL_MEAN in the config has {len(mean)}. Give it {count} values, or "
                    "choose another INPUT.AUXILIARY_FORMAT."
                )
            images.append(inputs[key].to(self.device, mean.dtype, non_blocking=True) / 255)
        return self._pad(images)

    def _pad(self, images: list[Tensor], value: float = 0) -> Tensor:
        return ImageList.from_tensors(
            images, self.size_divisibility, value, self.backbone.padding_constraints
        ).tensor


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


def _clear_padding(images: Tensor, boxes: list[tuple[int, int, int, int]]) -> None:
    """Sets to 0, in place, what lies outside the boxes of images (N, C, H, W)."""
    for i, (top, left, bottom, right) in enumerate(boxes):
        images[i, :, :top], images[i, :, bottom:] = 0, 0
        images[i, :, :, :left], images[i, :, :, right:] = 0, 0
