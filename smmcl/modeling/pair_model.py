"""What every model of pairs does before its head: pads, normalizes, and runs the backbone.

`forward` is `preprocess`, `normalize`, `features`, then `losses` or `infer`, which a model adds.

Shape shorthand in this module:
    N: images in the batch     A: channels of the auxiliary image
    H, W: height and width of the padded batch
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from smmcl.d2 import Backbone, CfgNode, ImageList


class PairBatch(NamedTuple):
    """The images of a batch, padded to one size, on the model's device.

    visible: (N, 3, H, W).
    auxiliary: (N, A, H, W); None where the model reads the visible image alone.
    boxes: (top, left, bottom, right) of each pair's real pixels; the rest is padding.
    """

    visible: Tensor
    auxiliary: Tensor | None
    boxes: list[tuple[int, int, int, int]]


class PairModel(nn.Module):
    """A backbone for pairs with the pixel statistics of its images."""

    def __init__(
        self,
        *,
        backbone: Backbone,
        pixel_mean: list[float],
        pixel_std: list[float],
        auxiliary_mean: list[float],
        auxiliary_std: list[float],
    ) -> None:
        """
        Args:
            backbone: maps (visible, auxiliary) to features by name.
            pixel_mean, pixel_std: of the visible image on the scale 0..255, one per channel.
            auxiliary_mean, auxiliary_std: the same of the auxiliary image.
        """
        super().__init__()
        self.backbone = backbone
        for name, values in (
            ("pixel_mean", pixel_mean), ("pixel_std", pixel_std),
            ("auxiliary_mean", auxiliary_mean), ("auxiliary_std", auxiliary_std),
        ):  # fmt: skip
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    @staticmethod
    def pixels_from_config(cfg: CfgNode) -> dict[str, Any]:
        return {
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "auxiliary_mean": cfg.MODEL.AUXILIARY.PIXEL_MEAN,
            "auxiliary_std": cfg.MODEL.AUXILIARY.PIXEL_STD,
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
        """What the sides of a batch are padded to multiples of; 0 for no demand."""
        return self.backbone.size_divisibility

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: one dict per pair, as the mapper makes them, with

                * "image": (3, H, W), "auxiliary": (A, H, W), values 0..255
                * "valid_box": (top, left, bottom, right) of the pixels that are not padding
                * in training the labels that `losses` reads
                * "height", "width": of the wanted prediction, if not the input's own

        Returns:
            in training, losses by name, weighted; else what `infer` makes of each pair.
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

    def regularization(self) -> dict[str, Tensor]:
        """Training terms of the fusions; a backbone of Detectron2's has none."""
        terms = getattr(self.backbone, "regularization", dict)
        return terms()

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


def _clear_padding(images: Tensor, boxes: list[tuple[int, int, int, int]]) -> None:
    """Sets to 0, in place, what lies outside the boxes of images (N, C, H, W)."""
    for i, (top, left, bottom, right) in enumerate(boxes):
        images[i, :, :top], images[i, :, bottom:] = 0, 0
        images[i, :, :, :left], images[i, :, :, right:] = 0, 0
