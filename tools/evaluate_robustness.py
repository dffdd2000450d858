#!/usr/bin/env python3
"""Evaluates a model on pairs with one image missing or corrupted: one table and one plot."""

import argparse
import logging
from pathlib import Path

from torch.utils.data import DataLoader
from tqdm import tqdm

from smmcl.cli import run
from smmcl.d2 import CfgNode, comm, default_argument_parser
from smmcl.data.appearance.corruption import SEVERITIES
from smmcl.data.loader import build_test_loader
from smmcl.data.mapper import MultiModalDatasetMapper
from smmcl.engine.launch import start
from smmcl.engine.setup import changed, load_weights, setup
from smmcl.engine.trainer import Trainer
from smmcl.evaluation.robustness import Condition, Robustness, all_conditions
from smmcl.evaluation.sem_seg import PairSemSegEvaluator
from smmcl.inference.named_model import add_checkpoint, put_checkpoint


def spoiling(condition: Condition) -> type[Trainer]:
    """The trainer, except that its test pairs are spoilt."""

    class SpoilingTrainer(Trainer):
        @classmethod
        def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
            mapper = MultiModalDatasetMapper(cfg, is_train=False, dataset_name=dataset_name)
            return build_test_loader(cfg, dataset_name, mapper=lambda one: condition(mapper(one)))

    return SpoilingTrainer


def evaluate(args: argparse.Namespace) -> None:
    cfg = setup(args)
    model = Trainer.build_model(cfg)
    cfg = changed(cfg, "MODEL.WEIGHTS", load_weights(cfg, model))
    conditions = list(all_conditions(SEVERITIES[:: 1 + args.quick], seed=args.condition_seed))
    is_main = comm.is_main_process()
    for dataset in cfg.DATASETS.TEST:
        one = changed(cfg, "DATASETS.TEST", (dataset,))
        whole = PairSemSegEvaluator(cfg, dataset)  # reports as any evaluation does
        clean = mean_ious(Trainer.test(one, model, whole))
        evaluator = PairSemSegEvaluator(dataset, absent_rule=cfg.TEST.ABSENT_CLASSES)
        logging.disable(logging.INFO)
        spoilt = {
            condition: mean_ious(spoiling(condition).test(one, model, evaluator))
            for condition in tqdm(conditions, unit="condition", disable=not is_main)
        }
        logging.disable(logging.NOTSET)
        if is_main:
            found = Robustness(whole.report.protocol, clean, spoilt)
            found.save(Path(whole.output_folder))
            print(f"{found.table()}\nrobustness.* written into {whole.output_folder}")


def mean_ious(results: dict[str, dict[str, float]]) -> dict[str, float]:
    return {task: values["mIoU"] for task, values in results.items() if "mIoU" in values}


def main() -> None:
    parser = default_argument_parser()
    add_checkpoint(parser)
    parser.set_defaults(eval_only=True)
    parser.add_argument("--quick", action="store_true", help="severities 1, 3 and 5 only")
    parser.add_argument("--condition-seed", type=int, default=0,
                        help="of the noise, and of which pairs lose an image")  # fmt: skip
    start(evaluate, put_checkpoint(parser.parse_args()))


if __name__ == "__main__":
    run(main)
