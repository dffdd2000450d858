"""What the meta-architectures need of the models and images that they are given.

A model can be wrapped when it has the methods of METHODS, as the segmentor has. Its `preprocess`
gives a named tuple of `visible` (N, 3, H, W) and `auxiliary` (N, A, H, W), or None, in 0..1.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.lowlight.view import View

METHODS = ("preprocess", "normalize", "features", "losses", "infer")


def check_model(model: nn.Module) -> None:
    missing = [name for name in METHODS if not callable(getattr(model, name, None))]
    if missing:
        raise ValueError(
            f"{type(model).__name__} has no {', '.join(missing)}. Low-light training needs a model "
            f"with the methods {', '.join(METHODS)}, such as MultiModalSegmentor."
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


def images_of(inputs: list[dict], key: str) -> list[Tensor]:
    """(3, h, w) of each input. They must be bytes: no other type tells what its white is."""
    for record in inputs:
        if key not in record or record[key].dtype != torch.uint8:
            kind = record[key].dtype if key in record else "missing"
            raise ValueError(
                f"The {key!r} of {record.get('file_name', 'an input')} is {kind}, but low-light "
                "training needs bytes. Provide it with values 0..255, as torch.uint8."
            )
    return [record[key] for record in inputs]


def pad(tensors: Sequence[Tensor], size: Sequence[int], value: float = 0) -> Tensor:
    """Stacks (..., h, w) to (N, ..., H, W), padded at the bottom and at the right."""
    margins = [(0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]) for x in tensors]
    return torch.stack([F.pad(x, m, value=value) for x, m in zip(tensors, margins, strict=True)])


def preprocess(model: nn.Module, inputs: list[dict], ignore_value: int = 255) -> tuple[Any, View]:
    """The model's pair, and the view of it, with labels where all inputs have them."""
    images_of(inputs, "image")
    pair, labels = model.preprocess(inputs), None
    if all("sem_seg" in record for record in inputs):
        labels = pad([record["sem_seg"] for record in inputs], pair.visible.shape[2:], ignore_value)
        labels = labels.to(pair.visible.device)  # (N, H, W)
    seeds = [record["view_seed"] for record in inputs if "view_seed" in record]
    return pair, View(pair.visible, pair.auxiliary, labels, seeds)


def results(images: Tensor, inputs: list[dict], key: str) -> list[dict]:
    """One {key: (3, h, w)} per input, without its padding and clamped to 0..1."""
    sizes = [record["image"].shape[-2:] for record in inputs]
    return [{key: x[:, :h, :w].clamp(0, 1)} for x, (h, w) in zip(images, sizes, strict=True)]


def weighted(losses: dict[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    if weights.keys() != losses.keys():
        raise KeyError(f"Weights are of {', '.join(weights)}. State those of {', '.join(losses)}.")
    return {f"loss_{name}": weights[name] * loss for name, loss in losses.items()}
