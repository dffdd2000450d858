"""The trainer that a config describes: model, optimiser, loaders, schedule, checkpoints, hooks."""

import importlib.util
import logging
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from fvcore.nn.precise_bn import get_bn_modules
from iopath.common.file_io import g_pathmgr
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks as communication_hooks
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from smmcl.d2.builtin import comm, hooks
from smmcl.d2.builtin.amp import AMPTrainer
from smmcl.d2.builtin.checkpoint import DetectionCheckpointer
from smmcl.d2.builtin.config import CfgNode
from smmcl.d2.builtin.evaluation import (
    DatasetEvaluator,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from smmcl.d2.builtin.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
)
from smmcl.d2.builtin.loaders import build_detection_test_loader, build_detection_train_loader
from smmcl.d2.builtin.logger import setup_logger
from smmcl.d2.builtin.modeling import build_model
from smmcl.d2.builtin.solver import build_lr_scheduler, build_optimizer
from smmcl.d2.builtin.train_loop import HookBase, SimpleTrainer, TrainerBase

logger = logging.getLogger("detectron2.engine.defaults")


def create_ddp_model(
    model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any
) -> nn.Module:
    """Wraps a model in DistributedDataParallel where there are several processes.

    Args:
        model: the model, on its device.
        fp16_compression: whether gradients travel in half precision.
        kwargs: further arguments of DistributedDataParallel.
    """
    if comm.get_world_size() == 1:
        return model
    kwargs.setdefault("device_ids", [comm.get_local_rank()])
    ddp = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        ddp.register_comm_hook(state=None, hook=communication_hooks.fp16_compress_hook)
    return ddp


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Returns the writers of a run: terminal, metrics.json, and TensorBoard where it is installed.

    Args:
        output_dir: folder of the files.
        max_iter: the last iteration, for the time left.
    """
    g_pathmgr.mkdirs(output_dir)
    writers = [CommonMetricPrinter(max_iter), JSONWriter(f"{output_dir}/metrics.json")]
    if importlib.util.find_spec("tensorboard") is None:
        logger.info("tensorboard is not installed: no event files are written.")
        return writers
    return [*writers, TensorboardXWriter(output_dir)]


class DefaultTrainer(TrainerBase):
    """Builds everything from a config; each `build_*` is there to be replaced in a subclass."""

    def __init__(self, cfg: CfgNode) -> None:
        """Args:
        cfg: the config.
        """
        super().__init__()
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        # In this order: the optimiser holds the model's parameters before DDP wraps it.
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        model = create_ddp_model(model, broadcast_buffers=False)
        kind = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = kind(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = DetectionCheckpointer(
            model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @property
    def model(self) -> nn.Module:
        """The model, inside DDP where there are several processes."""
        return self._trainer.model

    @model.setter
    def model(self, value: nn.Module) -> None:
        self._trainer.model = value

    @property
    def data_loader(self) -> Iterable:
        """The training batches."""
        return self._trainer.data_loader

    @data_loader.setter
    def data_loader(self, value: Iterable) -> None:
        self._trainer.data_loader = value

    @property
    def optimizer(self) -> Optimizer:
        """The optimiser."""
        return self._trainer.optimizer

    @optimizer.setter
    def optimizer(self, value: Optimizer) -> None:
        self._trainer.optimizer = value

    def resume_or_load(self, resume: bool = True) -> None:
        """Continues from OUTPUT_DIR's last checkpoint, or loads `MODEL.WEIGHTS` and starts at 0.

        Args:
            resume: whether to look for a checkpoint in OUTPUT_DIR first.
        """
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1  # the checkpoint names the last iteration done

    def build_hooks(self) -> list[HookBase | None]:
        """Returns the hooks, in their order."""
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # for the second loader of PreciseBN
        is_main = comm.is_main_process()
        precise = cfg.TEST.PRECISE_BN
        precise_bn = None
        if precise.ENABLED and get_bn_modules(self.model):
            loader = self.build_train_loader(cfg)
            precise_bn = hooks.PreciseBN(
                cfg.TEST.EVAL_PERIOD, self.model, loader, precise.NUM_ITER
            )

        def test_and_save_results() -> dict[str, Any]:
            self._last_eval_results = self.test(self.cfg, self.model)
            return self._last_eval_results

        saving = hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD)
        # A checkpoint holds the precise statistics and is there even if the test fails; writers
        # come last and see the results of the test.
        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            precise_bn,
            *([saving] if is_main else []),
            hooks.EvalHook(cfg.TEST.EVAL_PERIOD, test_and_save_results),
            *([hooks.PeriodicWriter(self.build_writers(), period=20)] if is_main else []),
        ]

    def build_writers(self) -> list[EventWriter]:
        """Returns the writers."""
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self) -> dict[str, Any] | None:
        """Trains; returns the last results where `TEST.EXPECTED_RESULTS` has checked them."""
        super().train(self.start_iter, self.max_iter)
        if not len(self.cfg.TEST.EXPECTED_RESULTS) or not comm.is_main_process():
            return None
        assert hasattr(self, "_last_eval_results"), (
            "No evaluation results obtained during training!"
        )
        verify_results(self.cfg, self._last_eval_results)
        return self._last_eval_results

    def run_step(self) -> None:
        """Does one iteration."""
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict[str, Any]:
        """Returns the iteration, the hooks and the state of the inner trainer."""
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a saved state."""
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Builds the model and logs it."""
        model = build_model(cfg)
        logger.info(f"Model:\n{model}")
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Optimizer:
        """Builds the optimiser."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
        """Builds the schedule."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable:
        """Builds the training batches."""
        return build_detection_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable:
        """Builds the batches of one test set."""
        return build_detection_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Builds the evaluator of one test set; a subclass that tests has one."""
        raise NotImplementedError(f"{cls.__name__} has no build_evaluator() for {dataset_name}.")

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: DatasetEvaluator | list[DatasetEvaluator] | None = None,
    ) -> dict[str, Any]:
        """Tests a model on every dataset of `DATASETS.TEST`.

        Args:
            cfg: the config.
            model: the model.
            evaluators: one for each dataset; by default from `build_evaluator`.

        Returns:
            The results by dataset; where there is only one, its results.
        """
        names = cfg.DATASETS.TEST
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        if evaluators is not None:
            assert len(names) == len(evaluators), f"{len(names)} != {len(evaluators)}"
        results = OrderedDict()
        for index, name in enumerate(names):
            loader = cls.build_test_loader(cfg, name)
            try:
                evaluator = evaluators[index] if evaluators else cls.build_evaluator(cfg, name)
            except NotImplementedError:
                logger.warning(
                    "No evaluator found. Use `DefaultTrainer.test(evaluators=)`, or implement its "
                    "`build_evaluator` method."
                )
                results[name] = {}
                continue
            results[name] = inference_on_dataset(model, loader, evaluator)
            if comm.is_main_process():
                assert isinstance(results[name], dict), (
                    "Evaluator must return a dict on the main process. Got "
                    f"{results[name]} instead."
                )
                logger.info(f"Evaluation results for {name} in csv format:")
                print_csv_format(results[name])
        return next(iter(results.values())) if len(results) == 1 else results

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """Returns a config for another number of processes than `SOLVER.REFERENCE_WORLD_SIZE`.

        Batch and learning rate grow with the processes, iterations and periods shrink.

        Args:
            cfg: the config; returned as it is where the reference is 0 or fits.
            num_workers: the number of processes.
        """
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference in (0, num_workers):
            return cfg
        assert cfg.SOLVER.IMS_PER_BATCH % reference == 0, "Invalid REFERENCE_WORLD_SIZE in config!"
        is_frozen, cfg = cfg.is_frozen(), cfg.clone()
        cfg.defrost()
        solver, scale = cfg.SOLVER, num_workers / reference
        solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * scale)
        solver.BASE_LR = solver.BASE_LR * scale
        for name in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
            solver[name] = round(solver[name] / scale)
        solver.STEPS = tuple(round(step / scale) for step in solver.STEPS)
        cfg.TEST.EVAL_PERIOD = round(cfg.TEST.EVAL_PERIOD / scale)
        solver.REFERENCE_WORLD_SIZE = num_workers
        logger.info(
            f"Auto-scaling the config to batch_size={solver.IMS_PER_BATCH}, "
            f"learning_rate={solver.BASE_LR}, max_iter={solver.MAX_ITER}, "
            f"warmup={solver.WARMUP_ITERS}."
        )
        if is_frozen:
            cfg.freeze()
        return cfg
