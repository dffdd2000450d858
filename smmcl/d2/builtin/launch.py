"""Starting the processes of a run."""

import datetime
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from smmcl.d2.builtin import comm


def launch(
    main_func: Callable,
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: datetime.timedelta = datetime.timedelta(minutes=30),
) -> None:
    """Runs `main_func(*args)` in this process, or in several that form a process group."""
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        assert num_machines == 1, "dist_url=auto not supported in multi-machine jobs."
        with socket.socket() as probe:
            probe.bind(("", 0))
            dist_url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    ranks = range(machine_rank * num_gpus_per_machine, world_size)[:num_gpus_per_machine]
    group = {"init_method": dist_url, "world_size": world_size, "timeout": timeout}
    mp.start_processes(_run_worker, (main_func, args, ranks, group), len(ranks), daemon=False)


def _run_worker(
    local_rank: int, main_func: Callable, args: tuple, ranks: range, group: dict[str, Any]
) -> None:
    has_gpu = torch.cuda.is_available()
    assert not has_gpu or len(ranks) <= torch.cuda.device_count()
    dist.init_process_group("NCCL" if has_gpu else "GLOO", rank=ranks[local_rank], **group)
    comm.create_local_process_group(len(ranks))
    if has_gpu:
        torch.cuda.set_device(local_rank)
    comm.synchronize()
    main_func(*args)
