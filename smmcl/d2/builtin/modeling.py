"""What models are made with: registries and builders, the backbone's interface, padded batches.

Shape shorthand in this module:
    N: images     C: channels     K: classes     H, W: height and width
"""

from abc import ABCMeta, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fvcore.common.registry import Registry
from torch import Tensor, nn

from smmcl.d2.builtin.config import CfgNode

META_ARCH_REGISTRY = Registry("META_ARCH")
BACKBONE_REGISTRY = Registry("BACKBONE")
SEM_SEG_HEADS_REGISTRY = Registry("SEM_SEG_HEADS")


@dataclass
class ShapeSpec:
    """What is known of a feature ahead of time; None where nothing is."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None


class Backbone(nn.Module, metaclass=ABCMeta):
    """A network that maps an image to named features, described by `output_shape()`."""

    @abstractmethod
    def forward(self) -> dict[str, Tensor]: ...

    @property
    def size_divisibility(self) -> int:
        """What the input's height and width must be multiples of; 0 for no demand."""
        return 0

    padding_constraints: dict[str, int] = {}  # as `ImageList.from_tensors` takes them

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature."""
        channels, strides = self._out_feature_channels, self._out_feature_strides
        return {
            name: ShapeSpec(channels=channels[name], stride=strides[name])
            for name in self._out_features
        }


def build_model(cfg: CfgNode) -> nn.Module:
    """Builds `MODEL.META_ARCHITECTURE` on `MODEL.DEVICE`, without loading weights."""
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
    """Builds `MODEL.BACKBONE.NAME`, by default for as many channels as `MODEL.PIXEL_MEAN` has."""
    input_shape = input_shape or ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)
    assert isinstance(backbone, Backbone), f"{cfg.MODEL.BACKBONE.NAME} built no Backbone"
    return backbone


def build_sem_seg_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Builds `MODEL.SEM_SEG_HEAD.NAME` for a backbone's `output_shape()`."""
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, input_shape)


def sem_seg_postprocess(
    result: Tensor, img_size: tuple[int, int], output_height: int, output_width: int
) -> Tensor:
    """Cuts the padding around `img_size` off scores (K, H, W) and brings them to the output's."""
    scores = result[None, :, : img_size[0], : img_size[1]]  # (1, K, *img_size)
    size = (output_height, output_width)
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)[0]  # (K, *size)


class ImageList:
    """Images of different sizes in one tensor, padded at the right and the bottom."""

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor = tensor  # (N, ..., H, W)
        self.image_sizes = image_sizes  # of each image before the padding

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> Tensor:
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    @staticmethod
    def from_tensors(
        tensors: list[Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> "ImageList":
        """Pads images (..., H, W) of different H and W to a common size."""
        assert len(tensors) > 0
        assert all(tensor.shape[:-2] == tensors[0].shape[:-2] for tensor in tensors)
        sizes = [(tensor.shape[-2], tensor.shape[-1]) for tensor in tensors]
        constraints = padding_constraints or {}
        height, width = (max(lengths) for lengths in zip(*sizes, strict=True))
        if (side := constraints.get("square_size", 0)) > 0:
            if side < max(height, width):
                raise ValueError(
                    f"padding_constraints has a square_size of {side}, which would crop images of "
                    f"up to {height} x {width} pixels. Set it to {max(height, width)} or more."
                )
            height = width = side
        stride = max(constraints.get("size_divisibility", size_divisibility), 1)
        height, width = (-(-length // stride) * stride for length in (height, width))
        padded = [
            F.pad(tensor, (0, width - size[1], 0, height - size[0]), value=pad_value)
            for tensor, size in zip(tensors, sizes, strict=True)
        ]
        return ImageList(torch.stack(padded), sizes)  # (N, ..., H, W)
