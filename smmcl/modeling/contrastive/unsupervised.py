"""Rival: unsupervised multi-modal contrast, after Meyer, Eitel, Brox and Burgard (IROS 2020)."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from smmcl.d2 import CfgNode, ShapeSpec
from smmcl.modeling.contrastive.base import CONTRAST_REGISTRY
from smmcl.modeling.contrastive.branch import SMMCL
from smmcl.modeling.contrastive.sampling import Views


@CONTRAST_REGISTRY.register()
class UnsupervisedContrast(SMMCL):
    """Views of one place are positives, those of all other places negatives; no labels.

    Their method contrasts whole images before training. As in the paper's comparison, places of
    feature maps are contrasted in training here. MODEL.SMMCL sets the features, the sizes, weight
    and temperature of the cross-modal term, and MAX_VIEWS per image.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict:
        arguments = super().from_config(cfg, input_shape)
        return arguments | {
            "weights": {"cross": arguments["weights"]["cross"]},
            "loss": arguments["loss"] | {"positives": "all", "is_symmetric": True},
            "num_classes": 1,
            "limits": arguments["limits"] | {"min_views": 1},
            "has_shared_positions": True,
        }

    def _draw(self, labels: Tensor, seeds: list[int]) -> Views:
        views = super()._draw(torch.zeros_like(labels), seeds)
        return dataclasses.replace(views, labels=torch.arange(len(views.labels)))
