"""The registry of contrastive branches: SMMCL and what the paper compares it with."""

from fvcore.common.registry import Registry
from torch import nn

from smmcl.d2 import CfgNode, ShapeSpec
from smmcl.modeling.contrastive.branch import SMMCL
from smmcl.modeling.contrastive.region import RegionContrast
from smmcl.modeling.contrastive.unsupervised import UnsupervisedContrast

CONTRAST_REGISTRY = Registry("CONTRAST")
CONTRAST_REGISTRY.__doc__ = """
Contrastive branches, built as `branch(cfg, input_shape)` and in training called with the features
by name, the (N, H, W) labels on the CPU and one seed per image. They return losses by name, under
the same names on every process and attached to all their parameters.
"""
for _branch in (SMMCL, UnsupervisedContrast, RegionContrast):
    CONTRAST_REGISTRY.register(_branch)


def build_contrast(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module | None:
    """The branch that MODEL.CONTRAST.NAME names; None for "", the baseline."""
    name = cfg.MODEL.CONTRAST.NAME
    return CONTRAST_REGISTRY.get(name)(cfg, input_shape) if name else None
