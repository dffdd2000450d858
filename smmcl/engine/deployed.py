"""Which part of a model is deployed, and what of the rest resuming needs."""

from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel


def bare(model: nn.Module) -> nn.Module:
    """The model without the wrapper for several processes."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def deployed(model: nn.Module) -> nn.Module:
    """The part of a model that checkpoints hold and inference needs; mostly, all of it.

    A model that wraps another for training names it by the attribute `deployed`. One whose
    checkpoints need another config than its training has it from `deployed_config(cfg)`.
    """
    return getattr(bare(model), "deployed", bare(model))


class TrainingOnly:
    """The state of a model outside of its part that is deployed: what resuming needs beside it."""

    def __init__(self, model: nn.Module, inner: nn.Module) -> None:
        name = next(name for name, module in model.named_modules() if module is inner)
        self.model, self.prefix = model, f"{name}."

    def state_dict(self) -> dict[str, Any]:
        state = self.model.state_dict()
        return {name: state[name] for name in state if not name.startswith(self.prefix)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        rest = {n: v for n, v in self.model.state_dict().items() if n.startswith(self.prefix)}
        self.model.load_state_dict({**rest, **state})
