"""Features end to end: models side by side and their numbers; a model of one stream."""

import importlib.util
import json
import pathlib

import pytest
from PIL import Image

from smmcl.config import build_config
from smmcl.engine.checkpoint import RunCheckpointer
from smmcl.engine.trainer import Trainer

DATASET = "synthetic_night_val@64x96"


def save(run_folder: pathlib.Path, folder: pathlib.Path, *overrides: str) -> pathlib.Path:
    cfg = build_config(str(run_folder / "config.yaml"), overrides)
    RunCheckpointer(Trainer.build_model(cfg), str(folder), config=cfg.dump()).save("model")
    return folder / "model.pth"


def test_two_models_side_by_side(call_tool, run_folder, tmp_path, capsys, caplog) -> None:
    baseline = save(run_folder, tmp_path, "MODEL.CONTRAST.NAME", "")
    smmcl = run_folder / "model_final.pth"
    models = (f"baseline={baseline}", f"SMMCL={smmcl}")
    output = tmp_path / "out"
    call_tool("visualize_features", DATASET, *models, "--limit", 6, "--output", output)
    out = capsys.readouterr().out
    assert f"6 pairs by 2 model(s) drawn into {output}" in out
    has_tsne = bool(importlib.util.find_spec("sklearn"))
    assert ("t-SNE is left out" in out + caplog.text) != has_tsne
    numbers = json.loads((output / "features.json").read_text())
    # A baseline has no projectors, so no embeddings.
    assert list(numbers) == ["baseline: features", "SMMCL: features", "SMMCL: embeddings"]
    assert all(set(part) == {"visible", "auxiliary", "across"} for part in numbers.values())
    # What is measured across is not what is measured within a modality.
    for part in numbers.values():
        assert part["across"]["neighbor accuracy"] < part["visible"]["neighbor accuracy"]
        assert 0 < part["across"]["alignment"] < 4
    # Three columns; two pairs by two models, in six columns. At 120 dots an inch.
    heights = 2.8 * (1 + has_tsne) + 3.4 + 1.2 + 0.6
    assert Image.open(output / "features.png").size == (3 * 408, round(heights * 120))
    assert Image.open(output / "modulation.png").size == (6 * 264, 4 * 228)


def test_a_model_of_one_stream_is_refused(call_tool, run_folder, tmp_path, capsys) -> None:
    keys = ("MODEL.PAIR.AUXILIARY.NAME", "", "MODEL.CONTRAST.NAME", "")
    alone = save(run_folder, tmp_path, *keys)
    with pytest.raises(SystemExit) as leaving:
        call_tool("visualize_features", DATASET, f"alone={alone}", "--output", tmp_path / "out")
    assert leaving.value.code == 2
    assert "a model of one stream cannot be" in capsys.readouterr().err
