"""The training stream: each pair once an epoch, the same batches whatever reads them."""

import itertools
import multiprocessing
import os
import pathlib
import signal
import time

import pytest
import torch

from smmcl.config import build_config
from smmcl.d2 import DatasetCatalog
from smmcl.data.loader import (
    PairStream,
    PositionSampler,
    build_test_loader,
    build_train_loader,
    swap_auxiliary,
)
from smmcl.data.mapper import MultiModalDatasetMapper
from smmcl.data.reader import PairReader
from smmcl.data.watched_loader import shielded

RECORDS = [{"image_id": index} for index in range(7)]


def identity(record):
    return record


def ids(stream, positions):
    return [stream[position]["image_id"] for position in positions]


def test_each_epoch_has_each_pair_once_in_an_order_of_its_own():
    stream = PairStream(RECORDS, mapper=identity, seed=1)
    epochs = [tuple(ids(stream, range(7 * epoch, 7 * epoch + 7))) for epoch in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) == 4


def test_order_is_a_function_of_seed_and_position():
    stream = PairStream(RECORDS, mapper=identity, seed=1)
    forward = ids(stream, range(21))
    backward = ids(PairStream(RECORDS, mapper=identity, seed=1), reversed(range(21)))
    assert forward == backward[::-1]
    assert forward != ids(PairStream(RECORDS, mapper=identity, seed=2), range(21))
    assert stream[9]["position"] == 9
    assert "position" not in RECORDS[0]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_share_each_batch(world_size):
    samplers = [PositionSampler(16, rank=r, world_size=world_size) for r in range(world_size)]
    share = 8 // world_size
    streams = [list(itertools.islice(sampler, 3 * share)) for sampler in samplers]
    for batch in range(3):
        taken = [p for stream in streams for p in stream[batch * share : (batch + 1) * share]]
        assert sorted(taken) == list(range(16 + 8 * batch, 24 + 8 * batch))


@pytest.fixture
def config(registered_pairs):
    def build(*overrides, **pairs):
        name = registered_pairs(**pairs)
        return build_config(
            overrides=["DATASETS.TRAIN", (name,), "DATASETS.TEST", (name,),
                       "SOLVER.IMS_PER_BATCH", 4, "DATALOADER.NUM_WORKERS", 0, *overrides]
        )  # fmt: skip

    return build


def batches(loader, count):
    return [[record["position"] for record in batch] for batch in itertools.islice(loader, count)]


def test_iteration_i_takes_positions_i_times_batch(config):
    loader = build_train_loader(config(), mapper=identity)
    assert batches(loader, 3) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_do_not_change_the_batches(config, num_workers):
    loader = build_train_loader(
        config("DATALOADER.NUM_WORKERS", num_workers), mapper=identity, start_position=8
    )
    assert batches(loader, 4) == [list(range(8 + 4 * i, 12 + 4 * i)) for i in range(4)]


def test_starting_the_loader_draws_nothing_from_training(config):
    loader = build_train_loader(config(), mapper=identity)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    next(iter(loader))
    assert torch.equal(torch.rand(3), expected)


def test_a_sample_that_cannot_be_mapped_stops_the_run(config):
    def broken(record):
        raise ValueError("no such file")

    with pytest.raises(ValueError, match="no such file"):
        next(iter(build_train_loader(config(), mapper=broken)))


def test_test_loader_has_each_pair_once_in_order(config):
    cfg = config()
    loader = build_test_loader(cfg, cfg.DATASETS.TEST[0], mapper=identity)
    read = [batch[0]["image_id"] for batch in loader]
    assert read == ["000", "001", "002", "003", "004"]
    assert len(loader) == 5


def test_swap_gives_every_pair_another_auxiliary_image():
    for num_pairs in (2, 5, 8):
        records = [{"file_name": i, "auxiliary_file_name": i} for i in range(num_pairs)]
        swapped = swap_auxiliary(records)
        donors = [record["auxiliary_file_name"] for record in swapped]
        assert sorted(donors) == list(range(num_pairs))
        assert all(record["file_name"] != record["auxiliary_file_name"] for record in swapped)
        assert records[0]["auxiliary_file_name"] == 0


def test_swap_reaches_the_test_loader(config):
    cfg = config("INPUT.AUXILIARY_ABLATION", "swap")
    loader = build_test_loader(cfg, cfg.DATASETS.TEST[0], mapper=identity)
    first = next(iter(loader))[0]
    assert "002_" in first["auxiliary_file_name"]
    assert "000_" in first["file_name"]


def test_empty_dataset(config):
    with pytest.raises(ValueError, match="hold no pair"):
        build_train_loader(config(num_pairs=0), mapper=identity)


def test_workers_leave_signals_to_the_main_process(monkeypatch) -> None:
    cfg = build_config("Base-SMMCL.yaml", ["DATALOADER.NUM_WORKERS", 1, "SOLVER.IMS_PER_BATCH", 1])
    monkeypatch.setattr("smmcl.data.loader.list_records", lambda names: RECORDS)

    def look(record: dict) -> dict:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(os.getpid(), number)
        return {"pid": os.getpid()}

    for loader in (build_train_loader(cfg, mapper=look), build_test_loader(cfg, "", mapper=look)):
        batches = iter(loader)
        (first,), (second,) = next(batches), next(batches)
        assert first["pid"] == second["pid"] != os.getpid()


class Orphaned(torch.utils.data.Dataset):
    """Writes its worker's number down."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> int:
        (self.folder / str(os.getpid())).touch()
        return index


def _load(folder: pathlib.Path) -> None:
    loader = shielded(torch.utils.data.DataLoader(Orphaned(folder), num_workers=2))
    for _ in loader:
        time.sleep(600)


@pytest.mark.slow
def test_workers_end_with_the_main_process(tmp_path: pathlib.Path) -> None:
    main = multiprocessing.get_context("fork").Process(target=_load, args=(tmp_path,))
    main.start()
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.05)
    workers = [pathlib.Path("/proc", path.name) for path in tmp_path.iterdir()]
    assert all(worker.exists() for worker in workers)
    main.kill()
    main.join()
    deadline = time.monotonic() + 60  # torch's workers look every 5 seconds
    while any(_lives(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _lives(process: pathlib.Path) -> bool:
    """An ended process that nobody waits for stays as a zombie."""
    return process.exists() and "State:\tZ" not in (process / "status").read_text()


def test_streams_beside_come_along_at_the_same_position():
    beside = PairStream(RECORDS[:3], mapper=identity, seed=5)
    stream = PairStream(RECORDS, mapper=identity, seed=1, beside={"unlabeled": beside})
    for position in (0, 4, 30):
        assert stream[position]["unlabeled"] == beside[position]
    assert ids(stream, range(7)) == ids(PairStream(RECORDS, mapper=identity, seed=1), range(7))


def unlabeled_config(registered_pairs, **names):
    test = names.get("test") or registered_pairs()
    return build_config("", [
        "DATASETS.TRAIN", (registered_pairs(),), "DATASETS.TEST", (test,),
        "DATASETS.UNLABELED", (names["unlabeled"],), "INPUT.CROP_SIZE", [32, 32],
        "INPUT.AUXILIARY_FORMAT", "L", "SOLVER.IMS_PER_BATCH", 2,
        "DATALOADER.NUM_WORKERS", names.get("workers", 0),
    ])  # fmt: skip


def test_unlabeled_pairs_come_from_every_worker(registered_pairs):
    cfg = unlabeled_config(registered_pairs, unlabeled=registered_pairs(), workers=2)
    mapper = MultiModalDatasetMapper(cfg, is_train=True)
    batches = list(itertools.islice(build_train_loader(cfg, mapper=mapper), 3))
    assert all("unlabeled" in sample for batch in batches for sample in batch)


def test_labels_of_unlabeled_sets_are_never_opened(registered_pairs, monkeypatch):
    cfg = unlabeled_config(registered_pairs, unlabeled=registered_pairs())
    opened = []
    read = PairReader.read_label
    monkeypatch.setattr(
        PairReader, "read_label", lambda self, path: opened.append(path) or read(self, path)
    )
    mapper = MultiModalDatasetMapper(cfg, is_train=True)
    batches = list(itertools.islice(build_train_loader(cfg, mapper=mapper), 3))
    unlabeled = [sample["unlabeled"] for batch in batches for sample in batch]
    assert all(sample["image"].shape == (3, 32, 32) for sample in unlabeled)
    assert not any("sem_seg" in s or "sem_seg_file_name" in s for s in unlabeled)
    folders = {str(pathlib.Path(sample["file_name"]).parent) for sample in unlabeled}
    assert len(opened) == 6
    assert not [path for path in opened if any(str(path).startswith(f) for f in folders)]
    # The catalog's own records keep their labels.
    assert all("sem_seg_file_name" in r for r in DatasetCatalog.get(cfg.DATASETS.UNLABELED[0]))


def test_unlabeled_pairs_that_are_tested_are_refused_by_name(registered_pairs):
    name = registered_pairs()
    cfg = unlabeled_config(registered_pairs, unlabeled=name, test=name)
    first = DatasetCatalog.get(name)[0]["image_id"]
    with pytest.raises(ValueError, match=rf"share \d+ pairs: {first}, .*name other|Name other"):
        build_train_loader(cfg, mapper=identity)
