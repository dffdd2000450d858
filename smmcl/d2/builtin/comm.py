"""Who is who among the processes of a run, and small exchanges of Python objects between them."""

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

_LOCAL_PROCESS_GROUP: dist.ProcessGroup | None = None


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Returns the number of processes on all machines."""
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    """Returns this process's place among all processes."""
    return dist.get_rank() if _is_distributed() else 0


@functools.lru_cache
def create_local_process_group(num_workers_per_machine: int) -> None:
    """Forms a group of the processes of each machine; every process must call it.

    Args:
        num_workers_per_machine: processes per machine.
    """
    global _LOCAL_PROCESS_GROUP
    assert _LOCAL_PROCESS_GROUP is None
    assert get_world_size() % num_workers_per_machine == 0
    for first in range(0, get_world_size(), num_workers_per_machine):
        ranks = list(range(first, first + num_workers_per_machine))
        group = dist.new_group(ranks)
        if get_rank() in ranks:
            _LOCAL_PROCESS_GROUP = group


def get_local_process_group() -> dist.ProcessGroup:
    """Returns the group of this machine's processes."""
    assert _LOCAL_PROCESS_GROUP is not None, (
        "There is no local process group yet. Start the processes with launch(), or call "
        "comm.create_local_process_group(num_workers_per_machine) after init_process_group()."
    )
    return _LOCAL_PROCESS_GROUP


def get_local_rank() -> int:
    """Returns this process's place on its machine."""
    return dist.get_rank(group=get_local_process_group()) if _is_distributed() else 0


def get_local_size() -> int:
    """Returns the number of processes on this machine."""
    return dist.get_world_size(group=get_local_process_group()) if _is_distributed() else 1


def is_main_process() -> bool:
    """Returns whether this is the one process that writes and prints."""
    return get_rank() == 0


def synchronize() -> None:
    """Waits until every process has come here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


@functools.lru_cache
def _object_group() -> dist.ProcessGroup:
    """Returns a group that moves objects through main memory, also where tensors go by NCCL."""
    return dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else dist.group.WORLD


def all_gather(data: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Returns the `data` of every process, in the order of ranks, on every process.

    Args:
        data: anything that pickles.
        group: the processes to ask; all by default.
    """
    if get_world_size() == 1:
        return [data]
    group = group or _object_group()
    output = [None] * dist.get_world_size(group)
    dist.all_gather_object(output, data, group=group)
    return output


def gather(data: Any, dst: int = 0, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Returns the `data` of every process on process `dst`, an empty list on the others.

    Args:
        data: anything that pickles.
        dst: rank of the process that receives.
        group: the processes to ask; all by default.
    """
    if get_world_size() == 1:
        return [data]
    group = group or _object_group()
    is_receiver = dist.get_rank(group=group) == dst
    output = [None] * dist.get_world_size(group) if is_receiver else None
    dist.gather_object(data, output, dst=dst, group=group)
    return output if is_receiver else []


def shared_random_seed() -> int:
    """Returns a random number that all processes share; every process must call it."""
    return all_gather(np.random.randint(2**31))[0]


def reduce_dict(
    input_dict: dict[str, torch.Tensor], average: bool = True
) -> dict[str, torch.Tensor]:
    """Returns the mean or sum of each value over the processes, on the main process.

    Args:
        input_dict: scalar tensors, under the same keys on every process.
        average: mean rather than sum.
    """
    if get_world_size() < 2:
        return input_dict
    names = sorted(input_dict)
    with torch.no_grad():
        values = torch.stack([input_dict[name] for name in names])  # (len(names),)
        dist.reduce(values, dst=0)
        if is_main_process() and average:
            values /= get_world_size()
    return dict(zip(names, values, strict=True))
