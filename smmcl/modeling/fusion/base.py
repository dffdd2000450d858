"""What every fusion promises, and the registry that a config chooses from.

Shape shorthand in this module:
    N: images in the batch     H, W: feature height and width
    v, a: widths of the visible and the auxiliary stream     c: width of the fused feature
"""

from typing import Any

from fvcore.common.registry import Registry
from torch import Tensor, nn

from smmcl.modeling.layers.cpu import PointConv

# Widths of the paper's encoders (MSCAN, MiT), by stage. Fused features stay within them, whatever
# the widths of the streams.
PAPER_WIDTHS = (64, 128, 320, 512)

FUSION_REGISTRY = Registry("FUSION")
FUSION_REGISTRY.__doc__ = """
Subclasses of `Fusion`, one module a stage. MODEL.FUSION.NAME chooses from it.
"""


class Fusion(nn.Module):
    """What the streams take from each other after one stage, and the feature that the head reads.

    A subclass defines `forward`, and `from_config` where it has parameters of its own.
    """

    def __init__(
        self,
        visible_width: int,
        auxiliary_width: int,
        *,
        fused_width: int,
        is_read: bool = True,
    ) -> None:
        """
        Args:
            visible_width: v.
            auxiliary_width: a.
            fused_width: c.
            is_read: a head reads the fused feature. Where none does, what makes it must not be
                built: an unused parameter stops distributed training.
        """
        super().__init__()
        self.visible_width = visible_width
        self.auxiliary_width = auxiliary_width
        self.fused_width = fused_width
        self.is_read = is_read

    @classmethod
    def from_config(cls, cfg: Any, *, stage: int) -> dict[str, Any]:
        """Further keyword arguments for a stage, 0 to 3."""
        return {}

    def forward(self, visible: Tensor, auxiliary: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """
        Args:
            visible: (N, v, H, W), the visible stream's stage output.
            auxiliary: (N, a, H, W).

        Returns:
            what the next stages read, shapes as before; the fused feature (N, c, H, W), None if
            no head reads it.
        """
        raise NotImplementedError

    def regularization(self) -> dict[str, Tensor]:
        """Training terms of its own on what the last `forward` saw: weighted, named `loss_*`."""
        return {}


def fused_width(stage: int, visible_width: int, auxiliary_width: int) -> int:
    """Channels of the fused feature of a stage, 0 to 3."""
    return min(max(visible_width, auxiliary_width), PAPER_WIDTHS[stage])


def match_width(width: int, receiving_width: int) -> nn.Module:
    """A 1x1 convolution to the receiver's width, or nothing where the widths are equal."""
    return nn.Identity() if width == receiving_width else PointConv(width, receiving_width)


def channel_gate(in_width: int, width: int) -> nn.Sequential:
    """Squeeze and excitation: maps (N, in_width, H, W) to factors 0..1 (N, width, 1, 1)."""
    hidden_width = max(width // 16, 1)
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        PointConv(in_width, hidden_width),
        nn.ReLU(),
        PointConv(hidden_width, width),
        nn.Sigmoid(),
    )
