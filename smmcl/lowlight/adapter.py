"""Adapts a model to low light: task losses on two views of a pair, and terms that align the views.

The second view shows the visible image in other light; the auxiliary image stays. Similarity
Min-Max (stage 2) and WiiD are two settings of this class.

Shape shorthand in this module:
    N: pairs     C: channels     H, W: height and width
"""

from typing import Any

from torch import Tensor, nn

from smmcl.d2 import META_ARCH_REGISTRY, CfgNode, configurable
from smmcl.lowlight import build
from smmcl.lowlight.alignment import maximum_mean_discrepancy
from smmcl.lowlight.regions import MaskSource
from smmcl.lowlight.relight import ViewSource
from smmcl.lowlight.view import preprocess
from smmcl.modeling.contrastive.momentum import MomentumAlignment
from smmcl.modeling.wrapping import check_model, features_of


@META_ARCH_REGISTRY.register()
class LightAdapter(nn.Module):
    """Trains a model for low light. Inference, and the weights of `model`, are the model's own."""

    @configurable
    def __init__(
        self,
        *,
        model: nn.Module,
        second_view: ViewSource,
        mask: MaskSource | None = None,
        dark_weight: float = 1.0,
        momentum: MomentumAlignment | None = None,
        momentum_weight: float = 0.1,
        night_feature: str | None = None,
        night_view: ViewSource | None = None,
        night_weight: float = 0.1,
        is_one_batch: bool = True,
        ignore_value: int = 255,
    ) -> None:
        """
        Args:
            model: has preprocess, normalize, features, losses and infer.
            second_view: makes the visible image of the dark view.
            mask: erases the same regions from the visible image of both views.
            dark_weight: of the task losses on the dark view; those on the day view are as they are.
            momentum: aligns the views.
            night_feature: whose mean over places is compared, by MMD, between dark views and
                unlabeled night pairs. None leaves the term out.
            night_view: how night pairs are shown: enhanced, or, where None, as they are.
            is_one_batch: the views, and night pairs of their size, go through the model together,
                so that its batch norms train on the mixture that they are used on. Authors' code:
                False.
            ignore_value: label of void.
        """
        super().__init__()
        check_model(model)
        self.model = model
        self.second_view, self.mask = second_view, mask
        self.dark_weight = dark_weight
        self.momentum, self.momentum_weight = momentum, momentum_weight
        self.night_feature, self.night_view = night_feature, night_view
        self.night_weight = night_weight
        self.is_one_batch = is_one_batch
        self.ignore_value = ignore_value

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        build.check_adaptation(cfg)
        node = cfg.MODEL.LIGHT_ADAPTER
        model = META_ARCH_REGISTRY.get(node.META_ARCHITECTURE)(cfg)
        return {
            "model": model,
            "second_view": build.build_view(cfg),
            "mask": build.build_mask(cfg),
            "dark_weight": node.DARK_WEIGHT,
            "momentum": build.build_momentum(cfg, model),
            "momentum_weight": node.MOMENTUM.WEIGHT,
            "night_feature": node.NIGHT.FEATURE if node.NIGHT.WEIGHT else None,
            "night_view": build.build_night_view(cfg),
            "night_weight": node.NIGHT.WEIGHT,
            "is_one_batch": node.ONE_BATCH,
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        }

    @property
    def deployed(self) -> nn.Module:
        """What checkpoints hold: the plain model."""
        return self.model

    @staticmethod
    def deployed_config(cfg: CfgNode) -> CfgNode:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.META_ARCHITECTURE = cfg.MODEL.LIGHT_ADAPTER.META_ARCHITECTURE
        for name in ("LIGHT_ADAPTER", "DARKENER", "ENHANCER"):
            del cfg.MODEL[name]
        del cfg.INPUT.LOW_LIGHT["CHECKPOINT"]
        cfg.IMPORTS = [name for name in cfg.IMPORTS if not name.startswith("smmcl.lowlight")]
        return cfg

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: as the model's, in training with "view_seed", and with "unlabeled", a
                night input of the same kind without labels, where there is a night feature.

        Returns:
            in training, losses by name, weighted: the model's on the day view, on the dark view as
            `loss_dark_*`, and those of alignment; else what the model infers.
        """
        model = self.model
        if not self.training:
            pair = model.normalize(model.preprocess(batched_inputs))
            return model.infer(model.features(pair), batched_inputs)
        pair, view = preprocess(model, batched_inputs, self.ignore_value)
        dark = pair._replace(visible=self.second_view(view, batched_inputs))
        pairs = model.normalize(pair), model.normalize(dark)
        if self.mask is not None:
            keep = self.mask.mask(view)  # (N, 1, H, W)
            pairs = tuple(p._replace(visible=p.visible * keep) for p in pairs)
        nights = [] if self.night_feature is None else [self._night_pair(batched_inputs)]
        features = features_of(model, [*pairs, *nights], is_one_batch=self.is_one_batch)
        losses = model.losses(features[0], batched_inputs)
        for name, loss in model.losses(features[1], batched_inputs).items():
            losses[f"loss_dark_{name.removeprefix('loss_')}"] = self.dark_weight * loss
        if self.momentum is not None:
            losses["loss_momentum"] = self.momentum_weight * self.momentum(model, pairs, features)
        if self.night_feature is not None:
            means = (maps[self.night_feature].flatten(2).mean(2) for maps in features[1:])
            loss = maximum_mean_discrepancy(*means)  # (N, C) of dark views, and of night pairs
            losses["loss_night"] = self.night_weight * loss
        return losses

    def with_divisor(self, batched_inputs: list[dict], **options: Any) -> list[dict]:
        """The model's own, where it has one."""
        own = getattr(self.model, "with_divisor", None)
        return own(batched_inputs, **options) if own else batched_inputs

    def _night_pair(self, batched_inputs: list[dict]) -> Any:
        nights = [record["unlabeled"] for record in batched_inputs]
        pair, view = preprocess(self.model, nights, self.ignore_value)
        if self.night_view is not None:
            pair = pair._replace(visible=self.night_view(view, nights))
        return self.model.normalize(pair)
