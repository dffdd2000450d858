"""Optimiser and learning rate: parameter groups, gradient clipping, schedules over fvcore's."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    StepWithFixedGammaParamScheduler,
)
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from smmcl.d2.builtin.config import CfgNode

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


class WarmupParamScheduler(CompositeParamScheduler):
    """Puts a warm-up before another schedule."""

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ) -> None:
        """Args:
        scheduler: what follows the warm-up.
        warmup_factor: start of the warm-up, as a share of the schedule's start.
        warmup_length: length of the warm-up, as a share of the run.
        warmup_method: "linear" or "constant".
        rescale_interval: whether the schedule is squeezed into the rest of the run, instead of
            being met where it stands after the warm-up.
        """
        start = warmup_factor * scheduler(0.0)
        end = scheduler(0.0 if rescale_interval else warmup_length)
        if warmup_method == "constant":
            warmup = ConstantParamScheduler(start)
        elif warmup_method == "linear":
            warmup = LinearParamScheduler(start, end)
        else:
            raise ValueError(f"Unknown warmup method: {warmup_method}")
        super().__init__(
            [warmup, scheduler],
            interval_scaling=["rescaled", "rescaled" if rescale_interval else "fixed"],
            lengths=[warmup_length, 1 - warmup_length],
        )


class LRMultiplier(LRScheduler):
    """Multiplies every group's own learning rate by a schedule of the run's progress."""

    def __init__(
        self, optimizer: Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1
    ) -> None:
        """Args:
        optimizer: its groups' rates are multiplied.
        multiplier: from progress in 0..1 to a factor.
        max_iter: iterations of the run.
        last_iter: the last iteration done; -1 for none.
        """
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"multiplier must be a fvcore ParamScheduler. Got {multiplier}.")
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps; the schedule itself comes from the config."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float]:
        """Returns the rate of each group at the current iteration."""
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
    """Returns the trainable parameters in groups of equal settings, each parameter once.

    Args:
        model: the model.
        base_lr: learning rate of each group; None leaves it to the optimiser.
        weight_decay: weight decay of each group; None leaves it to the optimiser.
        weight_decay_norm: weight decay of the parameters of normalisation layers.
        bias_lr_factor: factor on the rate of parameters named "bias"; needs `base_lr`.
        weight_decay_bias: weight decay of parameters named "bias".
        lr_factor_func: from a parameter's full name to a factor on its rate; needs `base_lr`.
        overrides: settings by the last part of a parameter's name.
    """
    overrides = dict(overrides or {})
    bias: dict[str, float] = {}
    if bias_lr_factor not in (None, 1.0):
        if base_lr is None:
            raise ValueError("bias_lr_factor requires base_lr")
        bias["lr"] = base_lr * bias_lr_factor
    if weight_decay_bias is not None:
        bias["weight_decay"] = weight_decay_bias
    if bias and "bias" in overrides:
        raise ValueError("Conflicting overrides for 'bias'")
    if bias:
        overrides["bias"] = bias
    if lr_factor_func is not None and base_lr is None:
        raise ValueError("lr_factor_func requires base_lr")
    given = {"lr": base_lr, "weight_decay": weight_decay}
    defaults = {name: value for name, value in given.items() if value is not None}
    groups: dict[tuple, list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            settings = dict(defaults)
            if isinstance(module, _NORMS) and weight_decay_norm is not None:
                settings["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                settings["lr"] *= lr_factor_func(f"{module_name}.{name}")
            settings.update(overrides.get(name, {}))
            groups.setdefault(tuple(settings.items()), []).append(parameter)
    return [{**dict(settings), "params": params} for settings, params in groups.items()]


def maybe_add_gradient_clipping(
    cfg: CfgNode, optimizer: type[Optimizer] | Optimizer
) -> type[Optimizer] | Optimizer:
    """Makes `step` clip the gradients first, where `SOLVER.CLIP_GRADIENTS.ENABLED` says so.

    Args:
        cfg: the config.
        optimizer: an optimiser or a class of them; the same kind is returned.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS.clone()
    if not clip.ENABLED:
        return optimizer
    is_instance = isinstance(optimizer, Optimizer)
    base = type(optimizer) if is_instance else optimizer
    assert issubclass(base, Optimizer), base
    clippers = {
        "value": lambda p: nn.utils.clip_grad_value_(p, clip.CLIP_VALUE),
        "norm": lambda p: nn.utils.clip_grad_norm_(p, clip.CLIP_VALUE, clip.NORM_TYPE),
    }
    if clip.CLIP_TYPE not in clippers:
        raise ValueError(f"'{clip.CLIP_TYPE}' is not a valid GradientClipType")
    clipping = _with_clipping(base, clippers[clip.CLIP_TYPE])
    if not is_instance:
        return clipping
    optimizer.__class__ = clipping
    return optimizer


def _with_clipping(base: type[Optimizer], clipper: Callable[[Any], Any]) -> type[Optimizer]:
    def step(self: Optimizer, closure: Callable | None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                clipper(parameter)  # each parameter by itself, as Detectron2 does
        base.step(self, closure)

    return type(base.__name__ + "WithGradientClip", (base,), {"step": step})


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """Builds stochastic gradient descent from the SOLVER keys."""
    params = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
    optimizer = torch.optim.SGD(
        params,
        lr=cfg.SOLVER.BASE_LR,
        momentum=cfg.SOLVER.MOMENTUM,
        nesterov=cfg.SOLVER.NESTEROV,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        foreach=True,
    )
    return maybe_add_gradient_clipping(cfg, optimizer)


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
    """Builds the schedule of `SOLVER.LR_SCHEDULER_NAME`, after a warm-up."""
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        schedule = _multi_step(solver.STEPS, gamma=solver.GAMMA, max_iter=solver.MAX_ITER)
    elif solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        end = solver.BASE_LR_END / solver.BASE_LR
        assert 0.0 <= end <= 1.0, end
        schedule = CosineParamScheduler(1, end)
    elif solver.LR_SCHEDULER_NAME == "WarmupStepWithFixedGammaLR":
        schedule = StepWithFixedGammaParamScheduler(
            base_value=1.0,
            num_decays=solver.NUM_DECAYS,
            gamma=solver.GAMMA,
            num_updates=solver.MAX_ITER,
        )
    else:
        raise ValueError(f"Unknown LR scheduler: {solver.LR_SCHEDULER_NAME}")
    warmed_up = WarmupParamScheduler(
        schedule,
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
        solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=warmed_up, max_iter=solver.MAX_ITER)


def _multi_step(steps: Iterable[int], *, gamma: float, max_iter: int) -> MultiStepParamScheduler:
    reached = [step for step in steps if step <= max_iter]
    if len(reached) != len(tuple(steps)):
        logging.getLogger("detectron2.solver.build").warning(
            "SOLVER.STEPS contains values larger than SOLVER.MAX_ITER. "
            "These values will be ignored."
        )
    return MultiStepParamScheduler(
        values=[gamma**k for k in range(len(reached) + 1)],
        milestones=reached,
        num_updates=max_iter,
    )
