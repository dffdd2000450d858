"""What is done around steps: randomness, statistics, averages, the best checkpoint so far."""

import logging
import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from smmcl.d2 import CfgNode, HookBase, MetadataCatalog, comm
from smmcl.files.archive import is_sound
from smmcl.weights.files import read_file

logger = logging.getLogger(__name__)


class ReseedEveryStep(HookBase):
    """Makes dropout, drop path and random bases a function of seed, iteration and process.

    So a run that was stopped goes on as if it had not been, without any stored random state.
    """

    def __init__(self, seed: int, *, is_drawn: bool = False) -> None:
        """
        Args:
            seed: of the run.
            is_drawn: the config left it open; a run that is resumed keeps the one it began with.
        """
        self.seed = seed
        self.is_drawn = is_drawn

    def before_step(self) -> None:
        place = (self.trainer.iter * comm.get_world_size() + comm.get_rank()) * 1_000_003
        torch.manual_seed(self.seed + place)

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        if self.is_drawn:
            self.seed = state_dict["seed"]
            logger.info(f"Going on with the seed that the run has drawn, {self.seed}")


class AverageRunningStatistics(HookBase):
    """Keeps batch norm's running statistics equal on all processes, which DDP does not.

    Evaluation and checkpoints are then of all processes' images. At every step, since a run that
    was stopped in between must go on to the same numbers as one that was not.
    """

    def before_train(self) -> None:
        self.buffers = [
            buffer
            for module in self.trainer.model.modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
            for buffer in (module.running_mean, module.running_var)
        ]

    def after_step(self) -> None:
        if comm.get_world_size() == 1 or not self.buffers:
            return
        flat = torch.cat(self.buffers)
        torch.distributed.all_reduce(flat)
        parts = (flat / comm.get_world_size()).split([len(buffer) for buffer in self.buffers])
        for buffer, mean in zip(self.buffers, parts, strict=True):
            buffer.copy_(mean)


class WeightAverage(HookBase):
    """Keeps the exponential moving average of the weights and of batch norm's statistics.

    Evaluation uses it, in the run and of its checkpoints later. Step i keeps a share d of the
    average, where d = min(decay, (i + 1) / (i + 10)): a short run shall forget its random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """
        Args:
            model: not wrapped, so that its names are those of a checkpoint.
            decay: d in the long run, below 1.
        """
        if not 0 < decay < 1:
            raise ValueError(f"SOLVER.AVERAGE_DECAY is {decay}. Set it below 1, or to 0 for none.")
        self.source = model
        self.decay = decay
        average = AveragedModel(model, multi_avg_fn=self._mix, use_buffers=True)
        self.average = average.requires_grad_(False)
        self.average.n_averaged += 1  # the average of none would become the first weights
        self.model: nn.Module = self.average.module
        self.is_resumed = False

    def before_train(self) -> None:
        if not self.is_resumed:  # the weights were loaded after this was built
            self.model.load_state_dict(self.source.state_dict())

    def after_step(self) -> None:
        self.average.update_parameters(self.source)

    def _mix(self, means: list[Tensor], values: list[Tensor], num_averaged: Tensor | int) -> None:
        iteration = self.trainer.iter
        decay = min(self.decay, (iteration + 1) / (iteration + 10))
        if means[0].is_floating_point():
            torch._foreach_lerp_(means, values, 1 - decay)
        else:
            torch._foreach_copy_(means, values)  # counts

    def state_dict(self) -> dict[str, Any]:
        return self.model.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.model.load_state_dict(state_dict)
        self.is_resumed = True


class BestCheckpoint(HookBase):
    """Keeps the checkpoint of the highest score so far as model_best.pth.

    That file is the memory of a resumed run, too: other checkpoints are written before the
    evaluation of their iteration.
    """

    def __init__(self, metric: str) -> None:
        """
        Args:
            metric: "task/name", or "dataset/task/name" where several datasets are evaluated.
        """
        self.metric = metric
        self.best = -math.inf

    def before_train(self) -> None:
        path = pathlib.Path(self.trainer.checkpointer.save_dir) / "model_best.pth"
        if self.trainer.start_iter and is_sound(path):
            stored = read_file(str(path), is_mapped=True)
            if stored["metric"] == self.metric:
                self.best = stored["score"]

    def update(self, results: Mapping[str, Any]) -> None:
        """Looks at the results of an evaluation, on the main process."""
        scores = dict(_flat(results))
        if self.metric not in scores:
            raise ValueError(
                f"TEST.BEST_METRIC is {self.metric!r}, which the evaluation does not give. "
                f"It gives {', '.join(list(scores)[:6])}, and so on."
            )
        score = float(scores[self.metric])
        if not score > self.best:
            return
        self.best = score
        iteration = min(self.trainer.iter, self.trainer.max_iter - 1)
        logger.info(f"Best {self.metric} so far: {score:.4f} after iteration {iteration}")
        self.trainer.checkpointer.save(
            "model_best", iteration=iteration, metric=self.metric, score=score
        )


def build_best_checkpoint(cfg: CfgNode) -> BestCheckpoint | None:
    """Builds the hook of TEST.BEST_METRIC; what was chosen on a test set is no test result."""
    metric = cfg.TEST.BEST_METRIC
    if not metric:
        return None
    if not cfg.TEST.EVAL_PERIOD:
        raise ValueError("TEST.BEST_METRIC is set but TEST.EVAL_PERIOD is 0: nothing to choose.")
    names = [name for name in cfg.DATASETS.TEST if metric.startswith(f"{name}/")]
    name = [*names, *cfg.DATASETS.TEST][0]
    split = MetadataCatalog.get(name).get("split", name)
    if name in cfg.DATASETS.TRAIN or re.search(r"(^|_)test(_|@|$)", split):
        raise ValueError(
            f"TEST.BEST_METRIC would choose a checkpoint on {name}, which is "
            f"{'trained on' if name in cfg.DATASETS.TRAIN else 'a test set'}. Name a validation "
            "set in DATASETS.TEST, or leave TEST.BEST_METRIC empty and report the last checkpoint."
        )
    return BestCheckpoint(metric)


def _flat(results: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in results.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", score) for inner, score in _flat(value))
        else:
            yield name, value
