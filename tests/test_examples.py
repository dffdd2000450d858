"""The examples are short, and they run as they stand."""

import importlib.util
import pathlib

import torch

import smmcl.engine  # noqa: F401  registers the parts
from smmcl.config import build_config
from smmcl.d2 import build_model
from smmcl.modeling.fusion.build import FUSION_REGISTRY

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"


def test_a_fusion_from_outside_trains() -> None:
    path = EXAMPLES / "own_fusion.py"
    assert len(path.read_text().splitlines()) <= 30
    if "GatedMaximum" not in FUSION_REGISTRY:
        spec = importlib.util.spec_from_file_location("own_fusion", path)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

    overrides = [
        "MODEL.DEVICE", "cpu", "MODEL.FUSION.NAME", "GatedMaximum", "MODEL.CONTRAST.NAME", "",
        "MODEL.PAIR.VISIBLE.NAME", "mscan_t", "MODEL.PAIR.AUXILIARY.NAME", "mscan_t",
        "MODEL.SEM_SEG_HEAD.HAM.CHANNELS", "32", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32",
    ]  # fmt: skip
    model = build_model(build_config("", overrides)).train()
    pair = {
        "image": torch.rand(3, 64, 64) * 255,
        "auxiliary": torch.rand(3, 64, 64) * 255,
        "sem_seg": torch.zeros(64, 64, dtype=torch.int64),
        "view_seed": 0,
    }
    sum(model([pair]).values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
