"""The export end to end: a file, the facts beside it, and its comparison with the model."""

import ast
import json
import pathlib
import runpy
import sys
from types import SimpleNamespace

import export_model
import numpy as np
import pytest
from PIL import Image

from smmcl.config import build_config
from smmcl.data.datasets.build import build_model_inputs
from smmcl.engine.checkpoint import build_checkpointer
from smmcl.engine.setup import changed
from smmcl.inference.named_model import load_named
from smmcl.inference.predictor import Predictor

EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "examples" / "run_exported.py"


@pytest.mark.slow
def test_torch_export(call_tool, run_folder, tmp_path, capsys) -> None:
    checkpoint = ("--checkpoint", run_folder / "model_final.pth", "--limit", 1)
    call_tool("export_model", *checkpoint, "--output", tmp_path / "m.pt2")
    out = capsys.readouterr().out
    assert out.count("equal labels 100.0000%") == 3
    facts = json.loads((tmp_path / "m.pt2.json").read_text())
    assert facts["inputs"]["auxiliary"] == ["N", 3, "H", "W"]
    assert len(facts["classes"]) == len(facts["colors"]) == 9


@pytest.mark.slow
def test_onnx(call_tool, run_folder, tmp_path, capsys, monkeypatch) -> None:
    onnx = pytest.importorskip("onnx", reason="ONNX is an extra: pip install smmcl[export]")
    pytest.importorskip("onnxscript", reason="ONNX is an extra: pip install smmcl[export]")
    pytest.importorskip("onnxruntime", reason="ONNX is an extra: pip install smmcl[export]")
    config = ("--config-file", run_folder / "config.yaml", "--limit", 1, "--labels")
    weights = ("MODEL.WEIGHTS", run_folder / "model_final.pth")
    call_tool("export_model", *config, "--output", tmp_path / "m.onnx", *weights)
    assert capsys.readouterr().out.count("largest difference") == 3
    facts = json.loads((tmp_path / "m.onnx.json").read_text())
    held = {p.key: json.loads(p.value) for p in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert held == facts
    run_example(monkeypatch, run_folder, tmp_path, facts)


def run_example(monkeypatch, run_folder, folder, facts) -> None:
    """Its ids are the predictor's; it reads the facts of older files as well."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 96, 3)).astype(np.uint8), None]
    images[1] = images[0][:, :, 0]
    for name, image in zip("va", images, strict=True):
        Image.fromarray(image).save(folder / f"{name}.png")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["run_exported.py", "m.onnx", "v.png", "a.png"])
    for is_old in (False, True):
        if is_old:
            (folder / "m.onnx.json").unlink()
            facts["colours"], offset = facts.pop("colors"), facts.pop("label_offset")
            (folder / "m.json").write_text(json.dumps(facts))
        runpy.run_path(str(EXAMPLE), run_name="__main__")
        wanted = Predictor.from_checkpoint(run_folder / "model_final.pth")(*images)
        ids = np.asarray(Image.open("ids.png")) + (offset if is_old else 0)
        assert (ids == wanted.ids).mean() >= 0.9999
        colors = np.asarray(Image.open("colors.png"))
        assert (colors == np.array(wanted.metadata.stuff_colors)[wanted.labels]).mean() >= 0.9999


def test_the_example_takes_three_auxiliary_channels() -> None:
    stored = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    contract = {"kind": "hha", "channels": 3, "low": 0, "high": 255, "invalid": None}
    with EXAMPLE.open() as file:
        source = file.read()
    assert len(source.splitlines()) <= 50
    functions = {"np": np}
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    exec(compile(tree, EXAMPLE, "exec"), functions)
    scaled = functions["scale"](stored, contract, 3)
    assert np.array_equal(scaled, stored.transpose(2, 0, 1))
    gray = functions["scale"](stored[:, :, 0], {**contract, "high": 51, "invalid": 7}, 3)
    wanted = np.where(stored[:, :, 0] == 7, 0, np.minimum(5.0 * stored[:, :, 0], 255))
    np.testing.assert_allclose(gray, [wanted] * 3, rtol=1e-6)


def test_pairs_of_the_test_set_in_a_checkpoint_are_compared(
    call_tool, run_folder, tmp_path, capsys, monkeypatch
) -> None:
    """A checkpoint that tells what its images hold, as every run writes it."""
    model, cfg = load_named(run_folder / "model_final.pth")
    run = changed(cfg, "OUTPUT_DIR", str(tmp_path))
    build_checkpointer(run, model, inputs=build_model_inputs(cfg)).save("run")
    for name, answer in (("write", None), ("read", print), ("check", (0.0, 1.0, True))):
        replacement = lambda *args, answer=answer, **options: answer  # noqa: E731
        monkeypatch.setattr(f"smmcl.inference.export.{name}_program", replacement)
    arguments = ("--checkpoint", tmp_path / "run.pth", "--output", tmp_path / "m.pt2")
    call_tool("export_model", *arguments, "--limit", 1)
    assert "synthetic_night_val@64x96 00000: largest difference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("('nyudv2_test',)", "no pair of nyudv2_test is compared"),
        ("('their_test',)", "no pair of their_test is compared"),
        ("()", ""),
    ],
)
def test_a_model_is_exported_without_its_test_set(names, words, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    cfg = build_config("nyudv2_lite0.yaml", ["DATASETS.TEST", names])
    args = SimpleNamespace(dataset=None, limit=2)
    assert export_model.stored_pairs(cfg, args=args) == []
    assert words in capsys.readouterr().out
    args.dataset = "nyudv2_test"
    with pytest.raises(FileNotFoundError, match="is no folder"):
        export_model.stored_pairs(cfg, args=args)


@pytest.mark.parametrize(
    "wrong", [{"outputs": "logits"}, {"outputs": "labels, probability", "values": "normalized"}]
)
def test_the_example_names_the_options_of_another_export(wrong, tmp_path, monkeypatch) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX is an extra: pip install smmcl[export]")
    (tmp_path / "m.onnx.json").write_text(json.dumps({"values": "0..255 as float32", **wrong}))
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path / "m.onnx"), "v.png", "a.png"])
    with pytest.raises(SystemExit, match="with --labels and without --normalized"):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE)])
    with pytest.raises(SystemExit, match=r"run_exported\.py model\.onnx rgb\.png"):
        runpy.run_path(str(EXAMPLE), run_name="__main__")


def test_an_unknown_format_is_refused(call_tool, capsys) -> None:
    with pytest.raises(SystemExit) as leaving:
        call_tool("export_model", "--config-file", "config.yaml", "--output", "m.pb")
    assert leaving.value.code == 2
    assert "Use .pt2 or .onnx" in capsys.readouterr().err
