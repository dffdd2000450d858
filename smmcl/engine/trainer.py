"""Training and evaluation: the default trainer of Detectron2, fitted with this project's parts."""

import argparse
import logging
import math
import pathlib
import weakref
from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from torch import nn

from smmcl.cli import without_traceback
from smmcl.config import build_config
from smmcl.d2 import (
    ENGINE,
    ENGINE_VERSION,
    CfgNode,
    DatasetCatalog,
    DatasetEvaluator,
    DefaultTrainer,
    HookBase,
    MetadataCatalog,
    build_model,
    comm,
    default_setup,
    hooks,
    setup_logger,
)
from smmcl.data.datasets.build import build_model_inputs, ensure_registered
from smmcl.data.loader import build_test_loader, build_train_loader
from smmcl.data.mapper import MultiModalDatasetMapper
from smmcl.engine.checkpoint import build_checkpointer
from smmcl.engine.hooks import (
    AverageRunningStatistics,
    ReseedEveryStep,
    StopOnSignal,
    WeightAverage,
    build_best_checkpoint,
)
from smmcl.engine.launch import log_processes, parallelise
from smmcl.engine.run_folder import BESIDE, claim, held
from smmcl.engine.solver import build_lr_scheduler, build_optimizer
from smmcl.engine.step import amp_dtype, bare, build_step_trainer, compile_backbone
from smmcl.evaluation.draws import evaluate_draws
from smmcl.evaluation.sem_seg import PairSemSegEvaluator, check_result_folders
from smmcl.inference.sliding_window import wrap_for_test
from smmcl.modeling import segmentor as meta_arch
from smmcl.modeling.backbone import pair
from smmcl.modeling.head import fpn_head, ham_head, mlp_head
from smmcl.weights.convert import load_stream

# Importing a module registers what it defines.
PARTS = (meta_arch, pair, fpn_head, ham_head, mlp_head)

logger = logging.getLogger(__name__)


def setup(args: argparse.Namespace) -> CfgNode:
    """Config, datasets, folders, loggers and seeds of a run, from its command line."""
    text = getattr(args, "config_text", None)
    cfg = build_config(args.config_file, args.opts, text=text)
    folder = claim(cfg, args)
    if pathlib.Path(folder).name == BESIDE and not cfg.MODEL.WEIGHTS:
        cfg = changed(cfg, "MODEL.WEIGHTS", comm.all_gather(find_weights(cfg))[0])
    cfg = changed(cfg, "OUTPUT_DIR", folder)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="smmcl")
    # An error that the user can mend is told once, by the tool, and not by the loop before it.
    logging.getLogger("detectron2.engine.train_loop").addFilter(without_traceback)
    logger.info("Engine: %s %s", ENGINE, ENGINE_VERSION)
    log_processes()
    check_datasets(cfg)
    check_result_folders(cfg)
    cfg = with_iterations(with_device(cfg))
    default_setup(cfg, args)
    return cfg


def check_datasets(cfg: CfgNode) -> None:
    """Registers the datasets of a run and holds the head's classes against theirs."""
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    ensure_registered(names)
    for name in names:
        count = len(MetadataCatalog.get(name).stuff_classes)
        if count != cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES} but "
                f"dataset {name} has {count} classes. Set it to {count}."
            )


def with_device(cfg: CfgNode) -> CfgNode:
    """The config, with the CPU as its device if it asks for a GPU where there is none."""
    if not cfg.MODEL.DEVICE.startswith("cuda") or torch.cuda.is_available():
        return cfg
    logger.info("MODEL.DEVICE is %s but there is no GPU here: running on the CPU", cfg.MODEL.DEVICE)
    return changed(cfg, "MODEL.DEVICE", "cpu")


def with_iterations(cfg: CfgNode) -> CfgNode:
    """The config, with a MAX_ITER of 0 worked out from SOLVER.EPOCHS, pairs and batch."""
    if cfg.SOLVER.MAX_ITER:
        return cfg
    if not cfg.SOLVER.EPOCHS:
        raise ValueError(
            "SOLVER.MAX_ITER and SOLVER.EPOCHS are both 0, so the run has no length. Set one of "
            "them, or start from a config of a dataset, such as configs/mfnet_r101.yaml."
        )
    num_pairs = sum(len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TRAIN)
    per_epoch = math.ceil(num_pairs / cfg.SOLVER.IMS_PER_BATCH)
    total, warmup = (n * per_epoch for n in (cfg.SOLVER.EPOCHS, cfg.SOLVER.WARMUP_EPOCHS))
    cfg = changed(cfg, "SOLVER.MAX_ITER", total, "SOLVER.WARMUP_ITERS", warmup)
    logger.info(
        "%d epochs of %d pairs in batches of %d are %d iterations, of which %d warm up",
        cfg.SOLVER.EPOCHS,
        num_pairs,
        cfg.SOLVER.IMS_PER_BATCH,
        cfg.SOLVER.MAX_ITER,
        cfg.SOLVER.WARMUP_ITERS,
    )
    return cfg


def changed(cfg: CfgNode, *overrides: object) -> CfgNode:
    """A frozen copy with other values: alternating keys and values."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(list(overrides))
    cfg.freeze()
    return cfg


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
            logger.info("SEED is below 0: drew %d", cfg.SEED)
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        model = parallelise(model, has_sync_norm=cfg.MODEL.SYNC_BATCH_NORM)
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
        self.average = WeightAverage(bare(self.model), decay) if decay else None
        self.best = build_best_checkpoint(self.cfg)
        # What a stop saves includes the schedule's step; a long evaluation need not come first.
        first = [self.randomness, timer, scheduler, AverageRunningStatistics()]
        return [*first, self.average, self.best, StopOnSignal(), *others]

    def _evaluate(self) -> OrderedDict[str, Any]:
        model = self.average.model if self.average else self.model
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
            logger.warning("%s has no checkpoint: --resume starts anew", self.cfg.OUTPUT_DIR)
        if not last and not self.cfg.MODEL.WEIGHTS:
            load_streams(self.cfg, self.checkpointer.model)
        super().resume_or_load(resume)
        if self.start_iter:
            self.cfg = changed(self.cfg, "SEED", self.randomness.seed)
            position = self.start_iter * self.cfg.SOLVER.IMS_PER_BATCH
            self._trainer.reset_data_loader(
                lambda: self.build_train_loader(self.cfg, start_position=position)
            )
            # The optimiser's are those that MAX_ITER gave before, which may have been another.
            groups = self._trainer.optimizer.param_groups
            for group, rate in zip(groups, self.scheduler.get_lr(), strict=True):
                group["lr"] = rate

    def train(self) -> OrderedDict[str, Any] | None:
        """Trains to the end; returns the results of the last evaluation on the main process."""
        with held(self.cfg.OUTPUT_DIR):
            super().train()
        return getattr(self, "_last_eval_results", None)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = build_model(cfg)
        parts = {
            name: sum(parameter.numel() for parameter in part.parameters()) / 1e6
            for name, part in model.named_children()
        }
        logger.info(
            "Model: %.2f M parameters (%s)",
            sum(parts.values()),
            ", ".join(f"{name} {count:.2f} M" for name, count in parts.items()),
        )
        compile_backbone(cfg, model)
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
        return PairSemSegEvaluator(cfg, dataset_name)


def evaluate(cfg: CfgNode) -> OrderedDict[str, Any]:
    """Evaluates MODEL.WEIGHTS, or the last checkpoint of OUTPUT_DIR, on DATASETS.TEST."""
    model = Trainer.build_model(cfg)
    path = load_weights(cfg, model)
    return Trainer.test(changed(cfg, "MODEL.WEIGHTS", path), model)  # the protocol states it


def load_streams(cfg: CfgNode, model: nn.Module) -> None:
    """Fills the streams from MODEL.PAIR.*.WEIGHTS, where they are named."""
    for node in ("VISIBLE", "AUXILIARY"):
        settings = cfg.MODEL.PAIR[node]
        if settings.NAME and settings.WEIGHTS:
            stream = model.backbone.get_submodule(node.lower())
            load_stream(stream, settings.WEIGHTS, name=f"{node.lower()} stream {settings.NAME}")


def find_weights(cfg: CfgNode) -> str:
    """Path of MODEL.WEIGHTS, else of OUTPUT_DIR's last checkpoint.

    A model without either is refused, since random numbers are no result.
    """
    path = cfg.MODEL.WEIGHTS
    if not path:
        path = build_checkpointer(cfg, nn.Identity()).get_checkpoint_file()
        if not path:
            raise ValueError(
                f"MODEL.WEIGHTS is empty and {cfg.OUTPUT_DIR} has no checkpoint, so there is no "
                "trained model. Set MODEL.WEIGHTS to a .pth file, or OUTPUT_DIR to a run's folder."
            )
        logger.info("MODEL.WEIGHTS is empty: using the last checkpoint %s", path)
    return path


def load_weights(cfg: CfgNode, model: nn.Module) -> str:
    """Fills the model from the file of `find_weights`; returns its path."""
    path = find_weights(cfg)
    checkpointer = build_checkpointer(cfg, model, inputs=build_model_inputs(cfg))
    checkpointer.load(path, checkpointables=["inputs"])
    return path
