"""What models are made with: registries and builders, the backbone's interface, batches of images.

Shape shorthand in this module:
    N: images     C: channels     K: classes     H, W: height and width
"""

from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
    def forward(self) -> dict[str, Tensor]:
        """Returns the features by name."""

    @property
    def size_divisibility(self) -> int:
        """What the input's height and width must be multiples of; 0 for no demand."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Further demands on the input's size, as `ImageList.from_tensors` takes them."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Returns channels and stride of each feature."""
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }


def build_model(cfg: CfgNode) -> nn.Module:
    """Builds `MODEL.META_ARCHITECTURE` on `MODEL.DEVICE`, without loading weights."""
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
    """Builds `MODEL.BACKBONE.NAME`.

    Args:
        cfg: the config.
        input_shape: of the image; by default as many channels as `MODEL.PIXEL_MEAN` has values.
    """
    input_shape = input_shape or ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)
    assert isinstance(backbone, Backbone), f"{cfg.MODEL.BACKBONE.NAME} built no Backbone"
    return backbone


def build_sem_seg_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Builds `MODEL.SEM_SEG_HEAD.NAME`.

    Args:
        cfg: the config.
        input_shape: the backbone's `output_shape()`.
    """
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, input_shape)


def sem_seg_postprocess(
    result: Tensor, img_size: tuple[int, int], output_height: int, output_width: int
) -> Tensor:
    """Cuts the padding off a prediction and brings it to the wanted size.

    Args:
        result: scores, (K, H, W).
        img_size: height and width of the image inside the padding.
        output_height: wanted height.
        output_width: wanted width.

    Returns:
        Scores, (K, output_height, output_width).
    """
    scores = result[None, :, : img_size[0], : img_size[1]]  # (1, K, img_size)
    size = (output_height, output_width)
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)[0]


class ImageList:
    """Images of different sizes in one tensor, padded at the right and the bottom."""

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]) -> None:
        """Args:
        tensor: the padded images, (N, ..., H, W).
        image_sizes: height and width of each before the padding.
        """
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> Tensor:
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> "ImageList":
        """Returns the list on another device or in another type, as `Tensor.to`."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: list[Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> "ImageList":
        """Pads images to a common size.

        Args:
            tensors: the images, each (..., H, W) with its own height and width.
            size_divisibility: what the common height and width are multiples of, when above 1.
            pad_value: value of the padding.
            padding_constraints: `size_divisibility` replaces the one above; `square_size` above 0
                is the common height and width before that.
        """
        assert len(tensors) > 0
        assert isinstance(tensors, tuple | list)
        for tensor in tensors:
            assert isinstance(tensor, Tensor), type(tensor)
            assert tensor.shape[:-2] == tensors[0].shape[:-2], tensor.shape
        sizes = [(tensor.shape[-2], tensor.shape[-1]) for tensor in tensors]
        constraints = padding_constraints or {}
        height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
        if constraints.get("square_size", 0) > 0:
            height = width = constraints["square_size"]
        stride = max(constraints.get("size_divisibility", size_divisibility), 1)
        height, width = (-(-length // stride) * stride for length in (height, width))
        padded = [
            F.pad(tensor, (0, width - size[1], 0, height - size[0]), value=pad_value)
            for tensor, size in zip(tensors, sizes, strict=True)
        ]
        return ImageList(torch.stack(padded), sizes)  # (N, ..., H, W)


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine part are constants."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        """Args:
        num_features: channels.
        eps: added to the variance.
        """
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)
        self.register_buffer("num_batches_tracked", None)

    def forward(self, feature: Tensor) -> Tensor:
        """Normalises (N, C, H, W)."""
        return F.batch_norm(
            feature, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


class LayerNorm(nn.Module):
    """Layer norm over the channels of (N, C, H, W)."""

    def __init__(self, normalized_shape: int, eps: float = 1e-6) -> None:
        """Args:
        normalized_shape: channels.
        eps: added to the variance.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.ones(normalized_shape))
        self.bias = nn.Parameter(torch.zeros(normalized_shape))
        self.eps = eps
        self.normalized_shape = (normalized_shape,)

    def forward(self, feature: Tensor) -> Tensor:
        """Normalises (N, C, H, W)."""
        feature = feature.movedim(1, -1)  # (N, H, W, C)
        feature = F.layer_norm(feature, self.normalized_shape, self.weight, self.bias, self.eps)
        return feature.movedim(-1, 1)  # (N, C, H, W)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": lambda channels: nn.GroupNorm(32, channels),
    "LN": LayerNorm,
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """Returns a normalisation layer, or None where none is wanted.

    Args:
        norm: a key of `NORMS`, a function of the channels, or "" or None for no layer.
        out_channels: channels of its input.
    """
    if not norm:
        return None
    return (NORMS[norm] if isinstance(norm, str) else norm)(out_channels)
