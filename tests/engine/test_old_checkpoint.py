"""A checkpoint from before parameters moved: it is evaluated, converted and gone on from."""

import lzma
import pathlib

import pytest
import torch

from smmcl.config import build_config
from smmcl.d2 import CfgNode
from smmcl.engine.setup import check_datasets
from smmcl.engine.trainer import Trainer, evaluate
from smmcl.inference.predictor import Predictor
from smmcl.modeling.streams.base import STREAM_REGISTRY, register_sizes
from smmcl.modeling.streams.mscan import MSCAN

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
# What the code that wrote the checkpoint gave on the 100 pairs of its test set.
SCORES = {"mIoU": 3.98656, "fwIoU": 6.45912, "mACC": 8.33675, "pACC": 9.22380}


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> pathlib.Path:
    """Path of the checkpoint, whose streams get a name of their own."""
    name = "tiny_of_exchanges"
    if name not in STREAM_REGISTRY:
        register_sizes({name: {"widths": (8, 8, 8, 8), "depths": (1, 1, 1, 1)}})(MSCAN)
    folder = tmp_path_factory.mktemp("old")
    packed = folder / "packed.pth"
    packed.write_bytes(lzma.decompress((GOLDEN / "checkpoint_of_exchanges.pth.xz").read_bytes()))
    data = torch.load(packed, weights_only=True)
    assert any(key.startswith("backbone.exchanges.") for key in data["model"])
    data["config"] = data["config"].replace("NAME: tiny", f"NAME: {name}")
    torch.save(data, folder / "model_0000003.pth")
    (folder / "last_checkpoint").write_text("model_0000003.pth")
    return folder / "model_0000003.pth"


def config(old: pathlib.Path, *overrides: object) -> CfgNode:
    text = torch.load(old, weights_only=True)["config"]
    cfg = build_config("old", ["OUTPUT_DIR", str(old.parent), *overrides], text=text)
    check_datasets(cfg)
    return cfg


def test_its_evaluation_is_what_it_was(old, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    results = evaluate(config(old, "OUTPUT_DIR", str(tmp_path), "MODEL.WEIGHTS", str(old)))
    assert {name: results["sem_seg"][name] for name in SCORES} == pytest.approx(SCORES, abs=1e-3)


def test_its_run_goes_on(old, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    trainer = Trainer(config(old, "SOLVER.MAX_ITER", 6, "DATASETS.TEST", ()))
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 4
    optimizer = trainer._trainer.optimizer
    for parameter in trainer.model.parameters():
        assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape
    average = trainer.average.state_dict()
    stored = torch.load(old, weights_only=True)["trainer"]["hooks"]["WeightAverage"]
    names = {name.replace(".exchanges.", ".fusions."): name for name in stored}
    assert average.keys() == names.keys()
    assert all(torch.equal(average[now], stored[before]) for now, before in names.items())
    trainer.train()
    assert (old.parent / "model_final.pth").is_file()


def test_it_predicts(old) -> None:
    predictor = Predictor.from_checkpoint(old)
    image = torch.zeros(64, 96, 3, dtype=torch.uint8).numpy()
    assert predictor(image, image[:, :, 0]).labels.shape == (64, 96)


def test_it_becomes_the_authors(old, tmp_path, call_tool) -> None:
    call_tool("convert_weights", old, tmp_path / "theirs.pth", "--to", "authors")
    names = torch.load(tmp_path / "theirs.pth", weights_only=True)["model"]
    assert any("fconv" in name for name in names), [*names]
    assert not [name for name in names if "exchange" in name]
