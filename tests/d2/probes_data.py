"""Probes of loaders: which samples come, in which order, in which batches."""

import contextlib
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

from probes_names import raised
from torch.utils.data import Sampler

import smmcl.d2 as d2


@contextlib.contextmanager
def as_process(rank: int, *, of: int) -> Iterator[None]:
    """Lets this process believe that it is one of several."""
    before = (d2.comm.get_rank, d2.comm.get_world_size)
    d2.comm.get_rank, d2.comm.get_world_size = lambda: rank, lambda: of
    yield
    d2.comm.get_rank, d2.comm.get_world_size = before


class Cycle(Sampler):
    """Endless indices in a fixed order that is neither sorted nor random."""

    def __init__(self, size: int) -> None:
        self.order = sorted(range(size), key=lambda index: 7 * index % 11)

    def __iter__(self) -> Iterator[int]:
        return itertools.cycle(self.order)


def samples(count: int) -> list[dict[str, Any]]:
    return [{"image_id": i, "height": 4, "width": 6} for i in range(count)]


def mapped(sample: dict[str, Any]) -> dict[str, Any]:
    return {**sample, "mapped": True}


def share(size: int, *, rank: int, of: int) -> list[int]:
    with as_process(rank, of=of):
        loader = d2.build_detection_test_loader(samples(size), mapper=None)
    assert len(loader) == len(list(loader))
    return list(loader.sampler)


def ids(batches: Any, count: int | None = None) -> list[list[int]]:
    taken = itertools.islice(iter(batches), count)
    return [[sample["image_id"] for sample in batch] for batch in taken]


def observe_loaders(folder: pathlib.Path) -> dict[str, Any]:
    train, test = d2.build_detection_train_loader, d2.build_detection_test_loader
    data, sampler = samples(9), Cycle(9)
    given = {"mapper": mapped, "total_batch_size": 4, "aspect_ratio_grouping": False}
    tested = test(data, mapper=mapped)
    return {
        "plain": ids(train(data, sampler=sampler, **given), 5),
        "two workers": ids(train(data, sampler=sampler, num_workers=2, **given), 5),
        "collated": next(iter(train(data, sampler=sampler, collate_fn=len, **given))),
        "test": [ids(tested), len(tested)],
        "test batches": ids(test(data, mapper=None, batch_size=4)),
        "test workers": ids(test(data, mapper=mapped, num_workers=2, batch_size=2)),
        "test shares": [[share(10, rank=r, of=n) for r in range(n)] for n in (1, 3, 4)],
        "fewer than processes": [share(2, rank=r, of=3) for r in range(3)],
        "mapped": next(iter(tested))[0],
        "errors": {
            "sampler": raised(train, data, sampler=[1, 2], **given),
            "no batch": raised(train, data, sampler=sampler, **{**given, "total_batch_size": 0}),
        },
    }
