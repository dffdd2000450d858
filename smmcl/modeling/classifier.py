"""One class for each image: the backbone of the segmentor, a mean over places, a linear layer.

Shape shorthand in this module:
    N: images in the batch     K: classes     C: channels of the feature
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.d2 import META_ARCH_REGISTRY, Backbone, CfgNode, build_backbone, configurable
from smmcl.modeling.pair_model import PairModel


@META_ARCH_REGISTRY.register()
class ImageClassifier(PairModel):
    """Classification of pairs, or of single images by a backbone of one stream."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        in_feature: str = "res5",
        label_smoothing: float = 0.0,
        **pixels: Any,
    ) -> None:
        """
        Args:
            backbone: maps (visible, auxiliary) to features by name.
            in_feature: the feature whose mean over places is classified.
            label_smoothing: share of the target that is spread over all classes, 0..1.
            pixels: statistics of the images, as `PairModel` takes them.
        """
        super().__init__(backbone=backbone, **pixels)
        shape = backbone.output_shape()
        if in_feature not in shape:
            raise ValueError(
                f"MODEL.CLASSIFIER.IN_FEATURE is {in_feature!r}, but the backbone has "
                f"{', '.join(shape)}. Choose from those."
            )
        self.classifier = nn.Linear(shape[in_feature].channels, num_classes)
        self.in_feature, self.label_smoothing = in_feature, label_smoothing
        self.to(memory_format=torch.channels_last)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.CLASSIFIER
        if cfg.MODEL.CONTRAST.NAME:
            raise ValueError(
                f"MODEL.CONTRAST.NAME is {cfg.MODEL.CONTRAST.NAME!r}, which contrasts labeled "
                "pixels, but an ImageClassifier has one label an image. Set it to ''."
            )
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = [node.IN_FEATURE]  # the backbone builds what is read
        return {
            "backbone": build_backbone(cfg),
            "num_classes": node.NUM_CLASSES,
            "in_feature": node.IN_FEATURE,
            "label_smoothing": node.LABEL_SMOOTHING,
            **cls.pixels_from_config(cfg),
        }

    def logits(self, features: dict[str, Tensor]) -> Tensor:
        feature = features[self.in_feature]  # (N, C, h, w)
        return self.classifier(feature.mean(dim=(2, 3))).float()  # (N, K)

    def losses(self, features: dict[str, Tensor], batched_inputs: list[dict]) -> dict[str, Tensor]:
        """The cross-entropy of the classes, and the fusions' losses; reads "class_id" (int)."""
        for inputs in batched_inputs:
            if "class_id" not in inputs:
                raise ValueError(
                    f"{inputs.get('file_name', 'a record')} comes without 'class_id', but an "
                    "ImageClassifier needs the class of each image. Name a set for "
                    "classification in DATASETS.TRAIN, or train a segmentor."
                )
        targets = torch.tensor([inputs["class_id"] for inputs in batched_inputs])  # (N,)
        loss = F.cross_entropy(
            self.logits(features), targets.to(self.device), label_smoothing=self.label_smoothing
        )
        return {"loss_class": loss, **self.regularization()}

    def infer(self, features: dict[str, Tensor], batched_inputs: list[dict]) -> list[dict]:
        """One {"scores": (K,) logits} per image."""
        return [{"scores": scores} for scores in self.logits(features)]


def check_segments(model: nn.Module, purpose: str) -> None:
    """Raises where a model gives no class to each pixel."""
    if isinstance(model, ImageClassifier):
        raise ValueError(
            f"{purpose} needs a class at every pixel, but an ImageClassifier gives one an image. "
            "Name a segmentor."
        )
