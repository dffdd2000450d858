"""The networks that one image of a pair goes through; importing the package registers them."""

from smmcl.modeling.streams import mit, mscan, resnet

__all__ = ["mit", "mscan", "resnet"]
