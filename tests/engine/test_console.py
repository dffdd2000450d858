"""What a run prints: little before it starts, a line of losses soon, random weights told once."""

import logging
import os
import pathlib
import re
import subprocess
import sys

import pytest

from smmcl.d2 import ENGINE
from smmcl.engine.setup import load_streams
from smmcl.engine.trainer import Trainer

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRAIN = "synthetic_night_val@64x96"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], pathlib.Path]:
    """What a run of 20 iterations printed, line by line, and its folder."""
    folder = tmp_path_factory.mktemp("run")
    keys = [
        "OUTPUT_DIR", str(folder / "out"), "DATASETS.TRAIN", f"('{TRAIN}',)", "DATASETS.TEST", "()",
        "INPUT.CROP_SIZE", "[64, 64]", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0",
        "SOLVER.MAX_ITER", "20", "SOLVER.WARMUP_ITERS", "0",
    ]  # fmt: skip
    tool = str(ROOT / "tools/train_net.py")
    # A shipped config by its name, which is no file here.
    line = [sys.executable, tool, "--config-file", "synthetic_night.yaml"]
    environment = {
        **os.environ, "SMMCL_ENGINE": ENGINE, "DETECTRON2_DATASETS": str(folder),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }  # fmt: skip
    done = subprocess.run(
        [*line, *keys], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return (done.stdout + done.stderr).splitlines(), folder / "out"


def test_a_screen_of_lines_precedes_the_first_losses(run) -> None:
    lines, _ = run
    first = next(index for index, line in enumerate(lines) if " iter: " in line)
    assert first <= 40, "\n".join(lines[:first])
    assert " iter: 19 " in lines[first]  # at the latest after 20 iterations
    assert "total_loss: " in lines[first]


def test_the_file_has_the_config_that_the_console_leaves_out(run) -> None:
    lines, folder = run
    for text in ((folder / "log.txt").read_text(), (folder / "config.yaml").read_text()):
        plain = re.sub(r"\x1b\[[\d;]*m", "", text)  # Detectron2 colors the file's too
        assert "LR_SCHEDULER_NAME: WarmupPolyLR" in plain
        assert "WarmupMultiStepLR" not in text
    assert not any("LR_SCHEDULER_NAME" in line for line in lines)
    assert any("config.yaml" in line for line in lines)


def test_a_start_from_random_weights_is_told_once(tiny_config, tmp_path, caplog) -> None:
    cfg = tiny_config(tmp_path)
    model = Trainer.build_model(cfg)
    logging.getLogger("smmcl").addHandler(caplog.handler)
    try:
        load_streams(cfg, model)
        stock = cfg.clone()
        stock.defrost()
        stock.DATASETS.TRAIN = ("synthetic_night_train",)
        load_streams(stock, model)
    finally:
        logging.getLogger("smmcl").removeHandler(caplog.handler)
    (warning,) = [
        record.getMessage()
        for record in caplog.records
        if record.levelname == "WARNING" and record.name == "smmcl.engine.setup"
    ]
    for text in ("MODEL.PAIR.VISIBLE.WEIGHTS and MODEL.PAIR.AUXILIARY.WEIGHTS", "package://",
                 "docs/networks.md", "MODEL.WEIGHTS"):  # fmt: skip
        assert text in warning
