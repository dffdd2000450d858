"""Training and evaluation: the default trainer of Detectron2, fitted with this project's parts."""

import logging
import pathlib
import weakref
from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from torch import nn

from smmcl.d2 import (
    CfgNode,
    DatasetEvaluator,
    DefaultTrainer,
    EventWriter,
    HookBase,
    MetadataCatalog,
    build_model,
    comm,
    hooks,
)
from smmcl.data.datasets.build import build_model_inputs
from smmcl.data.loader import build_test_loader, build_train_loader
from smmcl.data.mapper import MultiModalDatasetMapper
from smmcl.engine.checkpoint import build_checkpointer
from smmcl.engine.deployed import deployed
from smmcl.engine.hooks import (
    AverageRunningStatistics,
    ReseedEveryStep,
    WeightAverage,
    build_best_checkpoint,
)
from smmcl.engine.launch import parallelize
from smmcl.engine.run_folder import held
from smmcl.engine.setup import changed, load_streams, load_weights
from smmcl.engine.solver import build_lr_scheduler, build_optimizer
from smmcl.engine.step import amp_dtype, build_step_trainer, compile_backbone
from smmcl.engine.stop import StopTogether, saving_at_a_failure
from smmcl.engine.tracking import build_trackers
from smmcl.evaluation.classification import TASK, ClassificationEvaluator
from smmcl.evaluation.draws import evaluate_draws
from smmcl.evaluation.sem_seg import PairSemSegEvaluator
from smmcl.inference.sliding_window import wrap_for_test

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """`DefaultTrainer` for pairs: AdamW, our loaders and evaluator, restarts at the same place.

    `__init__` takes the place of DefaultTrainer's, in the same order, because that one always
    gives DDP a GPU.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super(DefaultTrainer, self).__init__()
        self.randomness = ReseedEveryStep(cfg.SEED)
        if cfg.SEED < 0:
            self.randomness = ReseedEveryStep(comm.shared_random_seed(), is_drawn=True)
            cfg = changed(cfg, "SEED", self.randomness.seed)
            logger.info(f"SEED is below 0: drew {cfg.SEED}")
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        model = parallelize(model, has_sync_norm=cfg.MODEL.SYNC_BATCH_NORM)
        self._trainer = build_step_trainer(cfg, model, loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = build_checkpointer(
            cfg, model, trainer=weakref.proxy(self), inputs=build_model_inputs(cfg)
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase | None]:
        timer, scheduler, *others = super().build_hooks()
        others = [
            hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, self._evaluate)
            if isinstance(hook, hooks.EvalHook)
            else hook
            for hook in others
        ]
        decay = self.cfg.SOLVER.AVERAGE_DECAY
        self.average = WeightAverage(deployed(self.model), decay) if decay else None
        self.best = build_best_checkpoint(self.cfg)
        # What a stop saves includes the schedule's step; a long evaluation need not come first.
        first = [self.randomness, timer, scheduler, AverageRunningStatistics()]
        stop = StopTogether(
            self._trainer,
            max_broken=self.cfg.DATALOADER.SKIP_BROKEN,
            folder=self.cfg.OUTPUT_DIR,
        )
        return [*first, self.average, self.best, stop, *others]

    def build_writers(self) -> list[EventWriter]:
        return [*super().build_writers(), *build_trackers(self.cfg)]

    def _evaluate(self) -> OrderedDict[str, Any]:
        model = self.average.model if self.average else self.model
        with saving_at_a_failure(self):
            self._last_eval_results = self.test(self.cfg, model)
        if self.best and comm.is_main_process():
            self.best.update(self._last_eval_results)
        return self._last_eval_results

    def resume_or_load(self, resume: bool = True) -> None:
        """Continues the last checkpoint of OUTPUT_DIR where its data stream stopped, or starts.

        A start is from MODEL.WEIGHTS, or without it from the streams' ImageNet weights.
        """
        last = pathlib.Path(self.checkpointer.get_checkpoint_file()).name if resume else ""
        if len(found := set(comm.all_gather(last))) > 1:
            raise ValueError(
                f"The processes find different last checkpoints in {self.cfg.OUTPUT_DIR}: "
                f"{', '.join(name or 'none' for name in sorted(found))}. Set OUTPUT_DIR to a "
                "folder that all machines share."
            )
        if resume and not last:
            logger.warning(f"{self.cfg.OUTPUT_DIR} has no checkpoint: --resume starts anew")
        if not last and not self.cfg.MODEL.WEIGHTS:
            load_streams(self.cfg, self.checkpointer.model)
        super().resume_or_load(resume)
        if self.start_iter:
            self.cfg = changed(self.cfg, "SEED", self.randomness.seed)
            position = self.start_iter * self.cfg.SOLVER.IMS_PER_BATCH
            self._trainer.reset_data_loader(
                lambda: self.build_train_loader(self.cfg, start_position=position)
            )
            # The optimizer's are those that MAX_ITER gave before, which may have been another.
            groups = self._trainer.optimizer.param_groups
            for group, rate in zip(groups, self.scheduler.get_lr(), strict=True):
                group["lr"] = rate

    def train(self) -> OrderedDict[str, Any] | None:
        """Trains to the end; returns the results of the last evaluation on the main process."""
        try:
            with held(self.cfg.OUTPUT_DIR):
                super().train()
        except OSError as error:
            if error.filename is None and error.strerror:  # of metrics.json, which stays open
                error.filename = self.cfg.OUTPUT_DIR
            raise
        return getattr(self, "_last_eval_results", None)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = build_model(cfg)
        parts = {
            name: sum(parameter.numel() for parameter in part.parameters()) / 1e6
            for name, part in model.named_children()
        }
        listed = ", ".join(f"{name} {count:.2f} M" for name, count in parts.items())
        logger.info(f"Model: {sum(parts.values()):.2f} M parameters ({listed})")
        compile_backbone(cfg, deployed(model))
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, start_position: int = 0) -> Any:
        mapper = MultiModalDatasetMapper(cfg, is_train=True)
        return build_train_loader(cfg, mapper=mapper, start_position=start_position)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        mapper = MultiModalDatasetMapper(cfg, is_train=False, dataset_name=dataset_name)
        return build_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None
    ) -> OrderedDict[str, Any]:
        """Evaluates a model on DATASETS.TEST by what TEST says."""
        device = torch.device(cfg.MODEL.DEVICE).type
        evaluate = partial(super().test, cfg, wrap_for_test(cfg, model), evaluators)
        with torch.autocast(device, amp_dtype(cfg), enabled=cfg.TEST.AMP):
            if cfg.TEST.BASES_DRAWS > 1:
                return evaluate_draws(evaluate, model, num_draws=cfg.TEST.BASES_DRAWS)
            return evaluate()

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
        return (ClassificationEvaluator if kind == TASK else PairSemSegEvaluator)(cfg, dataset_name)


def evaluate(cfg: CfgNode) -> OrderedDict[str, Any]:
    """Evaluates MODEL.WEIGHTS, or the last checkpoint of OUTPUT_DIR, on DATASETS.TEST."""
    model = Trainer.build_model(cfg)
    path = load_weights(cfg, model)
    return Trainer.test(changed(cfg, "MODEL.WEIGHTS", path), model)  # the protocol states it
