"""What the two streams take from each other; importing the package registers the fusions."""

from smmcl.modeling.fusion import cross_modal, plain

__all__ = ["cross_modal", "plain"]
