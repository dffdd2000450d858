"""Similarity Min-Max, stage 1: a darkener trained against a frozen day model.

It minimizes the similarity of the model's features, while exposure, color and smoothness keep the
dark image an image. Stage 2 is `LightAdapter` with the darkener as its second view.

Shape shorthand in this module:
    N: images     H, W: height and width     h, w: of an image as it came
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smmcl.d2 import META_ARCH_REGISTRY, CfgNode, configurable
from smmcl.engine.setup import changed
from smmcl.inference.named_model import check_features, check_untested, load_frozen
from smmcl.lowlight import photometric
from smmcl.lowlight.alignment import cosine_similarity
from smmcl.lowlight.curves import DarkeningCurve, noisy_exposure
from smmcl.lowlight.view import View, preprocess
from smmcl.modeling.wrapping import freeze, need_frozen, relit, weighted


@META_ARCH_REGISTRY.register()
class Darkener(nn.Module):
    """Similarity Min-Max's darkener. Its checkpoint holds the curve, not the day model."""

    # Authors' code: exposure 10, at which wanted exposures are ignored; flexibility 5 to classify.
    WEIGHTS = {
        "similarity": 0.1, "exposure": 100.0, "color": 25.0, "smooth": 1600.0, "flexibility": 1.0,
    }  # fmt: skip

    @configurable
    def __init__(
        self,
        *,
        curve: DarkeningCurve,
        model: nn.Module | None = None,
        in_features: Sequence[str] = (),
        exposure_range: Sequence[float] = (0.0, 0.5),
        weights: Mapping[str, float] = WEIGHTS,
    ) -> None:
        """
        Args:
            curve: predicts the dark image.
            model: the trained day model, frozen in evaluation mode; only training needs it.
            in_features: names of the model's features that are compared.
            exposure_range: of the wanted exposure, drawn for each image.
            weights: of the losses, by name.
        """
        super().__init__()
        self.frozen = freeze(model)
        self.curve = curve
        self.in_features = in_features
        self.weights = weights
        self.register_buffer("exposure_range", torch.tensor(exposure_range))
        self.register_load_state_dict_pre_hook(_check_range)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        check_untested(cfg)
        node = cfg.MODEL.DARKENER
        model = load_frozen(cfg, "MODEL.DARKENER.DAY_MODEL")
        check_features(model, node.IN_FEATURES, "MODEL.DARKENER.IN_FEATURES")
        return {
            "curve": DarkeningCurve(width=node.WIDTH, is_signed=node.IS_SIGNED),
            "model": model,
            "in_features": node.IN_FEATURES,
            "exposure_range": node.EXPOSURE,
            "weights": {name.lower(): weight for name, weight in node.WEIGHTS.items()},
        }

    @staticmethod
    def deployed_config(cfg: CfgNode) -> CfgNode:
        """Darkening needs no day model, so its file may be gone."""
        return changed(cfg, "MODEL.DARKENER.DAY_MODEL", "")

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: as the model's; "view_seed" draws the exposure in training.

        Returns:
            in training, losses by name, weighted; else one {"dark": (3, h, w) in 0..1} each.
        """
        if not self.training:
            middle = [self.exposure_range.mean().item()] * 2
            return [{"dark": image} for image in relit(self, batched_inputs, exposure=middle)]
        frozen = need_frozen(self.frozen, "MODEL.DARKENER.DAY_MODEL")
        pair, view = preprocess(frozen.module, batched_inputs)
        exposure = view.uniform(*self.exposure_range.tolist())  # (N, 1, 1, 1)
        dark, curve, scale = self.curve(view.image, exposure)  # (N, 3, H, W) each
        with torch.no_grad():
            bright = frozen.features(pair)
        dim = frozen.features(pair._replace(visible=dark))
        compared = ([features[name] for name in self.in_features] for features in (bright, dim))
        losses = {
            "similarity": cosine_similarity(*compared),
            "exposure": photometric.exposure_loss(dark, exposure),
            "color": photometric.color_loss(dark),
            "smooth": photometric.total_variation(curve, tent=0.02),
            "flexibility": photometric.flexibility_loss(scale),
        }
        return weighted(losses, self.weights)

    @torch.no_grad()
    def relight(
        self,
        visible: Tensor,
        *,
        seeds: Sequence[int],
        exposure: tuple[float, float],
        has_noise: bool = True,
        patch_size: int = 64,
    ) -> Tensor:
        """Darkens images (N, 3, H, W) of 0..1.

        Args:
            seeds: one per image, of its draws.
            exposure: range of the wanted brightness, drawn for each image.
            has_noise: wants a brightness with noise per pixel and per patch (stage 2).
            patch_size: pixels. The authors take 64 for 512 x 1024, 16 for 224 x 224.
        """
        low, high = self.exposure_range.tolist()
        if not low - 1e-6 <= exposure[0] <= exposure[1] <= high + 1e-6:
            raise ValueError(
                f"The darkener was trained for exposures {low:g} to {high:g}, but {exposure[0]:g} "
                f"to {exposure[1]:g} are wanted. Stay inside, or train another darkener."
            )
        view = View(visible, seeds=seeds)
        wanted = view.uniform(*exposure)  # (N, 1, 1, 1)
        if has_noise:
            size = visible.shape[-2:]
            patches = view.normal(1, *(max(side // patch_size, 1) for side in size), stream=6)
            wanted = noisy_exposure(wanted, view.normal(1, *size), patches).clamp_min(0)
        return self.curve(visible, wanted)[0].clamp(0, 1)


def _check_range(module: Darkener, state: dict, prefix: str, *_: object) -> None:
    wanted = module.exposure_range.tolist()
    stored = state.get(f"{prefix}exposure_range", module.exposure_range).tolist()
    if stored != wanted:
        raise ValueError(
            f"The darkener's checkpoint was trained for exposures {stored[0]:g} to {stored[1]:g}, "
            f"but the range here is {wanted[0]:g} to {wanted[1]:g}. Set it to the checkpoint's."
        )
