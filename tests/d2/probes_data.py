"""Probes of samplers and loaders: which samples come, in which order, in which batches."""

import contextlib
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

from probes_names import raised

import smmcl.d2 as d2


@contextlib.contextmanager
def as_process(rank: int, *, of: int) -> Iterator[None]:
    """Lets this process believe that it is one of several."""
    before = (d2.comm.get_rank, d2.comm.get_world_size)
    d2.comm.get_rank, d2.comm.get_world_size = lambda: rank, lambda: of
    yield
    d2.comm.get_rank, d2.comm.get_world_size = before


def training_indices(count: int, *args: Any, rank: int = 0, of: int = 1, **kwargs: Any) -> list:
    with as_process(rank, of=of):
        return list(itertools.islice(d2.TrainingSampler(*args, **kwargs), count))


def testing_indices(size: int, *, rank: int, of: int) -> list[int]:
    with as_process(rank, of=of):
        sampler = d2.InferenceSampler(size)
        assert len(sampler) == len(list(sampler))
        return list(sampler)


def observe_samplers(folder: pathlib.Path) -> dict[str, Any]:
    return {
        "seeds": {seed: training_indices(25, 10, seed=seed) for seed in (-1, 0, 42)},
        "in order": training_indices(8, 3, shuffle=False, seed=0),
        "of three": [training_indices(9, 7, seed=1, rank=r, of=3) for r in range(3)],
        "test": [[testing_indices(10, rank=r, of=n) for r in range(n)] for n in (1, 3, 4)],
        "fewer than processes": [testing_indices(2, rank=r, of=3) for r in range(3)],
        "errors": {
            "none": raised(d2.TrainingSampler, 0, seed=0),
            "text": raised(d2.TrainingSampler, "10", seed=0),
            "test none": raised(d2.InferenceSampler, 0),
        },
    }


def samples(count: int) -> list[dict[str, Any]]:
    return [{"image_id": i, "height": 4, "width": 6} for i in range(count)]


def mapped(sample: dict[str, Any]) -> dict[str, Any]:
    return {**sample, "mapped": True}


def odd_only(sample: dict[str, Any]) -> dict[str, Any] | None:
    return sample if sample["image_id"] % 2 else None


def ids(batches: Any, count: int | None = None) -> list[list[int]]:
    taken = itertools.islice(iter(batches), count)
    return [[sample["image_id"] for sample in batch] for batch in taken]


def observe_loaders(folder: pathlib.Path) -> dict[str, Any]:
    d2.DatasetCatalog.register("probe_loaded", lambda: samples(7))
    d2.DatasetCatalog.register("probe_void", list)
    cfg = d2.get_cfg()
    cfg.DATASETS.TRAIN = ("probe_loaded",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    cfg.SOLVER.IMS_PER_BATCH = 3
    cfg.SEED = 4
    void = cfg.clone()
    void.DATASETS.TRAIN = ("probe_void",)
    other = cfg.clone()
    other.DATALOADER.SAMPLER_TRAIN = "probe"
    train, test = d2.build_detection_train_loader, d2.build_detection_test_loader
    given = {"mapper": mapped, "total_batch_size": 4, "aspect_ratio_grouping": False}
    data, sampler = samples(9), d2.TrainingSampler(9, seed=5)
    with as_process(1, of=2):
        second = d2.TrainingSampler(9, seed=5)
    tested = test(cfg, "probe_loaded", mapper=mapped)
    found = {
        "from a config": ids(train(cfg, mapper=mapped), 6),
        "unseeded": ids(train(cfg.clone(), mapper=mapped, sampler=sampler, dataset=data), 3),
        "plain": ids(train(data, sampler=sampler, **given), 5),
        "two workers": ids(train(data, sampler=sampler, num_workers=2, **given), 5),
        "collated": next(iter(train(data, sampler=sampler, collate_fn=len, **given))),
        "second process": ids(train(data, sampler=second, **given), 3),
        "test": [ids(tested), len(tested)],
        "test batches": ids(test(data, mapper=None, batch_size=4)),
        "test workers": ids(test(data, mapper=mapped, num_workers=2, batch_size=2)),
        "mapped": next(iter(tested))[0],
        "replaced": ids(test(data, mapper=odd_only)),
        "errors": {
            "unknown": raised(test, cfg, "probe_none", mapper=mapped),
            "void": raised(train, void, mapper=mapped),
            "sampler name": raised(train, other, mapper=mapped),
            "sampler": raised(train, data, sampler=[1, 2], **given),
            "no batch": raised(train, data, **{**given, "total_batch_size": 0}),
        },
    }
    for name in ("probe_loaded", "probe_void"):
        d2.DatasetCatalog.remove(name)
    return found
