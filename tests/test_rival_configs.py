"""The rivals' published settings: what their files state, and a step of each at full size."""

import pathlib
import re

import pytest
import torch

from smmcl.config import build_config
from smmcl.engine.setup import changed
from smmcl.engine.trainer import Trainer
from smmcl.inference.cost import make_pairs

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "configs" / "rivals"
FILES = sorted(FOLDER.glob("*.yaml"))
# Of the authors' models with 40 classes, where encoders and head are those of here. CMX's
# head has a bias of 512 before a batch norm, which takes it away again.
PUBLISHED = {"cmx_mitb2_nyudv2": 66_581_424 - 512, "tokenfusion_mitb2_nyudv2": 26_018_426}


def build(file: pathlib.Path, *overrides: object) -> torch.nn.Module:
    cfg = build_config(str(file))
    for role in ("VISIBLE", "AUXILIARY"):
        cfg = changed(cfg, f"MODEL.PAIR.{role}.WEIGHTS", "")
    return Trainer.build_model(changed(cfg, *overrides))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_header_states_the_parameters(file: pathlib.Path) -> None:
    with torch.device("meta"):
        model = build(file, "MODEL.DEVICE", "meta")
    count = sum(parameter.numel() for parameter in model.parameters())
    stated = re.search(r"# Cost: ([\d.]+) M parameters", file.read_text())
    assert stated[1] == f"{count / 1e6:.1f}"
    assert PUBLISHED.get(file.stem, count) == count


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_step_at_full_size(file: pathlib.Path) -> None:
    """Every trained parameter gets a gradient, and a pair of 480x640 gets logits of its size."""
    torch.manual_seed(0)
    model = build(file, "MODEL.DEVICE", "cpu")
    cfg = build_config(str(file))
    losses = model.train()(make_pairs(cfg, size=tuple(cfg.INPUT.CROP_SIZE), num_pairs=2))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    with torch.inference_mode():
        (output,) = model.eval()(make_pairs(cfg, size=(480, 640), num_pairs=1))
    assert output["sem_seg"].shape == (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 480, 640)
