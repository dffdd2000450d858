"""Inference by windows, scales and mirror images: a wrapper around any model for pairs.

Shape shorthand in this module:
    K: classes      C: channels      H, W: size of the pair      h, w: size at one scale
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.d2 import CfgNode
from smmcl.data.geometry import PairGeometry
from smmcl.engine.deployed import deployed
from smmcl.modeling.classifier import check_segments

IMAGES = ("image", "auxiliary")
SUMS = ("softmax", "exp")


class WindowedInference(nn.Module):
    """Runs a model over windows of a pair at several scales and adds up what it says.

    It takes and returns what the model does at test. The returned scores are logarithms of the
    sums, so that their softmax is the mean probability.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        size: tuple[int, int] | None = None,
        overlap: float = 1 / 3,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        add: str = "softmax",
        batch_size: int = 1,
    ) -> None:
        """
        Args:
            model: maps a list of dicts with "image", "auxiliary" and "valid_box" to logits.
            size: (height, width) of the windows, None for the whole image. A side on which the
                image is smaller is padded, with the image in the middle.
            overlap: share of a window that its neighbor covers as well, at least.
            scales: of the resized pairs; each has the same weight.
            flip: adds the mirror image.
            add: "softmax" averages probabilities. "exp" adds exp(logits) over windows and scales,
                and logits over the mirror images, as the authors' evaluation does.
            batch_size: windows per call of the model.
        """
        super().__init__()
        if add not in SUMS:
            raise ValueError(f"TEST.AUG.SUM is {add!r}. Set it to one of {', '.join(SUMS)}.")
        if not 0 <= overlap < 1:
            raise ValueError(f"TEST.SLIDING.OVERLAP is {overlap}. Set it from 0 to below 1.")
        self.model = model
        self.train(model.training)  # evaluation restores the mode that it finds here
        self.size = size
        self.overlap = overlap
        self.scales = scales
        self.flip = flip
        self.add = add
        self.batch_size = batch_size

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """Returns {"sem_seg": (K, height, width)} per pair, as the model does."""
        return [{"sem_seg": self._predict(inputs)} for inputs in batched_inputs]

    def _predict(self, inputs: dict[str, Any]) -> Tensor:
        H, W = inputs["image"].shape[-2:]
        total = torch.zeros(())
        for scale in self.scales:
            scaled = {key: _resize(inputs[key], (round(H * scale), round(W * scale)))
                      for key in IMAGES if key in inputs}  # fmt: skip
            scores = self._tile({**inputs, **scaled})  # (K, h, w)
            total = total.to(scores.device) + _interpolate(scores, (H, W))  # (K, H, W)
        output_size = inputs.get("height", H), inputs.get("width", W)
        return _interpolate(total, output_size).log()  # (K, height, width)

    def _tile(self, inputs: dict[str, Any]) -> Tensor:
        """Adds up the windows of a pair at one scale, as sums of probabilities, (K, h, w)."""
        size = tuple(inputs["image"].shape[-2:])
        window = self.size or size
        padded = {key: _pad_to(inputs[key], window) for key in IMAGES if key in inputs}
        top, left = (max(0, b - a) // 2 for a, b in zip(size, window, strict=True))
        box = (top, left, top + size[0], left + size[1])
        extents = padded["image"].shape[-2:]
        starts = [
            (y, x)
            for y in window_starts(extents[0], window[0], overlap=self.overlap)
            for x in window_starts(extents[1], window[1], overlap=self.overlap)
        ]
        windows = [_cut({**inputs, **padded}, start, window, box) for start in starts]
        total = torch.zeros(())
        counts = torch.zeros(extents)
        for (y, x), scores in zip(starts, self._run(windows), strict=True):
            if total.dim() == 0:
                total = scores.new_zeros(len(scores), *extents)  # (K, rows, columns)
            total[:, y : y + window[0], x : x + window[1]] += scores
            counts[y : y + window[0], x : x + window[1]] += 1
        if self.add == "softmax":
            total /= counts.to(total.device)
        return total[:, box[0] : box[2], box[1] : box[3]]

    def _run(self, windows: list[dict[str, Any]]) -> list[Tensor]:
        """Returns what is added for each window, (K, *window)."""
        views = [self._call(windows)]
        if self.flip:
            mirrored = self._call([_mirror(window) for window in windows])
            views.append([scores.flip(-1) for scores in mirrored])
        if self.add == "exp":
            return [sum(scores).exp() for scores in zip(*views, strict=True)]
        views = [[scores.softmax(dim=0) for scores in view] for view in views]
        return [sum(scores) / len(views) for scores in zip(*views, strict=True)]

    def _call(self, windows: list[dict[str, Any]]) -> list[Tensor]:
        starts = range(0, len(windows), self.batch_size)
        batches = [self.model(windows[start : start + self.batch_size]) for start in starts]
        return [output["sem_seg"].float() for batch in batches for output in batch]


def window_starts(extent: int, window: int, *, overlap: float) -> list[int]:
    """First pixels of the windows along one side: evenly strided, the last one at the end."""
    stride = max(1, math.ceil(round(window * (1 - overlap), 6)))
    count = math.ceil(max(0, extent - window) / stride) + 1
    return [min(index * stride, max(0, extent - window)) for index in range(count)]


def wrap_for_test(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Wraps a model by TEST.SLIDING and TEST.AUG, or returns it as it is when both are off."""
    if not (cfg.TEST.SLIDING.ENABLED or cfg.TEST.AUG.ENABLED):
        return model
    check_segments(deployed(model), "TEST.SLIDING and TEST.AUG: evaluation in parts")
    augmented = {"scales": cfg.TEST.AUG.SCALES, "flip": cfg.TEST.AUG.FLIP}
    return WindowedInference(
        model,
        size=tuple(cfg.TEST.SLIDING.SIZE) if cfg.TEST.SLIDING.ENABLED else None,
        overlap=cfg.TEST.SLIDING.OVERLAP,
        add=cfg.TEST.AUG.SUM,
        batch_size=cfg.TEST.SLIDING.BATCH_SIZE,
        **(augmented if cfg.TEST.AUG.ENABLED else {}),
    )


def _cut(
    inputs: dict[str, Any],
    start: tuple[int, int],
    window: tuple[int, int],
    box: tuple[int, int, int, int],
) -> dict[str, Any]:
    """One window as an input of its own, at its own size, with what is real in it."""
    y, x = start
    images = {
        key: inputs[key][:, y : y + window[0], x : x + window[1]] for key in IMAGES if key in inputs
    }
    real = [
        min(max(edge - offset, 0), limit)
        for edge, offset, limit in zip(box, (y, x, y, x), (*window, *window), strict=True)
    ]
    others = {key: value for key, value in inputs.items() if key not in ("height", "width")}
    return {**others, **images, "valid_box": tuple(real)}


def _mirror(inputs: dict[str, Any]) -> dict[str, Any]:
    width = inputs["image"].shape[-1]
    top, left, bottom, right = inputs["valid_box"]
    images = {key: inputs[key].flip(-1) for key in IMAGES if key in inputs}
    return {**inputs, **images, "valid_box": (top, width - right, bottom, width - left)}


def _pad_to(image: Tensor, window: tuple[int, int]) -> Tensor:
    """Pads (C, h, w) with zeros on both sides to at least the window."""
    room = [max(0, b - a) for a, b in zip(image.shape[-2:], window, strict=True)]
    top, left = room[0] // 2, room[1] // 2
    return F.pad(image, (left, room[1] - left, top, room[0] - top))


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes (C, H, W) in its own type, exactly as in training, to (C, *size)."""
    if tuple(image.shape[-2:]) == size:
        return image
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())  # (H, W, C)
    resized = PairGeometry(False, size, (0, 0), size).apply(pixels, fill=0)  # (*size, C)
    return torch.from_numpy(resized).permute(2, 0, 1)


def _interpolate(scores: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(scores.shape[-2:]) == tuple(size):
        return scores
    return F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
