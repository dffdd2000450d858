"""The backbone: two streams that exchange information after each of their four stages.

Shape shorthand in this module:
    N: images in the batch     A: channels of the auxiliary image
    C: channels of a stage     h, w: its height and width
"""

from torch import Tensor, nn

from smmcl.d2 import BACKBONE_REGISTRY, Backbone, CfgNode, ShapeSpec
from smmcl.modeling.fusion.base import build_exchanges, fused_widths
from smmcl.modeling.layers.common import Stream, recompute_blocks
from smmcl.modeling.streams.base import STREAMS, build_stream

STAGES = ("res2", "res3", "res4", "res5")


class PairBackbone(Backbone):
    """Two streams and an exchange per stage (Section 3.1, Figure 2).

    Features by name: `res2` to `res5` are fused; `res2_visible`, `res2_auxiliary` and so on are
    the streams' own, taken before the stage's exchange.
    """

    def __init__(
        self,
        *,
        visible: nn.Module,
        auxiliary: nn.Module,
        exchanges: nn.ModuleList,
        fused: list[str],
        fused_channels: list[int],
    ) -> None:
        """
        Args:
            visible, auxiliary: streams: modules with four `stages`, their `widths` and `strides`.
            exchanges: one module per stage, (visible, auxiliary) -> (visible', auxiliary', fused).
            fused: names of the stages whose exchange gives a fused feature.
            fused_channels: channels of the fused feature of each stage.
        """
        super().__init__()
        self.visible = visible
        self.auxiliary = auxiliary
        self.exchanges = exchanges
        self._out_features = list(fused)
        self._out_feature_channels = dict(zip(STAGES, fused_channels, strict=True))
        self._out_feature_strides = dict(zip(STAGES, visible.strides, strict=True))
        for suffix, stream in (("visible", visible), ("auxiliary", auxiliary)):
            for name, width, stride in zip(STAGES, stream.widths, stream.strides, strict=True):
                self._out_features.append(f"{name}_{suffix}")
                self._out_feature_channels[f"{name}_{suffix}"] = width
                self._out_feature_strides[f"{name}_{suffix}"] = stride

    def forward(self, visible: Tensor, auxiliary: Tensor) -> dict[str, Tensor]:
        """Features, as `output_shape()` describes them, of normalised (N, 3 and A, H, W)."""
        features = {}
        for stage, name in enumerate(STAGES):
            visible = self.visible.stages[stage](visible)  # (N, C, h, w)
            auxiliary = self.auxiliary.stages[stage](auxiliary)  # (N, C, h, w)
            features[f"{name}_visible"] = visible
            features[f"{name}_auxiliary"] = auxiliary
            visible, auxiliary, fused = self.exchanges[stage](visible, auxiliary)
            if fused is not None:
                features[name] = fused
        return features


class SingleStreamBackbone(Backbone):
    """One stream alone, for ablations and for those who have one camera; nothing is exchanged."""

    def __init__(self, *, stream: nn.Module, is_visible: bool) -> None:
        """The stream sees the visible image if `is_visible`, else the auxiliary one."""
        super().__init__()
        self.visible = stream if is_visible else None
        self.auxiliary = None if is_visible else stream
        self._out_features = list(STAGES)
        self._out_feature_channels = dict(zip(STAGES, stream.widths, strict=True))
        self._out_feature_strides = dict(zip(STAGES, stream.strides, strict=True))

    def forward(self, visible: Tensor, auxiliary: Tensor) -> dict[str, Tensor]:
        """Like `PairBackbone.forward`; the other image is not looked at."""
        if self.visible is not None:
            return dict(zip(STAGES, self.visible(visible), strict=True))
        return dict(zip(STAGES, self.auxiliary(auxiliary), strict=True))


@BACKBONE_REGISTRY.register()
def build_pair_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Builds the streams that MODEL.PAIR names, and the exchange if there are two."""
    streams = {}
    for node, channels in (
        ("VISIBLE", len(cfg.MODEL.PIXEL_MEAN)),
        ("AUXILIARY", len(cfg.MODEL.AUXILIARY.PIXEL_MEAN)),
    ):
        pair = cfg.MODEL.PAIR[node]
        if pair.NAME:
            streams[node] = _build_stream(cfg, pair, channels)
            if cfg.MODEL.PAIR.RECOMPUTE:
                recompute_blocks(streams[node])
    if not streams:
        raise ValueError(
            "MODEL.PAIR.VISIBLE.NAME and MODEL.PAIR.AUXILIARY.NAME are both empty. "
            "Name at least one stream, for instance 'mscan_b'."
        )
    if len(streams) == 1:
        ((node, stream),) = streams.items()
        return SingleStreamBackbone(stream=stream, is_visible=node == "VISIBLE")
    return _build_two_streams(cfg, streams["VISIBLE"], streams["AUXILIARY"])


def _build_stream(cfg: CfgNode, pair: CfgNode, channels: int) -> nn.Module:
    """A stream by our name for it, else by the engine's: Detectron2's ResNet as MODEL.RESNETS."""
    if pair.NAME in STREAMS or pair.NAME not in BACKBONE_REGISTRY:
        rate = pair.DROP_PATH_RATE
        return build_stream(pair.NAME, in_channels=channels, drop_path_rate=rate)
    network = BACKBONE_REGISTRY.get(pair.NAME)(cfg, ShapeSpec(channels=channels))
    shapes = [network.output_shape().get(name) for name in STAGES]
    if None in shapes or not hasattr(network, "stem"):
        raise ValueError(
            f"the backbone {pair.NAME} is no ResNet with the features {', '.join(STAGES)}. Name "
            f"build_resnet_backbone, with MODEL.RESNETS.OUT_FEATURES {list(STAGES)}."
        )
    first, *others = (getattr(network, name) for name in STAGES)
    stages = [nn.Sequential(network.stem, first), *others]
    return Stream(stages, widths=[shape.channels for shape in shapes])


def _build_two_streams(cfg: CfgNode, visible: nn.Module, auxiliary: nn.Module) -> PairBackbone:
    read = cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES
    if not set(read) <= set(STAGES) or STAGES[-1] not in read:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {list(read)}; a head reads fused features, which "
            f"are {list(STAGES)}, and among them {STAGES[-1]}, the only use of the last exchange."
        )
    exchanges = build_exchanges(
        cfg.MODEL.FUSION.NAME,
        visible_widths=visible.widths,
        auxiliary_widths=auxiliary.widths,
        has_fused=[name in read for name in STAGES],
        scale=cfg.MODEL.FUSION.SCALE,
    )
    return PairBackbone(
        visible=visible,
        auxiliary=auxiliary,
        exchanges=exchanges,
        fused=[name for name in STAGES if name in read],
        fused_channels=fused_widths(visible.widths, auxiliary.widths),
    )
