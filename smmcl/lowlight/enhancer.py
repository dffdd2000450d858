"""SCL-LLE: an enhancer of dark images, trained from unpaired images and a frozen segmentor.

An enhanced image is to be nearer to well exposed images than to badly exposed ones in brightness
and style, to keep its content, to be even inside a class, and to be segmented well.

Shape shorthand in this module:
    N: images     C: channels     H, W: height and width     h, w: of an image as it came
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.d2 import META_ARCH_REGISTRY, CfgNode, configurable
from smmcl.engine.setup import changed
from smmcl.inference.named_model import check_untested, load_frozen
from smmcl.lowlight import photometric
from smmcl.lowlight.curves import EnhancingCurve
from smmcl.lowlight.view import preprocess
from smmcl.modeling.classifier import check_segments
from smmcl.modeling.perceptual import PerceptualFeatures, build_perceptual, gram_triplet_loss
from smmcl.modeling.wrapping import freeze, need_frozen, relit, resized, segmentation_loss, weighted


@META_ARCH_REGISTRY.register()
class Enhancer(nn.Module):
    """SCL-LLE's enhancer. Its checkpoint holds the curve, not the frozen networks."""

    WEIGHTS = {
        "exposure": 10.0, "style": 5.0, "class": 1.0, "content": 0.1, "color": 8.0,
        "smooth": 200.0, "segmentation": 1.0,
    }  # fmt: skip

    @configurable
    def __init__(
        self,
        *,
        curve: EnhancingCurve,
        segmentor: nn.Module | None = None,
        perceptual: PerceptualFeatures | None = None,
        weights: Mapping[str, float] = WEIGHTS,
        ignore_value: int = 255,
    ) -> None:
        """
        Args:
            curve: predicts the enhanced image.
            segmentor: trained; it is frozen, in evaluation mode, and its loss reaches the curve.
            perceptual: what style and content are measured in. Only training needs these two.
            weights: of the losses, by name.
            ignore_value: label of void.
        """
        super().__init__()
        self.frozen = freeze(segmentor)
        self.curve = curve
        self.perceptual = perceptual
        self.ignore_value = ignore_value
        self.weights = weights

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        check_untested(cfg)
        node = cfg.MODEL.ENHANCER
        segmentor = load_frozen(cfg, "MODEL.ENHANCER.SEGMENTOR")
        check_segments(segmentor, "MODEL.ENHANCER.SEGMENTOR")
        return {
            "curve": EnhancingCurve(width=node.WIDTH, shrink=node.SHRINK),
            "segmentor": segmentor,
            "perceptual": segmentor and build_perceptual(segmentor, node.VGG),
            "weights": {name.lower(): weight for name, weight in node.WEIGHTS.items()},
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        }

    @staticmethod
    def deployed_config(cfg: CfgNode) -> CfgNode:
        """Brightening needs no frozen network, so their files may be gone."""
        return changed(cfg, "MODEL.ENHANCER.SEGMENTOR", "", "MODEL.ENHANCER.VGG", "")

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: as the segmentor's; in training each also has "positive", a well exposed
                image, and "negative", an over- or underexposed one: (3, h, w) bytes, of any scene.

        Returns:
            in training, losses by name, weighted; else one {"enhanced": (3, h, w) in 0..1} each.
        """
        if not self.training:
            return [{"enhanced": image} for image in relit(self, batched_inputs)]
        frozen = need_frozen(self.frozen, "MODEL.ENHANCER.SEGMENTOR")
        pair, view = preprocess(frozen.module, batched_inputs, self.ignore_value)
        enhanced, curves = self.curve(view.image)  # (N, 3, H, W), (N, 24, H, W)
        positive, negative = (
            resized(batched_inputs, key, enhanced) for key in ("positive", "negative")
        )
        with torch.no_grad():
            _, content = self.perceptual(view.image)
            (good, _), (bad, _) = self.perceptual(positive), self.perceptual(negative)
        style, kept = self.perceptual(enhanced)
        labels, void = view.need("labels"), {"ignore_value": self.ignore_value}
        features = frozen.features(pair._replace(visible=enhanced))
        losses = {
            "exposure": photometric.exposure_triplet_loss(enhanced, positive, negative),
            "style": gram_triplet_loss(style, good, bad),
            "class": photometric.class_brightness_loss(enhanced, labels, **void),
            "content": F.mse_loss(kept, content),
            "color": photometric.color_loss(enhanced),
            "smooth": photometric.total_variation(curves),
            "segmentation": segmentation_loss(frozen, features, batched_inputs, **void),
        }
        return weighted(losses, self.weights)

    @torch.no_grad()
    def relight(self, visible: Tensor, *, seeds: Sequence[int] = ()) -> Tensor:
        """Brightens images (N, 3, H, W) of 0..1; nothing is drawn."""
        return self.curve(visible)[0].clamp(0, 1)
