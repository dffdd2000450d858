"""Broken pairs, dead workers and failing evaluations end a run saved, or are skipped alike."""

import json
import os
import pathlib
import signal
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from runs import At, are_equal, train

from smmcl.d2 import CfgNode, DatasetCatalog, MetadataCatalog, comm
from smmcl.data.loader import PairStream
from smmcl.data.watched_loader import WatchedLoader
from smmcl.engine.stop import StopTogether
from smmcl.engine.trainer import Trainer
from smmcl.evaluation.sem_seg import ElsewhereError, PairSemSegEvaluator


@pytest.fixture
def broken(tiny_config, tmp_path) -> Callable:
    """Configs of 16 pairs, two of which are broken: 3 has a cut image, 7 no label."""
    records = [dict(record) for record in DatasetCatalog.get("few_train")]
    cut = tmp_path / "cut.png"
    cut.write_bytes(pathlib.Path(records[3]["file_name"]).read_bytes()[:300])
    records[3]["file_name"], records[7]["sem_seg_file_name"] = str(cut), str(tmp_path / "gone.png")
    DatasetCatalog.register("broken_train", lambda: records)
    facts = MetadataCatalog.get("few_train").as_dict()
    MetadataCatalog.get("broken_train").set(**{k: v for k, v in facts.items() if k != "name"})
    keys = ("DATASETS.TRAIN", "('broken_train',)", "DATASETS.TEST", "()", "SOLVER.MAX_ITER", "9")
    yield lambda name, *more: tiny_config(tmp_path / name, *keys, *more)
    DatasetCatalog.remove("broken_train")
    MetadataCatalog.remove("broken_train")


def test_a_broken_pair_stops_the_run_with_its_name(broken, tmp_path) -> None:
    with pytest.raises((ValueError, OSError), match=r"cut\.png cannot be read|gone\.png does not"):
        train(broken("run"))


def test_broken_pairs_are_skipped_alike_by_workers_and_after_a_stop(broken, tmp_path) -> None:
    train(broken("whole", "DATALOADER.SKIP_BROKEN", "2"))
    listed = json.loads((tmp_path / "whole/skipped.json").read_text())
    reasons = sorted(listed.values())
    assert len(reasons) == 2
    assert "gone.png does not exist" in reasons[0]
    assert "cut.png cannot be read" in reasons[1]
    cfg = broken("halves", "DATALOADER.SKIP_BROKEN", "2", "DATALOADER.NUM_WORKERS", "2")
    with pytest.raises(SystemExit):
        train(cfg, At(6, lambda: signal.raise_signal(signal.SIGTERM)))
    train(cfg)
    assert are_equal(tmp_path / "whole", tmp_path / "halves")
    assert json.loads((tmp_path / "halves/skipped.json").read_text()) == listed


def test_one_broken_pair_too_many_stops_the_run_saved(broken, tmp_path) -> None:
    words = r"2 pairs are broken, but DATALOADER\.SKIP_BROKEN allows 1\. The last: .* or allow more"
    with pytest.raises(ValueError, match=words):
        train(broken("run", "DATALOADER.SKIP_BROKEN", "1"))
    assert (tmp_path / "run/last_checkpoint").exists()
    train(broken("run", "DATALOADER.SKIP_BROKEN", "2"))
    train(broken("whole", "DATALOADER.SKIP_BROKEN", "2"))
    assert are_equal(tmp_path / "run", tmp_path / "whole")


def test_the_stand_in_of_a_broken_pair_follows_from_the_position() -> None:
    def mapper(record: dict) -> dict:
        if record["file_name"] in "ce":
            raise ValueError(record["file_name"])
        return record

    records = [{"file_name": name} for name in "abcdef"]
    forward, backward = (PairStream(records, mapper=mapper, seed=3, max_broken=2) for _ in "ab")
    first = [forward[position] for position in range(12)]
    assert first == [backward[position] for position in reversed(range(12))][::-1]
    plain = PairStream(records, mapper=dict, seed=3)
    for position, sample in enumerate(first):
        stands_in = plain[position]["file_name"] in "ce"
        assert ("broken" in sample) is stands_in
        assert sample["position"] == position
        assert stands_in or sample["file_name"] == plain[position]["file_name"]
    nothing = PairStream(records[2:3], mapper=mapper, seed=3, max_broken=2)
    with pytest.raises(ValueError, match=r"1 pairs are broken, but .* allows 2"):
        nothing[0]


def test_all_processes_count_the_broken_pairs_of_all(monkeypatch, tmp_path) -> None:
    """And stop alike when another process has no next batch."""
    hook = StopTogether(SimpleNamespace(failure=None, batch=[{"broken": {"a": "cut"}}]),
                        max_broken=2, folder=str(tmp_path))  # fmt: skip
    monkeypatch.setattr(comm, "all_gather", lambda own: [own, (0, None, {"b": "gone"})])
    assert hook._exchange(is_last=False) == (None, False)
    assert hook.state_dict() == {"broken": {"a": "cut", "b": "gone"}}
    assert json.loads((tmp_path / "skipped.json").read_text()) == hook.broken
    monkeypatch.setattr(comm, "all_gather", lambda own: [own, (15, "OSError: gone.", {})])
    failure, is_stopped = hook._exchange(is_last=False)
    assert "process 1 failed: OSError: gone." in str(failure)
    assert is_stopped


@pytest.mark.parametrize("what", ["worker", "file"])
def test_a_run_without_a_next_batch_is_saved_and_goes_on(broken, tmp_path, what, caplog) -> None:
    cfg = broken("run", "DATALOADER.NUM_WORKERS", "1", "DATASETS.TRAIN", "('few_train',)")
    trainer = Trainer(cfg)
    stream, at = trainer.data_loader.pairs, 5 * 2  # the first pair of iteration 5
    mapper, main = stream._mapper, os.getpid()

    def fails(record: dict) -> dict:
        if record["position"] == at:
            assert os.getpid() != main
            if what == "file":
                raise OSError(5, "Input/output error", "/data/a.png")
            os.kill(os.getpid(), signal.SIGKILL)
        return mapper(record)

    stream._mapper = fails
    error = ChildProcessError if what == "worker" else OSError
    words = "died of SIGKILL" if what == "worker" else "/data/a.png"
    with pytest.raises(error, match=words):
        trainer.train()
    # A worker that dies may take along the batch before, which it had read.
    last = (tmp_path / "run/last_checkpoint").read_text()
    assert last == "model_0000004.pth" or (what, last) == ("worker", "model_0000003.pth")
    train(cfg)
    train(broken("whole", "DATASETS.TRAIN", "('few_train',)"))
    assert are_equal(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("iterations", ["9", "3"], ids=["within", "at the end"])
def test_an_evaluation_that_fails_ends_a_run_saved(broken, tmp_path, monkeypatch, iterations):
    def loader(cls: type, cfg: CfgNode, name: str) -> WatchedLoader:
        loader = build(cfg, name)
        loader.pairs._mapper = lambda record: os.kill(os.getpid(), signal.SIGKILL)
        return loader

    build = Trainer.build_test_loader
    keys = ("DATASETS.TRAIN", "('few_train',)", "DATALOADER.NUM_WORKERS", "1")
    cfg = broken("run", *keys, "SOLVER.MAX_ITER", iterations, "TEST.EVAL_PERIOD", "3",
                 "DATASETS.TEST", "('few_val',)")  # fmt: skip
    monkeypatch.setattr(Trainer, "build_test_loader", classmethod(loader))
    with pytest.raises(ChildProcessError, match=r"loader worker 0 reads .* died of SIGKILL"):
        train(cfg)
    last = (tmp_path / "run/last_checkpoint").read_text()
    assert last == ("model_final.pth" if iterations == "3" else "model_0000002.pth")
    monkeypatch.undo()
    train(cfg)
    train(broken("whole", *keys, "SOLVER.MAX_ITER", iterations))
    assert are_equal(tmp_path / "run", tmp_path / "whole")


def test_the_process_that_saves_hears_of_a_failing_evaluation(tiny_config, tmp_path, monkeypatch):
    evaluator = PairSemSegEvaluator(tiny_config(tmp_path), "few_val")
    monkeypatch.setattr(comm, "all_gather", lambda own: [own, "OSError: a.png: gone"])
    with pytest.raises(ElsewhereError, match=r"process 1 failed: OSError: a\.png: gone"):
        evaluator.evaluate()


def test_a_batch_after_the_last_is_not_missed(tiny_config, tmp_path) -> None:
    keys = ("DATASETS.TEST", "()", "SOLVER.MAX_ITER", "2", "SOLVER.WARMUP_ITERS", "0")
    cfg = tiny_config(tmp_path, *keys)
    trainer = Trainer(cfg)
    stream = trainer.data_loader.pairs
    mapper = stream._mapper

    def fails(record: dict) -> dict:
        assert record["position"] < 4
        return mapper(record)

    stream._mapper = fails
    trainer.train()
    assert (tmp_path / "model_final.pth").exists()


def test_it_stands_between_the_schedule_and_the_checkpoints(tiny_config, tmp_path) -> None:
    names = [type(hook).__name__ for hook in Trainer(tiny_config(tmp_path))._hooks]
    assert names.index("LRScheduler") < names.index("StopTogether")
    assert names.index("StopTogether") < names.index("PeriodicCheckpointer")
