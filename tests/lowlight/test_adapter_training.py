"""Adapting from a config: the run, its checkpoints, what a config may not ask for."""

import pathlib
from collections.abc import Callable

import pytest
import torch

from smmcl.config import build_config
from smmcl.d2 import DatasetCatalog, build_model
from smmcl.data.datasets.synthetic import build as synthetic
from smmcl.engine.trainer import Trainer
from smmcl.inference.predictor import Predictor
from smmcl.lowlight import adapter, regions, relight

ADAPT = [
    "IMPORTS", "['smmcl.lowlight.register']", "MODEL.META_ARCHITECTURE", "LightAdapter",
    "MODEL.CONTRAST.NAME", "", "DATASETS.TRAIN", "('few_train',)", "SOLVER.CHECKPOINT_PERIOD", "2",
    "SOLVER.WARMUP_ITERS", "1",
]  # fmt: skip
NIGHT = [
    "DATASETS.UNLABELED", "('synthetic_night_train@64x96',)",
    "MODEL.LIGHT_ADAPTER.NIGHT.WEIGHT", "0.1", "MODEL.LIGHT_ADAPTER.MASK.NAME", "wiid",
]  # fmt: skip


@pytest.fixture
def adapt(tiny_config, tmp_path, monkeypatch) -> Callable:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    # The first pairs of the unlabeled set are enough, and soon drawn.
    monkeypatch.setitem(synthetic.SPLITS, "train", 4)

    def build(name: str, *overrides: str):
        return tiny_config(tmp_path / name, *ADAPT, *overrides)

    return build


def state(path: pathlib.Path) -> dict:
    return torch.load(path, map_location="cpu", weights_only=True)


def train(cfg, *, resume: bool = False) -> dict:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return state(pathlib.Path(cfg.OUTPUT_DIR) / "model_final.pth")


def test_the_result_is_a_plain_model_and_resuming_is_exact(adapt, tmp_path) -> None:
    short = ("SOLVER.MAX_ITER", "4", "SOLVER.AVERAGE_DECAY", "0.5", *NIGHT)
    whole = train(adapt("whole", *short))
    cfg = build_config("the checkpoint", text=whole["config"])
    assert cfg.MODEL.META_ARCHITECTURE == "MultiModalSegmentor"
    assert "lowlight" not in whole["config"]
    assert "LIGHT_ADAPTER" not in whole["config"]
    assert whole["model"].keys() == build_model(cfg).state_dict().keys()
    assert any(name.startswith("momentum.target.") for name in whole["training_only"])
    assert whole["training_only"]["momentum.target.n_averaged"] == 4
    # A run that stops after two steps and goes on reaches the same bits.
    folder = tmp_path / "stopped"
    folder.mkdir()
    (folder / "model_0000001.pth").write_bytes((tmp_path / "whole/model_0000001.pth").read_bytes())
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    again = train(adapt("stopped", *short), resume=True)
    for part in ("model", "training_only"):
        for name, value in whole[part].items():
            assert torch.equal(value, again[part][name]), name
    predictor = Predictor.from_checkpoint(tmp_path / "whole/model_final.pth")
    pair = torch.zeros(3, 64, 96, dtype=torch.uint8), torch.zeros(64, 96, dtype=torch.uint8)
    assert predictor(*pair).labels.shape == (64, 96)


def test_the_momentum_target_starts_from_the_loaded_weights(adapt, tmp_path) -> None:
    # Zeros, which no random start has.
    first = adapt("first", "SOLVER.MAX_ITER", "2")
    trainer = Trainer(first)
    trainer.checkpointer.save("start")
    second = Trainer(
        adapt("second", "MODEL.WEIGHTS", str(tmp_path / "first/start.pth"), "SEED", "7",
              "SOLVER.MAX_ITER", "2")
    )  # fmt: skip
    second.resume_or_load(resume=False)
    model = second.model
    batch = next(iter(second.data_loader))
    model.train()
    start = model.model.backbone.visible.stages[0].state_dict()
    start = {name: value.clone() for name, value in start.items()}
    model(batch)
    copied = model.momentum.target.module[0].backbone.visible.stages[0]
    for name, value in copied.named_parameters():
        assert torch.equal(value, start[name]), name


def test_stored_views_are_found_by_name(adapt, tmp_path) -> None:
    cfg = adapt(
        "stored", "MODEL.LIGHT_ADAPTER.VIEW.NAME", "stored", "MODEL.LIGHT_ADAPTER.VIEW.FOLDER",
        str(pathlib.Path(DatasetCatalog.get("few_train")[0]["file_name"]).parent),
    )  # fmt: skip
    for sample in next(iter(Trainer.build_train_loader(cfg))):
        assert torch.equal(sample["translated"], sample["image"])


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        (["MASK.NAME", "saliency"], regions.SaliencyMask),
        (["MASK.NAME", "auxiliary"], regions.AuxiliaryMask),
        (["MASK.NAME", "labels"], regions.LabelMask),
        (["MASK.NAME", "blocks"], regions.BlockMask),
        (["MASK.NAME", "wiid"], regions.RandomMask),
        (["VIEW.NAME", "gamma"], relight.GammaView),
        (["VIEW.NAME", "exposure"], relight.ExposureView),
        (["VIEW.NAME", "stored"], relight.StoredView),
    ],
)
def test_parts_by_name(keys: list[str], part: type, adapt) -> None:
    model = build_model(adapt("parts", f"MODEL.LIGHT_ADAPTER.{keys[0]}", keys[1]))
    assert isinstance(model, adapter.LightAdapter)
    assert isinstance(model.mask if keys[0].startswith("MASK") else model.second_view, part)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["VIEW.NAME", "moon"], r"VIEW\.NAME is 'moon'\. Choose gamma, exposure, darkener"),
        (["MASK.NAME", "moon"], r"MASK\.NAME is 'moon'"),
        (["MOMENTUM.FEATURES", "['res9']"], r"names res9, but the model has .*res5"),
        (["MOMENTUM.KEY_FEATURES", "['res4', 'res5']"], "1 FEATURES but 2 KEY_FEATURES"),
        (["NIGHT.WEIGHT", "0.1"], r"DATASETS\.UNLABELED is empty"),
    ],
)
def test_what_does_not_fit_is_named(keys: list[str], message: str, adapt) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(adapt("bad", f"MODEL.LIGHT_ADAPTER.{keys[0]}", keys[1]))


@pytest.mark.parametrize(
    ("metric", "tests"),
    [
        ("sem_seg/mIoU", "('synthetic_night_val@64x96',)"),
        ("few_val/sem_seg_unlit/mIoU", "('few_val', 'synthetic_night_val@64x96')"),
        ("few_val/sem_seg/mIoU", "('few_val',)"),  # of night pairs, by their tags
    ],
)
def test_night_does_not_choose_the_checkpoint(metric: str, tests: str, adapt) -> None:
    cfg = adapt("best", "TEST.BEST_METRIC", metric, "DATASETS.TEST", tests)
    with pytest.raises(ValueError, match="by the labels of night pairs"):
        build_model(cfg)
