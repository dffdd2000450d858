"""Scalars of a run: a storage that the training loop fills, and writers that read it."""

import datetime
import json
import logging
import os
import time
from collections import defaultdict
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer
from iopath.common.file_io import g_pathmgr

_STORAGES: list["EventStorage"] = []


def get_event_storage() -> "EventStorage":
    """The storage of the innermost `with EventStorage(...)`."""
    assert _STORAGES, "get_event_storage() wants to be called inside a 'with EventStorage(...)'!"
    return _STORAGES[-1]


def has_event_storage() -> bool:
    """Whether a storage is open; there is none in evaluation alone."""
    return bool(_STORAGES)


class EventStorage:
    """Keeps the history of named scalars, each value with the iteration it was put at.

    A scalar with `smoothing_hint` is shown as the median of its last values.
    """

    def __init__(self, start_iter: int = 0) -> None:
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest_scalars: dict[str, tuple[float, int]] = {}
        self.iter = start_iter  # the trainer keeps it equal to its own

    def step(self) -> None:
        """Goes to the next iteration."""
        self.iter += 1

    def put_scalar(
        self, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None
    ) -> None:
        latest = (float(value), self.iter if cur_iter is None else cur_iter)
        self._history[name].update(*latest)
        self._latest_scalars[name] = latest
        is_same = self._smoothing_hints.setdefault(name, smoothing_hint) == smoothing_hint
        assert is_same, f"Scalar {name} was put with a different smoothing_hint!"

    def put_scalars(
        self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: Any
    ) -> None:
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def history(self, name: str) -> HistoryBuffer:
        if name not in self._history:
            raise KeyError(f"No history metric available for {name}!")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        return self._latest_scalars

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        latest = dict(self._latest_scalars)
        for name in [name for name in latest if self._smoothing_hints[name]]:
            median = self._history[name].median(self.count_samples(name, window_size))
            latest[name] = (median, latest[name][1])
        return latest

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many values of a scalar were put in the last `window_size` iterations."""
        iterations = [iteration for _, iteration in self._history[name].values()]
        return sum(iteration > iterations[-1] - window_size for iteration in iterations)

    def __enter__(self) -> "EventStorage":
        _STORAGES.append(self)
        return self

    def __exit__(self, *exc: Any) -> None:
        assert _STORAGES.pop() is self


class EventWriter:
    """Reads the open storage; `write` of a subclass writes what is new."""

    def __init__(self, window_size: int) -> None:
        self._window_size = window_size
        self._last_write = -1

    def close(self) -> None: ...

    def _new_scalars(self) -> list[tuple[str, float, int]]:
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        new = [(name, *pair) for name, pair in latest.items() if pair[1] > self._last_write]
        self._last_write = max((iteration for *_, iteration in new), default=self._last_write)
        return new


class JSONWriter(EventWriter):
    """Appends to a file: one JSON object for each iteration with new data."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        super().__init__(window_size)
        self._file_handle = g_pathmgr.open(json_file, "a")

    def write(self) -> None:
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        for name, value, iteration in self._new_scalars():
            lines[iteration][name] = value
        for iteration, scalars in lines.items():
            line = json.dumps({**scalars, "iteration": iteration}, sort_keys=True)
            self._file_handle.write(line + "\n")
        self._file_handle.flush()
        os.fsync(self._file_handle.fileno())

    def close(self) -> None:
        self._file_handle.close()


class TensorboardXWriter(EventWriter):
    """Writes the scalars for TensorBoard."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow, and not always installed

        super().__init__(window_size)
        self._writer = SummaryWriter(log_dir=log_dir, **kwargs)

    def write(self) -> None:
        for scalar in self._new_scalars():
            self._writer.add_scalar(*scalar)

    def close(self) -> None:
        self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs one line: time left, iteration, losses, times, learning rate, memory."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        super().__init__(window_size)
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._last_print: tuple[int, float] | None = None

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # training has ended; other hooks may have put their last results
        histories = storage.histories()
        samples = {name: storage.count_samples(name, self._window_size) for name in histories}
        losses, metrics = (
            "  ".join(f"{n}: {histories[n].median(k):.4g}" for n, k in samples.items() if mark in n)
            for mark in ("loss", "[metric]")
        )
        times, memory = "", ""
        if step := histories.get("time"):
            times += f"time: {step.global_avg():.4f}  last_time: {step.latest():.4f}  "
        if data := histories.get("data_time"):
            mean = data.avg(samples["data_time"])
            times += f"data_time: {mean:.4f}  last_data_time: {data.latest():.4f}  "
        rate = f"{histories['lr'].latest():.5g}" if "lr" in histories else "N/A"
        if torch.cuda.is_available():
            memory = f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M"
        self.logger.info(
            f" {self._eta(storage)}iter: {storage.iter}  {losses}  {metrics}  {times} lr: {rate}"
            f"  {memory}"
        )

    def _eta(self, storage: EventStorage) -> str:
        """Time left by the timed iterations, else by the time since the last line."""
        if self._max_iter is None:
            return ""
        left = self._max_iter - storage.iter - 1
        last, self._last_print = self._last_print, (storage.iter, time.perf_counter())
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000) * left
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
        elif last is None or last[0] == storage.iter:
            return ""
        else:
            seconds = (time.perf_counter() - last[1]) / (storage.iter - last[0]) * left
        return f"eta: {datetime.timedelta(seconds=int(seconds))}  "
