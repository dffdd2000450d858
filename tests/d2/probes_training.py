"""Probes of a whole training: twenty iterations in float64, stopped, resumed, and failing."""

import json
import math
import pathlib
import weakref
from typing import Any

import torch
from fvcore.common.param_scheduler import MultiStepParamScheduler
from probes_data import Cycle
from probes_names import raised
from torch import Tensor, nn

import smmcl.d2 as d2


class TinyModel(nn.Module):
    """A few parameters of every kind, without random numbers, in float64."""

    def __init__(self, cfg: Any = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, dtype=torch.float64)
        self.norm = nn.GroupNorm(2, 4, dtype=torch.float64)
        self.head = nn.Conv2d(4, 2, 1, bias=False, dtype=torch.float64)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        for parameter in (*self.conv.parameters(), *self.head.parameters()):
            values = torch.arange(parameter.numel(), dtype=torch.float64).cos() / 4
            parameter.data = values.view_as(parameter)

    def forward(self, batch: list[dict[str, Any]]) -> Any:
        images = d2.ImageList.from_tensors([sample["image"] for sample in batch], 4).tensor
        scores = self.head(self.norm(self.conv(images)).tanh())  # (N, 2, H, W)
        if not self.training:
            return [{"sem_seg": d2.sem_seg_postprocess(s, (4, 5), 4, 5)} for s in scores]
        spread = scores.square().mean()
        return {"loss_fit": (scores[:, 0] - images[:, 1]).square().mean(), "loss_size": spread / 8}


def sample(index: int) -> dict[str, Any]:
    values = torch.arange(3 * 4 * 5, dtype=torch.float64).view(3, 4, 5)
    image = (values * (index + 1)).sin()
    return {"image_id": index, "height": 4, "width": 5, "image": image}


class MeanEvaluator(d2.DatasetEvaluator):
    def reset(self) -> None:
        self.means: list[float] = []

    def process(self, inputs: list, outputs: list) -> None:
        self.means += [float(output["sem_seg"].mean()) for output in outputs]

    def evaluate(self) -> dict[str, Any]:
        return {"sem_seg": {"mIoU": sum(self.means) / len(self.means), "IoU-a": len(self.means)}}


class TinyTrainer(d2.DefaultTrainer):
    """Builds its parts itself, as the trainer of this project does."""

    def __init__(self, cfg: Any) -> None:
        super(d2.DefaultTrainer, self).__init__()
        model, solver = TinyModel(), cfg.SOLVER
        decay = {"weight_decay": solver.WEIGHT_DECAY, "weight_decay_norm": 0.0}
        groups = d2.get_default_optimizer_params(model, base_lr=solver.BASE_LR, **decay)
        optimizer = torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=0.9)
        loading = {"total_batch_size": solver.IMS_PER_BATCH, "aspect_ratio_grouping": False}
        sampler = Cycle(len(SAMPLES))
        loader = d2.build_detection_train_loader(SAMPLES, mapper=dict, sampler=sampler, **loading)
        model = d2.create_ddp_model(model, broadcast_buffers=False)
        self._trainer = d2.SimpleTrainer(model, loader, optimizer)
        steps = MultiStepParamScheduler([0.25, 1, 0.1], milestones=[4, 12], num_updates=20)
        self.scheduler = d2.LRMultiplier(optimizer, steps, solver.MAX_ITER)
        trainer = weakref.proxy(self)
        self.checkpointer = d2.DetectionCheckpointer(model, cfg.OUTPUT_DIR, trainer=trainer)
        self.start_iter, self.max_iter, self.cfg = 0, solver.MAX_ITER, cfg
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_test_loader(cls, cfg: Any, dataset_name: str) -> Any:
        return d2.build_detection_test_loader(SAMPLES, mapper=dict)

    @classmethod
    def build_evaluator(cls, cfg: Any, dataset_name: str) -> Any:
        return MeanEvaluator()


SAMPLES = [sample(index) for index in range(5)]


class Recorder(d2.HookBase):
    """Notes the moments of a training, and the losses after each step."""

    def __init__(self) -> None:
        self.moments: list[str] = []
        self.losses: list[float] = []
        self.rates: list[float] = []

    def before_train(self) -> None:
        self.moments.append("before_train")

    def after_train(self) -> None:
        self.moments.append(f"after_train {self.trainer.iter}")

    def before_step(self) -> None:
        self.rates.append(self.trainer.optimizer.param_groups[0]["lr"])
        if self.trainer.iter < 2:
            self.moments.append(f"before_step {self.trainer.iter}")

    def after_backward(self) -> None:
        self.moments.append("after_backward")

    def after_step(self) -> None:
        self.losses.append(self.trainer.storage.history("total_loss").latest())
        if self.trainer.iter < 2:
            self.moments.append(f"after_step {self.trainer.iter}")

    def state_dict(self) -> dict[str, Any]:
        return {"seen": len(self.losses)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.resumed_at = state_dict["seen"]


def tiny_config(folder: pathlib.Path, **solver: Any) -> Any:
    cfg = d2.get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TEST = ("probe",)
    settings = {"IMS_PER_BATCH": 2, "MAX_ITER": 20, "BASE_LR": 0.5, "WEIGHT_DECAY": 0.01}
    for name, value in {**settings, "CHECKPOINT_PERIOD": 8, **solver}.items():
        cfg.SOLVER[name] = value
    cfg.TEST.EVAL_PERIOD = 6
    cfg.OUTPUT_DIR = str(folder)
    return cfg


def structure(value: Any) -> Any:
    """The keys of nested dicts, with tensors by their shape and other values by their type."""
    if isinstance(value, dict):
        return {str(key): structure(item) for key, item in value.items()}
    if isinstance(value, list):
        return [structure(item) for item in value]
    return list(value.shape) if isinstance(value, Tensor) else type(value).__name__


def observe_training(folder: pathlib.Path) -> dict[str, Any]:
    trainer, recorder = TinyTrainer(tiny_config(folder)), Recorder()
    trainer.register_hooks([recorder])
    trainer.resume_or_load(resume=False)
    returned = trainer.train()
    saved = torch.load(folder / "model_0000007.pth", weights_only=True)
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]

    again, second = TinyTrainer(tiny_config(folder, MAX_ITER=22)), Recorder()
    again.register_hooks([second])
    again.resume_or_load(resume=True)
    started = again.start_iter
    again.train()
    return {
        "losses": recorder.losses,
        "rates": recorder.rates,
        "moments": recorder.moments[:8] + recorder.moments[-1:],
        "hooks": [type(hook).__name__ for hook in trainer._hooks],
        "returned": returned,
        "results": trainer._last_eval_results,
        "files": sorted(p.name for p in folder.iterdir() if "tfevents" not in p.name),
        "last": (folder / "last_checkpoint").read_text(),
        "checkpoint": structure(saved),
        "iteration": [saved["iteration"], saved["trainer"]["iteration"]],
        "scheduler": saved["trainer"]["hooks"]["LRScheduler"],
        "metrics": [[line["iteration"], sorted(line)] for line in lines],
        "resumed": [started, second.resumed_at, second.losses, second.rates],
    }


class Failing(d2.HookBase):
    def before_step(self) -> None:
        if self.trainer.iter == 2:
            for parameter in self.trainer.model.parameters():
                parameter.data.fill_(math.nan)


def observe_failures(folder: pathlib.Path) -> dict[str, Any]:
    trainer, recorder = TinyTrainer(tiny_config(folder)), Recorder()
    trainer.register_hooks([Failing(), recorder])
    not_a_number = raised(trainer.train)
    idle = TinyTrainer(tiny_config(folder))
    idle.model.eval()
    return {
        "nan": not_a_number,
        "last moment": recorder.moments[-1],
        "eval mode": raised(idle.train),
        "not a hook": raised(idle.register_hooks, ["x"]),
    }
