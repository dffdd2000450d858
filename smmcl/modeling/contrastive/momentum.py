"""Momentum alignment of two views (BYOL): projectors, predictors, a slow target, a two-way loss.

The query of each view predicts the key that the target makes of the other view. The target is a
running average of the trained weights, and no gradient reaches it.

Shape shorthand in this module:
    N: images     C: channels of a feature     H, W: its height and width     D: embedding size
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def mlp(channels: int, *, hidden_dim: int = 128, embed_dim: int = 128) -> nn.Sequential:
    """(N, channels) -> (N, D): a predictor, or the end of a projector."""
    return nn.Sequential(
        nn.Linear(channels, hidden_dim),
        nn.BatchNorm1d(hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, embed_dim),
    )


def vector_projector(channels: int, *, embed_dim: int = 128) -> nn.Sequential:
    """(N, C) -> (N, D), for features that are pooled already."""
    return _kaiming(mlp(channels, hidden_dim=embed_dim, embed_dim=embed_dim))


def map_projector(channels: int, *, hidden_dim: int = 64, embed_dim: int = 128) -> nn.Sequential:
    """(N, C, H, W) -> (N, D)"""
    conv = nn.Conv2d(channels, hidden_dim, 3, padding=1)
    pool = nn.Sequential(nn.BatchNorm2d(hidden_dim), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    head = mlp(hidden_dim, hidden_dim=embed_dim, embed_dim=embed_dim)
    return _kaiming(nn.Sequential(conv, *pool, nn.Flatten(), *head))


def _kaiming(projector: nn.Sequential) -> nn.Sequential:
    for module in projector:
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return projector


def momentum_target(model: nn.Module, *, momentum: float = 0.99) -> AveragedModel:
    """A frozen copy: `update_parameters(model)` makes it momentum * itself + the rest * model.

    The first update copies, since weights may be loaded after this was built. Buffers are copied;
    the authors leave the target running statistics of its own.
    """
    target = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(momentum))
    return target.requires_grad_(False)


def prediction_loss(prediction: Tensor, key: Tensor) -> Tensor:
    """2 - 2 cos, mean over images: 0 for one direction, 4 for opposite ones. Keys are constants.

    Args:
        prediction, key: (N, D)
    """
    return 2 - 2 * F.cosine_similarity(prediction, key.detach(), eps=1e-12).mean()


class MomentumAlignment(nn.Module):
    """Features of each view predict what a slow copy of the model makes of the other view."""

    DIRECTIONS = {"both": (0, 1), "from_day": (0,), "from_dark": (1,)}  # views that predict

    def __init__(
        self,
        *,
        model: nn.Module,
        projectors: Mapping[str, nn.Module],
        predictors: Mapping[str, nn.Module],
        key_features: Mapping[str, str] | None = None,
        direction: str = "both",
        momentum: float = 0.99,
    ) -> None:
        """
        Args:
            model: its `features` map a pair to features by name. Copied, and averaged later on.
            projectors, predictors: by name of the feature.
            key_features: by name of a feature, the one that it predicts, of as many channels; by
                default itself. {"res5_visible": "res5"} pulls the visible stream toward fused
                features, which only pairs can offer.
            direction: of DIRECTIONS.
        """
        super().__init__()
        if direction not in self.DIRECTIONS:
            raise KeyError(f"{direction!r} is no direction. Choose {', '.join(self.DIRECTIONS)}.")
        self.projectors = nn.ModuleDict(projectors)
        self.predictors = nn.ModuleDict(predictors)
        self.key_features = {name: name for name in projectors} | dict(key_features or {})
        self.views = self.DIRECTIONS[direction]
        self.target = momentum_target(nn.ModuleList([model, self.projectors]), momentum=momentum)

    def forward(self, model: nn.Module, pairs: tuple, features: tuple[dict, dict]) -> Tensor:
        """Updates the target; returns the mean over features and directions.

        Args:
            model: as it is now.
            pairs, features: of the two views, what goes into `model.features` and what comes out.
        """
        if any(len(feature) < 2 for feature in features[0].values()):
            raise ValueError(
                "Momentum alignment normalizes over a batch, but this one is a single pair. Raise "
                "SOLVER.IMS_PER_BATCH to 2 per process or more, or leave the alignment out."
            )
        self.target.update_parameters(nn.ModuleList([model, self.projectors]))
        (slow_model, slow_projectors), losses = self.target.module, []
        for view in self.views:
            with torch.no_grad():
                others = slow_model.features(pairs[1 - view])
            for name, predictor in self.predictors.items():
                key = slow_projectors[name](others[self.key_features[name]])  # (N, D)
                query = predictor(self.projectors[name](features[view][name]))  # (N, D)
                losses.append(prediction_loss(query, key))
        return torch.stack(losses).mean()


def align_features(
    model: nn.Module,
    names: Sequence[str],
    *,
    keys: Sequence[str] = (),
    direction: str = "both",
    momentum: float = 0.99,
) -> MomentumAlignment:
    """The alignment of maps of a model, by the channels that its backbone says they have.

    Args:
        names: of the maps.
        keys: the maps that those predict, one each; none for the same ones.
    """
    keys = list(keys) or list(names)
    if len(keys) != len(names):
        raise ValueError(
            f"Momentum alignment has {len(names)} FEATURES but {len(keys)} KEY_FEATURES. Name one "
            "for each, or none."
        )
    shape = model.backbone.output_shape()
    return MomentumAlignment(
        model=model,
        projectors={name: map_projector(shape[name].channels) for name in names},
        predictors={name: mlp(128) for name in names},
        key_features=dict(zip(names, keys, strict=True)),
        direction=direction,
        momentum=momentum,
    )
