"""Data: catalogs by name, and loaders for endless training and exact testing."""

import logging
import pickle
import types
from collections import UserDict
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from smmcl.d2.builtin import comm
from smmcl.d2.builtin.setup import seed_all_rng

logger = logging.getLogger("detectron2.data.build")


class _Catalog(UserDict):
    def list(self) -> list[str]:
        return [*self.keys()]

    def remove(self, name: str) -> None:
        self.pop(name)


class _DatasetCatalog(_Catalog):
    """Maps a dataset's name to a function that lists its samples as dicts."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Adds a dataset; its function returns the same list at every call."""
        assert callable(func), "You must register a function with `DatasetCatalog.register`!"
        assert name not in self, f"Dataset '{name}' is already registered!"
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """Calls the dataset's function."""
        if name not in self:
            known = ", ".join(self)
            raise KeyError(f"Dataset '{name}' is not registered! Available datasets are: {known}")
        return self[name]()


class Metadata(types.SimpleNamespace):
    """Facts about one dataset, as attributes; a fact once set does not change."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        raise AttributeError(
            f"Attribute '{key}' does not exist in the metadata of dataset '{self.name}'. "
            f"Available keys are {list(self.__dict__)}."
        )

    def __setattr__(self, key: str, val: Any) -> None:
        previous = self.__dict__.get(key, val)
        assert previous == val, (
            f"Attribute '{key}' in the metadata of '{self.name}' cannot be set to a different "
            f"value!\n{previous} != {val}"
        )
        super().__setattr__(key, previous)

    def as_dict(self) -> dict[str, Any]:
        """The facts, as a new dict."""
        return dict(self.__dict__)

    def set(self, **kwargs: Any) -> "Metadata":
        """Sets several facts and returns this object."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """A fact, or `default` where it is not known."""
        return getattr(self, key, default)


class _MetadataCatalog(_Catalog):
    """Maps a dataset's name to its `Metadata`, made empty at the first request."""

    def get(self, name: str) -> Metadata:
        """The metadata of a dataset, always the same object."""
        assert len(name)
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()


def _local_share(size: int) -> range:
    """The samples of this process: neighbors, and each sample on exactly one process."""
    assert size > 0, "There is no sample to test on."
    rank = comm.get_rank()
    share, left = divmod(size, comm.get_world_size())  # the first ranks take one more
    begin = rank * share + min(rank, left)
    return range(begin, begin + share + (rank < left))


class _MappedDataset(Dataset):
    """Samples through a mapper. A list is kept pickled: no mapper changes what others will read."""

    def __init__(self, dataset: list | Dataset, mapper: Callable[[Any], Any] | None) -> None:
        is_list = isinstance(dataset, list)
        self._items = [pickle.dumps(item, protocol=-1) for item in dataset] if is_list else dataset
        self._read = pickle.loads if is_list else _identity
        self._mapper = mapper or _identity

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        return self._mapper(self._read(self._items[index]))


def build_detection_train_loader(
    dataset: list[dict] | Dataset,
    *,
    mapper: Callable | None,
    sampler: Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
    **kwargs: Any,
) -> DataLoader:
    """Batches of mapped samples in the order of `sampler`.

    `mapper` may be None to leave samples as they are; `kwargs` are further arguments of torch's
    `DataLoader`.
    """
    if aspect_ratio_grouping:
        raise ValueError(
            "The embedded engine does not group images by aspect ratio. Pass "
            "aspect_ratio_grouping=False, or run with Detectron2."
        )
    assert isinstance(sampler, Sampler), (
        f"Expect a Sampler but got {type(sampler)}: the embedded engine chooses none by itself."
    )
    batch_size, left = divmod(total_batch_size, comm.get_world_size())
    assert batch_size > 0 and not left, (  # noqa: PT018
        f"Total batch size ({total_batch_size}) must be divisible by the number of processes "
        f"({comm.get_world_size()})."
    )
    logger.info(f"Making batched data loader with batch_size={batch_size}")
    kwargs = {"drop_last": True, "collate_fn": collate_fn or _identity, **kwargs}
    kwargs.update(num_workers=num_workers, worker_init_fn=_seed_worker)
    mapped = _MappedDataset(dataset, mapper)
    return DataLoader(mapped, batch_size=batch_size, sampler=sampler, **kwargs)


def build_detection_test_loader(
    dataset: list[dict] | Dataset,
    *,
    mapper: Callable | None,
    sampler: Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
) -> DataLoader:
    """One pass over a dataset, shared out over the processes; args as for training."""
    return DataLoader(
        _MappedDataset(dataset, mapper),
        batch_size=batch_size,
        sampler=_local_share(len(dataset)) if sampler is None else sampler,
        num_workers=num_workers,
        collate_fn=collate_fn or _identity,
    )


def _identity(item: Any) -> Any:
    return item


def _seed_worker(worker_id: int) -> None:
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)
