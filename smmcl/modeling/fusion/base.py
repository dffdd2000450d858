"""The registry of exchanges, and the one place that gives them their widths."""

from fvcore.common.registry import Registry
from torch import nn

from smmcl.modeling.fusion.cross_modal import CrossModalModulation
from smmcl.modeling.fusion.plain import PlainSum

# Widths c of the paper's encoders (MSCAN, MiT). The hidden layers of an exchange and the fused
# features stay within them, whatever the streams' own widths are.
PAPER_WIDTHS = (64, 128, 320, 512)

FUSION_REGISTRY = Registry("FUSION")
FUSION_REGISTRY.__doc__ = """
Exchanges between streams, one module per stage: called with the widths of the two streams and the
keywords `hidden_width`, `fused_width` and `scale`, they map (visible, auxiliary), each
(N, C, H, W), to (visible', auxiliary', fused). With `fused_width` None, `fused` is None.
"""
FUSION_REGISTRY.register(CrossModalModulation)
FUSION_REGISTRY.register(PlainSum)


def fused_widths(visible_widths: list[int], auxiliary_widths: list[int]) -> list[int]:
    """Channels of the fused feature of each stage."""
    widths = zip(visible_widths, auxiliary_widths, PAPER_WIDTHS, strict=True)
    return [min(max(visible, auxiliary), paper) for visible, auxiliary, paper in widths]


def build_exchanges(
    name: str,
    *,
    visible_widths: list[int],
    auxiliary_widths: list[int],
    has_fused: list[bool],
    scale: float,
) -> nn.ModuleList:
    """One exchange for each stage; a stage whose fused feature nobody reads does not build it."""
    fusion = FUSION_REGISTRY.get(name)
    widths = fused_widths(visible_widths, auxiliary_widths)
    return nn.ModuleList(
        fusion(
            visible, auxiliary, hidden_width=width, fused_width=width if is_read else None,
            scale=scale,
        )
        for visible, auxiliary, width, is_read in zip(
            visible_widths, auxiliary_widths, widths, has_fused, strict=True
        )
    )  # fmt: skip
