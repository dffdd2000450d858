#!/usr/bin/env python3
"""Exports a trained model to torch.export or ONNX and verifies the exported file."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smmcl.cli import run
from smmcl.d2 import CfgNode, DatasetCatalog, setup_logger
from smmcl.data.datasets.build import ensure_registered
from smmcl.inference.export import (
    MIN_SIDE,
    FromPixels,
    Outputs,
    TensorClassifier,
    TensorSegmentor,
    ToLabels,
    check_program,
    facts_of,
    read_program,
    write_program,
)
from smmcl.inference.named_model import add_model_arguments, named_config
from smmcl.inference.predictor import Predictor


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, help="file ending in .pt2 or .onnx")
    parser.add_argument("--normalized", "--normalised", action="store_true",
                        help="takes normalized images instead of pixels 0..255")  # fmt: skip
    parser.add_argument("--labels", action="store_true",
                        help="gives labels and their probability instead of logits")  # fmt: skip
    parser.add_argument("--dataset", metavar="NAME", help="to compare on; by default the test set")
    parser.add_argument("--limit", type=int, default=2, help="pairs of it")
    args = parser.parse_args()
    args.opts += ["MODEL.DEVICE", "cpu"]
    if args.output.suffix not in (".pt2", ".onnx"):
        raise ValueError(f"--output {args.output} ends in no known format. Use .pt2 or .onnx.")
    return args


def stored_pairs(cfg: CfgNode, *, args: argparse.Namespace) -> list[tuple[str, Any]]:
    """Records of --dataset, else of the first test set, if it is on this machine; with its name."""
    for name in [args.dataset] if args.dataset else cfg.DATASETS.TEST[:1]:
        try:
            ensure_registered([name])
            return [(name, record) for record in DatasetCatalog.get(name)[: args.limit]]
        except (FileNotFoundError, ValueError) as error:  # or of another program's catalog
            if args.dataset:
                raise
            print(f"no pair of {name} is compared: {error} --dataset names another set.")
    return []


def pairs_to_compare(
    predictor: Predictor, stored: Sequence[tuple[str, Any]]
) -> Iterator[tuple[str, Outputs]]:
    """Random pairs of two sizes, then those of a dataset; (N, channels, H, W) float32."""
    generator = torch.Generator().manual_seed(0)
    counts = (3, predictor.mapper.reader.channels)
    for num, *size in ((1, MIN_SIDE, MIN_SIDE), (3, 97, 131)):
        pair = (255 * torch.rand((num, count, *size), generator=generator) for count in counts)
        yield f"random {num} x {size[0]}x{size[1]}", tuple(pair)
    for name, record in stored:
        inputs = predictor.mapper(record)
        # A set of visible images alone has no auxiliary one, and its model reads none.
        inputs.setdefault("auxiliary", torch.zeros(counts[1], *inputs["image"].shape[1:]))
        pair = (inputs[key][None].float() for key in ("image", "auxiliary"))  # (1, channels, H, W)
        yield f"{name} {record['image_id']}", tuple(pair)


def main() -> None:
    args = parse_arguments()
    setup_logger(name="smmcl")
    cfg = named_config(args)
    predictor = Predictor(cfg)  # its own config names no test set whose facts the checkpoint tells
    stored = stored_pairs(cfg, args=args)
    bare = (TensorClassifier if predictor.classifies else TensorSegmentor)(predictor.model)
    whole = FromPixels(bare, model=predictor.model).eval()
    network: nn.Module = bare if args.normalized else whole
    facts = facts_of(predictor, is_normalized=args.normalized, gives_labels=args.labels)
    channels = predictor.mapper.reader.channels
    exported = ToLabels(network) if args.labels else network
    write_program(exported.eval(), args.output, auxiliary_channels=channels, facts=facts)
    print(f"{args.output} and {args.output}.json written")
    call = read_program(args.output)
    if call is None:
        print("not compared with the model: ONNX Runtime is not installed")
        return
    agrees = True
    for name, pair in pairs_to_compare(predictor, stored):
        pair = whole.normalize(*pair) if args.normalized else pair
        difference, share, is_right = check_program(call, network, pair, gives_labels=args.labels)
        print(f"{name}: largest difference {difference:.1e}, equal labels {100 * share:.4f}%")
        agrees &= is_right
    if not agrees:
        raise SystemExit("error: the file differs from the model by more than rounding")


if __name__ == "__main__":
    run(main)
