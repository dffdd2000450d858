"""The converter end to end: all the names of the authors' network, there and back bit for bit."""

import logging
import pathlib

import numpy as np
import pytest
import torch
from torch import Tensor

from smmcl.config import build_config
from smmcl.engine.checkpoint import RunCheckpointer
from smmcl.engine.trainer import Trainer

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"


@pytest.fixture(scope="module")
def authors() -> dict[str, Tensor]:
    """A state dict with the authors' names and shapes; each number in it stands for its name."""
    keys = np.load(GOLDEN / "keys_mscan_b_c14.npz")
    state = {}
    for i, (name, shape) in enumerate(zip(keys["keys"], keys["shapes"].tolist(), strict=True)):
        size = [n for n in shape if n >= 0]
        dtype = torch.int64 if str(name).endswith("num_batches_tracked") else torch.float32
        state[str(name)] = torch.full(size, i + 1, dtype=dtype)
    assert len(state) == 1782
    return state


@pytest.mark.parametrize(("key", "prefix"), [("", ""), ("model", "module."), ("state_dict", "")])
def test_there_and_back(call_tool, authors, tmp_path, key: str, prefix: str) -> None:
    state = {prefix + name: value for name, value in authors.items()}
    torch.save({key: state} if key else state, tmp_path / "authors.pth")
    call_tool("convert_weights", tmp_path / "authors.pth", tmp_path / "ours.pth")
    ours = torch.load(tmp_path / "ours.pth")
    assert list(ours["unused"]) == [
        f"backbone.fconv1.fusion_conv.0.{n}" for n in ("weight", "bias")
    ]
    call_tool("convert_weights", tmp_path / "ours.pth", tmp_path / "back.pth", "--to", "authors")
    back = torch.load(tmp_path / "back.pth")["model"]
    assert set(back) == set(authors)
    for name, value in authors.items():
        assert torch.equal(back[name], value), name
        assert back[name].dtype == value.dtype, name


def test_the_result_fills_the_model_wholly(call_tool, authors, tmp_path) -> None:
    torch.save(authors, tmp_path / "authors.pth")
    call_tool("convert_weights", tmp_path / "authors.pth", tmp_path / "ours.pth")
    model = Trainer.build_model(build_config("llrgbd_mscanb.yaml", ["MODEL.DEVICE", "cpu"]))
    RunCheckpointer(model).load(str(tmp_path / "ours.pth"))
    loaded = model.state_dict()
    assert loaded["sem_seg_head.classifier.1.bias"][0] == authors["decode_head.conv_seg.bias"][0]
    assert min(value.min().item() for name, value in loaded.items() if "pixel" not in name) >= 1


def test_what_has_no_name_there_is_named(call_tool, tmp_path, caplog) -> None:
    logging.getLogger("smmcl").addHandler(caplog.handler)  # the tool ends propagation
    state = {"backbone.fusions.1.fuse.bias": torch.ones(1), "backbone.extra": torch.ones(1)}
    torch.save({"model": state}, tmp_path / "ours.pth")
    call_tool("convert_weights", tmp_path / "ours.pth", tmp_path / "back.pth", "--to", "authors")
    assert "left out: backbone.extra" in caplog.text
    written = torch.load(tmp_path / "back.pth")["model"]
    assert list(written) == ["backbone.fconv2.fusion_conv.0.bias"]


def test_the_wrong_direction_is_refused(call_tool, authors, tmp_path, capsys) -> None:
    torch.save({"stages.0.embed.0.weight": torch.ones(1)}, tmp_path / "stream.pth")
    with pytest.raises(SystemExit):
        call_tool("convert_weights", tmp_path / "stream.pth", tmp_path / "out.pth")
    assert "Check the direction" in capsys.readouterr().err
    assert not (tmp_path / "out.pth").exists()
