"""The trainer behind a project's own: checkpoints, hooks, writers, resuming, testing."""

import importlib.util
import logging
from collections import OrderedDict
from typing import Any

from fvcore.common.checkpoint import Checkpointer
from iopath.common.file_io import g_pathmgr
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks as communication_hooks
from torch.nn.parallel import DistributedDataParallel

from smmcl.d2.builtin import comm, evaluation, events, hooks
from smmcl.d2.builtin.config import CfgNode
from smmcl.d2.builtin.evaluation import DatasetEvaluator
from smmcl.d2.builtin.train_loop import HookBase, TrainerBase

logger = logging.getLogger("detectron2.engine.defaults")


class DetectionCheckpointer(Checkpointer):
    """Saves and loads a model and whatever else has a state; what does not fit is only logged.

    Reads files of its own kind. The formats of the model zoo are left to Detectron2.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        is_writer = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=is_writer, **checkpointables)


def create_ddp_model(model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any) -> Any:
    """Wraps a model in DistributedDataParallel where there are several processes."""
    if comm.get_world_size() == 1:
        return model
    kwargs.setdefault("device_ids", [comm.get_local_rank()])
    ddp = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        ddp.register_comm_hook(state=None, hook=communication_hooks.fp16_compress_hook)
    return ddp


def default_writers(output_dir: str, max_iter: int | None = None) -> list[events.EventWriter]:
    """The writers of a run: log, metrics.json, and TensorBoard where it is installed."""
    g_pathmgr.mkdirs(output_dir)
    metrics = events.JSONWriter(f"{output_dir}/metrics.json")
    has_tensorboard = importlib.util.find_spec("tensorboard") is not None
    boards = [events.TensorboardXWriter(output_dir)] if has_tensorboard else []
    return [events.CommonMetricPrinter(max_iter), metrics, *boards]


def _of_inner_trainer(name: str) -> property:
    return property(
        lambda self: getattr(self._trainer, name),
        lambda self, value: setattr(self._trainer, name, value),
    )


class DefaultTrainer(TrainerBase):
    """What every training shares: resuming, hooks, writers, the loop, and the test.

    A subclass builds the rest in its own `__init__`, as `_trainer`, `scheduler`, `checkpointer`,
    `start_iter`, `max_iter` and `cfg`, then registers `build_hooks()`. For the test it has
    `build_test_loader(cfg, dataset_name)` and `build_evaluator(cfg, dataset_name)`.
    """

    model = _of_inner_trainer("model")
    data_loader = _of_inner_trainer("data_loader")
    optimizer = _of_inner_trainer("optimizer")

    def __init__(self, cfg: CfgNode) -> None:
        raise NotImplementedError(
            "The embedded engine's DefaultTrainer builds no model, optimizer or loaders by itself. "
            "Subclass smmcl's Trainer instead, or run with Detectron2 (SMMCL_ENGINE=detectron2)."
        )

    def resume_or_load(self, resume: bool = True) -> None:
        """Goes on from OUTPUT_DIR's last checkpoint, or loads `MODEL.WEIGHTS` and starts at 0."""
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1  # the checkpoint names the last iteration done

    def build_hooks(self) -> list[HookBase | None]:
        """The hooks in their order: a checkpoint before the test that may fail, writers last."""

        def test_and_save_results() -> dict[str, Any]:
            self._last_eval_results = self.test(self.cfg, self.model)
            return self._last_eval_results

        before = [hooks.IterationTimer(), hooks.LRScheduler()]
        testing = hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, test_and_save_results)
        if not comm.is_main_process():
            return [*before, testing]
        period = self.cfg.SOLVER.CHECKPOINT_PERIOD
        saving = hooks.PeriodicCheckpointer(self.checkpointer, period)
        return [*before, saving, testing, hooks.PeriodicWriter(self.build_writers(), period=20)]

    def build_writers(self) -> list[events.EventWriter]:
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self) -> dict[str, Any] | None:
        """Trains; returns the last results where `TEST.EXPECTED_RESULTS` has checked them."""
        super().train(self.start_iter, self.max_iter)
        if not len(self.cfg.TEST.EXPECTED_RESULTS) or not comm.is_main_process():
            return None
        assert hasattr(self, "_last_eval_results"), "No evaluation results obtained in training!"
        evaluation.verify_results(self.cfg, self._last_eval_results)
        return self._last_eval_results

    def run_step(self) -> None:
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        """Tests a model on each of `DATASETS.TEST`; the results are by dataset unless it is one."""
        names = cfg.DATASETS.TEST
        evaluators = [evaluators] if isinstance(evaluators, DatasetEvaluator) else evaluators
        assert evaluators is None or len(names) == len(evaluators), f"{names} != {evaluators}"
        results = OrderedDict()
        for index, name in enumerate(names):
            loader = cls.build_test_loader(cfg, name)
            evaluator = evaluators[index] if evaluators else cls.build_evaluator(cfg, name)
            results[name] = got = evaluation.inference_on_dataset(model, loader, evaluator)
            if comm.is_main_process():
                logger.info(f"Evaluation results for {name} in csv format:")
                evaluation.print_csv_format(got)
        return next(iter(results.values())) if len(results) == 1 else results
