"""The optimizer and the schedule: AdamW groups, then warm-up and decay."""

import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
    PolynomialDecayParamScheduler,
)
from torch import nn

from smmcl.d2 import (
    CfgNode,
    LRMultiplier,
    get_default_optimizer_params,
    maybe_add_gradient_clipping,
)

STREAMS = (".backbone.visible.", ".backbone.auxiliary.")
LAYER_SCALE = ("layer_scale_1", "layer_scale_2")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW over the model's trainable parameters.

    Norms, biases and layer scales are not decayed: each is a single factor or offset per channel.
    """
    if cfg.SOLVER.FREEZE_LAYER_SCALE:
        for name, parameter in model.named_parameters():
            if name.endswith(LAYER_SCALE):
                parameter.requires_grad_(False)
    groups = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        lr_factor_func=lambda name: (
            cfg.SOLVER.STREAMS_LR_FACTOR if any(part in f".{name}" for part in STREAMS) else 1.0
        ),
        overrides={name: {"weight_decay": 0.0} for name in LAYER_SCALE},
    )
    # One pass over the weights in place of ten; on GPUs torch's default does as well.
    is_fused = all(parameter.device.type == "cpu" for parameter in model.parameters())
    optimizer = torch.optim.AdamW(
        groups, lr=cfg.SOLVER.BASE_LR, betas=tuple(cfg.SOLVER.BETAS), fused=is_fused or None
    )
    return maybe_add_gradient_clipping(cfg, optimizer)


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRMultiplier:
    """The schedule that SOLVER.LR_SCHEDULER_NAME names, over SOLVER.MAX_ITER iterations."""
    warmup = {
        "max_iter": cfg.SOLVER.MAX_ITER,
        "warmup_iters": cfg.SOLVER.WARMUP_ITERS,
        "warmup_factor": cfg.SOLVER.WARMUP_FACTOR,
    }
    name = cfg.SOLVER.LR_SCHEDULER_NAME
    if name == "WarmupPolyLR":
        schedule = warmup_poly(**warmup, power=cfg.SOLVER.POLY_POWER)
    elif name == "WarmupCosineLR":
        schedule = warm_up(CosineParamScheduler(1.0, 0.0), **warmup)
    else:
        raise ValueError(
            f"SOLVER.LR_SCHEDULER_NAME is {name!r}. Set it to 'WarmupPolyLR' or 'WarmupCosineLR'."
        )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=cfg.SOLVER.MAX_ITER)


def warmup_poly(
    *, max_iter: int, warmup_iters: int, warmup_factor: float, power: float
) -> ParamScheduler:
    """Linear from `warmup_factor` to 1 over the warm-up, then (1 - i / max_iter) ** power."""
    decay = PolynomialDecayParamScheduler(base_value=1.0, power=power)
    return warm_up(decay, max_iter=max_iter, warmup_iters=warmup_iters, warmup_factor=warmup_factor)


def warm_up(
    decay: ParamScheduler, *, max_iter: int, warmup_iters: int, warmup_factor: float
) -> ParamScheduler:
    """Linear from `warmup_factor` to 1 over the warm-up, then `decay`.

    The decay counts from iteration 0, as the paper's does, so at the end of the warm-up it takes
    over a little below 1. Returns a function of progress i / max_iter in [0, 1).
    """
    if warmup_iters == 0:
        return decay
    if not 0 < warmup_iters < max_iter:
        raise ValueError(
            f"SOLVER.WARMUP_ITERS is {warmup_iters} but SOLVER.MAX_ITER is {max_iter} (in a "
            "LazyConfig, warmup_iters and max_iter of lr_multiplier). Set the warm-up to fewer "
            "iterations than the run has, or to 0 for none."
        )
    share = warmup_iters / max_iter
    return CompositeParamScheduler(
        schedulers=[LinearParamScheduler(warmup_factor, 1.0), decay],
        lengths=[share, 1.0 - share],
        interval_scaling=["rescaled", "fixed"],
    )
