"""What the tests of the companions share: reference numbers, and the recipe of their inputs."""

import pathlib
import zlib
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

FILE = pathlib.Path(__file__).resolve().parents[1] / "golden" / "companions.npz"


@pytest.fixture(scope="session")
def numbers() -> Mapping[str, Tensor]:
    """Arrays of the reference file, in float64 where they are floats."""
    with np.load(FILE) as file:
        arrays = {name: file[name] for name in file.files}
    return {
        name: torch.from_numpy(array) if array.dtype.kind in "iufb" else array.tolist()
        for name, array in arrays.items()
    }


@pytest.fixture(scope="session")
def unit() -> Callable[..., Tensor]:
    """Uniform numbers by seed and shape, rounded to float32, as float64."""
    return lambda seed, *shape: _rounded(np.random.RandomState(seed).random_sample(shape))


@pytest.fixture(scope="session")
def normal() -> Callable[..., Tensor]:
    return lambda seed, *shape: _rounded(np.random.RandomState(seed).standard_normal(shape))


def _rounded(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32)).double()


def _filled(name: str, shape: torch.Size) -> Tensor:
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    last = name.rpartition(".")[2]
    if last == "running_var":
        return _rounded(0.5 + rng.random_sample(shape))
    value = rng.standard_normal(shape)
    if last == "running_mean":
        return _rounded(0.1 * value)
    if last == "bias":
        return _rounded(0.05 * value)
    if len(shape) == 1:
        return _rounded(1 + 0.1 * value)
    return _rounded(value / np.sqrt(np.prod(shape[1:])))


@pytest.fixture(scope="session")
def fill() -> Callable[[nn.Module, Mapping[str, str]], nn.Module]:
    """Makes a module float64, with the values that the recipe gives to the authors' names.

    The second argument maps our names to theirs.
    """

    def fill_module(module: nn.Module, names: Mapping[str, str]) -> nn.Module:
        state = module.double().state_dict()
        for ours in state:
            if not ours.endswith("num_batches_tracked"):
                state[ours] = _filled(names[ours], state[ours].shape)
        module.load_state_dict(state)
        return module

    return fill_module


@pytest.fixture(scope="session")
def filled() -> Callable[[str, tuple[int, ...]], Tensor]:
    return _filled


@pytest.fixture(scope="session")
def near() -> Callable[[Tensor, Tensor], None]:
    """Asserts equality to 1e-10."""
    return lambda ours, theirs: torch.testing.assert_close(
        torch.as_tensor(ours, dtype=torch.float64).detach(), theirs.double(), rtol=0, atol=1e-10
    )
