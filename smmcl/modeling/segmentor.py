"""The whole model: a backbone for pairs, a head, and in training a contrastive branch.

Shape shorthand in this module:
    N: images in the batch     A: channels of the auxiliary image
    K: classes                 H, W: height and width of the padded batch
"""

import logging

import torch
from torch import Tensor, nn

from smmcl.d2 import (
    META_ARCH_REGISTRY,
    Backbone,
    CfgNode,
    ImageList,
    build_backbone,
    build_sem_seg_head,
    configurable,
    sem_seg_postprocess,
)
from smmcl.modeling.contrastive.base import build_contrast
from smmcl.modeling.head.base import precise, resize

logger = logging.getLogger(__name__)


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
    ) -> None:
        """
        Args:
            backbone: maps (visible, auxiliary) to features by name.
            sem_seg_head: maps features to logits, or with targets to its losses.
            contrast: branch that maps features, labels and seeds to its losses; None for the
                baseline. Inference never runs it.
            pixel_mean, pixel_std: of the visible image on the scale 0..255, one per channel.
            auxiliary_mean, auxiliary_std: the same of the auxiliary image.
        """
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.contrast = contrast
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
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, shape),
            "contrast": build_contrast(cfg, shape),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "auxiliary_mean": cfg.MODEL.AUXILIARY.PIXEL_MEAN,
            "auxiliary_std": cfg.MODEL.AUXILIARY.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: list[dict], loss_divisor: Tensor | None = None
    ) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: one dict per pair, as the mapper makes them, with

                * "image": (3, H, W), "auxiliary": (A, H, W), values 0..255
                * "sem_seg": (H, W) int64 labels, in training
                * "valid_box": (top, left, bottom, right) of the pixels that are not padding
                * "view_seed": int, from which the branch draws its views, in training
                * "height", "width": of the wanted prediction, if not the input's own
            loss_divisor: of `loss_divisor`, where these pairs are a part of a larger batch.

        Returns:
            in training, losses by name, weighted; else one {"sem_seg": (K, height, width) logits}
            per pair.
        """
        visible = self._normalised(batched_inputs, "image", self.pixel_mean, self.pixel_std)
        auxiliary = self._normalised(
            batched_inputs, "auxiliary", self.auxiliary_mean, self.auxiliary_std
        )
        features = self.backbone(
            visible.tensor.contiguous(memory_format=torch.channels_last),
            auxiliary.tensor.contiguous(memory_format=torch.channels_last),
        )
        if self.training:
            return self._losses(features, batched_inputs, loss_divisor)

        logits, _ = self.sem_seg_head(features)
        logits = resize(precise(logits), visible.tensor.shape[-2:])  # (N, K, H, W)
        return [
            {"sem_seg": sem_seg_postprocess(scores, size, *_output_size(inputs, size))}
            for scores, inputs, size in zip(
                logits, batched_inputs, visible.image_sizes, strict=True
            )
        ]

    def loss_divisor(self, batched_inputs: list[dict], *, num_parts: int) -> Tensor:
        """What `forward` must be told when it gets a batch in `num_parts` parts."""
        labels = self._labels(batched_inputs).to(self.device, non_blocking=True)
        return self.sem_seg_head.divisor(labels, num_parts=num_parts)

    def _labels(self, batched_inputs: list[dict]) -> Tensor:
        """(N, H, W), on the CPU: sampling reads them without waiting for the device."""
        return ImageList.from_tensors(
            [inputs["sem_seg"] for inputs in batched_inputs],
            self.backbone.size_divisibility,
            self.sem_seg_head.ignore_value,
        ).tensor

    def _losses(
        self,
        features: dict[str, Tensor],
        batched_inputs: list[dict],
        loss_divisor: Tensor | None,
    ) -> dict[str, Tensor]:
        labels = self._labels(batched_inputs)  # (N, H, W)
        if not (labels != self.sem_seg_head.ignore_value).any():
            names = ", ".join(str(inputs.get("sem_seg_file_name")) for inputs in batched_inputs)
            logger.warning("A batch has no labelled pixel, so its losses are 0: %s", names)
        targets = labels.to(self.device, non_blocking=True)
        _, losses = self.sem_seg_head(features, targets, loss_divisor)
        if self.contrast is not None:
            seeds = [inputs["view_seed"] for inputs in batched_inputs]
            # Exponentials of similarities need float32, whatever the rest computes in.
            with torch.autocast(self.device.type, enabled=False):
                losses.update(self.contrast(features, labels, seeds))
        return losses

    def _normalised(
        self, batched_inputs: list[dict], key: str, mean: Tensor, std: Tensor
    ) -> ImageList:
        images = []
        for inputs in batched_inputs:
            image = inputs[key].to(self.device, non_blocking=True)  # (C, H, W)
            if len(image) != len(mean):
                raise ValueError(
                    f"{key!r} of {inputs.get('file_name', 'this pair')} has {len(image)} channels "
                    f"but its PIXEL_MEAN in the config has {len(mean)}. Give it {len(image)} "
                    "values, or choose another INPUT.AUXILIARY_FORMAT."
                )
            image = (image - mean) / std
            if "valid_box" in inputs:
                image = _zero_outside(image, inputs["valid_box"])
            images.append(image)
        return ImageList.from_tensors(images, self.backbone.size_divisibility)


def _zero_outside(image: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """Padding is 0 after normalisation: the mean colour, which no real border of a scene is."""
    top, left, bottom, right = box
    if (bottom - top, right - left) == tuple(image.shape[-2:]):
        return image
    padded = torch.zeros_like(image)
    padded[:, top:bottom, left:right] = image[:, top:bottom, left:right]
    return padded


def _output_size(inputs: dict, size: tuple[int, int]) -> tuple[int, int]:
    return inputs.get("height", size[0]), inputs.get("width", size[1])
