"""The training stream: one global sequence of samples, addressed by position.

Position p is pair `order(seed, epoch)[p % L]` of epoch `p // L`, for L pairs. Iteration i of a run
takes the positions [i * B, (i + 1) * B) whatever the number of processes and workers, so a run that
resumes at iteration i sees what it would have seen without the stop.
"""

import copy
import itertools
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from smmcl.d2 import (
    CfgNode,
    DatasetCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    comm,
)
from smmcl.data.datasets.build import ensure_registered

# A training saves and leaves at these. SIGHUP is sent when a terminal closes.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


class PairStream(Dataset):
    """Pairs, mapped, by position in the endless stream; each epoch has every pair once.

    It maps by itself: the engine's own mapping would replace a sample that fails by a random other
    one, and remember every index it has seen.

    Args:
        records: L records of the catalog.
        mapper: gets a record with its "position".
        seed: of the run.
    """

    def __init__(self, records: Sequence[dict[str, Any]], *, mapper: Mapper, seed: int) -> None:
        self._records = records
        self._mapper = mapper
        self._seed = seed % 2**32
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)  # (L,)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, position: int) -> dict[str, Any]:
        epoch, place = divmod(position, len(self._records))
        if epoch != self._epoch:
            # The trailing 1 keeps the orders apart from the mapper's draws of (seed, position).
            generator = np.random.default_rng((self._seed, epoch, 1))
            self._epoch, self._order = epoch, generator.permutation(len(self._records))
        record = self._records[self._order[place]]
        return self._mapper({**record, "position": position})


class PositionSampler(Sampler[int]):
    """The positions of one process, without end: start + rank, start + rank + world_size, ..."""

    def __init__(self, start: int = 0, *, rank: int, world_size: int) -> None:
        self._first = start + rank
        self._world_size = world_size

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self._first, self._world_size)


def build_train_loader(cfg: CfgNode, *, mapper: Mapper, start_position: int = 0) -> DataLoader:
    """Builds the endless loader of this process's share of each batch.

    Args:
        start_position: the iteration to start at x SOLVER.IMS_PER_BATCH.
    """
    positions = PositionSampler(
        start_position, rank=comm.get_rank(), world_size=comm.get_world_size()
    )
    loader = build_detection_train_loader(
        dataset=PairStream(_records(cfg.DATASETS.TRAIN), mapper=mapper, seed=cfg.SEED),
        mapper=None,
        sampler=positions,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=False,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    # The workers' seeds come from here, not from the generator that training draws from. The
    # engines take it by different names ("seed", "generator"), so it is set afterwards.
    loader.generator = torch.Generator()
    return shielded(loader)


def build_test_loader(cfg: CfgNode, dataset_name: str, *, mapper: Mapper) -> DataLoader:
    """Builds the loader of one test set: its pairs in order, one at a time, none twice."""
    records = _records([dataset_name])
    if cfg.INPUT.AUXILIARY_ABLATION == "swap":
        records = swap_auxiliary(records)
    elif cfg.INPUT.AUXILIARY_ABLATION:
        raise ValueError(
            f"INPUT.AUXILIARY_ABLATION is {cfg.INPUT.AUXILIARY_ABLATION!r}. Set it to '' or 'swap'."
        )
    return shielded(
        build_detection_test_loader(records, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)
    )


def shielded(loader: DataLoader) -> DataLoader:
    """Keeps stop signals from a loader's workers, which end with the main process.

    Ctrl-C and schedulers signal the whole process group. Workers that died of it would keep a
    training from finishing its step and saving.
    """
    if loader.num_workers:
        context = copy.copy(multiprocessing.get_context(multiprocessing.get_start_method()))
        context.Process = _ShieldedWorker
        loader.multiprocessing_context = context
    return loader


class _ShieldedWorker(multiprocessing.Process):
    """Starts with stop signals blocked: until `worker_init_fn` ran, they would have killed it."""

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def swap_auxiliary(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gives each pair the auxiliary image of the pair half a dataset away, never its own."""
    if len(records) < 2:
        raise ValueError("swapping auxiliary images needs 2 pairs or more; the dataset has 1.")
    if "auxiliary_file_name" not in records[0]:
        raise ValueError(
            "INPUT.AUXILIARY_ABLATION is 'swap' but the dataset has visible images alone. "
            "Set it to ''."
        )
    half = len(records) // 2
    donors = [*records[half:], *records[:half]]
    return [
        {**record, "auxiliary_file_name": donor["auxiliary_file_name"]}
        for record, donor in zip(records, donors, strict=True)
    ]


def _records(names: Sequence[str]) -> list[dict[str, Any]]:
    ensure_registered(names)
    records = [record for name in names for record in DatasetCatalog.get(name)]
    if not records:
        raise ValueError(
            f"the datasets {', '.join(names) or '(none named)'} hold no pair. "
            "Name one with pairs in DATASETS.TRAIN or DATASETS.TEST."
        )
    return records
