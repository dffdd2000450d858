"""A pair of streams of the same weights, norms aside, that exchange inside their blocks.

So TokenFusion (Wang et al., CVPR 2022) and CEN (Wang et al., NeurIPS 2020) are published. Nothing
is fused here: the head predicts from each stream, and `EnsembleHead` mixes the predictions.

Shape shorthand in this module:
    N: images in the batch     C: channels     H, W: feature height and width
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.d2 import BACKBONE_REGISTRY, Backbone, CfgNode, ShapeSpec, configurable
from smmcl.modeling.backbone.pair import (
    STAGES,
    PairBackbone,
    stream_from_config,
)
from smmcl.modeling.fusion.channel_exchange import kept_channels, penalized
from smmcl.modeling.fusion.token_fusion import ScorePredictor, exchange, mean_size
from smmcl.modeling.layers.init import init_encoder
from smmcl.modeling.streams import mit, resnet
from smmcl.modeling.streams.base import Stream

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)


def share_weights(stream: Stream) -> Stream:
    """A second stream: its norms are its own, all other parameters are those of the first."""
    shared = {
        id(parameter): parameter
        for module in stream.modules()
        if not isinstance(module, NORMS)
        for parameter in module.parameters(recurse=False)
    }
    return copy.deepcopy(stream, shared)


class TokenFusion(nn.Module):
    """One stage of both streams: places of little worth take the other's branch of attention.

    A predictor per stream scores the inputs of every block.
    """

    is_read = False  # it fuses nothing
    stream = mit.MiT

    def __init__(self, *stages: mit.Stage, threshold: float) -> None:
        """
        Args:
            stages: of the visible and the auxiliary stream.
            threshold: score from which a place keeps its own values.
        """
        super().__init__()
        width = stages[0].norm.normalized_shape[0]
        self.predictors = nn.ModuleList(ScorePredictor(width) for _ in stages)
        self.threshold = threshold
        self.scores: list[Tensor] = []
        init_encoder(self)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"threshold": cfg.MODEL.FUSION.THRESHOLD}

    def forward(self, stages: Sequence[mit.Stage], maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps both inputs of the stages to their outputs (N, C, H, W)."""
        tokens = [s.embed(m).permute(0, 2, 3, 1) for s, m in zip(stages, maps, strict=True)]
        seen = []
        for blocks in zip(*(stage.blocks for stage in stages), strict=True):
            scores = [p(t) for p, t in zip(self.predictors, tokens, strict=True)]  # (N, H, W, 1)
            tokens = exchange_tokens(blocks, tokens, scores, threshold=self.threshold)
            seen += scores
        if self.training:
            self.scores = seen
        return [s.norm(t.permute(0, 3, 1, 2)) for s, t in zip(stages, tokens, strict=True)]

    def penalized(self) -> list[Tensor]:
        """What the sparsity term is the mean of: the scores of the last `forward`."""
        return self.scores

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "scores": []}  # a graph cannot be copied


def exchange_tokens(
    blocks: Sequence[mit.Block],
    tokens: Sequence[Tensor],
    scores: Sequence[Tensor],
    *,
    threshold: float,
) -> list[Tensor]:
    """A block of both streams, on (N, H, W, C), between whose halves the branches are exchanged."""
    branches = [
        score * block.attention(block.norm1(token))
        for block, token, score in zip(blocks, tokens, scores, strict=True)
    ]
    branches = exchange(branches, branches[::-1], [score >= threshold for score in scores])
    results = []
    for block, token, branch in zip(blocks, tokens, branches, strict=True):
        token = token + block.drop_path(branch)
        results.append(token + block.drop_path(block.mlp(block.norm2(token))))
    return results


class ChannelExchange(nn.Module):
    """One stage of both streams: channels that a norm has scaled to nothing take the other's.

    It is the norm before the last convolution of each block.
    """

    is_read = False  # it fuses nothing
    stream = resnet.ResNet

    def __init__(self, *stages: nn.Module, threshold: float, all_channels: bool) -> None:
        """
        Args:
            stages: of the visible and the auxiliary stream.
            threshold, all_channels: as in `ChannelExchangeAdapter`.
        """
        super().__init__()
        self.rule = {"threshold": threshold, "all_channels": all_channels}
        # Of the blocks' own norms, and kept here because folding takes those away.
        self.scales = nn.ModuleList(
            nn.ParameterList(block.layers[-2][1].weight for block in blocks)
            for blocks in zip(*(stage.blocks for stage in stages), strict=True)
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        fusion = cfg.MODEL.FUSION
        return {"threshold": fusion.THRESHOLD, "all_channels": fusion.ALL_CHANNELS}

    def forward(self, stages: Sequence[nn.Module], maps: Sequence[Tensor]) -> list[Tensor]:
        """As `TokenFusion.forward`."""
        maps = [stage.embed(feature) for stage, feature in zip(stages, maps, strict=True)]
        blocks = zip(*(stage.blocks for stage in stages), strict=True)
        for scales, pair in zip(self.scales, blocks, strict=True):
            maps = exchange_channels(pair, maps, kept_channels(list(scales), **self.rule))
        return maps

    def penalized(self) -> list[Tensor]:
        """As `TokenFusion.penalized`: the scales of the norms, half of each."""
        return [half for scales in self.scales for half in penalized(list(scales))]


def exchange_channels(
    blocks: Sequence[resnet.Residual], maps: Sequence[Tensor], keeps: Sequence[Tensor]
) -> list[Tensor]:
    """A block of both streams, on (N, ., ., .), before whose last convolution they exchange."""
    branches, last = list(maps), len(blocks[0].layers) - 1
    for i, layers in enumerate(zip(*(block.layers for block in blocks), strict=True)):
        branches = [layer(branch) for layer, branch in zip(layers, branches, strict=True)]
        if i == last - 1:
            branches = exchange(branches, branches[::-1], keeps)
        if i < last:
            branches = [F.relu(branch) for branch in branches]
    return [
        F.relu(branch + block.shortcut(feature))
        for block, feature, branch in zip(blocks, maps, branches, strict=True)
    ]


EXCHANGES = {kind.__name__: kind for kind in (TokenFusion, ChannelExchange)}


class SharedPairBackbone(PairBackbone):
    """Two streams of the same weights, with an exchange inside the blocks of each stage.

    Features by name: `res2_visible`, `res2_auxiliary` to `res5_auxiliary`; none is fused.
    """

    @configurable
    def __init__(
        self,
        *,
        visible: Stream,
        auxiliary: Stream,
        fusions: Sequence[TokenFusion | ChannelExchange],
        sparsity_weight: float,
    ) -> None:
        """
        Args:
            visible, auxiliary: the streams, the second by `share_weights`.
            fusions: what the streams exchange, one for each of the four stages.
            sparsity_weight: factor on the mean of what the exchange penalizes, a training term.
        """
        super().__init__(visible=visible, auxiliary=auxiliary, fusions=fusions)
        self.sparsity_weight = sparsity_weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        check_last_is_read(cfg)
        _check_alike(cfg)
        name, settings = cfg.MODEL.FUSION.NAME, cfg.MODEL.PAIR.VISIBLE
        if name not in EXCHANGES:
            raise ValueError(
                f"MODEL.FUSION.NAME is {name!r}, but streams of shared weights know "
                f"{' and '.join(EXCHANGES)}. Name one, or MODEL.BACKBONE.NAME build_pair_backbone."
            )
        kind, visible = EXCHANGES[name], stream_from_config(cfg, "VISIBLE")
        if not isinstance(visible, kind.stream):
            raise ValueError(
                f"{name} acts inside the blocks of a {kind.stream.__name__}, but "
                f"MODEL.PAIR.VISIBLE.NAME is {settings.NAME!r}. Name such a stream, or "
                f"MODEL.BACKBONE.NAME build_pair_backbone with MODEL.FUSION.NAME {name}Adapter."
            )
        auxiliary = share_weights(visible)
        stages = zip(visible.stages, auxiliary.stages, strict=True)
        return {
            "visible": visible,
            "auxiliary": auxiliary,
            "fusions": [kind(*pair, **kind.from_config(cfg)) for pair in stages],
            "sparsity_weight": cfg.MODEL.FUSION.SPARSITY_WEIGHT,
        }

    def forward(self, visible: Tensor, auxiliary: Tensor) -> dict[str, Tensor]:
        """Features, as `output_shape()` describes them, of normalized (N, 3, H, W) each."""
        features = {}
        stages = zip(self.visible.stages, self.auxiliary.stages, strict=True)
        for name, fusion, pair in zip(STAGES, self.fusions, stages, strict=True):
            visible, auxiliary = fusion(pair, (visible, auxiliary))  # (N, C, H, W) each
            features[f"{name}_visible"] = visible
            features[f"{name}_auxiliary"] = auxiliary
        return features

    def regularization(self) -> dict[str, Tensor]:
        """The sparsity term on what the last `forward` in training saw."""
        values = [value for fusion in self.fusions for value in fusion.penalized()]
        return {"loss_sparsity": self.sparsity_weight * mean_size(values)}


def _check_alike(cfg: CfgNode) -> None:
    pair, channels = cfg.MODEL.PAIR, len(cfg.MODEL.PIXEL_MEAN)
    if pair.VISIBLE != pair.AUXILIARY:
        raise ValueError(
            f"MODEL.PAIR.VISIBLE is {dict(pair.VISIBLE)}, MODEL.PAIR.AUXILIARY "
            f"{dict(pair.AUXILIARY)}. Streams that share their weights need the same values."
        )
    if len(cfg.MODEL.AUXILIARY.PIXEL_MEAN) != channels:
        raise ValueError(
            f"MODEL.AUXILIARY.PIXEL_MEAN has {len(cfg.MODEL.AUXILIARY.PIXEL_MEAN)} values, but "
            f"streams that share their weights read {channels} channels each. Give it as many "
            "values, and PIXEL_STD too; INPUT.AUXILIARY_FORMAT RGB repeats a single channel."
        )
    if pair.RECOMPUTE:
        raise ValueError(
            "MODEL.PAIR.RECOMPUTE cannot recompute streams that exchange inside their blocks. "
            "Set it to False."
        )


def check_last_is_read(cfg: CfgNode) -> None:
    """Refuses a head that leaves out the last stage: its weights would get no gradient."""
    read = cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES
    if not set(read) <= set(STAGES) or STAGES[-1] not in read:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {list(read)}. Choose from the fused features "
            f"{list(STAGES)}, {STAGES[-1]} among them: nothing else reads the last fusion."
        )


@BACKBONE_REGISTRY.register()
def build_shared_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Builds the stream that MODEL.PAIR names twice, its weights shared, and MODEL.FUSION in it."""
    return SharedPairBackbone(cfg)
