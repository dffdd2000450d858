"""`import smmcl.register`: our parts in the engine's own loops, and pairs where none are read."""

import importlib.util
import inspect
import logging
import os
import pathlib
import runpy
import subprocess
import sys
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
import torch

import smmcl.d2 as d2
import smmcl.register as sm
from smmcl.config import build_config

ROOT = pathlib.Path(__file__).resolve().parents[1]
only_upstream = pytest.mark.skipif(d2.ENGINE != "detectron2", reason="Detectron2 is not here")
TINY = [
    "MODEL.PAIR.VISIBLE.NAME", "tiny", "MODEL.PAIR.AUXILIARY.NAME", "tiny",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.HAM.CHANNELS", "32",
    "DATASETS.TRAIN", "('few_train',)", "DATASETS.TEST", "('few_val',)",
    "INPUT.CROP_SIZE", "[64, 96]", "SOLVER.IMS_PER_BATCH", "4", "DATALOADER.NUM_WORKERS", "0",
    "SOLVER.MAX_ITER", "0", "SOLVER.EPOCHS", "1", "SOLVER.WARMUP_EPOCHS", "0",
]  # fmt: skip


class StockTrainer(d2.DefaultTrainer):
    """The engine's trainer, optimizer and loaders, given our mapper and evaluator."""

    @classmethod
    def build_train_loader(cls, cfg):
        return d2.build_detection_train_loader(cfg, mapper=sm.MultiModalDatasetMapper(cfg, True))

    @classmethod
    def build_test_loader(cls, cfg, name):
        mapper = sm.MultiModalDatasetMapper(cfg, False, dataset_name=name)
        return d2.build_detection_test_loader(cfg, name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg, name):
        return sm.PairSemSegEvaluator(cfg, name)


def stock_config(folder: pathlib.Path, *overrides: str):
    """As a script of Detectron2's makes it, which merges files by `merge_from_file`."""
    cfg = d2.get_cfg()
    sm.add_smmcl_config(cfg)
    file = sm.find_config("synthetic_night.yaml")
    if d2.ENGINE == "detectron2":
        cfg.merge_from_file(file)
    else:
        cfg.merge_from_other_cfg(build_config(file))
    cfg.merge_from_list([*TINY, "OUTPUT_DIR", str(folder), *overrides])
    return cfg


@pytest.fixture(autouse=True)
def _few_pairs(tiny_config) -> None:
    """Registers the tiny stream and the few pairs."""


@pytest.mark.skipif(d2.ENGINE == "builtin", reason="the stock trainer is Detectron2's alone")
def test_a_shipped_config_in_the_stock_trainer_and_loaders(tmp_path, caplog) -> None:
    cfg = sm.with_iterations(stock_config(tmp_path))
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (4, 0)  # 16 pairs by 4
    with caplog.at_level(logging.WARNING, logger="smmcl"):
        trainer = StockTrainer(sm.with_stock_schedule(cfg))
        trainer.resume_or_load(resume=False)
        trainer.train()
    assert trainer._last_eval_results["sem_seg"]["mIoU"] > 0
    said = [entry for entry in caplog.messages if "without their position" in entry]
    assert len(said) == 1  # of 16 samples


def test_a_stock_trainer_gets_a_schedule_that_it_knows(tmp_path, caplog) -> None:
    cfg = stock_config(tmp_path)
    changed = sm.with_stock_schedule(cfg)
    assert changed.SOLVER.LR_SCHEDULER_NAME == "WarmupCosineLR"
    assert "WarmupCosineLR takes its place" in caplog.text
    assert sm.with_stock_schedule(changed) is changed


def test_draws_differ_from_sample_to_sample_and_follow_the_loader_s_seed(tmp_path) -> None:
    cfg = stock_config(tmp_path)
    (record, *_) = d2.DatasetCatalog.get("few_train")

    def draws() -> list[int]:
        torch.manual_seed(0)
        mapper = sm.MultiModalDatasetMapper(cfg, True)
        return [mapper(record)["view_seed"] for _ in range(3)]

    assert len(set(draws())) == 3
    assert draws() == draws()


def test_own_pairs_need_no_view_seed_but_labels(tmp_path) -> None:
    model = d2.build_model(stock_config(tmp_path)).train()
    pair = {key: torch.zeros(3, 64, 96) for key in ("image", "auxiliary")}
    with pytest.raises(ValueError, match=r"comes without 'sem_seg'.*is_train=True"):
        model([pair])
    pair["sem_seg"] = torch.zeros(64, 96, dtype=torch.int64)
    assert "loss_contrast_cross" in model([pair])


@only_upstream
def test_a_loader_without_pairs_and_the_default_predictor_get_a_sentence(tmp_path) -> None:
    from detectron2.engine import DefaultPredictor

    cfg = sm.with_iterations(stock_config(tmp_path))
    with pytest.raises(ValueError, match=r"without 'auxiliary'.*MultiModalDatasetMapper"):
        d2.build_model(cfg)(next(iter(d2.DefaultTrainer.build_train_loader(cfg))))
    with pytest.raises(ValueError, match=r"without 'auxiliary'.*smmcl\.Predictor"):
        DefaultPredictor(cfg)(np.zeros((64, 96, 3), np.uint8))


@only_upstream
def test_a_backbone_of_detectron2_reads_the_visible_image_alone(tmp_path) -> None:
    """Its FPN, its head, its sizes; the pairs and the rest of the run are ours."""
    cfg = stock_config(
        *(tmp_path, "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH"),
        *("18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.FPN.IN_FEATURES"),
        *("['res2', 'res3', 'res4', 'res5']", "MODEL.RESNETS.OUT_FEATURES"),
        *("['res2', 'res3', 'res4', 'res5']", "MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead"),
        *("MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p2', 'p3', 'p4', 'p5']", "MODEL.CONTRAST.NAME", ""),
    )
    trainer = StockTrainer(sm.with_stock_schedule(sm.with_iterations(cfg)))
    assert trainer.model.size_divisibility == 32
    trainer.train()
    assert trainer._last_eval_results["sem_seg"]["mIoU"] > 0


def run(*line: str, folder: pathlib.Path) -> str:
    environment = {**os.environ, "SMMCL_ENGINE": "detectron2"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    environment |= {"DETECTRON2_DATASETS": str(folder.parent / "datasets")}
    command = [sys.executable, *line]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@only_upstream
@pytest.mark.slow
def test_the_example_script_trains_goes_on_and_evaluates(tmp_path) -> None:
    script = ROOT / "examples/detectron2_train_net.py"
    assert len(script.read_text().splitlines()) <= 40
    file = sm.find_config("synthetic_night.yaml")
    keys = [
        "DATASETS.TRAIN", "('synthetic_night_train@64x96',)", "OUTPUT_DIR", str(tmp_path),
        "DATASETS.TEST", "('synthetic_night_val@64x96',)", "INPUT.CROP_SIZE", "[64, 96]",
        "SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "2", "DATALOADER.NUM_WORKERS", "1",
    ]  # fmt: skip
    for flags in ([], ["--resume"], ["--eval-only", "--resume"]):
        said = run(
            *(str(script), "--config-file", file, *flags, "SOLVER.MAX_ITER", "4", *keys),
            folder=tmp_path,
        )
    assert (tmp_path / "model_final.pth").is_file()
    assert "copypaste: mIoU" in said


@only_upstream
@pytest.mark.slow
def test_detectron2_s_lazy_script_runs_the_lazy_config(tmp_path) -> None:
    from detectron2.config import LazyConfig, instantiate

    file = ROOT / "configs/lazy/synthetic_night.py"
    ours = d2.build_model(build_config("synthetic_night.yaml"))
    cfg = LazyConfig.load(str(file))
    shapes = [
        {name: value.shape for name, value in model.state_dict().items()}
        for model in (ours, instantiate(cfg.model))
    ]
    assert shapes[0] == shapes[1]
    tool = pathlib.Path(d2.hooks.__file__).parents[2] / "tools/lazyconfig_train_net.py"
    if not tool.is_file():
        pytest.skip("Detectron2's tools are not beside it")
    overrides = [
        f"train.output_dir={tmp_path}", "train.max_iter=2", "lr_multiplier.warmup_iters=1",
        "dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0",
    ]  # fmt: skip
    said = run(str(tool), "--config-file", str(file), *overrides, folder=tmp_path)
    assert "copypaste: mIoU" in said


def test_the_lazy_config_calls_our_parts_by_arguments_that_they_take(monkeypatch) -> None:
    def call(target: Callable) -> Callable:
        def bind(**arguments: object) -> dict:
            inspect.signature(target).bind(**arguments)
            return arguments

        return bind

    for name in ("config", "data", "solver"):
        theirs = mock.MagicMock(LazyCall=call) if name == "config" else mock.MagicMock()
        monkeypatch.setitem(sys.modules, f"detectron2.{name}", theirs)
    monkeypatch.setitem(sys.modules, "detectron2", mock.MagicMock())
    names = runpy.run_path(str(ROOT / "configs/lazy/synthetic_night.py"))
    assert names["model"]["contrast"]["num_classes"] == len(names["facts"].stuff_classes)


def test_the_import_brings_every_built_in_set() -> None:
    assert importlib.util.find_spec("smmcl.register")
    assert {"mfnet_train", "nyudv2_test", "synthetic_night_val"} <= set(d2.DatasetCatalog.list())
