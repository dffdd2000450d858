"""What the tests of the rivals share: numbers of their authors' code, and the recipe of weights.

A few cases are in tests/golden; all of them are held against where the reference numbers are.
"""

import pathlib
import re
import zlib
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

HERE = pathlib.Path(__file__).resolve().parents[1] / "golden" / "rivals.npz"
FILES = ("cmx", "sagate", "tokenfusion", "cen", "sums")
Numbers = Mapping[str, np.ndarray]


@pytest.fixture(scope="session", params=["here", "all"])
def numbers(request: pytest.FixtureRequest) -> Numbers:
    """Arrays by names such as "cmx/w16_6x8_h1/eval/f64/vis"."""
    if request.param == "here":
        with np.load(HERE) as file:
            return {name: file[name] for name in file.files}
    folder = request.getfixturevalue("golden")
    arrays = {}
    for part in FILES:
        with np.load(folder / f"rival_{part}.npz") as file:
            arrays |= {f"{part}/{name}": file[name] for name in file.files}
    return arrays


@pytest.fixture(scope="session")
def fill() -> Callable[[Numbers, str, Callable[[str], Tensor]], None]:
    """Fills the weights of a case; the last argument gives our tensor of an author's name."""

    def fill_case(numbers: Numbers, case: str, find: Callable[[str], Tensor]) -> None:
        keys = (f"{case}/weight_names", f"{case}/weight_shapes", f"{case}/fill_sum")
        for name, shape, total in zip(*(numbers[key].tolist() for key in keys), strict=True):
            if name.endswith("num_batches_tracked"):
                continue
            value = _filled(name, tuple(map(int, re.findall(r"\d+", str(shape)))))
            assert value.sum(dtype=np.float64) == pytest.approx(total)
            own = find(name)
            own.detach().copy_(torch.from_numpy(value).reshape(own.shape))

    return fill_case


def _filled(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value that the recipe gives to the tensor with this name of the authors'."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    last = name.rpartition(".")[2]
    if last == "running_var":
        return (0.5 + rng.random_sample(shape)).astype(np.float32)
    value = rng.standard_normal(shape)
    if last == "running_mean":
        value = 0.1 * value
    elif last == "bias":
        value = 0.05 * value
    elif len(shape) == 1:
        value = 1 + 0.1 * value
    else:
        value = value / np.sqrt(np.prod(shape[1:]))
    return value.astype(np.float32)


@pytest.fixture(scope="session")
def draw_maps() -> Callable[..., list[Tensor]]:
    """Maps of a stage, drawn one after the other, by the seed and their shapes; float32 values."""

    def draw(seed: int, *shapes: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
        rng = np.random.RandomState(seed)
        maps = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
        return [torch.from_numpy(values).to(dtype) for values in maps]

    return draw
