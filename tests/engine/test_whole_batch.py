"""Several processes do what one does with the whole batch, on one machine or two.

Batch norm is frozen, nothing is dropped, and the bases of the Hamburger are given, since these are
the parts of training that look at other things than single images or draw by process.
"""

import argparse
import json
import math
import pathlib
import socket
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from smmcl.d2 import DatasetCatalog, HookBase, MetadataCatalog, comm
from smmcl.data.datasets.build import ensure_registered
from smmcl.data.loader import build_train_loader
from smmcl.data.mapper import MultiModalDatasetMapper
from smmcl.engine.launch import parallelize
from smmcl.engine.setup import setup
from smmcl.engine.trainer import Trainer
from smmcl.modeling.head.hamburger import MatrixFactorization
from smmcl.modeling.layers.cpu import PointConv
from smmcl.modeling.streams import mscan
from smmcl.modeling.streams.base import STREAM_REGISTRY, register_sizes

ROOT = pathlib.Path(__file__).resolve().parents[2]
NUM_ITERATIONS = 6
NUM_PAIRS = 7  # no multiple of any number of processes here
BASELINE = ("MODEL.CONTRAST.NAME", "")
GATHERED = ("MODEL.SMMCL.GATHER", "True")


class Recorder(HookBase):
    """Keeps every loss of every iteration, and the gradients of the first."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []
        self.gradients: list[Tensor] = []

    def after_step(self) -> None:
        self.gradients = self.gradients or [
            parameter.grad.clone() for parameter in self.trainer.model.parameters()
        ]
        latest = self.trainer.storage.latest()
        self.losses.append({k: v for k, (v, _) in latest.items() if "loss" in k})


class ExactTrainer(Trainer):
    """Without what depends on the division of a batch; odd positions may have no label."""

    is_half_unlabeled = False
    dtype = torch.float32

    @classmethod
    def build_model(cls, cfg) -> nn.Module:
        model = super().build_model(cfg).to(cls.dtype)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train = lambda mode=True: None  # Trainer sets the whole model to training
                module.training = False
        return model

    @classmethod
    def build_train_loader(cls, cfg, start_position: int = 0):
        mapper = MultiModalDatasetMapper(cfg, is_train=True)

        def mapped(record: dict) -> dict:
            sample = mapper(record)
            if cls.is_half_unlabeled and record["position"] % 2:
                sample["sem_seg"].fill_(255)
            return sample

        return build_train_loader(cfg, mapper=mapped, start_position=start_position)


def config(folder: pathlib.Path, *overrides: str):
    if "tiny" not in STREAM_REGISTRY:
        size = {"widths": (16, 16, 32, 32), "depths": (1, 1, 1, 1)}
        register_sizes({"tiny": size})(mscan.MSCAN)
    ensure_registered(["synthetic_night_val@64x96"])
    if "seven" not in DatasetCatalog:
        facts = MetadataCatalog.get("synthetic_night_val@64x96").as_dict()
        DatasetCatalog.register(
            "seven", lambda: DatasetCatalog.get("synthetic_night_val@64x96")[:NUM_PAIRS]
        )
        MetadataCatalog.get("seven").set(**{k: v for k, v in facts.items() if k != "name"})
    opts = [
        "OUTPUT_DIR", str(folder), "MODEL.PAIR.VISIBLE.NAME", "tiny",
        "MODEL.PAIR.AUXILIARY.NAME", "tiny", "MODEL.SEM_SEG_HEAD.DROPOUT", "0.0",
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.HAM.CHANNELS", "32",
        "DATASETS.TRAIN", "('synthetic_night_train@64x96',)", "DATASETS.TEST", "('seven',)",
        "INPUT.CROP_SIZE", "[64, 96]", "SOLVER.IMS_PER_BATCH", "4", "SOLVER.WARMUP_ITERS", "2",
        "SOLVER.MAX_ITER", str(NUM_ITERATIONS), "DATALOADER.NUM_WORKERS", "0", *overrides,
    ]  # fmt: skip
    file = str(ROOT / "configs/synthetic_night.yaml")
    return setup(argparse.Namespace(config_file=file, opts=opts, eval_only=False, resume=True))


def train(rank: int, world_size: int, machines: int, port: int, folder, case: dict) -> None:
    """One process of a run; writes what it saw."""
    torch.set_num_threads(1)
    if world_size > 1:
        url = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("gloo", init_method=url, rank=rank, world_size=world_size)
        comm.create_local_process_group(world_size // machines)
    MatrixFactorization._draw = lambda self, data: self.start.to(data)
    ExactTrainer.is_half_unlabeled = case["is_half_unlabeled"]
    ExactTrainer.dtype = case["dtype"]
    trainer = ExactTrainer(config(folder, *case["overrides"]))
    recorder = Recorder()
    trainer.register_hooks([recorder])
    results = trainer.train()
    seen = {"losses": recorder.losses, "gradients": recorder.gradients, "results": results}
    torch.save(seen, folder / f"{rank}.pth")
    if world_size > 1:
        comm.synchronize()
        dist.destroy_process_group()


def run(folder: pathlib.Path, *, world_size: int, machines: int = 1, **case: object) -> dict:
    """What the main process of a run saw."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (world_size, machines, port, folder, case)
    mp.start_processes(train, args=arguments, nprocs=world_size, start_method="fork")
    seen = torch.load(folder / "0.pth", weights_only=False)
    if world_size > 1:
        other = torch.load(folder / "1.pth", weights_only=False)
        torch.testing.assert_close(other["gradients"], seen["gradients"], rtol=0, atol=0)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("machines", [1, 2])
@pytest.mark.parametrize("branch", [BASELINE, GATHERED], ids=["baseline", "gathered"])
@pytest.mark.parametrize("is_half_unlabeled", [False, True], ids=["labeled", "one_without"])
def test_two_processes_are_one_with_the_whole_batch(
    machines: int, branch: tuple[str, str], is_half_unlabeled: bool, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    case = {
        "overrides": branch, "is_half_unlabeled": is_half_unlabeled, "dtype": torch.float64
    }  # fmt: skip
    one = run(tmp_path / "one", world_size=1, **case)
    two = run(tmp_path / "two", world_size=2, machines=machines, **case)
    assert len(one["losses"]) == len(two["losses"]) == NUM_ITERATIONS
    for alone, together in zip(one["losses"], two["losses"], strict=True):
        assert together == pytest.approx(alone, rel=1e-9)
        assert all(math.isfinite(value) for value in together.values())


@pytest.mark.slow
def test_gradients_are_those_of_the_whole_batch(tmp_path, monkeypatch) -> None:
    """As one vector: some gradients, as of a bias before a norm, are nothing but rounding."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    case = {"overrides": GATHERED, "is_half_unlabeled": False, "dtype": torch.float64}
    one, two = (
        torch.cat([gradient.flatten() for gradient in seen["gradients"]])
        for seen in (
            run(tmp_path / "one", world_size=1, **case),
            run(tmp_path / "two", world_size=2, **case),
        )
    )
    assert (two - one).norm() <= 1e-12 * one.norm()


@pytest.mark.slow
def test_every_pair_is_counted_once(tmp_path, monkeypatch) -> None:
    """Seven pairs among three processes."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    case = {"overrides": (*BASELINE, "SOLVER.BASE_LR", "0.0", "SOLVER.IMS_PER_BATCH", "3"),
            "is_half_unlabeled": False, "dtype": torch.float64}  # fmt: skip
    one = run(tmp_path / "one", world_size=1, **case)
    three = run(tmp_path / "three", world_size=3, **case)
    assert three["results"] == one["results"]
    one, three = (
        json.loads((tmp_path / name / "inference/seven/evaluation.json").read_text())
        for name in ("one", "three")
    )
    assert three["confusion"] == one["confusion"]
    assert three["protocol"]["pairs"].startswith("sem_seg 7,")


def test_several_processes_warn_of_nothing(tmp_path, monkeypatch) -> None:
    """A group of one process, wrapped as those of several are."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "get_local_rank", lambda: 0)
    model = PointConv(8, 4).to(memory_format=torch.channels_last)
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            wrapped = parallelize(model, has_sync_norm=False)
            wrapped(torch.rand(2, 8, 3, 3)).sum().backward()
        assert [str(warning.message) for warning in seen] == []
    finally:
        dist.destroy_process_group()
