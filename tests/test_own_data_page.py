"""The page for one's own pairs: its four commands lead from a folder to label images."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from smmcl.cli import main
from smmcl.data.datasets.new.build import propose
from smmcl.files.images import decode_label

PAGE = Path(__file__).resolve().parents[1] / "docs/own-data.md"
NUM_PAIRS = 40
SIZE = (48, 64)  # of the visible images; the page's are ten times as large
# Appended to the page's own train command: a network and a run of seconds.
SHORT = [
    "MODEL.DEVICE", "cpu", "MODEL.PAIR.VISIBLE.NAME", "mscan_t", "MODEL.PAIR.VISIBLE.WEIGHTS", "",
    "MODEL.PAIR.AUXILIARY.NAME", "mscan_t", "MODEL.PAIR.AUXILIARY.WEIGHTS", "",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "SOLVER.MAX_ITER", "4", "SOLVER.WARMUP_ITERS", "1",
    "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0",
]  # fmt: skip


def commands() -> list[list[str]]:
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [shlex.split(line) for line in block.splitlines()]


def make_yard(folder: Path) -> None:
    """Two cameras of two sizes, the thermal one of 16 bits, each with names of its own."""
    generator = np.random.default_rng(0)
    for name in ("color", "thermal", "labels"):
        (folder / name).mkdir(parents=True)
    colors, heats = (
        np.uint8([[60] * 3, [200, 40, 40], [40, 40, 200]]),
        np.uint16([29000, 30500, 31000]),
    )
    for i in range(1, NUM_PAIRS + 1):
        label = np.zeros(SIZE, dtype=np.uint8)
        for value in (1, 2):
            y, x = generator.integers(0, 30), generator.integers(0, 40)
            label[y : y + 16, x : x + 20] = value
        noise = generator.integers(0, 40, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(colors[label] + noise).save(folder / f"color/cam0_{i:04d}.jpg")
        heat = heats[label[::2, ::2]] + generator.integers(0, 90, (24, 32), dtype=np.uint16)
        Image.fromarray(heat).save(folder / f"thermal/frame{i:04d}_th.png")
        Image.fromarray(label).save(folder / f"labels/{i:04d}.png")


def exit_status() -> int:
    try:
        main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def test_the_tool_prints_the_commands_of_the_page(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_yard(Path("yard"))
    told = propose(Path("yard"), output=Path("yard"), classes="floor,cup,door").commands
    assert [shlex.split(line) for line in told] == commands()[1:]


def test_from_a_folder_to_label_images(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    make_yard(Path("yard"))
    for command in commands():
        monkeypatch.setattr(sys, "argv", [*command, *(SHORT if command[1] == "train" else [])])
        monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
        assert exit_status() == 0, command
    assert "0 problems in 40 pairs" in capsys.readouterr().out
    files = sorted(Path("output/yard/predictions/labels").rglob("*.png"))
    assert [file.stem.removeprefix("cam0_") for file in files] == [
        f"{i:04d}" for i in range(33, 41)
    ]
    labels = np.stack([decode_label(file) for file in files])  # (pairs, H, W)
    assert labels.shape == (8, *SIZE)
    assert labels.max() <= 2
