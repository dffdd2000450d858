"""The export end to end: a file, the facts beside it, and its comparison with the model."""

import json

import pytest


@pytest.mark.slow
def test_torch_export(call_tool, run_folder, tmp_path, capsys) -> None:
    config = ("--config-file", run_folder / "config.yaml", "--limit", 1)
    weights = ("MODEL.WEIGHTS", run_folder / "model_final.pth")
    call_tool("export_model", *config, "--output", tmp_path / "m.pt2", *weights)
    out = capsys.readouterr().out
    assert out.count("equal labels 100.0000%") == 3
    facts = json.loads((tmp_path / "m.json").read_text())
    assert facts["inputs"]["auxiliary"] == ["N", 3, "H", "W"]
    assert len(facts["classes"]) == len(facts["colours"]) == 9


@pytest.mark.slow
def test_onnx(call_tool, run_folder, tmp_path, capsys) -> None:
    pytest.importorskip("onnxscript", reason="ONNX is an extra: pip install smmcl[export]")
    pytest.importorskip("onnxruntime", reason="ONNX is an extra: pip install smmcl[export]")
    config = ("--config-file", run_folder / "config.yaml", "--limit", 1, "--labels")
    weights = ("MODEL.WEIGHTS", run_folder / "model_final.pth")
    call_tool("export_model", *config, "--output", tmp_path / "m.onnx", *weights)
    assert capsys.readouterr().out.count("largest difference") == 3


def test_an_unknown_format_is_refused(call_tool, capsys) -> None:
    with pytest.raises(SystemExit) as leaving:
        call_tool("export_model", "--config-file", "config.yaml", "--output", "m.pb")
    assert leaving.value.code == 2
    assert "Use .pt2 or .onnx" in capsys.readouterr().err
