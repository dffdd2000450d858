"""The methods around a classifier: it is adapted, darkened against, and stays a plain model."""

import argparse
import pathlib
from collections.abc import Callable

import pytest
import torch

from smmcl.d2 import build_model
from smmcl.data.datasets.synthetic import objects
from smmcl.engine.setup import setup
from smmcl.engine.trainer import Trainer, evaluate
from smmcl.inference.predictor import Predictor

ROOT = pathlib.Path(__file__).resolve().parents[2]
SETS = {key: (f"synthetic_objects_{name}@32x32",) for key, name in
        (("TRAIN", "day_train"), ("TEST", "night_val"), ("UNLABELED", "night_train"))}  # fmt: skip


@pytest.fixture
def config(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    for split in ("train", "val"):
        monkeypatch.setitem(objects.SPLITS, split, 4)

    def build(file: str, folder: str, *overrides: str):
        opts = [
            "OUTPUT_DIR", str(tmp_path / folder), "DATASETS.TRAIN", str(SETS["TRAIN"]),
            "DATASETS.TEST", str(SETS["TEST"]), "INPUT.CROP_SIZE", "[32, 32]",
            "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2", "SOLVER.WARMUP_ITERS", "1",
            "MODEL.CLASSIFIER.IN_FEATURE", "res2", "DATALOADER.NUM_WORKERS", "0", *overrides,
        ]  # fmt: skip
        args = {"config_file": str(ROOT / f"configs/{file}.yaml"), "opts": opts}
        return setup(argparse.Namespace(**args, eval_only=False, resume=False))

    return build


def train(cfg) -> pathlib.Path:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return pathlib.Path(cfg.OUTPUT_DIR) / "model_final.pth"


def test_adapting_to_unlabeled_night_leaves_a_plain_classifier(config) -> None:
    day = train(config("classify_synthetic", "day"))
    cfg = config(
        "lowlight/adapt_objects", "adapted", "MODEL.WEIGHTS", str(day),
        "DATASETS.UNLABELED", str(SETS["UNLABELED"]),
        "MODEL.LIGHT_ADAPTER.NIGHT.WEIGHT", "0.1", "MODEL.LIGHT_ADAPTER.NIGHT.FEATURE", "res2",
        "MODEL.LIGHT_ADAPTER.MOMENTUM.FEATURES", "['res2']",
        "MODEL.LIGHT_ADAPTER.MASK.NAME", "blocks",
    )  # fmt: skip
    model = build_model(cfg)
    losses = model(next(iter(Trainer.build_train_loader(cfg))))
    assert set(losses) == {"loss_class", "loss_dark_class", "loss_momentum", "loss_night"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    adapted = train(cfg)
    facts = torch.load(adapted, weights_only=True)
    assert "META_ARCHITECTURE: ImageClassifier" in facts["config"]
    assert "LIGHT_ADAPTER" not in facts["config"]
    results = evaluate(config("classify_synthetic", "again", "MODEL.WEIGHTS", str(adapted)))
    assert results["classification"] == results["classification_night"]
    predictor = Predictor.from_checkpoint(adapted)
    prediction = predictor(torch.zeros(3, 40, 48, dtype=torch.uint8))
    assert prediction.label in objects.CLASSES
    assert prediction.scores.sum() == pytest.approx(1, abs=1e-5)


def test_a_darkener_is_trained_against_a_classifier(config) -> None:
    day = train(config("classify_synthetic", "day"))
    cfg = config(
        "lowlight/adapt_objects", "dark", "MODEL.META_ARCHITECTURE", "Darkener",
        "DATASETS.TEST", "()",
        "MODEL.DARKENER.DAY_MODEL", str(day), "MODEL.DARKENER.IN_FEATURES", "['res2']",
    )  # fmt: skip
    losses = build_model(cfg)(next(iter(Trainer.build_train_loader(cfg))))
    assert losses["loss_similarity"] > 0


def test_night_may_not_choose_the_checkpoint(config) -> None:
    keys = ["TEST.EVAL_PERIOD", "1", "TEST.BEST_METRIC"]
    with pytest.raises(ValueError, match="by the labels of night pairs"):
        build_model(config("lowlight/adapt_objects", "no", *keys, "classification/top1"))
    day = f"('synthetic_objects_day_val@32x32', {SETS['TEST'][0]!r})"
    metric = "synthetic_objects_day_val@32x32/classification/top1"
    cfg = config("lowlight/adapt_objects", "yes", *keys, metric, "DATASETS.TEST", day,
                 "MODEL.LIGHT_ADAPTER.MOMENTUM.FEATURES", "['res2']")  # fmt: skip
    train(cfg)
    assert (pathlib.Path(cfg.OUTPUT_DIR) / "model_best.pth").is_file()


def test_the_enhancer_needs_a_segmentor(config) -> None:
    day = train(config("classify_synthetic", "day"))
    cfg = config("lowlight/adapt_objects", "bright", "MODEL.META_ARCHITECTURE", "Enhancer",
                 "DATASETS.TEST", "()", "MODEL.ENHANCER.SEGMENTOR", str(day))  # fmt: skip
    with pytest.raises(ValueError, match="needs a class at every pixel"):
        build_model(cfg)
