"""A short training in a test: done to its end, with something done on its way, and its weights."""

import pathlib
from collections.abc import Callable

import torch
from torch import Tensor

from smmcl.d2 import CfgNode, HookBase
from smmcl.engine.trainer import Trainer


class At(HookBase):
    """Does something before an iteration."""

    def __init__(self, iteration: int, action: Callable[[], object]) -> None:
        self.iteration, self.action = iteration, action

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            self.action()


def train(cfg: CfgNode, *hooks: HookBase) -> None:
    """Trains, on from the last checkpoint."""
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.register_hooks([*hooks])
    trainer.train()


def weights(folder: pathlib.Path) -> dict[str, Tensor]:
    """What a training ended with."""
    return torch.load(folder / "model_final.pth")["model"]


def are_equal(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether two trainings ended with the same weights, bit for bit."""
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
