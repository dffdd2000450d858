"""The networks that one image of a pair goes through; importing the package registers them."""

from smmcl.modeling.streams import efficientnet_lite, mit, mscan, resnet

__all__ = ["efficientnet_lite", "mit", "mscan", "resnet"]
