"""The model among Detectron2's own parts, and the two engines' runs and configs side by side."""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys

import pytest
import torch
import yaml

import smmcl.d2 as d2
from smmcl.data.datasets.build import ensure_registered
from smmcl.engine.setup import setup
from smmcl.engine.trainer import Trainer
from smmcl.register import with_stock_schedule

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMALL = [
    "DATASETS.TRAIN", "('synthetic_night_train@64x96',)",
    "DATASETS.TEST", "('synthetic_night_val@64x96',)", "INPUT.CROP_SIZE", "[64, 96]",
    "SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "2", "DATALOADER.NUM_WORKERS", "0",
]  # fmt: skip
only_upstream = pytest.mark.skipif(d2.ENGINE != "detectron2", reason="Detectron2 is not here")


@pytest.fixture(autouse=True)
def _datasets(tmp_path_factory, monkeypatch) -> None:
    """Generated pairs go to a folder that the tests of one run share."""
    folder = tmp_path_factory.getbasetemp() / "datasets"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))


def config(folder: pathlib.Path, *overrides: str):
    opts = ["OUTPUT_DIR", str(folder), *SMALL, "SOLVER.MAX_ITER", "4", *overrides]
    file = str(ROOT / "configs/synthetic_night.yaml")
    return setup(argparse.Namespace(config_file=file, opts=opts, eval_only=False, resume=True))


class StockTrainer(d2.DefaultTrainer):
    """Detectron2's trainer, given nothing but our loaders and our evaluator."""

    build_train_loader = Trainer.build_train_loader
    build_test_loader = Trainer.build_test_loader
    build_evaluator = Trainer.build_evaluator


@only_upstream
@pytest.mark.slow
def test_the_stock_trainer_trains_the_model(tmp_path: pathlib.Path) -> None:
    trainer = StockTrainer(with_stock_schedule(config(tmp_path)))
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert torch.load(tmp_path / "model_final.pth")["iteration"] == 3
    assert 0 < trainer._last_eval_results["sem_seg"]["mIoU"] < 100
    last = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert math.isfinite(last["sem_seg/mIoU"])


@only_upstream
@pytest.mark.slow
def test_the_stock_evaluator_agrees_with_ours(tmp_path: pathlib.Path) -> None:
    from detectron2.evaluation import SemSegEvaluator, inference_on_dataset

    cfg = config(tmp_path, "TEST.ABSENT_CLASSES", "truth")
    name = cfg.DATASETS.TEST[0]
    ensure_registered([name])
    stock = SemSegEvaluator(name, distributed=False)
    ours = Trainer.build_evaluator(cfg, name)
    model = Trainer.build_model(cfg)
    loader = Trainer.build_test_loader(cfg, name)
    results = {}
    for evaluator in (stock, ours):
        found = inference_on_dataset(model, loader, evaluator)["sem_seg"]
        results[evaluator] = {key: float(value) for key, value in found.items()}
    for key in ("mIoU", "fwIoU", "mACC", "pACC"):
        assert results[stock][key] == pytest.approx(results[ours][key], abs=0.01)
    assert all(math.isfinite(v) for k, v in results[stock].items() if k.startswith("IoU"))


@only_upstream
@pytest.mark.slow
def test_detectron2s_own_resnet_is_a_stream(tmp_path: pathlib.Path) -> None:
    keys = [
        "MODEL.PAIR.VISIBLE.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", "18",
        "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.NORM", "BN",
        "MODEL.BACKBONE.FREEZE_AT", "0",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"MODEL\.RESNETS\.OUT_FEATURES"):
        Trainer(config(tmp_path, *keys))
    keys += ["MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']"]
    trainer = Trainer(config(tmp_path, *keys))
    weight = trainer.model.backbone.visible.stages[0][0].conv1.weight
    before = weight.detach().clone()
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert not torch.equal(weight, before)


def command(engine: str, folder: pathlib.Path, *arguments: str) -> None:
    """Trains by the tool on an engine; the config file is the run's own where it has one."""
    dumped = folder / "config.yaml"
    file = dumped if dumped.exists() else ROOT / "configs/synthetic_night.yaml"
    line = [sys.executable, "tools/train_net.py", "--config-file", str(file), *arguments]
    line += ["OUTPUT_DIR", str(folder), *SMALL, "SOLVER.CHECKPOINT_PERIOD", "4"]
    environment = {**os.environ, "SMMCL_ENGINE": engine, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@only_upstream
@pytest.mark.slow
@pytest.mark.parametrize(
    "engines", [("detectron2", "builtin"), ("builtin", "detectron2")], ids="-then-".join
)
def test_a_run_goes_on_upon_the_other_engine(engines, tmp_path: pathlib.Path) -> None:
    """And by its own config.yaml, which the first engine wrote."""
    whole, changed = tmp_path / "whole", tmp_path / "changed"
    command(engines[0], whole, "SOLVER.MAX_ITER", "8")
    changed.mkdir()
    for name in ("model_0000003.pth", "config.yaml"):
        (changed / name).write_bytes((whole / name).read_bytes())
    (changed / "last_checkpoint").write_text("model_0000003.pth")
    command(engines[1], changed, "--resume", "SOLVER.MAX_ITER", "8")
    ends = [torch.load(folder / "model_final.pth") for folder in (whole, changed)]
    torch.testing.assert_close(ends[0]["model"], ends[1]["model"], rtol=1e-6, atol=1e-6)
    results = [
        json.loads(next(folder.glob("inference/*/evaluation.json")).read_text())["results"]
        for folder in (whole, changed)
    ]
    assert results[0]["sem_seg"] == pytest.approx(results[1]["sem_seg"], abs=1e-6)


DUMP = """
import pathlib, sys, yaml
from smmcl.config import build_config
files = sys.argv[1].split(":")
print(yaml.safe_dump({file: yaml.safe_load(build_config(file).dump()) for file in files}))
"""


def leaves(node: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in node.items():
        inside = isinstance(value, dict)
        found |= leaves(value, f"{prefix}{key}.") if inside else {prefix + key: value}
    return found


@only_upstream
def test_every_config_is_the_same_on_both_engines(tmp_path: pathlib.Path) -> None:
    """Key by key; what the embedded engine lacks stands at Detectron2's default."""
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    files = [str(path) for path in files if path.parent.name != "experiments"]
    found = []  # in processes of their own: a test before may have imported further keys
    for engine in ("builtin", "detectron2"):
        environment = {
            **os.environ,
            "SMMCL_ENGINE": engine,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        line = [sys.executable, "-c", DUMP, ":".join(files)]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
        found.append(yaml.safe_load(done.stdout))
    defaults = leaves(yaml.safe_load(d2.get_cfg().dump()))
    assert found[0].keys() == found[1].keys() == set(files)
    for file, lean in found[0].items():
        full, lean = leaves(found[1][file]), leaves(lean)
        assert {key: full[key] for key in lean} == lean, file
        lacking = full.keys() - lean.keys()
        assert {key: full[key] for key in lacking} == {key: defaults[key] for key in lacking}, file
