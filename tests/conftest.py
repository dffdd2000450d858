"""What all tests share: the number of threads, a run of seconds, the reference numbers."""

import argparse
import functools
import importlib.util
import logging
import os
import pathlib
import sys
import types
import zlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    """A run in one test gives loggers handlers and stops what the next would have caught."""
    loggers = [logging.getLogger(name) for name in ("smmcl", "detectron2", "fvcore")]
    before = [(logger.propagate, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (propagate, level, handlers) in zip(loggers, before, strict=True):
        logger.propagate = propagate
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    """The folder of reference numbers, which is not part of the project."""
    folder = ROOT.parent / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip(f"the reference numbers are not here: {folder.name}/ is no folder")
    return folder


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory) -> Callable:
    """Builds configs, from a folder and overrides, of a small network on a few small pairs."""
    from smmcl.d2 import DatasetCatalog, MetadataCatalog
    from smmcl.data.datasets.synthetic.build import load_synthetic
    from smmcl.engine.setup import setup
    from smmcl.modeling.streams.base import STREAM_REGISTRY, register_sizes
    from smmcl.modeling.streams.mscan import MSCAN

    if "tiny" not in STREAM_REGISTRY:
        register_sizes({"tiny": {"widths": (16, 16, 32, 32), "depths": (1, 1, 1, 1)}})(MSCAN)
    data = {"size": (64, 96), "root": tmp_path_factory.mktemp("pairs")}
    for split, count in (("train", 16), ("val", 6)):
        facts = MetadataCatalog.get(f"synthetic_night_{split}").as_dict()
        records = functools.partial(load_synthetic, "night", split, count=count, **data)
        DatasetCatalog.register(f"few_{split}", records)
        MetadataCatalog.get(f"few_{split}").set(
            **{key: value for key, value in facts.items() if key != "name"}
        )

    def build(folder: pathlib.Path, *overrides: str):
        opts = [
            "OUTPUT_DIR", str(folder), "MODEL.PAIR.VISIBLE.NAME", "tiny",
            "MODEL.PAIR.AUXILIARY.NAME", "tiny", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32",
            "MODEL.SEM_SEG_HEAD.HAM.CHANNELS", "32", "DATASETS.TRAIN", "('few_train',)",
            "DATASETS.TEST", "('few_val',)", "INPUT.CROP_SIZE", "[64, 96]",
            "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "20", "SOLVER.WARMUP_ITERS", "2",
            "SOLVER.CHECKPOINT_PERIOD", "10", "DATALOADER.NUM_WORKERS", "0", *overrides,
        ]  # fmt: skip
        file = str(ROOT / "configs/synthetic_night.yaml")
        return setup(argparse.Namespace(config_file=file, opts=opts, eval_only=False, resume=True))

    return build


@pytest.fixture
def call_tool(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that runs a tool or a benchmark, by its name, with arguments in this process."""

    def call(name: str, *arguments: object) -> None:
        folder = "benchmarks" if name.startswith("benchmark") else "tools"
        path = ROOT / folder / f"{name}.py"
        assert os.access(path, os.X_OK), f"{path} is not executable"
        spec = importlib.util.spec_from_file_location(f"tools_{name}", path)
        tool: types.ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        from smmcl.cli import run

        run(tool.main)

    return call


# Reference numbers of the companions, and the recipe of their inputs.


@pytest.fixture(scope="session")
def arrays() -> Mapping[str, Tensor]:
    """Arrays of the reference file, in float64 where they are floats."""
    with np.load(ROOT / "tests/golden/companions.npz") as file:
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
def fill_by_recipe() -> Callable[[nn.Module, Mapping[str, str]], nn.Module]:
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
