"""The model between tensors, without config, dicts or contrastive branch: what is exported.

Shape shorthand in this module:
    N: pairs in the batch     A: channels of the auxiliary image     K: classes
    H, W: size of the pairs
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from smmcl.modeling.layers.resize import resize
from smmcl.modeling.segmentor import MultiModalSegmentor

MIN_SIDE = 64  # pixels: from there on the last stage has 2 cells, and no operation degenerates
INPUT_NAMES = ("visible", "auxiliary")


class TensorSegmentor(nn.Module):
    """Maps normalised pairs to logits: visible (N, 3, H, W), auxiliary (N, A, H, W) to
    (N, K, H, W)."""

    output_names = ("logits",)

    def __init__(self, model: MultiModalSegmentor) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.sem_seg_head = model.sem_seg_head
        self.divisibility = model.size_divisibility
        self.reads_auxiliary = model.reads_auxiliary

    def forward(self, visible: Tensor, auxiliary: Tensor) -> Tensor:
        down, right = (-side % (self.divisibility or 1) for side in visible.shape[-2:])
        if self.divisibility:  # as the segmentor pads a batch
            visible, auxiliary = (F.pad(x, (0, right, 0, down)) for x in (visible, auxiliary))
        images = (visible, auxiliary) if self.reads_auxiliary else (visible,)
        logits, _ = self.sem_seg_head(self.backbone(*images))
        logits = resize(logits, visible.shape[-2:])  # (N, K, H, W), padded
        return F.pad(logits, (0, -right, 0, -down)) if self.divisibility else logits


class FromPixels(nn.Module):
    """Lets a network take pixels: values 0..255, as float32."""

    def __init__(self, network: nn.Module, *, model: MultiModalSegmentor) -> None:
        super().__init__()
        self.network = network
        self.output_names = network.output_names
        for name in ("pixel_mean", "pixel_std", "auxiliary_mean", "auxiliary_std"):
            self.register_buffer(name, getattr(model, name).clone())  # (3 or A, 1, 1)

    def forward(self, visible: Tensor, auxiliary: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.network(*self.normalise(visible, auxiliary))

    def normalise(self, visible: Tensor, auxiliary: Tensor) -> tuple[Tensor, Tensor]:
        """What the network takes; shapes stay."""
        visible = (visible - self.pixel_mean) / self.pixel_std
        return visible, (auxiliary - self.auxiliary_mean) / self.auxiliary_std


class ToLabels(nn.Module):
    """Lets a network that gives logits give labels (N, H, W) int64, and their probability."""

    output_names = ("labels", "probability")

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, visible: Tensor, auxiliary: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(visible, auxiliary)  # (N, K, H, W)
        probability, labels = logits.softmax(dim=1).max(dim=1)  # (N, H, W)
        return labels, probability


def export_program(
    network: nn.Module, *, auxiliary_channels: int, size: tuple[int, int] | None = None
) -> ExportedProgram:
    """Captures a network of this module for any number of pairs of any size from MIN_SIDE on.

    Args:
        size: (H, W), for this size alone: a head such as PointRendSemSegHead computes with numbers
            that follow from it.
    """
    side = {"min": MIN_SIDE, "max": 8192}
    sizes = {0: Dim("pairs", min=1)}
    if size is None:
        sizes |= {2: Dim("height", **side), 3: Dim("width", **side)}
    # Two pairs: a batch of one would be taken for a constant.
    example = tuple(torch.zeros(2, c, *(size or (96, 128))) for c in (3, auxiliary_channels))
    return torch.export.export(
        network,
        example,
        dynamic_shapes=(sizes, sizes),
        # That 1 % (1 + (width - 1) // 4) is not 0 can be checked, but is not proven by itself.
        prefer_deferred_runtime_asserts_over_guards=True,
    )


def compare(wanted: Tensor, got: Tensor) -> tuple[float, float]:
    """Largest difference and share of equal labels of logits (N, K, H, W) or labels (N, H, W)."""
    assert wanted.shape == got.shape, f"{tuple(got.shape)} is not {tuple(wanted.shape)}"
    difference = (wanted.double() - got.double()).abs().max().item()
    if wanted.ndim == 4:
        wanted, got = wanted.argmax(dim=1), got.argmax(dim=1)  # (N, H, W)
    return difference, (wanted == got).double().mean().item()
