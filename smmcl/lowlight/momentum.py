"""Momentum alignment of two views (BYOL): projectors, predictors, a slow target, a two-way loss.

The query of each view predicts the key that the target makes of the other view. The target is a
running average of the trained weights, and no gradient reaches it.

Shape shorthand in this module:
    N: images     C: channels of a feature     H, W: its height and width     D: embedding size
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Embeddings = Mapping[str, Tensor]  # (N, D) by name of the feature


def predictor(channels: int, *, hidden_dim: int = 128, embed_dim: int = 128) -> nn.Sequential:
    """(N, channels) -> (N, D)"""
    return nn.Sequential(
        nn.Linear(channels, hidden_dim),
        nn.BatchNorm1d(hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, embed_dim),
    )


def vector_projector(channels: int, *, embed_dim: int = 128) -> nn.Sequential:
    """(N, C) -> (N, D), for features that are pooled already."""
    return _kaiming(predictor(channels, hidden_dim=embed_dim, embed_dim=embed_dim))


def map_projector(channels: int, *, hidden_dim: int = 64, embed_dim: int = 128) -> nn.Sequential:
    """(N, C, H, W) -> (N, D)"""
    conv = nn.Conv2d(channels, hidden_dim, 3, padding=1)
    pool = nn.Sequential(nn.BatchNorm2d(hidden_dim), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    head = predictor(hidden_dim, hidden_dim=embed_dim, embed_dim=embed_dim)
    return _kaiming(nn.Sequential(conv, *pool, nn.Flatten(), *head))


def _kaiming(projector: nn.Sequential) -> nn.Sequential:
    for module in projector:
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return projector


def momentum_target(model: nn.Module, *, momentum: float = 0.99) -> AveragedModel:
    """A frozen copy: `update_parameters(model)` makes it momentum * itself + the rest * model.

    Buffers are copied; the authors leave the target running statistics of its own.
    """
    target = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(momentum))
    target.requires_grad_(False)
    target.update_parameters(model)  # The first update copies; the later ones average.
    return target


def prediction_loss(prediction: Tensor, key: Tensor) -> Tensor:
    """2 - 2 cos, mean over images: 0 for one direction, 4 for opposite ones. Keys are constants.

    Args:
        prediction, key: (N, D)
    """
    return 2 - 2 * F.cosine_similarity(prediction, key.detach(), eps=1e-12).mean()


def two_way_loss(
    predictions: tuple[Embeddings, Embeddings], keys: tuple[Embeddings, Embeddings]
) -> Tensor:
    """Mean over features and directions, where each view predicts the other's keys.

    Args:
        predictions, keys: of the first and of the second view.
    """
    directions = ((predictions[0], keys[1]), (predictions[1], keys[0]))
    losses = [prediction_loss(queries[n], other[n]) for queries, other in directions for n in other]
    return sum(losses) / len(losses)
