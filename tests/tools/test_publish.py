"""A run becomes a file of the zoo by one command: stripped, in half precision, with its card."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import torch

from smmcl import Predictor
from smmcl.config import build_config
from smmcl.d2 import build_model
from smmcl.data.datasets.build import build_model_inputs
from smmcl.engine.checkpoint import RunCheckpointer
from smmcl.weights import zoo
from smmcl.weights.files import read_file

DATASET = "synthetic_night_val@64x96"
RESULTS = {"sem_seg": {"mIoU": 12.345, "IoU-road": 50.0}}
PROTOCOL = {
    "dataset": DATASET,
    "pairs": "sem_seg 7",
    "precision": "float32",
    "checkpoint": "the run in /home/me",
}


@pytest.fixture(scope="module")
def run(run_folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run with the contrastive branch, as its trainer leaves it, evaluated."""
    folder = tmp_path_factory.mktemp("evaluated")
    overrides = ["MODEL.CONTRAST.NAME", "SMMCL", "OUTPUT_DIR", str(folder), "MODEL.DEVICE", "cpu"]
    cfg = build_config(str(run_folder / "config.yaml"), overrides)
    torch.manual_seed(0)
    files = RunCheckpointer(build_model(cfg), str(folder), config=cfg.dump(),
                            inputs=build_model_inputs(cfg))  # fmt: skip
    files.save("model_final")
    place = folder / "inference" / DATASET
    place.mkdir(parents=True)
    (place / "evaluation.json").write_text(json.dumps({"protocol": PROTOCOL, "results": RESULTS}))
    (place / "evaluation.md").write_text("- pairs: 7\n\n| task | mIoU |\n| sem_seg | 12.35 |")
    session = {"commit": "abc123", "machine": "a laptop", "seconds": 120}
    sessions = [session, {**session, "commit": "unused", "seconds": 0.0}]
    record = {"sessions": sessions, "done": True, "config": {}}
    (folder / "experiment.json").write_text(json.dumps(record))
    return folder


def publish(call_tool, run: pathlib.Path, output: pathlib.Path) -> None:
    options = ("--to", "zoo", "--command", "smmcl train ...", "--notes", "A toy.")
    call_tool("convert_weights", run / "model_final.pth", output, *options)


def test_the_file_predicts_as_the_run_did(
    call_tool, run, tmp_path, monkeypatch, capsys, caplog
) -> None:
    (tmp_path / "zoo.json").write_text('{"other": "0123"}')
    publish(call_tool, run, tmp_path / "toy.safetensors")
    assert "toy.safetensors, its card and its checksum" in capsys.readouterr().out
    assert "not used by the model" not in caplog.text
    monkeypatch.setattr(zoo, "shipped_folder", lambda name: tmp_path)
    assert list(zoo.zoo_sums()) == ["other", "toy"]

    stored = read_file("zoo://toy")
    assert not [name for name in stored["model"] if name.startswith("contrast.")]
    assert {v.dtype for v in stored["model"].values()} <= {torch.float16, torch.int64}
    assert str(run) not in stored["config"]
    generator = np.random.default_rng(0)
    pair = [generator.integers(256, size=s, dtype=np.uint8) for s in ((64, 96, 3), (64, 96))]
    before = Predictor.from_checkpoint(run / "model_final.pth")(*pair)
    after = Predictor.from_zoo("toy", overrides=("MODEL.DEVICE", "cpu"))(*pair)
    assert after.probabilities == pytest.approx(before.probabilities, abs=0.02)

    card = (tmp_path / "toy.md").read_text()
    for text in ("100 pairs", "contrast: SMMCL", "`smmcl train ...`", "| abc123; a laptop; 2 min |",
                 "A toy.", "| sem_seg | 12.35 |", "road 50.0", "'mIoU', 12.35, 0.1",
                 zoo.zoo_sums()["toy"]):  # fmt: skip
        assert text in card
    assert "/home/me" not in card


def test_what_cannot_be_published_is_refused(call_tool, run, tmp_path, capsys) -> None:
    shutil.copy(run / "model_final.pth", tmp_path)
    for name, sentence in (("a.pth", "end in .safetensors"), ("a.safetensors", "Evaluate the run")):
        with pytest.raises(SystemExit):
            publish(call_tool, tmp_path, tmp_path / name)
        assert sentence in capsys.readouterr().err
    with pytest.raises(SystemExit):
        call_tool("convert_weights", run / "model_final.pth", tmp_path / "a.safetensors",
                  "--to", "zoo")  # fmt: skip
    assert "--to zoo and --command go together" in capsys.readouterr().err
    assert not (tmp_path / "zoo.json").exists()
