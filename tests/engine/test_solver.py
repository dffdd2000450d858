"""The schedule by hand, and which parameters are decayed or left alone."""

import numpy as np
import pytest
import torch
from torch import nn

from smmcl.config import build_config
from smmcl.engine.solver import build_lr_scheduler, build_optimizer, warmup_poly


def schedule(iteration: int, *, factor: float = 0.0) -> float:
    poly = warmup_poly(max_iter=20, warmup_iters=4, warmup_factor=factor, power=0.9)
    return poly(iteration / 20)


def test_warmup_rises_linearly_then_decay_counts_from_the_start() -> None:
    # i / 4 during the warm-up of 4, then (1 - i / 20) ** 0.9
    expected = [0.0, 0.25, 0.5, 0.75, 0.8**0.9, 0.75**0.9]
    assert [schedule(i) for i in range(6)] == pytest.approx(expected, abs=1e-12)
    assert schedule(19) == pytest.approx(0.05**0.9)
    assert schedule(0, factor=0.1) == pytest.approx(0.1)


def test_schedule_equals_the_reference(golden) -> None:
    numbers = np.load(golden / "lr_schedule.npz")
    poly = warmup_poly(max_iter=89_000, warmup_iters=890, warmup_factor=0.0, power=0.9)
    for iteration, expected in zip(numbers["iters"], numbers["get_lr"], strict=True):
        if iteration < 89_000:
            assert 6e-5 * poly(iteration / 89_000) == pytest.approx(float(expected), rel=1e-9)


def test_warmup_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match=r"WARMUP_ITERS is 30.*LazyConfig, warmup_iters"):
        warmup_poly(max_iter=20, warmup_iters=30, warmup_factor=0.0, power=0.9)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.layer_scale_1 = nn.Parameter(torch.ones(4))


def decay_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> float | None:
    for group in optimizer.param_groups:
        if any(parameter is other for other in group["params"]):
            return group["weight_decay"]
    return None


def test_decay_only_on_weights() -> None:
    model = Toy()
    optimizer = build_optimizer(build_config("Base-SMMCL.yaml"), model)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert decay_of(optimizer, model.conv.weight) == 0.01
    undecayed = (model.conv.bias, model.norm.weight, model.norm.bias, model.layer_scale_1)
    assert [decay_of(optimizer, parameter) for parameter in undecayed] == [0.0] * 4


def test_the_streams_have_a_rate_of_their_own() -> None:
    model = nn.ModuleDict(
        {"backbone": nn.ModuleDict({"visible": Toy(), "auxiliary": Toy(), "exchanges": Toy()})}
    )
    for factor in (0.1, 1.0):
        overrides = ["SOLVER.STREAMS_LR_FACTOR", str(factor), "SOLVER.BASE_LR", "2.0"]
        optimizer = build_optimizer(build_config("", overrides), model)
        for name, part in model["backbone"].items():
            for parameter in part.parameters():
                (rate,) = [
                    group["lr"]
                    for group in optimizer.param_groups
                    if any(parameter is other for other in group["params"])
                ]
                assert rate == pytest.approx(2 if name == "exchanges" else 2 * factor)
    # A model that wraps this one has the same streams.
    cfg = build_config("", ["SOLVER.STREAMS_LR_FACTOR", "0.5"])
    rates = (
        sorted(group["lr"] for group in build_optimizer(cfg, one).param_groups)
        for one in (model, nn.ModuleDict({"model": model}))
    )
    assert next(rates) == next(rates)
    groups = build_optimizer(build_config(), model).param_groups
    assert len(groups) == 2  # as before there was the key: decayed and not


def test_layer_scale_can_stay_frozen() -> None:
    model = Toy()
    optimizer = build_optimizer(
        build_config("Base-SMMCL.yaml", ["SOLVER.FREEZE_LAYER_SCALE", "True"]), model
    )
    assert decay_of(optimizer, model.layer_scale_1) is None
    assert not model.layer_scale_1.requires_grad


def test_first_step_has_the_first_rate() -> None:
    """No off-by-one: the rate of iteration i is schedule(i), from the first step on."""
    overrides = ["SOLVER.MAX_ITER", "20", "SOLVER.WARMUP_ITERS", "4", "SOLVER.BASE_LR", "1.0"]
    cfg = build_config("Base-SMMCL.yaml", overrides)
    optimizer = build_optimizer(cfg, Toy())
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([schedule(i) for i in range(6)])


def test_the_schedule_is_the_one_that_its_key_names() -> None:
    keys = ["SOLVER.MAX_ITER", "20", "SOLVER.WARMUP_ITERS", "4", "SOLVER.WARMUP_FACTOR", "0"]
    rates = {}
    for name in ("WarmupPolyLR", "WarmupCosineLR"):
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        cfg = build_config("Base-SMMCL.yaml", [*keys, "SOLVER.LR_SCHEDULER_NAME", name])
        scheduler = build_lr_scheduler(cfg, optimizer)
        for _ in range(10):
            scheduler.step()
        rates[name] = optimizer.param_groups[0]["lr"]
    # Half of the run is over: 0.5 ** 0.9, and (1 + cos(pi / 2)) / 2.
    assert rates == pytest.approx({"WarmupPolyLR": 0.5**0.9, "WarmupCosineLR": 0.5})
