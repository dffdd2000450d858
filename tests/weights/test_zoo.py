"""The zoo: each model that comes with the project is whole, predicts, and starts a training."""

import pathlib

import numpy as np
import pytest
import torch

from smmcl import Predictor
from smmcl.config import build_config
from smmcl.d2 import build_model
from smmcl.engine.checkpoint import RunCheckpointer, read_facts
from smmcl.files.paths import sha256
from smmcl.inference.publish import MAX_BYTES
from smmcl.weights import zoo
from smmcl.weights.files import read_file

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_every_file_has_its_sum_its_card_and_a_size_for_a_clone() -> None:
    sums = zoo.zoo_sums()
    assert {path.stem for path in (ROOT / "zoo").glob("*.safetensors")} == set(sums)
    for name, digest in sums.items():
        file = ROOT / "zoo" / f"{name}.safetensors"
        assert zoo.zoo_file(f"zoo://{name}") == str(file)
        assert sha256(file) == digest
        assert file.stat().st_size <= MAX_BYTES
        card = file.with_suffix(".md").read_text(encoding="utf-8")
        assert digest in card
        assert f"smmcl evaluate --model {name}" in card


@pytest.mark.parametrize("name", zoo.zoo_sums())
def test_a_model_predicts_where_no_dataset_is(name, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    generator = np.random.default_rng(0)
    pair = [generator.integers(256, size=s, dtype=np.uint8) for s in ((96, 128, 3), (96, 128))]
    predictor = Predictor.from_zoo(name, overrides=("MODEL.DEVICE", "cpu"))
    prediction = predictor(*pair)
    assert prediction.labels.shape == (96, 128)
    assert prediction.labels.max() < len(predictor.metadata.stuff_classes)
    assert prediction.probabilities.sum(axis=0) == pytest.approx(np.ones((96, 128)), abs=1e-4)


def test_a_training_with_other_classes_starts_from_a_model() -> None:
    name = next(iter(zoo.zoo_sums()))
    cfg = build_config(f"{name}.yaml", ["MODEL.DEVICE", "cpu", "MODEL.CONTRAST.NAME", "",
                                        "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3])  # fmt: skip
    model = build_model(cfg)
    with pytest.raises(ValueError, match=r"sem_seg_head\.classifier"):
        RunCheckpointer(model).load(f"zoo://{name}")
    RunCheckpointer(model, unfilled=["sem_seg_head.classifier"]).load(f"zoo://{name}")
    stored = read_file(f"zoo://{name}")["model"]["backbone.visible.stages.0.embed.0.weight"]
    loaded = model.backbone.visible.stages[0].embed[0].weight
    assert stored.dtype == torch.float16
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, stored.float())


def test_an_unknown_name_is_answered_by_the_names_there_are() -> None:
    name = next(iter(zoo.zoo_sums()))
    for reader in (read_file, read_facts, RunCheckpointer(torch.nn.Identity()).load):
        with pytest.raises(FileNotFoundError, match=rf"no model 'x'.*{name}"):
            reader("zoo://x")


def test_a_damaged_file_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(zoo, "shipped_folder", lambda name: tmp_path)
    (tmp_path / "zoo.json").write_text('{"a": "0123"}')
    (tmp_path / "a.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(ValueError, match=r"but 0123 is expected.*install smmcl again"):
        zoo.zoo_file("zoo://a")
