"""The backbone: two streams, and a fusion after each of their four stages.

Shape shorthand in this module:
    N: images in the batch     A: channels of the auxiliary image
    C: channels of a stage     h, w: its height and width
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from smmcl.d2 import BACKBONE_REGISTRY, Backbone, CfgNode, ShapeSpec, configurable
from smmcl.modeling.fusion.base import FUSION_REGISTRY, Fusion, fused_width
from smmcl.modeling.layers.norm import FrozenNorm, freeze_norms
from smmcl.modeling.layers.recompute import recompute_blocks
from smmcl.modeling.streams.base import STREAM_REGISTRY, Stream, find_stream
from smmcl.modeling.streams.resnet import DETECTRON2, DETECTRON2_MODULES, fitting_publishers

STAGES = ("res2", "res3", "res4", "res5")


class PairBackbone(Backbone):
    """Two streams and a fusion per stage (Section 3.1, Figure 2).

    Features by name: `res2` to `res5` are fused; `res2_visible`, `res2_auxiliary` and so on are
    the streams' own, taken before the stage's fusion.
    """

    reads_auxiliary = True

    @configurable
    def __init__(self, *, visible: Stream, auxiliary: Stream, fusions: Sequence[Fusion]) -> None:
        """
        Args:
            visible, auxiliary: the streams, of equally many stages.
            fusions: one for each stage; the last may be left out where no head reads it.
        """
        super().__init__()
        self.visible = visible
        self.auxiliary = auxiliary
        self.fusions = nn.ModuleList(fusions)
        specs = {
            STAGES[stage]: (fusion.fused_width, visible.strides[stage])
            for stage, fusion in enumerate(fusions)
            if fusion.is_read
        }
        for suffix, stream in (("visible", visible), ("auxiliary", auxiliary)):
            for stage, width in enumerate(stream.widths):
                specs[f"{STAGES[stage]}_{suffix}"] = (width, stream.strides[stage])
        self._out_features = list(specs)
        self._out_feature_channels = {name: width for name, (width, _) in specs.items()}
        self._out_feature_strides = {name: stride for name, (_, stride) in specs.items()}

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        read = cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES
        visible, auxiliary = (stream_from_config(cfg, role) for role in ("VISIBLE", "AUXILIARY"))
        fusion = FUSION_REGISTRY.get(cfg.MODEL.FUSION.NAME)
        fusions = [
            fusion(
                *widths,
                fused_width=fused_width(stage, *widths),
                is_read=STAGES[stage] in read,
                **fusion.from_config(cfg, stage=stage),
            )
            for stage, widths in enumerate(zip(visible.widths, auxiliary.widths, strict=True))
            # After the last stage there is nobody to exchange for.
            if stage + 1 < len(visible.widths) or STAGES[stage] in read
        ]
        return {"visible": visible, "auxiliary": auxiliary, "fusions": fusions}

    def forward(self, visible: Tensor, auxiliary: Tensor) -> dict[str, Tensor]:
        """Features, as `output_shape()` describes them, of normalized (N, 3 and A, H, W)."""
        features = {}
        for stage, name in enumerate(STAGES[: len(self.visible.stages)]):
            visible = self.visible.stages[stage](visible)  # (N, C, h, w)
            auxiliary = self.auxiliary.stages[stage](auxiliary)  # (N, C, h, w)
            features[f"{name}_visible"] = visible
            features[f"{name}_auxiliary"] = auxiliary
            if stage < len(self.fusions):
                visible, auxiliary, fused = self.fusions[stage](visible, auxiliary)
                if fused is not None:
                    features[name] = fused
        return features

    def regularization(self) -> dict[str, Tensor]:
        """Training terms of the fusions on what the last `forward` saw, added up over stages."""
        terms: dict[str, Tensor] = {}
        for fusion in self.fusions:
            for name, term in fusion.regularization().items():
                terms[name] = terms.get(name, 0) + term
        return terms


class SingleStreamBackbone(Backbone):
    """One stream alone, for ablations and for people with one camera; it reads one image."""

    def __init__(self, *, visible: Stream | None = None, auxiliary: Stream | None = None) -> None:
        """
        Args:
            visible, auxiliary: the stream of the image that is read, and None.
        """
        super().__init__()
        assert (visible is None) != (auxiliary is None), "give one of the two streams"
        self.visible = visible
        self.auxiliary = auxiliary
        stream = visible or auxiliary
        names = list(STAGES[: len(stream.widths)])
        self._out_features = names
        self._out_feature_channels = dict(zip(names, stream.widths, strict=True))
        self._out_feature_strides = dict(zip(names, stream.strides[: len(names)], strict=True))

    @property
    def reads_auxiliary(self) -> bool:
        return self.auxiliary is not None

    def forward(self, visible: Tensor, auxiliary: Tensor | None = None) -> dict[str, Tensor]:
        """As `PairBackbone.forward`; the other image is not read."""
        maps = self.visible(visible) if self.visible is not None else self.auxiliary(auxiliary)
        return dict(zip(self._out_features, maps, strict=True))

    def regularization(self) -> dict[str, Tensor]:
        return {}


@BACKBONE_REGISTRY.register()
def build_pair_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Builds the streams that MODEL.PAIR names, and the fusions if there are two."""
    backbone = _build(cfg)
    is_frozen = any(isinstance(module, FrozenNorm) for module in backbone.modules())
    if cfg.MODEL.PAIR.FREEZE_NORM and not is_frozen:
        raise ValueError(
            "MODEL.PAIR.FREEZE_NORM is True, but no stream has a batch norm. Set it to False."
        )
    return backbone


def _build(cfg: CfgNode) -> Backbone:
    names = {role.lower(): cfg.MODEL.PAIR[role].NAME for role in ("VISIBLE", "AUXILIARY")}
    if all(names.values()):
        return PairBackbone(cfg)
    if not any(names.values()):
        raise ValueError(
            "MODEL.PAIR.VISIBLE.NAME and MODEL.PAIR.AUXILIARY.NAME are both empty. "
            "Name at least one stream, for instance 'mscan_b'."
        )
    role = next(role for role, name in names.items() if name)
    return SingleStreamBackbone(**{role: stream_from_config(cfg, role.upper())})


def stream_from_config(cfg: CfgNode, role: str) -> Stream:
    """The stream of a role, "VISIBLE" or "AUXILIARY": one of ours by its name, else Detectron2's
    ResNet as MODEL.RESNETS describes it."""
    settings = cfg.MODEL.PAIR[role]
    channels = len((cfg.MODEL if role == "VISIBLE" else cfg.MODEL.AUXILIARY).PIXEL_MEAN)
    if settings.NAME not in STREAM_REGISTRY and settings.NAME in BACKBONE_REGISTRY:
        stream = _stream_of_resnet(settings.NAME, cfg, channels)
    else:
        kind = find_stream(settings.NAME)
        stream = kind(in_channels=channels, **kind.from_config(cfg, role=role))
    count = count_stages(cfg)
    del stream.stages[count:]
    stream.widths = stream.widths[:count]
    if cfg.MODEL.PAIR.RECOMPUTE:
        recompute_blocks(stream)
    if cfg.MODEL.PAIR.FREEZE_NORM:
        freeze_norms(stream)
    return stream


def count_stages(cfg: CfgNode) -> int:
    """Stages up to the last that the head or the contrastive branch reads.

    A later one would be a parameter without a gradient, which stops distributed training.
    """
    read = list(cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES)
    if not read or not set(read) <= set(STAGES):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {read}. Choose from the fused features "
            f"{list(STAGES)}."
        )
    contrasted = cfg.MODEL.SMMCL.IN_FEATURES if cfg.MODEL.CONTRAST.NAME else []
    read += [name.partition("_")[0] for name in contrasted]
    return 1 + max(STAGES.index(name) for name in read if name in STAGES)


def _stream_of_resnet(name: str, cfg: CfgNode, channels: int) -> Stream:
    network = BACKBONE_REGISTRY.get(name)(cfg, ShapeSpec(channels=channels))
    shapes = [network.output_shape().get(stage) for stage in STAGES]
    if None in shapes or not hasattr(network, "stem"):
        raise ValueError(
            f"the backbone {name} is no ResNet with the features {', '.join(STAGES)}. Name "
            f"build_resnet_backbone, with MODEL.RESNETS.OUT_FEATURES {list(STAGES)}."
        )
    first, *others = (getattr(network, stage) for stage in STAGES)
    stages = [nn.Sequential(network.stem, first), *others]
    stream = Stream(stages, widths=[shape.channels for shape in shapes])
    stream.publishers = tuple(
        dataclasses.replace(publisher, names=DETECTRON2_MODULES)
        for publisher in fitting_publishers(stride_in_1x1=cfg.MODEL.RESNETS.STRIDE_IN_1X1)
        if publisher.names is DETECTRON2
    )
    return stream
