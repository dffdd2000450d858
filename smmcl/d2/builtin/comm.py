"""Who is who among the processes of a run, and small exchanges of Python objects between them."""

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from smmcl.d2.builtin import missing

_LOCAL_PROCESS_GROUP: dist.ProcessGroup | None = None


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes on all machines."""
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    """This process's place among all processes."""
    return dist.get_rank() if _is_distributed() else 0


def is_main_process() -> bool:
    """Whether this is the one process that writes and prints."""
    return get_rank() == 0


@functools.lru_cache
def create_local_process_group(num_workers_per_machine: int) -> None:
    """Forms a group of the processes of each machine; every process must call it."""
    global _LOCAL_PROCESS_GROUP
    assert _LOCAL_PROCESS_GROUP is None
    assert get_world_size() % num_workers_per_machine == 0
    for first in range(0, get_world_size(), num_workers_per_machine):
        ranks = list(range(first, first + num_workers_per_machine))
        group = dist.new_group(ranks)
        if get_rank() in ranks:
            _LOCAL_PROCESS_GROUP = group


def get_local_rank() -> int:
    """This process's place on its machine."""
    if not _is_distributed():
        return 0
    assert _LOCAL_PROCESS_GROUP is not None, (
        "There is no local process group yet. Start the processes with launch(), or call "
        "comm.create_local_process_group(num_workers_per_machine) after init_process_group()."
    )
    return dist.get_rank(group=_LOCAL_PROCESS_GROUP)


def synchronize() -> None:
    """Waits until every process has come here."""
    if get_world_size() > 1:
        is_nccl = dist.get_backend() == dist.Backend.NCCL
        dist.barrier(device_ids=[torch.cuda.current_device()] if is_nccl else None)


@functools.lru_cache
def _object_group() -> dist.ProcessGroup:
    """A group that moves objects through main memory, also where tensors travel by NCCL."""
    return dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else dist.group.WORLD


def all_gather(data: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """The `data` of every process, in the order of ranks, on every process."""
    if get_world_size() == 1:
        return [data]
    group = group or _object_group()
    output = [None] * dist.get_world_size(group)
    dist.all_gather_object(output, data, group=group)
    return output


def gather(data: Any, dst: int = 0, group: dist.ProcessGroup | None = None) -> list[Any]:
    """The `data` of every process on process `dst`; an empty list on the others."""
    gathered = all_gather(data, group)
    return gathered if get_rank() == dst else []


def shared_random_seed() -> int:
    """A random number that all processes share; every process must call it."""
    return all_gather(np.random.randint(2**31))[0]


def __getattr__(name: str) -> object:
    raise missing(f"comm.{name}")
