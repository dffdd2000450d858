"""The model between tensors, without config, dicts or contrastive branch, and files of it.

Shape shorthand in this module:
    N: pairs in the batch     A: channels of the auxiliary image     K: classes
    H, W: size of the pairs
"""

import dataclasses
import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from smmcl.files.atomic import atomic, write_text
from smmcl.inference.predictor import Predictor
from smmcl.modeling.classifier import ImageClassifier
from smmcl.modeling.layers.resize import resize
from smmcl.modeling.pair_model import PairModel
from smmcl.modeling.segmentor import MultiModalSegmentor

MIN_SIDE = 64  # pixels: from there on the last stage has 2 cells, and no operation degenerates
INPUT_NAMES = ("visible", "auxiliary")
MIN_SHARE = 0.9999  # of equal labels

Outputs = tuple[Tensor, ...]


class TensorSegmentor(nn.Module):
    """Maps normalized pairs to logits: visible (N, 3, H, W), auxiliary (N, A, H, W) to
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


class TensorClassifier(nn.Module):
    """The same of a classifier, whose logits are (N, K)."""

    output_names = ("logits",)

    def __init__(self, model: ImageClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, visible: Tensor, auxiliary: Tensor) -> Tensor:
        images = (visible, auxiliary) if self.model.reads_auxiliary else (visible,)
        return self.model.logits(self.model.backbone(*images))


class FromPixels(nn.Module):
    """Lets a network that gives logits take pixels: values 0..255, as float32."""

    output_names = ("logits",)

    def __init__(self, network: nn.Module, *, model: PairModel) -> None:
        super().__init__()
        self.network = network
        for name in ("pixel_mean", "pixel_std", "auxiliary_mean", "auxiliary_std"):
            self.register_buffer(name, getattr(model, name).clone())  # (3 or A, 1, 1)

    def forward(self, visible: Tensor, auxiliary: Tensor) -> Tensor:
        return self.network(*self.normalize(visible, auxiliary))

    def normalize(self, visible: Tensor, auxiliary: Tensor) -> tuple[Tensor, Tensor]:
        """What the network takes; shapes stay."""
        visible = (visible - self.pixel_mean) / self.pixel_std
        return visible, (auxiliary - self.auxiliary_mean) / self.auxiliary_std


class ToLabels(nn.Module):
    """Lets a network that gives logits give labels, (N, H, W) or (N,), and their probability."""

    output_names = ("labels", "probability")

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, visible: Tensor, auxiliary: Tensor) -> tuple[Tensor, Tensor]:
        return to_labels(self.network(visible, auxiliary))


def to_labels(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K, ...) to labels, int64, and their probability, both (N, ...)."""
    probability, labels = logits.softmax(dim=1).max(dim=1)
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


def write_program(
    network: nn.Module, path: Path, *, auxiliary_channels: int, facts: Mapping[str, Any]
) -> None:
    """Writes a network as .pt2 or .onnx, and its facts into PATH.json and the file's metadata."""
    with warnings.catch_warnings(), atomic(path) as partial:
        # Of constants that are views; export_model.py compares the file with the model.
        warnings.filterwarnings("ignore", "No complete tensor found")
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # torch warns of itself
        program = export_program(network, auxiliary_channels=auxiliary_channels)
        if path.suffix == ".pt2":
            # Not into the file: torch's writer ends the interpreter later if a disk is full.
            buffer = io.BytesIO()
            torch.export.save(program, buffer)
            partial.write_bytes(buffer.getvalue())
        else:
            # It warns that torchvision, which nothing here uses, is not installed.
            logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
            names = {"input_names": INPUT_NAMES, "output_names": network.output_names}
            onnx = torch.onnx.export(program, dynamo=True, verbose=False, **names)
            onnx.model.metadata_props.update({key: json.dumps(facts[key]) for key in facts})
            onnx.save(partial, external_data=False)
    write_text(path.with_name(f"{path.name}.json"), json.dumps(facts, indent=1))


def read_program(path: Path) -> Callable[[Tensor, Tensor], Outputs] | None:
    """The file as a function; None for ONNX without ONNX Runtime."""
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()
        return lambda *pair: as_tuple(module(*pair))
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def call(*pair: Tensor) -> Outputs:
        feed = {name: part.numpy() for name, part in zip(INPUT_NAMES, pair, strict=True)}
        return tuple(torch.from_numpy(part) for part in session.run(None, feed))

    return call


def facts_of(predictor: Predictor, *, is_normalized: bool, gives_labels: bool) -> dict[str, Any]:
    """What a user of the file must know."""
    cfg, metadata, known = predictor.cfg, predictor.metadata, predictor.mapper.reader.format
    return {
        "task": "classification" if predictor.classifies else "segmentation",
        "inputs": {"visible": ["N", 3, "H", "W"],
                   "auxiliary": ["N", predictor.mapper.reader.channels, "H", "W"]},
        "values": "normalized" if is_normalized else "0..255 as float32",
        "outputs": "labels, probability" if gives_labels else "logits",
        "least_side": MIN_SIDE,
        "visible_channels": cfg.INPUT.FORMAT,
        "visible_mean_std": [cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD],
        "auxiliary_mean_std": [cfg.MODEL.AUXILIARY.PIXEL_MEAN, cfg.MODEL.AUXILIARY.PIXEL_STD],
        "auxiliary": known and dataclasses.asdict(known),
        "classes": metadata.stuff_classes,
        "colors": metadata.stuff_colors,
        "label_offset": metadata.label_offset,
    }  # fmt: skip


def check_program(
    call: Callable[..., Outputs], network: nn.Module, pair: Outputs, *, gives_labels: bool
) -> tuple[float, float, bool]:
    """Compares a file with the network that gives its logits, on one pair.

    Returns:
        largest difference of logits or probabilities, share of equal labels, and whether the file
        agrees: differs by no more than rounding.
    """
    with torch.inference_mode():
        logits = network(*pair)
    wanted = to_labels(logits) if gives_labels else (logits,)
    compared = [compare(a, b) for a, b in zip(wanted, call(*pair), strict=True)]
    difference, share = compared[-1][0], compared[0][1]
    return difference, share, difference <= rounding(network, logits) and share >= MIN_SHARE


def rounding(network: nn.Module, logits: Tensor) -> float:
    """How far two computations of the logits in float32 come apart, by rounding alone.

    Each term of a layer's sums adds an error of eps at most, relative to the result. Independent
    errors add up as a random walk, whose largest value among a million is at five deviations. A
    softmax does not enlarge a difference, so the bound serves probabilities as well.
    """
    num_terms = sum(weight[0].numel() for weight in network.parameters() if weight.ndim > 1)
    size = logits.abs().max().item()
    return 5 * torch.finfo(logits.dtype).eps * math.sqrt(num_terms) * size


def compare(wanted: Tensor, got: Tensor) -> tuple[float, float]:
    """Largest difference and share of equal labels of logits (N, K, ...) or labels (N, ...)."""
    assert wanted.shape == got.shape, f"{tuple(got.shape)} is not {tuple(wanted.shape)}"
    difference = (wanted.double() - got.double()).abs().max().item()
    if wanted.ndim in (2, 4):
        wanted, got = wanted.argmax(dim=1), got.argmax(dim=1)  # (N, H, W)
    return difference, (wanted == got).double().mean().item()


def as_tuple(outputs: Tensor | Outputs) -> Outputs:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
