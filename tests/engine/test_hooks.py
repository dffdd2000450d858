"""The average by hand, and which checkpoint is the best, and on what it may be chosen."""

import pathlib
import signal
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from smmcl.config import build_config
from smmcl.d2 import CfgNode, MetadataCatalog
from smmcl.engine.checkpoint import RunCheckpointer
from smmcl.engine.hooks import (
    AverageRunningStatistics,
    BestCheckpoint,
    WeightAverage,
    build_best_checkpoint,
)
from smmcl.engine.stop import StopTogether


class Model(nn.Module):
    """One weight, one count."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))
        self.register_buffer("count", torch.tensor(0))


def step(hook: WeightAverage, iteration: int, weight: float) -> float:
    """Trains the hook's model to a weight, and returns the average after that."""
    hook.trainer = SimpleNamespace(iter=iteration)
    hook.source.weight.data.fill_(weight)
    hook.source.count += 1
    hook.after_step()
    return hook.model.weight.item()


def test_average_by_hand() -> None:
    hook = WeightAverage(Model(0.0), 0.25)
    hook.source.weight.data.fill_(4.0)  # as a checkpoint that is loaded after the hook was built
    hook.before_train()
    # d = 1/10, 2/11, then 3/12 = 0.25 = the decay.
    assert step(hook, 0, 14.0) == pytest.approx(0.1 * 4 + 0.9 * 14)
    assert step(hook, 1, 2.0) == pytest.approx(13 * 2 / 11 + 2 * 9 / 11)
    assert step(hook, 50, 0.0) == pytest.approx(4 * 0.25)
    assert hook.model.count == 3
    assert not hook.model.weight.requires_grad

    again = WeightAverage(Model(7.0), 0.25)
    again.load_state_dict(hook.state_dict())
    again.before_train()
    assert again.model.weight.item() == pytest.approx(1.0)


def test_a_decay_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="AVERAGE_DECAY is 1"):
        WeightAverage(Model(0.0), 1.0)


def test_evaluation_takes_the_average_and_training_does_not(tmp_path: pathlib.Path) -> None:
    hook = WeightAverage(Model(3.0), 0.5)
    hook.model.weight.fill_(5.0)
    state = {"trainer": {"hooks": {"WeightAverage": hook.state_dict()}}}
    RunCheckpointer(hook.source, str(tmp_path)).save("model_final", **state)
    path = str(tmp_path / "model_final.pth")
    evaluated, trained = Model(0.0), Model(0.0)
    RunCheckpointer(evaluated).load(path)
    RunCheckpointer(trained, trainer=nn.Identity()).load(path, checkpointables=[])
    assert (evaluated.weight.item(), trained.weight.item()) == (5.0, 3.0)


def _one_of_two(rank: int, port: int, folder: str) -> None:
    """Two processes whose norms have seen other images, the 2nd having started 8 higher."""
    url = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=url, rank=rank, world_size=2)
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(1, track_running_stats=False))
    model[0].running_mean += 8 * rank
    hook = AverageRunningStatistics()
    hook.trainer = SimpleNamespace(model=model)
    hook.before_train()
    hook.after_step()
    torch.save(model[0].state_dict(), f"{folder}/{rank}.pth")
    torch.distributed.barrier()


def test_running_statistics_are_the_mean_over_processes(tmp_path: pathlib.Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (port, str(tmp_path))
    torch.multiprocessing.start_processes(_one_of_two, arguments, 2, start_method="fork")
    for rank in range(2):
        state = torch.load(tmp_path / f"{rank}.pth")
        assert state["running_mean"].tolist() == [4.0, 4.0]
        assert state["running_var"].tolist() == [1.0, 1.0]


def best_hook(folder: pathlib.Path, *, start_iter: int = 0, metric: str = "a/b") -> BestCheckpoint:
    hook = BestCheckpoint(metric)
    hook.trainer = SimpleNamespace(
        iter=start_iter,
        start_iter=start_iter,
        max_iter=10,
        checkpointer=RunCheckpointer(Model(0.0), str(folder)),
    )
    hook.before_train()
    return hook


def test_the_best_is_kept_and_remembered_but_never_resumed_from(tmp_path: pathlib.Path) -> None:
    hook = best_hook(tmp_path)
    hook.trainer.checkpointer.save("model_0000003")
    for iteration, score in ((3, 50.0), (5, 60.0), (7, 55.0), (9, float("nan"))):
        hook.trainer.iter = iteration
        hook.update({"a": {"b": score}})
    stored = torch.load(tmp_path / "model_best.pth")
    assert (stored["iteration"], stored["score"]) == (5, 60.0)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"

    assert best_hook(tmp_path, start_iter=4).best == 60.0
    assert best_hook(tmp_path, start_iter=4, metric="a/c").best == -float("inf")
    assert best_hook(tmp_path).best == -float("inf")  # a new run in an old folder
    with pytest.raises(ValueError, match=r"BEST_METRIC is 'a/c'.*It gives a/b"):
        best_hook(tmp_path, metric="a/c").update({"a": {"b": 1.0}})


def choice(metric: str, *names: str, period: int = 5) -> CfgNode:
    keys = ["TEST.BEST_METRIC", metric, "TEST.EVAL_PERIOD", str(period)]
    return build_config(
        "Base-SMMCL.yaml", [*keys, "DATASETS.TEST", str(names), "DATASETS.TRAIN", "('s_train',)"]
    )


@pytest.mark.parametrize(
    ("metric", "names"),
    [
        ("sem_seg/mIoU", ("s_test",)),
        ("sem_seg/mIoU", ("s_test_night",)),
        ("sem_seg/mIoU", ("s_test@64x96",)),
        ("sem_seg/mIoU", ("declared",)),
        ("s_test/sem_seg/mIoU", ("s_val", "s_test")),
        ("sem_seg/mIoU", ("s_train",)),
    ],
)
def test_only_a_validation_set_chooses(metric: str, names: tuple[str, ...]) -> None:
    MetadataCatalog.get("declared").set(split="test_day")
    with pytest.raises(ValueError, match="report the last checkpoint"):
        build_best_checkpoint(choice(metric, *names))


def test_a_validation_set_may_choose() -> None:
    for cfg in (
        choice("sem_seg/mIoU", "testbed_val"),
        choice("s_val/sem_seg/mIoU", "s_test", "s_val"),
    ):
        assert build_best_checkpoint(cfg).metric == cfg.TEST.BEST_METRIC
    assert build_best_checkpoint(choice("", "s_test")) is None
    with pytest.raises(ValueError, match="EVAL_PERIOD is 0"):
        build_best_checkpoint(choice("sem_seg/mIoU", "s_val", period=0))


@pytest.fixture
def stop_hook(monkeypatch) -> Iterator[StopTogether]:
    """One that handles signals at the times in `hook.times`, and would end by `hook.ended`."""
    hook = StopTogether()
    hook.trainer = SimpleNamespace()
    hook.ended, hook.times = [], [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: hook.times[0])
    own = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield hook
    monkeypatch.undo()
    for number, handler in {**hook.before, **own}.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_comes_twice_at_once_is_one(stop_hook, monkeypatch, number: int) -> None:
    """As `timeout` sends it, to its child and to the group; a later one ends at once."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    stop_hook.before_train()
    send = signal.raise_signal
    send(number)
    monkeypatch.setattr(signal, "raise_signal", stop_hook.ended.append)
    for when, ended in ((0.049, []), (0.051, [number])):
        stop_hook.times[0] = when
        send(number)
        assert stop_hook.ended == ended
    assert stop_hook.received == number


def test_under_nohup_a_closed_terminal_stops_nothing(stop_hook) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop_hook.before_train()
    signal.raise_signal(signal.SIGHUP)
    assert not stop_hook.received
    signal.raise_signal(signal.SIGTERM)
    assert stop_hook.received == signal.SIGTERM
