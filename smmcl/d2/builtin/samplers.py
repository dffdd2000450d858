"""Which samples a process draws: an endless shuffled stream for training, one pass for testing."""

import itertools
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from smmcl.d2.builtin import comm


class TrainingSampler(Sampler):
    """Endless indices: one shuffled pass after the other, dealt out to the processes in turn."""

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        """Args:
        size: number of samples in the dataset.
        shuffle: False gives them in order.
        seed: the same on every process; None draws one that they share.
        """
        if not isinstance(size, int):
            raise TypeError(f"TrainingSampler(size=) expects an int. Got type {type(size)}.")
        if size <= 0:
            raise ValueError(f"TrainingSampler(size=) expects a positive int. Got {size}.")
        self._size = size
        self._shuffle = shuffle
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        yield from itertools.islice(self._infinite_indices(), self._rank, None, self._world_size)

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            if self._shuffle:
                yield from torch.randperm(self._size, generator=generator).tolist()
            else:
                yield from range(self._size)


class InferenceSampler(Sampler):
    """Each sample exactly once over all processes: one run of neighbours for each process."""

    def __init__(self, size: int) -> None:
        """Args:
        size: number of samples in the dataset; the first ranks take one more where it is uneven.
        """
        assert size > 0
        rank, share = comm.get_rank(), size // comm.get_world_size()
        left = size % comm.get_world_size()
        begin = rank * share + min(rank, left)
        self._local_indices = range(begin, begin + share + (rank < left))

    def __iter__(self) -> Iterator[int]:
        yield from self._local_indices

    def __len__(self) -> int:
        return len(self._local_indices)
