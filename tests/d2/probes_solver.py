"""Probes of optimizer and rates: parameter groups, schedules, clipping of gradients."""

import itertools
import pathlib
from typing import Any

import torch
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler
from probes_names import raised
from probes_training import TinyModel, tiny_config
from torch import nn

import smmcl.d2 as d2


def observe_groups(folder: pathlib.Path) -> dict[str, Any]:
    model = TinyModel()
    names = {parameter: name for name, parameter in model.named_parameters()}

    def groups(**kwargs: Any) -> list[dict[str, Any]]:
        found = d2.get_default_optimizer_params(model, **kwargs)
        return [{**g, "params": [names[p] for p in g["params"]]} for g in found]

    decay = {"base_lr": 0.1, "weight_decay": 0.2, "weight_decay_norm": 0.0}
    by_head = {"lr_factor_func": lambda name: 10.0 if name.startswith("head") else 1.0}
    return {
        "none": groups(),
        "decay": groups(**decay),
        "bias": groups(**decay, bias_lr_factor=2.0, weight_decay_bias=0.3),
        "factor": groups(base_lr=0.1, **by_head),
        "overrides": groups(base_lr=0.1, overrides={"bias": {"lr": 0.5, "weight_decay": 0.0}}),
        "errors": {
            "no rate": raised(groups, bias_lr_factor=2.0),
            "no rate for the factor": raised(groups, **by_head),
            "twice": raised(groups, weight_decay_bias=0.1, overrides={"bias": {"lr": 1.0}}),
        },
    }


def observe_rates(folder: pathlib.Path) -> dict[str, Any]:
    schedules = {
        "steps": MultiStepParamScheduler([1, 0.1], milestones=[6], num_updates=10),
        "cosine": CosineParamScheduler(1.0, 0.0),
    }
    found: dict[str, Any] = {}
    for name, schedule in schedules.items():
        weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
        groups = [{"params": weights[:1], "lr": 0.3}, {"params": weights[1:], "lr": 0.03}]
        optimizer = torch.optim.SGD(groups)
        scheduler = d2.LRMultiplier(optimizer, schedule, 10)
        found[name] = []
        for _ in range(10):
            found[name].append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            scheduler.step()
        found["state"] = scheduler.state_dict()
    return found


def observe_clipping(folder: pathlib.Path) -> dict[str, Any]:
    found = {}
    for kind, limit in itertools.product(("value", "norm"), (0.5, 100.0)):
        cfg = tiny_config(folder)
        clip = cfg.SOLVER.CLIP_GRADIENTS
        clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE = True, kind, limit
        weights = [nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(2)]
        optimizer = d2.maybe_add_gradient_clipping(cfg, torch.optim.SGD(weights, lr=1.0))
        weights[0].grad, weights[1].grad = torch.ones(2).double() * 3, torch.ones(2).double()
        optimizer.step()
        found[f"{kind} {limit}"] = [type(optimizer).__name__, *(w.tolist() for w in weights)]
    made = d2.maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    off = d2.maybe_add_gradient_clipping(tiny_config(folder), torch.optim.AdamW)
    clip.CLIP_TYPE = "probe"
    return {
        **found,
        "class": [made.__name__, issubclass(made, torch.optim.AdamW)],
        "off": off is torch.optim.AdamW,
        "unknown": raised(d2.maybe_add_gradient_clipping, cfg, torch.optim.SGD(weights, lr=1.0)),
    }
