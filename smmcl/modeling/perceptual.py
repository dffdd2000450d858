"""Maps of a frozen network, in which the style and the content of images are compared.

Shape shorthand in this module:
    N: images     C: channels     H, W: height and width
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.modeling.wrapping import Frozen
from smmcl.weights.files import read_file, tensors_in


class VGG16(nn.Sequential):
    """ImageNet's VGG-16 up to relu4_3, with torchvision's names less "features."."""

    WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512)  # 0: pooling
    PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    TAPS = {3: "relu1_2", 8: "relu2_2", 22: "relu4_3"}

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for width in self.WIDTHS:
            if width == 0:
                self.append(nn.MaxPool2d(2))
            else:
                self.extend([nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()])
                channels = width

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """A normalized image (N, 3, H, W) to maps by name, at strides 1, 2 and 8."""
        maps = {}
        for place, layer in enumerate(self):
            image = layer(image)
            if place in self.TAPS:
                maps[self.TAPS[place]] = image
        return maps


class PerceptualFeatures(nn.Module):
    """Maps of a frozen network: some for style, one for content."""

    def __init__(
        self,
        *,
        network: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        style: Sequence[str | int],
        content: str | int,
    ) -> None:
        """
        Args:
            network: a normalized image (N, 3, H, W) to maps, by name or by place: `VGG16`, or a
                stream of the day model. It is frozen.
            pixel_mean, pixel_std: of the network, on the scale 0..1. Authors' code: 0 and 1.
            style, content: which maps.
        """
        super().__init__()
        self.frozen = Frozen(network)
        self.register_buffer("mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.style, self.content = style, content

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """An image in 0..1 to its style maps and its content map, each (N, C, H, W)."""
        maps: Mapping | Sequence = self.frozen.module((image - self.mean) / self.std)
        return [maps[key] for key in self.style], maps[self.content]


def gram_distance(features: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Squared difference of the Gram matrices F F^T / (C H W), summed over levels and images.

    Args:
        features, others: maps (N, C, H, W) of each level.
    """
    flat = ((a.flatten(2), b.flatten(2)) for a, b in zip(features, others, strict=True))
    grams = ((a @ a.mT / a[0].numel(), b @ b.mT / b[0].numel()) for a, b in flat)  # (N, C, C)
    return torch.stack([(a - b).square().sum() for a, b in grams]).sum()


def gram_triplet_loss(
    features: Sequence[Tensor],
    positive: Sequence[Tensor],
    negative: Sequence[Tensor],
    *,
    margin: float = 0.04,
) -> Tensor:
    """Style nearer to the well exposed image's than to the badly exposed one's."""
    near, far = gram_distance(features, positive), gram_distance(features, negative)
    return F.relu(near - far + margin)


def build_perceptual(model: nn.Module, vgg: str = "") -> PerceptualFeatures:
    """Of a file of VGG-16, or else of the visible stream of a trained model for pairs."""
    if vgg:
        network, state = VGG16(), tensors_in(read_file(vgg), vgg)
        names = [f"features.{name}" for name in network.state_dict()]
        if missing := [name for name in names if name not in state]:
            raise ValueError(
                f"{vgg} is no file of VGG-16: it has no {', '.join(missing[:3])}. Name the one of "
                "torchvision, vgg16-397923af.pth, or take the segmentor's stream instead."
            )
        network.load_state_dict({name.removeprefix("features."): state[name] for name in names})
        statistics = {"pixel_mean": VGG16.PIXEL_MEAN, "pixel_std": VGG16.PIXEL_STD}
        return PerceptualFeatures(
            network=network, style=["relu1_2", "relu2_2"], content="relu4_3", **statistics
        )
    stream = getattr(model.backbone, "visible", None)
    if stream is None:
        raise ValueError(
            "the frozen model has no visible stream to compare images in. Name a file of VGG-16 in "
            "its place, or a model with MODEL.BACKBONE.NAME 'build_pair_backbone'."
        )
    mean, std = (
        (values / 255).flatten().tolist() for values in (model.pixel_mean, model.pixel_std)
    )
    return PerceptualFeatures(
        network=stream, pixel_mean=mean, pixel_std=std, style=[0, 1], content=2
    )
