"""Datasets on their way to a loader: a list, a list through a mapper, a stream by a sampler."""

import itertools
import logging
import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils import data as torchdata

logger = logging.getLogger("detectron2.data.common")


class DatasetFromList(torchdata.Dataset):
    """A list as a dataset, pickled once: processes share its bytes, and readers get copies."""

    def __init__(self, lst: list) -> None:
        """Args:
        lst: the samples.
        """
        parts = [np.frombuffer(pickle.dumps(item, protocol=-1), dtype=np.uint8) for item in lst]
        self._ends = np.cumsum([len(part) for part in parts])
        self._bytes = torch.from_numpy(np.concatenate(parts))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, idx: int) -> Any:
        begin = 0 if idx == 0 else self._ends[idx - 1]
        return pickle.loads(memoryview(self._bytes[begin : self._ends[idx]].numpy()))


class MapDataset(torchdata.Dataset):
    """Applies a function to each sample; where it returns None, another sample is drawn."""

    def __init__(self, dataset: torchdata.Dataset, map_func: Callable[[Any], Any]) -> None:
        """Args:
        dataset: samples by index.
        map_func: from a sample to what the model takes, or None to leave the sample out.
        """
        self._dataset = dataset
        self._map_func = map_func
        self._rng = random.Random(42)
        self._candidates = set(range(len(dataset)))

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        index = int(idx)
        for attempt in itertools.count(1):
            mapped = self._map_func(self._dataset[index])
            if mapped is not None:
                self._candidates.add(index)
                return mapped
            self._candidates.discard(index)
            index = self._rng.sample(list(self._candidates), k=1)[0]
            if attempt >= 3:
                logger.warning(
                    f"Failed to apply `_map_func` for idx: {idx}, retry count: {attempt}"
                )
        raise AssertionError("unreachable: the loop above ends by returning")


class MapIterableDataset(torchdata.IterableDataset):
    """Applies a function to each sample of a stream; None leaves the sample out."""

    def __init__(self, dataset: torchdata.IterableDataset, map_func: Callable[[Any], Any]) -> None:
        """Args:
        dataset: the stream.
        map_func: as for `MapDataset`.
        """
        self._dataset = dataset
        self._map_func = map_func

    def __iter__(self) -> Iterator[Any]:
        return (mapped for mapped in map(self._map_func, self._dataset) if mapped is not None)


class SampledStream(torchdata.IterableDataset):
    """The samples that a sampler names, as a stream that worker processes share out.

    Workers take turns by whole batches, so that the batches a loader yields do not depend on the
    number of its workers.
    """

    def __init__(
        self, dataset: torchdata.Dataset, sampler: torchdata.Sampler, *, batch_size: int
    ) -> None:
        """Args:
        dataset: samples by index.
        sampler: the indices.
        batch_size: how many indices in a row go to one worker.
        """
        self._dataset = dataset
        self._sampler = sampler
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[Any]:
        worker = torchdata.get_worker_info()
        indices = iter(self._sampler)
        if worker is not None:
            indices = (
                index
                for position, index in enumerate(indices)
                if position // self._batch_size % worker.num_workers == worker.id
            )
        return (self._dataset[index] for index in indices)


class AspectRatioBatches(torchdata.IterableDataset):
    """Batches of samples that are all wider than high, or all not."""

    def __init__(self, samples: Any, *, batch_size: int) -> None:
        """Args:
        samples: dicts with "width" and "height".
        batch_size: samples in a batch.
        """
        self._samples = samples
        self._batch_size = batch_size
        self._buckets: tuple[list, list] = ([], [])

    def __iter__(self) -> Iterator[list[dict]]:
        for sample in self._samples:
            bucket = self._buckets[0 if sample["width"] > sample["height"] else 1]
            bucket.append(sample)
            if len(bucket) == self._batch_size:
                batch = bucket[:]
                bucket.clear()
                yield batch
