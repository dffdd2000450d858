#!/usr/bin/env python3
"""Tables what a model costs by part, in inference and training, and that its branch is free."""

import argparse

import torch

from smmcl.cli import run
from smmcl.engine.setup import with_device
from smmcl.inference.cost import CLOCKS, analyze
from smmcl.inference.named_model import add_model_arguments, named_config


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model_arguments(parser)
    parser.add_argument("--size", type=int, nargs=2, default=[480, 640], metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=1, help="pairs, in inference and training")
    parser.add_argument("--runs", type=int, default=10, help="timed, after one that warms up")
    parser.add_argument("--clock", choices=CLOCKS, default="wall",
                        help="cpu: of this process alone, for a machine that is shared "
                        "(then with OMP_NUM_THREADS=1)")  # fmt: skip
    parser.add_argument("--bf16", action="store_true", help="under bfloat16 autocast")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    cfg = with_device(named_config(args))
    facts = {"size": tuple(args.size), "num_pairs": args.batch, "num_runs": args.runs}
    print(args.config_file or args.checkpoint, end=", ")
    with torch.autocast(cfg.MODEL.DEVICE.partition(":")[0], torch.bfloat16, enabled=args.bf16):
        for line in analyze(cfg, **facts, clock=args.clock):
            print(line, flush=True)


if __name__ == "__main__":
    run(main)
