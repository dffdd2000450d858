"""SCL-LLE: an enhancer of dark images, trained from unpaired images and a frozen segmentor.

An enhanced image is to be nearer to well exposed images than to badly exposed ones in brightness
and style, to keep its content, to be even inside a class, and to be segmented well.

Shape shorthand in this module:
    N: images     C: channels     H, W: height and width     h, w: of an image as it came
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.lowlight import photometric, wrapped
from smmcl.lowlight.curves import EnhancingCurve


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
        self.frozen = wrapped.Frozen(network)
        self.register_buffer("mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.style, self.content = style, content

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """An image in 0..1 to its style maps and its content map, each (N, C, H, W)."""
        maps: Mapping | Sequence = self.frozen.module((image - self.mean) / self.std)
        return [maps[key] for key in self.style], maps[self.content]


class Enhancer(nn.Module):
    """SCL-LLE's enhancer in training. Its checkpoint holds the curve, not the frozen networks."""

    WEIGHTS = {
        "exposure": 10.0, "style": 5.0, "class": 1.0, "content": 1.0, "color": 8.0,
        "smooth": 200.0, "segmentation": 1.0,
    }  # fmt: skip

    def __init__(
        self,
        *,
        curve: EnhancingCurve,
        segmentor: nn.Module,
        perceptual: PerceptualFeatures,
        weights: Mapping[str, float] = WEIGHTS,
        ignore_value: int = 255,
    ) -> None:
        """
        Args:
            curve: predicts the enhanced image.
            segmentor: trained; it is frozen, in evaluation mode, and its loss reaches the curve.
            perceptual: what style and content are measured in.
            weights: of the losses, by name.
            ignore_value: label of void.
        """
        super().__init__()
        wrapped.check_model(segmentor)
        self.curve = curve
        self.frozen = wrapped.Frozen(segmentor)
        self.perceptual = perceptual
        self.ignore_value = ignore_value
        self.weights = weights

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: as the segmentor's; in training each also has "positive", a well exposed
                image, and "negative", an over- or underexposed one: (3, h, w) bytes, of any scene.

        Returns:
            in training, losses by name, weighted; else one {"enhanced": (3, h, w) in 0..1} each.
        """
        pair, view = wrapped.preprocess(self.frozen.module, batched_inputs, self.ignore_value)
        enhanced, curves = self.curve(view.image)  # (N, 3, H, W), (N, 24, H, W)
        if not self.training:
            return wrapped.results(enhanced, batched_inputs, "enhanced")
        positive, negative = (
            _unpaired(batched_inputs, key, enhanced) for key in ("positive", "negative")
        )
        with torch.no_grad():
            _, content = self.perceptual(view.image)
            (good, _), (bad, _) = self.perceptual(positive), self.perceptual(negative)
        style, kept = self.perceptual(enhanced)
        labels = view.need("labels")
        features = self.frozen.features(pair._replace(visible=enhanced))
        segmentation = self.frozen.module.losses(features, batched_inputs)
        losses = {
            "exposure": photometric.exposure_triplet_loss(enhanced, positive, negative),
            "style": photometric.gram_triplet_loss(style, good, bad),
            "class": photometric.class_brightness_loss(
                enhanced, labels, ignore_value=self.ignore_value
            ),
            "content": F.mse_loss(kept, content),
            "color": photometric.color_loss(enhanced),
            "smooth": photometric.total_variation(curves),
            "segmentation": sum(segmentation.values()),
        }
        return wrapped.weighted(losses, self.weights)


def _unpaired(inputs: list[dict], key: str, like: Tensor) -> Tensor:
    """Images under a key in 0..1, resized to the batch: they show other scenes anyway."""
    size = like.shape[-2:]
    images = [image[None].to(like) / 255 for image in wrapped.images_of(inputs, key)]
    return torch.cat([F.interpolate(image, size, mode="bilinear") for image in images])
