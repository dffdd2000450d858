#!/usr/bin/env python3
"""Trains a model, or evaluates one with --eval-only."""

import argparse

from smmcl.cli import run
from smmcl.d2 import comm, default_argument_parser, launch, verify_results
from smmcl.engine import Trainer, evaluate, setup


def main(args: argparse.Namespace) -> dict | None:
    cfg = setup(args)
    if args.eval_only:
        results = evaluate(cfg)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def start() -> None:
    args = default_argument_parser().parse_args()
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


if __name__ == "__main__":
    run(start)
