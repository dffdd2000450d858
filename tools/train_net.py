#!/usr/bin/env python3
"""Trains a model, or evaluates one with --eval-only."""

import argparse

from smmcl.cli import run
from smmcl.d2 import comm, default_argument_parser, verify_results
from smmcl.engine.launch import start
from smmcl.engine.run_folder import remove_checkpoints
from smmcl.engine.setup import setup
from smmcl.engine.trainer import Trainer, evaluate
from smmcl.inference.named_model import add_checkpoint, put_checkpoint


def main(args: argparse.Namespace) -> dict | None:
    cfg = setup(args)
    if args.eval_only:
        results = evaluate(cfg)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    if args.overwrite:
        remove_checkpoints(cfg.OUTPUT_DIR)
    return trainer.train()


def parse_arguments() -> argparse.Namespace:
    parser = default_argument_parser()
    parser.description = __doc__
    add_checkpoint(parser)
    parser.add_argument("--overwrite", action="store_true",
                        help="first remove the run that OUTPUT_DIR holds")  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    run(lambda: start(main, put_checkpoint(parse_arguments())))
