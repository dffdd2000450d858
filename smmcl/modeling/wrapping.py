"""What a training method needs that wraps a trained model, whatever the model is.

A model can be wrapped when it has the methods of METHODS, as the segmentor has. Its `preprocess`
gives a named tuple of `visible` (N, 3, H, W) and `auxiliary` (N, A, H, W), or None, in 0..1.

Shape shorthand in this module:
    N: images     H, W: height and width of a batch     h, w: of an image as it came
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

METHODS = ("preprocess", "normalize", "features", "losses", "infer")


def check_model(model: nn.Module) -> None:
    missing = [name for name in METHODS if not callable(getattr(model, name, None))]
    if missing:
        raise ValueError(
            f"{type(model).__name__} has no {', '.join(missing)}. Training around a model "
            f"needs one with the methods {', '.join(METHODS)}, such as MultiModalSegmentor."
        )


class Frozen(nn.Module):
    """Holds a trained module that is neither trained nor saved, but moves along between devices."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        # Not registered: `train`, `parameters` and `state_dict` of the owner leave it alone.
        object.__setattr__(self, "module", module.requires_grad_(False).eval())

    def features(self, pair: Any) -> dict[str, Tensor]:
        """Of a wrapped model, from a pair that is not normalized."""
        return self.module.features(self.module.normalize(pair))

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        self.module._apply(fn, recurse)
        return super()._apply(fn, recurse)


def features_of(
    model: nn.Module, pairs: Sequence[Any], *, is_one_batch: bool = True
) -> list[dict[str, Tensor]]:
    """Features of batches of pairs; those of the first one's size are computed as one batch.

    Batch norms then train on the mixture that their running statistics describe.
    """
    if not is_one_batch:
        return [model.features(pair) for pair in pairs]
    size = pairs[0].visible.shape
    alike = [pair for pair in pairs if pair.visible.shape == size]
    joined = type(pairs[0])(*map(_joined, zip(*alike, strict=True)))
    features = model.features(joined)
    parts = (maps.split(size[0]) for maps in features.values())
    apart = iter(dict(zip(features, maps, strict=True)) for maps in zip(*parts, strict=True))
    return [next(apart) if pair.visible.shape == size else model.features(pair) for pair in pairs]


def _joined(parts: Sequence) -> Any:
    """One field of a pair, of several batches."""
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return None if parts[0] is None else [item for part in parts for item in part]


def freeze(model: nn.Module | None) -> Frozen | None:
    """A model that can be wrapped, frozen; None of None."""
    if model is None:
        return None
    check_model(model)
    return Frozen(model)


def need_frozen(frozen: Frozen | None, key: str) -> Frozen:
    """The frozen model of a training, which a key should have named."""
    if frozen is None:
        raise ValueError(
            f"{key} is empty. Set it to the checkpoint of a trained model: this training compares "
            "images by it."
        )
    return frozen


def relit(model: nn.Module, inputs: list[dict], **options: Any) -> list[Tensor]:
    """What a model with `relight` makes of each image, (3, h, w) in 0..1 each."""
    like = next(model.parameters())
    units = [unit_image(image, like) for image in images_of(inputs, "image")]
    return [model.relight(unit, seeds=[0], **options)[0] for unit in units]


def segmentation_loss(
    frozen: Frozen, features: dict[str, Tensor], inputs: list[dict], *, ignore_value: int
) -> Tensor:
    """Mean cross-entropy of what a frozen segmentor infers; 0 where no pixel has a label.

    Its own `losses` are those of training mode, in which it is not.
    """
    images = [{"image": record["image"]} for record in inputs]  # at their own size
    total, count = 0, 0
    for result, record in zip(frozen.module.infer(features, images), inputs, strict=True):
        scores, labels = result["sem_seg"][None], record["sem_seg"][None]  # (1, K, h, w), (1, h, w)
        labels = labels.to(scores.device)
        total = total + F.cross_entropy(scores, labels, ignore_index=ignore_value, reduction="sum")
        count = count + (labels != ignore_value).sum()
    return total / count.clamp_min(1)


def images_of(inputs: list[dict], key: str) -> list[Tensor]:
    """(3, h, w) of each input. They must be bytes: no other type tells what its white is."""
    for record in inputs:
        if key not in record or record[key].dtype != torch.uint8:
            kind = record[key].dtype if key in record else "missing"
            raise ValueError(
                f"The {key!r} of {record.get('file_name', 'an input')} is {kind}, but bytes "
                "are needed. Provide it with values 0..255, as torch.uint8."
            )
    return [record[key] for record in inputs]


def unit_image(image: Tensor, like: Tensor) -> Tensor:
    """Bytes (3, h, w) as (1, 3, h, w) in 0..1, of the type and on the device of `like`."""
    return image[None].to(like) / 255


def resized(inputs: list[dict], key: str, like: Tensor) -> Tensor:
    """Images under a key in 0..1, brought to the size of a batch: (N, 3, H, W)."""
    images = (unit_image(image, like) for image in images_of(inputs, key))
    return torch.cat([F.interpolate(x, like.shape[-2:], mode="bilinear") for x in images])


def pad(tensors: Sequence[Tensor], size: Sequence[int], value: float = 0) -> Tensor:
    """Stacks (..., h, w) to (N, ..., H, W), padded at the bottom and at the right."""
    margins = [(0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]) for x in tensors]
    return torch.stack([F.pad(x, m, value=value) for x, m in zip(tensors, margins, strict=True)])


def weighted(losses: dict[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Losses under their names in the log, each times its weight."""
    if weights.keys() != losses.keys():
        raise KeyError(f"Weights are of {', '.join(weights)}. State those of {', '.join(losses)}.")
    return {f"loss_{name}": weights[name] * loss for name, loss in losses.items()}
