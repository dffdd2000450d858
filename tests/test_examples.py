"""The examples are short, and they run as they stand."""

import importlib.util
import pathlib
import types

import cv2
import numpy as np
import pytest
import torch

import smmcl.engine.trainer  # noqa: F401  registers the parts
from smmcl.config import build_config
from smmcl.d2 import build_model
from smmcl.modeling.fusion.base import FUSION_REGISTRY

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"


def load(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_fusion_from_outside_trains() -> None:
    path = EXAMPLES / "own_fusion.py"
    assert len(path.read_text().splitlines()) <= 30
    if "GatedMaximum" not in FUSION_REGISTRY:
        load("own_fusion")

    overrides = [
        "MODEL.DEVICE", "cpu", "MODEL.FUSION.NAME", "GatedMaximum", "MODEL.CONTRAST.NAME", "",
        "MODEL.PAIR.VISIBLE.NAME", "mscan_t", "MODEL.PAIR.AUXILIARY.NAME", "mscan_t",
        "MODEL.SEM_SEG_HEAD.HAM.CHANNELS", "32", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32",
    ]  # fmt: skip
    model = build_model(build_config("Base-SMMCL.yaml", overrides)).train()
    pair = {
        "image": torch.rand(3, 64, 64) * 255,
        "auxiliary": torch.rand(3, 64, 64) * 255,
        "sem_seg": torch.zeros(64, 64, dtype=torch.int64),
        "view_seed": 0,
    }
    sum(model([pair]).values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def write_video(path: pathlib.Path, num_frames: int) -> str:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for i in range(num_frames):
        writer.write(np.full((48, 64, 3), 40 * i, dtype=np.uint8))
    writer.release()
    return str(path)


@pytest.mark.parametrize(
    ("flag", "dtype"),
    [("avx2", torch.float32), ("avx512_bf16", torch.bfloat16), ("amx_bf16", torch.bfloat16)],
)
def test_live_labels_pairs_of_frames_until_one_video_ends(
    flag, dtype, tmp_path, capsys, monkeypatch
) -> None:
    assert len((EXAMPLES / "live.py").read_text().splitlines()) <= 80
    live = load("live")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {flag: True}, raising=False)
    fold, folded = live.fold, []
    monkeypatch.setattr(
        live, "fold", lambda model, *, dtype: folded.append(dtype) or fold(model, dtype=dtype)
    )
    config = EXAMPLES.parent / "configs/synthetic_night.yaml"
    model = build_model(build_config(str(config), ["MODEL.DEVICE", "cpu"]))
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    videos = write_video(tmp_path / "rgb.avi", 3), write_video(tmp_path / "heat.avi", 2)
    output = tmp_path / "labels.avi"
    assert live.main(str(config), str(tmp_path / "model.pth"), *videos, str(output)) > 0
    assert folded == [dtype]
    assert "pairs/s" in capsys.readouterr().out
    written = cv2.VideoCapture(str(output))
    assert [written.read()[0] for _ in range(3)] == [True, True, False]
    assert written.get(cv2.CAP_PROP_FRAME_WIDTH) == 320
    with pytest.raises(SystemExit, match="is no video or camera"):
        live.main(str(config), str(tmp_path / "model.pth"), "none.avi", videos[1])
