"""Similarity Min-Max, stage 1: a darkener trained against a frozen day model.

It minimizes the similarity of the model's features, while exposure, color and smoothness keep the
dark image an image. Stage 2 is `LightAdapter` with the darkener as its second view.

Shape shorthand in this module:
    N: images     H, W: height and width     h, w: of an image as it came
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from smmcl.lowlight import photometric, wrapped
from smmcl.lowlight.alignment import cosine_similarity
from smmcl.lowlight.curves import DarkeningCurve


class Darkener(nn.Module):
    """Similarity Min-Max's darkener in training. Its checkpoint holds the curve, not the model."""

    # Authors' code: exposure 10, at which wanted exposures are ignored; flexibility 5 to classify.
    WEIGHTS = {
        "similarity": 0.1, "exposure": 100.0, "color": 25.0, "smooth": 1600.0, "flexibility": 1.0,
    }  # fmt: skip

    def __init__(
        self,
        *,
        model: nn.Module,
        curve: DarkeningCurve,
        in_features: Sequence[str],
        exposure_range: tuple[float, float] = (0.0, 0.5),
        test_exposure: float = 0.1,
        weights: Mapping[str, float] = WEIGHTS,
    ) -> None:
        """
        Args:
            model: the trained day model. It is frozen, in evaluation mode.
            curve: predicts the dark image.
            in_features: names of the model's features that are compared.
            exposure_range: of the wanted exposure, drawn for each image.
            test_exposure: the wanted exposure outside of training.
            weights: of the losses, by name.
        """
        super().__init__()
        wrapped.check_model(model)
        self.frozen = wrapped.Frozen(model)
        self.curve = curve
        self.in_features = in_features
        self.test_exposure = test_exposure
        self.weights = weights
        self.register_buffer("exposure_range", torch.tensor(exposure_range))
        self.register_load_state_dict_pre_hook(_check_range)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: as the model's; "view_seed" draws the exposure in training.

        Returns:
            in training, losses by name, weighted; else one {"dark": (3, h, w) in 0..1} each.
        """
        pair, view = wrapped.preprocess(self.frozen.module, batched_inputs)
        if not self.training:
            exposure = view.image.new_full((len(view.image), 1, 1, 1), self.test_exposure)
            return wrapped.results(self.curve(view.image, exposure)[0], batched_inputs, "dark")
        exposure = view.uniform(*self.exposure_range.tolist())  # (N, 1, 1, 1)
        dark, curve, scale = self.curve(view.image, exposure)  # (N, 3, H, W) each
        with torch.no_grad():
            bright = self.frozen.features(pair)
        dim = self.frozen.features(pair._replace(visible=dark))
        compared = ([features[name] for name in self.in_features] for features in (bright, dim))
        losses = {
            "similarity": cosine_similarity(*compared),
            "exposure": photometric.exposure_loss(dark, exposure),
            "color": photometric.color_loss(dark),
            "smooth": photometric.total_variation(curve, tent=0.02),
            "flexibility": photometric.flexibility_loss(scale),
        }
        return wrapped.weighted(losses, self.weights)


def _check_range(module: Darkener, state: dict, prefix: str, *_: object) -> None:
    wanted = module.exposure_range.tolist()
    stored = state.get(f"{prefix}exposure_range", module.exposure_range).tolist()
    if stored != wanted:
        raise ValueError(
            f"The darkener's checkpoint was trained for exposures {stored[0]:g} to {stored[1]:g}, "
            f"but the range here is {wanted[0]:g} to {wanted[1]:g}. Set it to the checkpoint's."
        )
