"""The tools on a classifier: what they write, and which of them need a segmentor."""

import json
import pathlib

import pytest
import torch
from PIL import Image

from smmcl.config import build_config
from smmcl.d2 import DatasetCatalog
from smmcl.data.datasets.build import describe_inputs, ensure_registered
from smmcl.data.datasets.synthetic import objects
from smmcl.engine.checkpoint import RunCheckpointer
from smmcl.engine.trainer import Trainer, evaluate
from smmcl.inference.predictor import Predictor

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATASET = "synthetic_objects_night_val@64x64"


@pytest.fixture(scope="module", params=["visible", "pairs"])
def run(request, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a run of an untrained classifier."""
    folder = tmp_path_factory.mktemp("classifier")
    overrides = [
        "OUTPUT_DIR", str(folder), "DATASETS.TRAIN", (DATASET,), "DATASETS.TEST", (DATASET,),
        "MODEL.CLASSIFIER.IN_FEATURE", "res2", "DATALOADER.NUM_WORKERS", 0,
        "MODEL.PAIR.AUXILIARY.NAME", "resnet18" if request.param == "pairs" else "",
    ]  # fmt: skip
    cfg = build_config(str(ROOT / "configs/classify_synthetic.yaml"), overrides)
    torch.manual_seed(0)
    (folder / "config.yaml").write_text(cfg.dump())
    RunCheckpointer(Trainer.build_model(cfg), str(folder)).save("model_final")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(objects.SPLITS, "val", 3)
        ensure_registered([DATASET])
        DatasetCatalog.get(DATASET)
        yield folder


def options(run: pathlib.Path) -> list[object]:
    return ["--config-file", run / "config.yaml", "MODEL.WEIGHTS", run / "model_final.pth"]


def test_predict_writes_classes_scores_and_panels(call_tool, run, tmp_path, capsys) -> None:
    call_tool("demo", "--dataset", DATASET, "--output", tmp_path, *options(run))
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["name"] for entry in entries] == ["00000", "00001", "00002"]
    for entry in entries:
        assert set(entry["scores"]) == set(objects.CLASSES)
        assert sum(entry["scores"].values()) == pytest.approx(1, abs=1e-4)
        assert entry["label"] == max(entry["scores"], key=entry["scores"].get)
        assert list(entry["files"]) == [f"panels/{entry['name']}.png"]
        assert Image.open(tmp_path / f"panels/{entry['name']}.png").width > 600
    assert "3 pairs predicted" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        call_tool("demo", "--dataset", DATASET, "--confidence", "0.5", *options(run))
    assert "one class an image" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        call_tool("demo", "--dataset", DATASET, "--write", "labels", *options(run))
    assert "--write names labels" in capsys.readouterr().err


def test_a_folder_without_labels(call_tool, run, tmp_path) -> None:
    record = DatasetCatalog.get(DATASET)[0]
    places = ["--visible", record["file_name"]]
    pair = [record["file_name"]]
    if Predictor.from_checkpoint(run / "model_final.pth").needs_auxiliary:
        pair.append(record["auxiliary_file_name"])
        places += ["--auxiliary", pair[1]]
    call_tool("demo", *places, "--pictures", "none", "--output", tmp_path, *options(run))
    (line,) = (tmp_path / "predictions.jsonl").read_text().splitlines()
    prediction = Predictor.from_checkpoint(run / "model_final.pth")(*pair)
    assert json.loads(line)["label"] == prediction.label
    assert json.loads(line)["scores"] == pytest.approx(prediction.by_name())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["m.pt2", "m.onnx", "labels.pt2"])
def test_export(name: str, call_tool, run, tmp_path, capsys) -> None:
    if name == "m.onnx":
        for module in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(module, reason="ONNX is an extra: pip install smmcl[export]")
    labels = ["--labels"] if name == "labels.pt2" else []
    call_tool("export_model", "--limit", 1, *labels, "--output", tmp_path / name, *options(run))
    assert capsys.readouterr().out.count("equal labels 100.0000%") == 3
    facts = json.loads((tmp_path / f"{name}.json").read_text())
    assert facts["task"] == "classification"
    assert tuple(facts["classes"]) == objects.CLASSES


def evaluated(run: pathlib.Path, folder: pathlib.Path, *overrides: object) -> dict:
    own = ["MODEL.WEIGHTS", str(run / "model_final.pth"), "OUTPUT_DIR", str(folder)]
    return evaluate(build_config(str(run / "config.yaml"), [*own, *overrides]))


def test_report(call_tool, run, tmp_path) -> None:
    evaluated(run, tmp_path)
    call_tool("make_report", tmp_path, "--output", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for text in ("top1", "top5", "night", "ACC by class", "taken for"):
        assert text in page


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("visualize_features", [DATASET, "one={}"]),
        ("make_figure", [DATASET, "one={}"]),
        ("evaluate_robustness", ["--checkpoint", "{}", "OUTPUT_DIR", "{out}"]),
        ("analyze_model", ["--checkpoint", "{}", "--size", "64", "64"]),
    ],
)
def test_tools_for_label_maps_say_so(tool, arguments, call_tool, run, tmp_path, capsys) -> None:
    arguments = [text.format(run / "model_final.pth", out=tmp_path) for text in arguments]
    with pytest.raises(SystemExit):
        call_tool(tool, *arguments)
    assert f"{tool} needs a class at every pixel" in capsys.readouterr().err


def test_parts_of_an_image_are_refused(run, tmp_path) -> None:
    with pytest.raises(ValueError, match="needs a class at every pixel"):
        evaluated(run, tmp_path, "TEST.AUG.ENABLED", "True")


def test_the_zoo_takes_segmentors(call_tool, run, tmp_path, capsys) -> None:
    evaluated(run, run)
    facts = torch.load(run / "model_final.pth", weights_only=True)
    facts["inputs"] = describe_inputs(build_config(str(run / "config.yaml")), DATASET)
    torch.save(facts, run / "model_final.pth")
    with pytest.raises(SystemExit):
        call_tool("convert_weights", run / "model_final.pth", tmp_path / "objects.safetensors",
                  "--to", "zoo", "--command", "smmcl train")  # fmt: skip
    assert "The zoo needs a class at every pixel" in capsys.readouterr().err
