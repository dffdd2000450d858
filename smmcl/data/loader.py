"""The training stream: one global sequence of samples, addressed by position.

Position p is pair `order(seed, epoch)[p % L]` of epoch `p // L`, for L pairs. Iteration i of a run
takes the positions [i * B, (i + 1) * B) whatever the number of processes and workers, so a run that
resumes at iteration i sees what it would have seen without the stop.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from smmcl.d2 import (
    CfgNode,
    DatasetCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    comm,
)
from smmcl.data.datasets.build import agreed_metadata, ensure_registered
from smmcl.data.mapper import MultiModalDatasetMapper
from smmcl.data.watched_loader import WatchedLoader, named

Record = dict[str, Any]
Mapper = Callable[[Record], Record]
Extension = Callable[[CfgNode, list[Record], dict[str, Dataset]], None]
EXTENSIONS: list[Extension] = []  # functions that add to what a training reads


def extends_training(function: Extension) -> Extension:
    """Decorator of a function of your own (see IMPORTS) that adds to what a training reads.

    It is given the config, the records, to change in place, and the streams beside them by name.
    """
    EXTENSIONS.append(function)
    return function


class Pairs(Dataset):
    """Pairs, mapped, by index. Other processes see in `reading` which one each worker is at.

    It maps by itself: the engine's own mapping would replace a sample that fails by a random other
    one, and remember every index it has seen.

    Args:
        records: L records of the catalog.
        mapper: gets a record.
        num_workers: of the loader.
    """

    def __init__(
        self, records: Sequence[dict[str, Any]], *, mapper: Mapper, num_workers: int = 0
    ) -> None:
        self.records = records
        self._mapper = mapper
        self.reading = torch.full((max(num_workers, 1),), -1)
        if num_workers:
            self.reading.share_memory_()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        worker = torch.utils.data.get_worker_info()
        row = worker.id if worker else 0
        self.reading[row] = index
        try:
            return self._map(index)
        finally:
            self.reading[row] = -1

    def record(self, index: int) -> dict[str, Any]:
        """What the mapper gets."""
        return self.records[index]

    def _map(self, index: int) -> dict[str, Any]:
        return self._mapper(self.record(index))


class PairStream(Pairs):
    """Pairs by position in the endless stream; each epoch has every pair once.

    A broken pair is replaced by the next one in the epoch's order, if that is allowed. That is a
    function of the position, so processes, workers and restarts do not matter.

    Args:
        seed: of the run.
        max_broken: broken pairs in a row that may be replaced; a sample has those under "broken".
        beside: further streams by name. Each sample holds theirs of the same position.
    """

    def __init__(
        self,
        records: Sequence[dict[str, Any]],
        *,
        mapper: Mapper,
        seed: int,
        max_broken: int = 0,
        num_workers: int = 0,
        beside: Mapping[str, Dataset] | None = None,
    ) -> None:
        super().__init__(records, mapper=mapper, num_workers=num_workers)
        self._seed = seed % 2**32
        self._max_broken = max_broken
        self._beside = dict(beside or {})

    def record(self, position: int, *, later: int = 0) -> dict[str, Any]:
        """The record at a position, or one that comes later in the same epoch's order."""
        epoch, place = divmod(position, len(self))
        order = _order(self._seed, epoch, len(self))
        return {**self.records[order[(place + later) % len(self)]], "position": position}

    def _map(self, position: int) -> dict[str, Any]:
        broken: dict[str, str] = {}
        for later in range(min(self._max_broken, len(self) - 1) + 1):
            record = self.record(position, later=later)
            try:
                sample = self._mapper(record)
            except (ValueError, OSError) as error:
                if not self._max_broken:
                    raise
                broken[named(record)] = str(error)
            else:
                sample.update({name: stream[position] for name, stream in self._beside.items()})
                return {**sample, "broken": broken} if broken else sample
        raise too_many_broken(broken, self._max_broken)


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of an epoch, (count,) int64."""
    # The trailing 1 keeps the orders apart from the mapper's draws of (seed, position).
    return np.random.default_rng((seed, epoch, 1)).permutation(count)


def too_many_broken(broken: Mapping[str, str], allowed: int) -> ValueError:
    """The error of a run with more broken pairs than DATALOADER.SKIP_BROKEN allows."""
    return ValueError(
        f"{len(broken)} pairs are broken, but DATALOADER.SKIP_BROKEN allows {allowed}. The last: "
        f"{[*broken.values()][-1]} Mend the files and --resume, or allow more."
    )


class PositionSampler(Sampler[int]):
    """The positions of one process, without end: start + rank, start + rank + world_size, ..."""

    def __init__(self, start: int = 0, *, rank: int, world_size: int) -> None:
        self._first = start + rank
        self._world_size = world_size

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self._first, self._world_size)


def build_train_loader(cfg: CfgNode, *, mapper: Mapper, start_position: int = 0) -> WatchedLoader:
    """Builds the endless loader of this process's share of each batch.

    Args:
        start_position: the iteration to start at x SOLVER.IMS_PER_BATCH.
    """
    positions = PositionSampler(
        start_position, rank=comm.get_rank(), world_size=comm.get_world_size()
    )
    records, beside = [{**record} for record in list_records(cfg.DATASETS.TRAIN)], {}
    if cfg.DATASETS.UNLABELED:
        check_not_tested(cfg)
        beside["unlabeled"] = unlabeled_stream(cfg, cfg.DATASETS.UNLABELED, seed=cfg.SEED + 1)
    for extend in EXTENSIONS:
        extend(cfg, records, beside)
    pairs = PairStream(
        records,
        mapper=mapper,
        seed=cfg.SEED,
        max_broken=cfg.DATALOADER.SKIP_BROKEN,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        beside=beside,
    )
    loader = build_detection_train_loader(
        dataset=pairs,
        mapper=None,
        sampler=positions,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=False,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    # The workers' seeds come from here, not from the generator that training draws from. The
    # engines take it by different names ("seed", "generator"), so it is set afterwards.
    loader.generator = torch.Generator()
    return WatchedLoader(loader, pairs)


def build_test_loader(
    cfg: CfgNode, dataset_name: str, *, mapper: Mapper, limit: int | None = None
) -> WatchedLoader:
    """Builds the loader of one test set: its first `limit` pairs in order, one at a time."""
    records = list_records([dataset_name])[:limit]
    if cfg.INPUT.AUXILIARY_ABLATION == "swap":
        records = swap_auxiliary(records)
    num_workers = cfg.DATALOADER.NUM_WORKERS
    pairs = Pairs(records, mapper=mapper, num_workers=num_workers)
    loader = build_detection_test_loader(pairs, mapper=None, num_workers=num_workers)
    return WatchedLoader(loader, pairs)


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


def unlabeled_stream(
    cfg: CfgNode, names: Sequence[str], *, seed: int, **changes: Any
) -> PairStream:
    """Pairs of sets whose labels are never opened, augmented like those of DATASETS.TRAIN.

    Args:
        seed: of the order. With that of another stream, both would meet the same positions.
        changes: arguments of the mapper that replace the config's.
    """
    agreed_metadata([*cfg.DATASETS.TRAIN, *names])
    records = [{**record} for record in list_records(names)]
    for record in records:
        for key in ("sem_seg_file_name", "class_id"):
            record.pop(key, None)
    mapper = MultiModalDatasetMapper(cfg, is_train=True, is_labeled=False, **changes)
    workers = cfg.DATALOADER.NUM_WORKERS
    return PairStream(records, mapper=mapper, seed=seed, num_workers=workers)


def check_not_tested(cfg: CfgNode) -> None:
    """Raises if a pair of DATASETS.UNLABELED is also one of DATASETS.TEST."""
    tested = list_records(cfg.DATASETS.TEST) if cfg.DATASETS.TEST else []
    files = {os.path.realpath(record["file_name"]) for record in tested}
    unlabeled = list_records(cfg.DATASETS.UNLABELED)
    shared = [r["image_id"] for r in unlabeled if os.path.realpath(r["file_name"]) in files]
    if shared:
        raise ValueError(
            f"DATASETS.UNLABELED and DATASETS.TEST share {len(shared)} pairs: "
            f"{', '.join(shared[:5])}{', ...' if len(shared) > 5 else ''}. Training must not see "
            "test pairs, even without labels. Name other sets in DATASETS.UNLABELED."
        )


def list_records(names: Sequence[str]) -> list[Record]:
    """The records of sets in the order of their names; at least one."""
    ensure_registered(names)
    records = [record for name in names for record in DatasetCatalog.get(name)]
    if not records:
        raise ValueError(
            f"the datasets {', '.join(names) or '(none named)'} hold no pair. "
            "Name one with pairs in DATASETS.TRAIN or DATASETS.TEST."
        )
    return records
