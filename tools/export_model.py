#!/usr/bin/env python3
"""Exports a trained model to torch.export or ONNX and holds the file against the model."""

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from smmcl.cli import run
from smmcl.config import build_config
from smmcl.d2 import DatasetCatalog, setup_logger
from smmcl.data.datasets.build import ensure_registered
from smmcl.files.atomic import atomic, write_text
from smmcl.inference.export import (
    INPUT_NAMES,
    MIN_SIDE,
    FromPixels,
    TensorSegmentor,
    ToLabels,
    compare,
    export_program,
)
from smmcl.inference.predictor import Predictor

Outputs = tuple[Tensor, ...]
MAX_DIFFERENCE, MIN_SHARE = 1e-4, 0.9999  # of logits or probabilities, of equal labels


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True, help="config.yaml of a training run")
    parser.add_argument("--output", type=Path, required=True, help="file ending in .pt2 or .onnx")
    parser.add_argument("--normalised", action="store_true",
                        help="takes normalised images instead of pixels 0..255")  # fmt: skip
    parser.add_argument("--labels", action="store_true",
                        help="gives labels and their probability instead of logits")  # fmt: skip
    parser.add_argument("--dataset", metavar="NAME", help="to compare on; by default the test set")
    parser.add_argument("--limit", type=int, default=2, help="pairs of it")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE",
                        help="config overrides, such as MODEL.WEIGHTS model_final.pth")  # fmt: skip
    args = parser.parse_args()
    if args.output.suffix not in (".pt2", ".onnx"):
        raise ValueError(f"--output {args.output} ends in no known format. Use .pt2 or .onnx.")
    return args


def write_program(network: nn.Module, path: Path, *, channels: int) -> None:
    program = export_program(network, auxiliary_channels=channels)
    if path.suffix == ".pt2":
        with atomic(path) as partial, partial.open("wb") as file:
            torch.export.save(program, file)
    else:
        names = {"input_names": INPUT_NAMES, "output_names": network.output_names}
        onnx = torch.onnx.export(program, dynamo=True, verbose=False, **names)
        with atomic(path) as partial:
            onnx.save(partial, external_data=False)


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


def pairs_to_compare(
    predictor: Predictor, *, args: argparse.Namespace
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """Random pairs of two sizes, then pairs of the test set; (N, channels, H, W) float32."""
    generator = torch.Generator().manual_seed(0)
    counts = (3, predictor.mapper.auxiliary_channels)
    for num, *size in ((1, MIN_SIDE, MIN_SIDE), (3, 97, 131)):
        pair = (255 * torch.rand((num, count, *size), generator=generator) for count in counts)
        yield f"random {num} x {size[0]}x{size[1]}", tuple(pair)
    ensure_registered([args.dataset])
    for record in DatasetCatalog.get(args.dataset)[: args.limit]:
        inputs = predictor.mapper(record)
        pair = (inputs[key][None].float() for key in ("image", "auxiliary"))  # (1, channels, H, W)
        yield f"{args.dataset} {record['image_id']}", tuple(pair)


def check_file(
    call: Callable[..., Outputs], network: nn.Module, *, pairs: Iterator[tuple[str, tuple]]
) -> bool:
    """Prints how the file differs from the network on each pair; whether it agrees on all."""
    agrees = True
    for name, pair in pairs:
        with torch.inference_mode():
            wanted = as_tuple(network(*pair))
        compared = [compare(a, b) for a, b in zip(wanted, call(*pair), strict=True)]
        difference, share = compared[-1][0], compared[0][1]
        print(f"{name}: largest difference {difference:.1e}, equal labels {100 * share:.4f}%")
        agrees &= difference <= MAX_DIFFERENCE and share >= MIN_SHARE
    return agrees


def facts_of(predictor: Predictor, *, args: argparse.Namespace) -> dict:
    """What a user of the file must know, for the JSON beside it."""
    cfg, metadata = predictor.cfg, predictor.metadata
    return {
        "inputs": {"visible": ["N", 3, "H", "W"],
                   "auxiliary": ["N", predictor.mapper.auxiliary_channels, "H", "W"]},
        "values": "normalised" if args.normalised else "0..255 as float32",
        "outputs": "labels, probability" if args.labels else "logits",
        "least_side": MIN_SIDE,
        "visible_channels": cfg.INPUT.FORMAT,
        "visible_mean_std": [cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD],
        "auxiliary_mean_std": [cfg.MODEL.AUXILIARY.PIXEL_MEAN, cfg.MODEL.AUXILIARY.PIXEL_STD],
        "auxiliary": dataclasses.asdict(predictor.mapper.contract),
        "classes": metadata.stuff_classes,
        "colours": metadata.stuff_colors,
    }  # fmt: skip


def as_tuple(outputs: Tensor | Outputs) -> Outputs:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def main() -> None:
    args = parse_arguments()
    setup_logger(name="smmcl")
    cfg = build_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
    args.dataset = args.dataset or cfg.DATASETS.TEST[0]
    predictor = Predictor(cfg)
    network: nn.Module = TensorSegmentor(predictor.model)
    network = ToLabels(network) if args.labels else network
    whole = FromPixels(network, model=predictor.model).eval()
    network = network if args.normalised else whole
    channels = predictor.mapper.auxiliary_channels
    write_program(network, args.output, channels=channels)
    facts = json.dumps(facts_of(predictor, args=args), indent=1)
    write_text(args.output.with_suffix(".json"), facts)
    print(f"{args.output} and its .json written")
    call = read_program(args.output)
    if call is None:
        print("not compared with the model: ONNX Runtime is not installed")
        return
    pairs = pairs_to_compare(predictor, args=args)
    if args.normalised:
        pairs = ((name, whole.normalise(*pair)) for name, pair in pairs)
    if not check_file(call, network, pairs=pairs):
        raise SystemExit("error: the file differs from the model by more than rounding")


if __name__ == "__main__":
    run(main)
