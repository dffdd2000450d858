#!/usr/bin/env python3
"""Evaluates a model on pairs with one image missing or corrupted: one table and one plot."""

import argparse
import logging
from pathlib import Path

from tqdm import tqdm

from smmcl.cli import run
from smmcl.d2 import comm, default_argument_parser, inference_on_dataset
from smmcl.data.corruption import SEVERITIES
from smmcl.engine import Trainer, load_weights, setup
from smmcl.evaluation.robustness import Robustness, all_conditions
from smmcl.evaluation.sem_seg import PairSemSegEvaluator
from smmcl.modeling.sliding_window import wrap_for_test
from smmcl.processes import start


def evaluate(args: argparse.Namespace) -> None:
    cfg = setup(args)
    model = Trainer.build_model(cfg)
    cfg = load_weights(cfg, model)
    model = wrap_for_test(cfg, model).eval()
    conditions = list(all_conditions(SEVERITIES[:: 1 + args.quick], seed=args.condition_seed))
    for dataset in cfg.DATASETS.TEST:
        loader = Trainer.build_test_loader(cfg, dataset)
        whole = PairSemSegEvaluator(cfg, dataset)  # reports as any evaluation does
        clean = mean_ious(inference_on_dataset(model, loader, whole))
        evaluator = PairSemSegEvaluator(dataset, absent_rule=cfg.TEST.ABSENT_CLASSES)
        spoilt = {}
        logging.disable(logging.INFO)
        for condition in tqdm(conditions, unit="condition", disable=not comm.is_main_process()):
            results = inference_on_dataset(
                lambda pairs, spoil=condition: model([spoil(pair) for pair in pairs]),
                loader,
                evaluator,
            )
            spoilt[condition] = mean_ious(results)
        logging.disable(logging.NOTSET)
        if comm.is_main_process():
            found = Robustness(whole.report.protocol, clean, spoilt)
            found.save(Path(whole.output_folder))
            print(f"{found.table()}\nrobustness.* written into {whole.output_folder}")


def mean_ious(results: dict[str, dict[str, float]]) -> dict[str, float]:
    return {task: values["mIoU"] for task, values in results.items() if "mIoU" in values}


def main() -> None:
    parser = default_argument_parser()
    parser.add_argument("--quick", action="store_true", help="severities 1, 3 and 5 only")
    parser.add_argument("--condition-seed", type=int, default=0,
                        help="of the noise, and of which pairs lose an image")  # fmt: skip
    start(evaluate, parser.parse_args())


if __name__ == "__main__":
    run(main)
