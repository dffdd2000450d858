"""The two loaders: endless shuffled batches for training, one exact pass for testing."""

import itertools
import logging
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import data as torchdata

from smmcl.d2.builtin import comm
from smmcl.d2.builtin.catalog import DatasetCatalog
from smmcl.d2.builtin.config import CfgNode, configurable
from smmcl.d2.builtin.datasets import (
    AspectRatioBatches,
    DatasetFromList,
    MapDataset,
    MapIterableDataset,
    SampledStream,
)
from smmcl.d2.builtin.environment import seed_all_rng
from smmcl.d2.builtin.samplers import InferenceSampler, TrainingSampler

logger = logging.getLogger("detectron2.data.build")


def get_detection_dataset_dicts(
    names: str | list[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: list[str] | None = None,
    check_consistency: bool = True,
) -> list[dict]:
    """Returns the samples of one or several registered datasets, one after the other.

    Args:
        names: their names.
        filter_empty: in Detectron2, whether samples without instances are left out. It and the
            three below concern instance annotations, which this engine refuses.
        min_keypoints: see `filter_empty`.
        proposal_files: see `filter_empty`.
        check_consistency: see `filter_empty`.
    """
    names = [names] if isinstance(names, str) else names
    assert len(names), names
    listed = [DatasetCatalog.get(name) for name in names]
    if isinstance(listed[0], torchdata.Dataset):
        return torchdata.ConcatDataset(listed) if len(listed) > 1 else listed[0]
    for name, dicts in zip(names, listed, strict=True):
        assert len(dicts), f"Dataset '{name}' is empty!"
    dicts = list(itertools.chain.from_iterable(listed))
    if "annotations" in dicts[0] or proposal_files or min_keypoints:
        raise ValueError(
            f"{', '.join(names)}: the embedded engine reads semantic labels only, not instance "
            "annotations or proposals. Use Detectron2 (SMMCL_ENGINE=detectron2) for these."
        )
    return dicts


def _train_loader_from_config(
    cfg: CfgNode,
    mapper: Callable | None = None,
    *,
    dataset: Any = None,
    sampler: torchdata.Sampler | None = None,
) -> dict[str, Any]:
    if dataset is None:
        dataset = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        name = cfg.DATALOADER.SAMPLER_TRAIN
        logger.info(f"Using training sampler {name}")
        if name != "TrainingSampler":
            raise ValueError(f"Unknown training sampler: {name}")
        sampler = TrainingSampler(len(dataset), seed=cfg.SEED)
    return {
        "dataset": dataset,
        "sampler": sampler,
        "mapper": _checked_mapper(mapper),
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset: Any,
    *,
    mapper: Callable | None,
    sampler: torchdata.Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Returns endless batches, each a list of mapped samples.

    Args:
        dataset: a list of dataset dicts, or a torch dataset.
        mapper: from a dataset dict to a sample; None leaves it as it is.
        sampler: names the samples; by default a `TrainingSampler`. None for a stream.
        total_batch_size: samples in a batch, over all processes.
        aspect_ratio_grouping: whether a batch holds only wide or only high images.
        num_workers: processes that load; 0 loads in this one.
        collate_fn: makes something else of each batch.
        kwargs: `drop_last`, `seed` of the workers, and further arguments of torch's `DataLoader`.
    """
    dataset = _as_dataset(dataset, mapper)
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "sampler must be None if dataset is IterableDataset"
    else:
        sampler = TrainingSampler(len(dataset)) if sampler is None else sampler
        assert isinstance(sampler, torchdata.Sampler), f"Expect a Sampler but got {type(sampler)}"
    world_size = comm.get_world_size()
    assert total_batch_size > 0 and total_batch_size % world_size == 0, (
        f"Total batch size ({total_batch_size}) must be divisible by the number of gpus "
        f"({world_size})."
    )
    batch_size = total_batch_size // world_size
    logger.info(f"Making batched data loader with batch_size={batch_size}")
    if sampler is not None:
        dataset = SampledStream(dataset, sampler, batch_size=batch_size)
    return _batches(
        dataset,
        batch_size=batch_size,
        is_grouped=aspect_ratio_grouping,
        collate_fn=collate_fn,
        num_workers=num_workers,
        **kwargs,
    )


def _batches(
    dataset: torchdata.IterableDataset,
    *,
    batch_size: int,
    is_grouped: bool,
    collate_fn: Callable | None,
    drop_last: bool = True,
    seed: int | None = None,
    **kwargs: Any,
) -> Any:
    kwargs["worker_init_fn"] = _seed_worker
    kwargs["generator"] = None if seed is None else torch.Generator().manual_seed(seed)
    if not is_grouped:
        return torchdata.DataLoader(
            dataset,
            batch_size=batch_size,
            drop_last=drop_last,
            collate_fn=collate_fn or _keep_list,
            **kwargs,
        )
    assert drop_last, "Aspect ratio grouping will drop incomplete batches."
    samples = torchdata.DataLoader(dataset, collate_fn=operator.itemgetter(0), **kwargs)
    batches = AspectRatioBatches(samples, batch_size=batch_size)
    return batches if collate_fn is None else MapIterableDataset(batches, collate_fn)


def _test_loader_from_config(
    cfg: CfgNode, dataset_name: str | list[str], mapper: Callable | None = None
) -> dict[str, Any]:
    dataset = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    is_stream = isinstance(dataset, torchdata.IterableDataset)
    return {
        "dataset": dataset,
        "mapper": _checked_mapper(mapper),
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "sampler": None if is_stream else InferenceSampler(len(dataset)),
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: Any,
    *,
    mapper: Callable | None,
    sampler: torchdata.Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
) -> torchdata.DataLoader:
    """Returns one pass over a dataset, shared out over the processes without repeats.

    Args:
        dataset: a list of dataset dicts, or a torch dataset.
        mapper: from a dataset dict to a sample; None leaves it as it is.
        sampler: names the samples; by default an `InferenceSampler`. None for a stream.
        batch_size: samples in a batch, on this process.
        num_workers: processes that load; 0 loads in this one.
        collate_fn: makes something else of each batch, which is a list of samples.
    """
    dataset = _as_dataset(dataset, mapper)
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "sampler must be None if dataset is IterableDataset"
    elif sampler is None:
        sampler = InferenceSampler(len(dataset))
    return torchdata.DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=False,
        num_workers=num_workers,
        collate_fn=collate_fn or _keep_list,
    )


def _as_dataset(dataset: Any, mapper: Callable | None) -> torchdata.Dataset:
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset)
    if mapper is None:
        return dataset
    if isinstance(dataset, torchdata.IterableDataset):
        return MapIterableDataset(dataset, mapper)
    return MapDataset(dataset, mapper)


def _checked_mapper(mapper: Callable | None) -> Callable:
    if mapper is None:
        raise ValueError(
            "The embedded engine has no mapper of its own. Pass mapper=, for example "
            "MultiModalDatasetMapper(cfg, is_train=...)."
        )
    return mapper


def _keep_list(batch: list) -> list:
    return batch


def _seed_worker(worker_id: int) -> None:
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)
