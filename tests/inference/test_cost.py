"""The cost table: FLOPs by hand, the sum of the parts, and a branch that inference never runs."""

import pathlib
import re
import types

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from smmcl.inference import cost

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/synthetic_night.yaml"


def test_a_depthwise_convolution_counts_its_groups_in_both_passes() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    image = torch.ones(1, 4, 5, 5, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=cost.FORMULAS) as counter:
        conv(image).sum().backward()
    forward = 2 * (4 * 25) * 9
    assert counter.get_total_flops() == 3 * forward


def test_attention_counts() -> None:
    """Scores of 1 head, 5 queries and 7 keys of 3 channels, then as many products for the mean."""

    class Head(nn.Module):
        def forward(self, query: Tensor, key: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(query, key, key)

    model = nn.Module()
    model.backbone = types.SimpleNamespace(visible=None, auxiliary=None)
    model.sem_seg_head, model.contrast = Head(), None
    query, key = torch.ones(1, 1, 5, 3), torch.ones(1, 1, 7, 3)
    flops = cost.count_flops(model, lambda: model.sem_seg_head(query, key))
    assert flops["all"] == 2 * 2 * (5 * 7 * 3)


def test_table(call_tool, capsys) -> None:
    opts = ("--size", 64, 96, "--batch", 2, "--runs", 1, "MODEL.DEVICE", "cpu")
    call_tool("analyze_model", "--config-file", CONFIG, *opts)
    out = capsys.readouterr().out
    rows = {}
    for line in out.splitlines():
        name, *cells = re.split(r" *\| *", line.strip("| "))
        if len(cells) == 8 and re.match(r"\d", cells[0]):
            rows[name] = [float(cell.partition(" ")[0]) for cell in cells]
    parts = ["visible stream", "auxiliary stream", "fusions", "head", "branch"]
    assert list(rows) == [*parts, "all"]
    columns = ["parameters", "multiply-adds", "FLOPs", "outputs", "ms", "training FLOPs",
               "training outputs", "training ms"]  # fmt: skip
    table = {
        column: {name: row[i] for name, row in rows.items()} for i, column in enumerate(columns)
    }
    for column, values in table.items():
        if not column.endswith("ms"):
            total = sum(values[part] for part in parts)
            assert total == pytest.approx(values["all"], abs=0.03), column
    for kind in ("FLOPs", "outputs"):
        assert table[kind]["branch"] == 0 < table[f"training {kind}"]["branch"]
    assert table["parameters"]["branch"] > 0
    assert rows["visible stream"][:4] == rows["auxiliary stream"][:4]
    assert table["FLOPs"]["visible stream"] == table["training FLOPs"]["visible stream"]
    assert table["training ms"]["all"] > sum(table["training ms"][part] for part in parts)
    inference, training = map(int, re.search(r"Peak memory: (\d+) .*, (\d+) ", out).groups())
    assert 0 < inference <= training
    assert "same logits bit for bit" in out


def test_a_branch_that_takes_part_in_inference_is_found() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = types.SimpleNamespace(visible=None, auxiliary=None)
            self.sem_seg_head = nn.Identity()
            self.contrast = nn.Linear(2, 2)

        def forward(self, pairs: list) -> list:
            image = torch.ones(1, 2)
            return [{"sem_seg": image if self.contrast is None else self.contrast(image)}]

    with pytest.raises(AssertionError, match="takes part"):
        cost.without_branch(Model(), [], flops={"all": 0})
