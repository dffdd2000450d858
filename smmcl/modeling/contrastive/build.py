"""Builds the contrastive branch that the config names: SMMCL or what the paper compares it with."""

from collections.abc import Mapping

from torch import nn

from smmcl.d2 import CfgNode, ShapeSpec
from smmcl.modeling.contrastive import branch, region, unsupervised  # noqa: F401  they register
from smmcl.modeling.contrastive.base import CONTRAST_REGISTRY


def build_contrast(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> nn.Module | None:
    """The branch that MODEL.CONTRAST.NAME names; None for "", the baseline."""
    name = cfg.MODEL.CONTRAST.NAME
    if not name:
        return None
    if name not in CONTRAST_REGISTRY:
        known = ", ".join(sorted(known for known, _ in CONTRAST_REGISTRY))
        raise KeyError(
            f"MODEL.CONTRAST.NAME is {name!r}, but the contrastive branches are {known}. Choose "
            "one of them, or '' for the baseline."
        )
    return CONTRAST_REGISTRY.get(name)(cfg, input_shape)
