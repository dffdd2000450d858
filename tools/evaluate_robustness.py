#!/usr/bin/env python3
"""Evaluates a model on pairs with one image missing or corrupted: one table and one plot."""

import argparse
import logging
from pathlib import Path

from torch import nn
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
from smmcl.evaluation.failures import Failure, SensorFailures, all_failures
from smmcl.evaluation.robustness import Condition, Robustness, all_conditions
from smmcl.evaluation.sem_seg import PairSemSegEvaluator
from smmcl.inference.named_model import add_checkpoint, put_checkpoint
from smmcl.modeling.classifier import check_segments


def trainer_of(condition: Condition | Failure | None, *, limit: int | None) -> type[Trainer]:
    """The trainer, except that it tests the first `limit` pairs, spoilt by the condition."""

    class SpoilingTrainer(Trainer):
        @classmethod
        def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
            mapper = MultiModalDatasetMapper(cfg, is_train=False, dataset_name=dataset_name)
            spoil = (lambda record: condition(mapper(record))) if condition else mapper
            return build_test_loader(cfg, dataset_name, mapper=spoil, limit=limit)

    return SpoilingTrainer


def evaluate(args: argparse.Namespace) -> None:
    cfg = setup(args)
    model = Trainer.build_model(cfg)
    check_segments(model, "evaluate_robustness")
    cfg = changed(cfg, "MODEL.WEIGHTS", load_weights(cfg, model))
    for dataset in cfg.DATASETS.TEST:
        measure(changed(cfg, "DATASETS.TEST", (dataset,)), model, args=args)


def measure(cfg: CfgNode, model: nn.Module, *, args: argparse.Namespace) -> None:
    """Measures all conditions on one dataset; those of an interrupted run are taken over."""
    (dataset,) = cfg.DATASETS.TEST
    seed = args.condition_seed
    kind, conditions = Robustness, all_conditions(SEVERITIES[:: 1 + args.quick], seed=seed)
    if args.failures:
        kind, conditions = SensorFailures, all_failures(cfg, seed=seed)
    conditions = list(conditions)
    is_main = comm.is_main_process()
    whole = PairSemSegEvaluator(cfg, dataset)  # reports as any evaluation does
    if args.limit:  # its scores must not replace those of the whole set
        whole.output_folder /= f"first_{args.limit}"
    clean = mean_ious(trainer_of(None, limit=args.limit).test(cfg, model, whole))
    folder, protocol = Path(whole.output_folder), whole.report.protocol if is_main else {}
    earlier = kind(protocol, clean, {}).earlier(folder) if is_main and clean else {}
    spoilt = comm.all_gather({c: earlier[c] for c in conditions if c in earlier})[0]
    evaluator = PairSemSegEvaluator(dataset, absent_rule=cfg.TEST.ABSENT_CLASSES)
    logging.disable(logging.INFO)
    left = [condition for condition in conditions if condition not in spoilt]
    progress = {"total": len(conditions), "initial": len(spoilt), "unit": "condition"}
    for condition in tqdm(left, **progress, disable=not is_main):
        trainer = trainer_of(condition, limit=args.limit)
        spoilt[condition] = mean_ious(trainer.test(cfg, model, evaluator))
        if is_main:
            kind(protocol, clean, spoilt).save_scores(folder)
    logging.disable(logging.NOTSET)
    if is_main:
        found = kind(protocol, clean, {c: spoilt[c] for c in conditions})
        found.save(folder)
        print(f"{found.table()}\n{kind.name}.* written into {folder}")


def mean_ious(results: dict[str, dict[str, float]]) -> dict[str, float]:
    return {task: values["mIoU"] for task, values in results.items() if "mIoU" in values}


def main() -> None:
    parser = default_argument_parser()
    parser.description = __doc__
    add_checkpoint(parser)
    parser.set_defaults(eval_only=True)
    parser.add_argument("--limit", type=int, help="number of pairs of each dataset")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--quick", action="store_true", help="severities 1, 3 and 5 only")
    kinds.add_argument("--failures", action="store_true",
                        help="dead, patchy and noisy sensors, as the benchmark of sensor failures "
                        "defines them (EMM, RMM, NM), in place of graded conditions")  # fmt: skip
    parser.add_argument("--condition-seed", type=int, default=0,
                        help="of the noise, and of which pairs lose an image")  # fmt: skip
    start(evaluate, put_checkpoint(parser.parse_args()))


if __name__ == "__main__":
    run(main)
