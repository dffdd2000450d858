#!/usr/bin/env python3
"""A training by two processes, the second of which meets a fault: two_ranks.py FOLDER [FAULT]."""

import argparse
import os
import pathlib
import signal
import subprocess
import sys

from runs import At

from smmcl.cli import run
from smmcl.d2 import comm
from smmcl.engine.launch import start
from smmcl.engine.setup import setup
from smmcl.engine.trainer import Trainer
from smmcl.modeling.streams import mscan
from smmcl.modeling.streams.base import register_sizes

ROOT = pathlib.Path(__file__).resolve().parents[2]
KEYS = [
    "MODEL.PAIR.VISIBLE.NAME", "tiny", "MODEL.PAIR.AUXILIARY.NAME", "tiny", "INPUT.CROP_SIZE",
    "[32, 64]", "INPUT.SCALES", "[0.75, 1.0]", "DATASETS.TRAIN", "('synthetic_night_train@64x96',)",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.HAM.CHANNELS", "32",
    "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "12",
    "SOLVER.WARMUP_ITERS", "2", "SOLVER.CHECKPOINT_PERIOD", "4", "DATALOADER.NUM_WORKERS", "1",
]  # fmt: skip
AT = 6  # the iteration before which it happens
# The signal that follows, to the process itself or to what has started both.
LATER = {"pause": signal.SIGCONT, "stop and end": signal.SIGTERM}


def strike(fault: str, trainer: Trainer) -> None:
    """Does something to this process, or to its worker."""
    own = os.getpid()
    (worker,) = trainer.data_loader.workers
    if fault in LATER:
        number, pid = LATER[fault], own if fault == "pause" else os.getppid()
        subprocess.Popen(["/bin/sh", "-c", f"sleep 4; kill -{number:d} {pid}"])
    os.kill(worker.pid if fault == "worker" else own, {
        "kill": signal.SIGKILL, "worker": signal.SIGKILL,
        "stop": signal.SIGSTOP, "pause": signal.SIGSTOP, "stop and end": signal.SIGSTOP,
    }[fault])  # fmt: skip


class Struck(Trainer):
    """The trainer of one process; what happens to the second is in the environment."""

    @classmethod
    def build_test_loader(cls, *args: object, **kwargs: object) -> object:
        loader = super().build_test_loader(*args, **kwargs)
        if os.environ["FAULT"] == "evaluation" and comm.get_rank() == 1:
            loader.pairs._mapper = die
        return loader


def die(record: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(args: argparse.Namespace) -> None:
    register_sizes({"tiny": {"widths": (16, 16, 32, 32), "depths": (1, 1, 1, 1)}})(mscan.MSCAN)
    fault = os.environ["FAULT"]
    trainer = Struck(setup(args))
    trainer.resume_or_load(resume=True)
    if fault and fault != "evaluation" and comm.get_rank() == 1:
        trainer.register_hooks([At(AT, lambda: strike(fault, trainer))])
    trainer.train()


if __name__ == "__main__":
    folder, fault = sys.argv[1], "".join(sys.argv[2:])
    os.environ["FAULT"] = fault
    names = "('synthetic_night_val@64x96',)" if fault == "evaluation" else "()"
    place = argparse.Namespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto")
    place.config_file = str(ROOT / "configs/synthetic_night.yaml")
    place.opts = ["OUTPUT_DIR", folder, *KEYS, "TEST.EVAL_PERIOD", str(AT), "DATASETS.TEST", names]
    place.eval_only, place.resume = False, True
    run(lambda: start(main, place))
