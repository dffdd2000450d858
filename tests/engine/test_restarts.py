"""A run that is killed at any moment, also while it writes a checkpoint, ends as if it had not."""

import argparse
import multiprocessing
import pathlib
import random
import time

import pytest
import torch

from smmcl.engine.setup import setup
from smmcl.engine.trainer import Trainer
from smmcl.files.atomic import PREFIX
from smmcl.modeling.streams import mscan
from smmcl.modeling.streams.base import STREAM_REGISTRY, register_sizes

ROOT = pathlib.Path(__file__).resolve().parents[2]
NUM_KILLS = 20
SIZE = {"widths": (16, 16, 32, 32), "depths": (1, 1, 1, 1)}


def train(folder: pathlib.Path) -> None:
    """200 iterations, on from where the last process was killed."""
    torch.set_num_threads(1)
    if "tiny" not in STREAM_REGISTRY:
        register_sizes({"tiny": SIZE})(mscan.MSCAN)
    opts = [
        "OUTPUT_DIR", str(folder), "MODEL.PAIR.VISIBLE.NAME", "tiny",
        "MODEL.PAIR.AUXILIARY.NAME", "tiny", "MODEL.PAIR.VISIBLE.DROP_PATH_RATE", "0.2",
        "DATASETS.TRAIN", "('synthetic_night_train@64x96',)", "DATASETS.TEST", "()",
        "INPUT.CROP_SIZE", "[32, 64]", "INPUT.SCALES", "[0.75, 1.0]",
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.HAM.CHANNELS", "32",
        "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "200", "SOLVER.CHECKPOINT_PERIOD", "5",
        "DATALOADER.NUM_WORKERS", "0",
    ]  # fmt: skip
    config = str(ROOT / "configs/synthetic_night.yaml")
    trainer = Trainer(
        setup(argparse.Namespace(config_file=config, opts=opts, eval_only=False, resume=True))
    )
    trainer.resume_or_load(resume=True)
    trainer.train()


def start(folder: pathlib.Path) -> multiprocessing.process.BaseProcess:
    """Trains in a process that is forked, so that a start does not cost the imports."""
    child = multiprocessing.get_context("fork").Process(target=train, args=(folder,))
    child.start()
    return child


def finish(folder: pathlib.Path) -> None:
    child = start(folder)
    child.join()
    assert child.exitcode == 0


def last(folder: pathlib.Path) -> str:
    path = folder / "last_checkpoint"
    return path.read_text() if path.exists() else ""


def is_writing(folder: pathlib.Path, remains: set[pathlib.Path]) -> bool:
    return bool(set(folder.glob(f"{PREFIX}*-model_*")) - remains)


@pytest.mark.slow
def test_killed_twenty_times_it_ends_bit_for_bit_the_same(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    killed.mkdir()
    finish(whole)  # draws the pairs as well
    began = time.monotonic()
    finish(tmp_path / "timed")
    duration = time.monotonic() - began

    moments = random.Random(0)
    num_torn = 0
    for number in range(NUM_KILLS):
        child = start(killed)
        remains, at_start = set(killed.glob(f"{PREFIX}*-model_*")), last(killed)
        is_early, is_torn = number % 4 == 0, number % 2 == 1
        while child.is_alive() and not is_early and last(killed) == at_start:
            time.sleep(0.001)
        while child.is_alive() and is_torn and not is_writing(killed, remains):
            time.sleep(0.0002)
        time.sleep(moments.uniform(0, 0.01 if is_torn else 5 * duration / 200))
        assert child.is_alive(), "the run ended before it was killed often enough"
        child.kill()
        child.join()
        num_torn += is_writing(killed, remains)
    assert num_torn, "no kill fell into the writing of a checkpoint"
    finish(killed)
    ends = [torch.load(folder / "model_final.pth") for folder in (whole, killed)]
    assert ends[0]["iteration"] == ends[1]["iteration"] == 199
    for part in ("model", "trainer"):
        torch.testing.assert_close(*(end[part] for end in ends), rtol=0, atol=0)
    assert len(list(killed.glob("model_*.pth"))) == 4  # three, and the final one
