"""Scalars and images of a run: a storage that the training loop fills and writers that read it."""

import contextlib
import datetime
import functools
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer
from iopath.common.file_io import g_pathmgr

_STORAGES: list["EventStorage"] = []


def get_event_storage() -> "EventStorage":
    """Returns the storage of the innermost `with EventStorage(...)`."""
    assert _STORAGES, (
        "get_event_storage() has to be called inside a 'with EventStorage(...)' context!"
    )
    return _STORAGES[-1]


def has_event_storage() -> bool:
    """Returns whether a storage is open; there is none in evaluation alone."""
    return bool(_STORAGES)


class EventStorage:
    """Keeps the history of named scalars, each with the iteration it was put at."""

    def __init__(self, start_iter: int = 0) -> None:
        """Args:
        start_iter: number of the first iteration.
        """
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest_scalars: dict[str, tuple[float, int]] = {}
        self._iter = start_iter
        self._current_prefix = ""
        self._vis_data: list[tuple[str, Any, int]] = []

    def put_image(self, img_name: str, img_tensor: Any) -> None:
        """Keeps an image for the writers.

        Args:
            img_name: name under which it is shown.
            img_tensor: (3, H, W), RGB, uint8 in 0..255 or float in 0..1.
        """
        self._vis_data.append((img_name, img_tensor, self._iter))

    def clear_images(self) -> None:
        """Forgets the images, once they are written."""
        self._vis_data = []

    def put_scalar(
        self, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None
    ) -> None:
        """Adds a value to a scalar's history.

        Args:
            name: name of the scalar.
            value: anything that `float` accepts.
            smoothing_hint: whether writers show a median; the same at every call for a name.
            cur_iter: the iteration it belongs to; by default the current one.
        """
        name = self._current_prefix + name
        cur_iter = self._iter if cur_iter is None else cur_iter
        value = float(value)
        self._history[name].update(value, cur_iter)
        self._latest_scalars[name] = (value, cur_iter)
        assert self._smoothing_hints.setdefault(name, smoothing_hint) == smoothing_hint, (
            f"Scalar {name} was put with a different smoothing_hint!"
        )

    def put_scalars(
        self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: Any
    ) -> None:
        """Adds several scalars, given by keyword.

        Args:
            smoothing_hint: as for `put_scalar`.
            cur_iter: as for `put_scalar`.
            kwargs: the values by name.
        """
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def history(self, name: str) -> HistoryBuffer:
        """Returns the values of one scalar; KeyError when there is none of this name."""
        if name not in self._history:
            raise KeyError(f"No history metric available for {name}!")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """Returns the values of all scalars."""
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """Returns the last value of each scalar and its iteration."""
        return self._latest_scalars

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Returns the same with a median where the scalar asks for smoothing.

        Args:
            window_size: number of past iterations in the median.
        """
        return {
            name: (
                self._history[name].median(self.count_samples(name, window_size))
                if self._smoothing_hints[name]
                else value,
                iteration,
            )
            for name, (value, iteration) in self._latest_scalars.items()
        }

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """Returns how many values of a scalar were put in the last `window_size` iterations."""
        iterations = [iteration for _, iteration in self._history[name].values()]
        return sum(iteration > iterations[-1] - window_size for iteration in iterations)

    def smoothing_hints(self) -> dict[str, bool]:
        """Returns for each scalar whether it asks for smoothing."""
        return self._smoothing_hints

    def step(self) -> None:
        """Moves to the next iteration."""
        self._iter += 1

    @property
    def iter(self) -> int:
        """The current iteration; the trainer keeps it equal to its own."""
        return self._iter

    @iter.setter
    def iter(self, val: int) -> None:
        self._iter = int(val)

    def __enter__(self) -> "EventStorage":
        _STORAGES.append(self)
        return self

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        assert _STORAGES[-1] is self
        _STORAGES.pop()

    @contextlib.contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Puts `name/` before the names of all scalars put inside this context."""
        previous, self._current_prefix = self._current_prefix, name.rstrip("/") + "/"
        yield
        self._current_prefix = previous


class EventWriter:
    """Reads the open storage and writes it somewhere."""

    def write(self) -> None:
        """Writes what is new."""
        raise NotImplementedError

    def close(self) -> None:
        """Closes what was opened."""


class JSONWriter(EventWriter):
    """Appends one JSON object per iteration with new data to a file."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        """Args:
        json_file: path of the file, appended to when it exists.
        window_size: iterations in the median of smoothed scalars.
        """
        self._file_handle = g_pathmgr.open(json_file, "a")
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        """Writes the scalars put since the last call, and makes sure they reach the disk."""
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        for name, (value, iteration) in latest.items():
            if iteration > self._last_write:
                lines[iteration][name] = value
        self._last_write = max(lines, default=self._last_write)
        for iteration, scalars in lines.items():
            scalars["iteration"] = iteration
            self._file_handle.write(json.dumps(scalars, sort_keys=True) + "\n")
        self._file_handle.flush()
        if hasattr(self._file_handle, "fileno"):  # remote files have none
            os.fsync(self._file_handle.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file_handle.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars and images for TensorBoard."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        """Args:
        log_dir: folder of the event file.
        window_size: iterations in the median of smoothed scalars.
        kwargs: further arguments of torch's `SummaryWriter`.
        """
        self._window_size = window_size
        self._writer_args = {"log_dir": log_dir, **kwargs}
        self._last_write = -1

    @functools.cached_property
    def _writer(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(**self._writer_args)

    def write(self) -> None:
        """Writes the scalars put since the last call and all images, which it then clears."""
        storage = get_event_storage()
        written = self._last_write
        for name, (value, iteration) in storage.latest_with_smoothing_hint(
            self._window_size
        ).items():
            if iteration > self._last_write:
                self._writer.add_scalar(name, value, iteration)
                written = max(written, iteration)
        self._last_write = written
        for name, image, iteration in storage._vis_data:
            self._writer.add_image(name, image, iteration)
        storage.clear_images()

    def close(self) -> None:
        """Closes the event file, if one was opened."""
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs one line: time left, iteration, losses, times, learning rate, memory."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        """Args:
        max_iter: the last iteration, for the time left; None leaves it out.
        window_size: iterations in the median of the losses.
        """
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write: tuple[int, float] | None = None

    def _get_eta(self, storage: EventStorage) -> str:
        if self._max_iter is None:
            return ""
        remaining = self._max_iter - storage.iter - 1
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000) * remaining
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
            return str(datetime.timedelta(seconds=int(seconds)))
        # Before the timer has warmed up: a rough figure from the pace of this writer's own calls.
        previous, self._last_write = self._last_write, (storage.iter, time.perf_counter())
        if previous is None:
            return ""
        pace = (self._last_write[1] - previous[1]) / (storage.iter - previous[0])
        return str(datetime.timedelta(seconds=int(pace * remaining)))

    def write(self) -> None:
        """Logs the line; nothing once training has ended."""
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return
        histories = storage.histories()

        def medians(mark: str) -> str:
            return "  ".join(
                f"{name}: {history.median(storage.count_samples(name, self._window_size)):.4g}"
                for name, history in histories.items()
                if mark in name
            )

        losses, metrics = medians("loss"), medians("[metric]")
        times = ""
        if "time" in histories:
            history = histories["time"]
            times += f"time: {history.global_avg():.4f}  last_time: {history.latest():.4f}  "
        if "data_time" in histories:
            history = histories["data_time"]
            average = history.avg(storage.count_samples("data_time", self._window_size))
            times += f"data_time: {average:.4f}  last_data_time: {history.latest():.4f}  "
        rate = f"{histories['lr'].latest():.5g}" if "lr" in histories else "N/A"
        eta = self._get_eta(storage)
        memory = ""
        if torch.cuda.is_available():
            memory = f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M"
        self.logger.info(
            f" {f'eta: {eta}  ' if eta else ''}iter: {storage.iter}  {losses}  {metrics}  "
            f"{times} lr: {rate}  {memory}"
        )
