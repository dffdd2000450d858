"""What the tests of the tools share: a run of an untrained tiny model on small generated pairs."""

import pathlib
from collections.abc import Iterator

import pytest
import torch

from smmcl.config import build_config
from smmcl.engine.checkpoint import RunCheckpointer
from smmcl.engine.trainer import Trainer

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATASET = "synthetic_night_val@64x96"


@pytest.fixture(scope="session", autouse=True)
def _datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Generated pairs go to a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(tmp_path_factory.mktemp("datasets")))
        yield


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The output folder of a run: config.yaml and model_final.pth."""
    folder = tmp_path_factory.mktemp("run")
    overrides = [
        "OUTPUT_DIR", str(folder), "DATASETS.TRAIN", (DATASET,), "DATASETS.TEST", (DATASET,),
        "INPUT.CROP_SIZE", [64, 64], "SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 0,
    ]  # fmt: skip
    cfg = build_config(str(ROOT / "configs/synthetic_night.yaml"), overrides)
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    (folder / "config.yaml").write_text(cfg.dump())
    RunCheckpointer(model, str(folder)).save("model_final")
    return folder
