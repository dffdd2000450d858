"""What either engine tells two processes on the CPU of each other."""

import argparse
import json
import pathlib

import pytest
import torch
from torch import nn
from torch.utils.data import SequentialSampler

import smmcl.d2 as d2
from smmcl.engine.launch import start

NUM_PROCESSES = 2
DATA = [{"id": i} for i in range(8)]


def observe(args: argparse.Namespace) -> None:
    comm, folder = d2.comm, args.folder
    rank = comm.get_rank()
    try:
        d2.create_ddp_model(nn.Linear(1, 1))
        ddp = "works"
    except ValueError as error:
        ddp = str(error)
    found = {
        "sizes": [comm.get_world_size(), comm.get_local_rank(), comm.is_main_process()],
        "all": comm.all_gather(rank * 10),
        "gathered": comm.gather(rank * 10),
        "seeds": comm.all_gather(comm.shared_random_seed()),
        "test": [
            sample["id"] for [sample] in d2.build_detection_test_loader(DATA[:5], mapper=dict)
        ],
        "loaded": len(next(iter(_loader()))),
        "ddp": ddp,
    }
    comm.synchronize()
    (pathlib.Path(folder) / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")


def _loader() -> object:
    options = {"total_batch_size": 6, "aspect_ratio_grouping": False}
    sampler = SequentialSampler(DATA)
    return d2.build_detection_train_loader(DATA, mapper=dict, sampler=sampler, **options)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="with GPUs the processes take those")
def test_two_processes_know_and_hear_each_other(tmp_path: pathlib.Path, monkeypatch) -> None:
    # Spawned processes import this module by its name.
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parent)
    import test_processes

    args = argparse.Namespace(
        num_gpus=NUM_PROCESSES, num_machines=1, machine_rank=0, dist_url="auto", folder=tmp_path
    )
    start(test_processes.observe, args)
    first, second = (
        json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8"))
        for rank in range(NUM_PROCESSES)
    )
    assert first["sizes"] == [2, 0, True]
    assert second["sizes"] == [2, 1, False]
    assert first["all"] == second["all"] == [0, 10]
    assert first["gathered"] == [0, 10]
    assert second["gathered"] == []
    assert len(set(first["seeds"] + second["seeds"])) == 1
    assert first["test"] + second["test"] == [0, 1, 2, 3, 4]
    assert first["loaded"] == second["loaded"] == 3
    # Detectron2 gives DDP a GPU where there is none; the trainer of this project does not.
    assert "device_ids" in first["ddp"]
    assert "device_ids" in second["ddp"]
