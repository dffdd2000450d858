"""Optimizer and learning rate: parameter groups, gradient clipping, fvcore's schedules."""

from collections.abc import Callable
from typing import Any

from fvcore.common.param_scheduler import ParamScheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from smmcl.d2.builtin.config import CfgNode

_BATCH, _INSTANCE = nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm
_NORMS = (_BATCH, _INSTANCE, nn.GroupNorm, nn.LayerNorm)


class LRMultiplier(LRScheduler):
    """Multiplies every group's own learning rate by a schedule of the run's progress in 0..1."""

    def __init__(
        self, optimizer: Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1
    ) -> None:
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict[str, Any]:  # without the schedule: that comes from the config
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float]:
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [rate * factor for rate in self.base_lrs]


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """The trainable parameters in groups of equal settings, each parameter once.

    A setting that is None is left to the optimizer. `lr_factor_func` gets a parameter's full name,
    `overrides` go by the last part of it.
    """
    has_bias_factor = bias_lr_factor not in (None, 1.0)
    if base_lr is None and (has_bias_factor or lr_factor_func is not None):
        raise ValueError("bias_lr_factor and lr_factor_func require base_lr")
    bias_lr = base_lr * bias_lr_factor if has_bias_factor else None
    bias = _given(lr=bias_lr, weight_decay=weight_decay_bias)
    if bias and "bias" in (overrides or {}):
        raise ValueError("Conflicting overrides for 'bias'")
    overrides = {"bias": bias, **(overrides or {})}
    groups: dict[tuple, dict[nn.Parameter, None]] = {}
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or any(parameter in group for group in groups.values()):
                continue
            settings = _given(lr=base_lr, weight_decay=weight_decay)
            if isinstance(module, _NORMS):
                settings |= _given(weight_decay=weight_decay_norm)
            if lr_factor_func is not None:
                settings["lr"] *= lr_factor_func(f"{module_name}.{name}")
            settings |= overrides.get(name, {})
            groups.setdefault(tuple(settings.items()), {})[parameter] = None
    return [{**dict(settings), "params": list(group)} for settings, group in groups.items()]


def _given(**settings: float | None) -> dict[str, float]:
    return {name: value for name, value in settings.items() if value is not None}


def maybe_add_gradient_clipping(
    cfg: CfgNode, optimizer: type[Optimizer] | Optimizer
) -> type[Optimizer] | Optimizer:
    """Makes `step` clip the gradients first, where `SOLVER.CLIP_GRADIENTS.ENABLED` says so."""
    clip = cfg.SOLVER.CLIP_GRADIENTS.clone()
    if not clip.ENABLED:
        return optimizer
    if clip.CLIP_TYPE not in ("value", "norm"):
        raise ValueError(f"'{clip.CLIP_TYPE}' is not a valid GradientClipType")
    base = type(optimizer) if isinstance(optimizer, Optimizer) else optimizer
    assert issubclass(base, Optimizer), base

    def step(self: Optimizer, closure: Callable | None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:  # each by itself, as Detectron2 does
                if clip.CLIP_TYPE == "value":
                    nn.utils.clip_grad_value_(parameter, clip.CLIP_VALUE)
                else:
                    nn.utils.clip_grad_norm_(parameter, clip.CLIP_VALUE, clip.NORM_TYPE)
        base.step(self, closure)

    clipping = type(base.__name__ + "WithGradientClip", (base,), {"step": step})
    if base is optimizer:
        return clipping
    optimizer.__class__ = clipping
    return optimizer
