"""The dataset check: a sound set passes, and each planted fault is found with its file."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smmcl.d2 import DatasetCatalog, MetadataCatalog

TOOL = Path(__file__).resolve().parents[2] / "tools" / "check_dataset.py"
DATASET_FILE = """
classes: [floor, wall]
label_offset: 1
stored_ignore: 0
auxiliary: {kind: thermal, unit: 8-bit}
tags: {night: "*N"}
splits:
  train: {lists: [train.txt], pairs: 8}
  val: {lists: [val.txt]}
  val_night: {lists: [val.txt], only: night}
  test: {lists: [test.txt]}
layouts: [{visible: "rgb/{id}.png", auxiliary: "thermal/{id}.png", label: "ids/{id}.png"}]
"""
SIZE = (8, 12)


def write(path, array, **options):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path, **options)


@pytest.fixture
def root(tmp_path):
    """A sound set of 10 pairs, 8 of them for training."""
    rng = np.random.default_rng(0)
    names = [f"{index:02d}{'DN'[index % 2]}" for index in range(10)]
    for name in names:
        write(tmp_path / f"rgb/{name}.png", rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
        write(tmp_path / f"thermal/{name}.png", rng.integers(0, 256, SIZE, dtype=np.uint8))
        write(tmp_path / f"ids/{name}.png", rng.integers(0, 3, SIZE, dtype=np.uint8))
    (tmp_path / "dataset.yaml").write_text(DATASET_FILE)
    (tmp_path / "train.txt").write_text("\n".join(names[:8]))
    (tmp_path / "val.txt").write_text("\n".join(names[8:]))
    before = set(DatasetCatalog.list())
    yield tmp_path
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def check(root, monkeypatch, capsys):
    """Runs the tool on the set; returns its exit status and what it printed."""
    spec = importlib.util.spec_from_file_location("check_dataset", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["check_dataset.py", str(root / "dataset.yaml"), *options])
        with pytest.raises(SystemExit) as exit_info:
            tool.main()
        return exit_info.value.code, capsys.readouterr().out

    return run


def test_sound_set_passes(root, check):
    status, output = check("--sheet", str(root / "sheet.png"), "--sheet-pairs", "2")
    assert status == 0
    assert "0 problems in 10 pairs" in output
    assert "pairs: 8, of which 8 sound" in output
    assert "sizes: 8x12: 8" in output
    assert "tags: night 4" in output
    assert "split test is not checked" in output
    assert Image.open(root / "sheet.png").height > 400


def test_statistics_by_hand(root, check):
    (root / "train.txt").write_text("00D")
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[:, :6] = (10, 20, 30)  # half the pixels: mean 5, 10, 15 and std the same
    write(root / "rgb/00D.png", pixels)
    label = np.ones(SIZE, np.uint8)
    label[0] = 0
    write(root / "ids/00D.png", label)
    _, output = check()
    assert "visible: mean [5.0, 10.0, 15.0], std [5.0, 10.0, 15.0]" in output
    assert "1 of the 8 published pairs: a subset" in output
    assert "classes that never occur: wall" in output
    rows = [line.split() for line in output.splitlines()]
    assert ["floor", "84", "87.500", "1"] in rows
    assert ["(ignored)", "12", "12.500"] in rows


def cut_short(path):
    path.write_bytes(path.read_bytes()[:200])


def copy(source, target):
    target.write_bytes(source.read_bytes())


def to_gray(root):
    visible = np.asarray(Image.open(root / "rgb/00D.png")).astype(np.float32)
    write(root / "thermal/00D.png", (visible @ [0.299, 0.587, 0.114]).round().astype(np.uint8))


def with_rotation_tag(root):
    exif = Image.Exif()
    exif[0x0112] = 8
    write(root / "rgb/00D.png", np.zeros((*SIZE, 3), np.uint8), exif=exif)


def append(path, line):
    path.write_text(path.read_text() + f"\n{line}")


FAULTS = {
    "visible missing": (lambda r: (r / "rgb/00D.png").unlink(), "rgb/00D.png does not exist"),
    "auxiliary missing": (
        lambda r: (r / "thermal/00D.png").unlink(), "thermal/00D.png does not exist"),
    "label missing": (lambda r: (r / "ids/00D.png").unlink(), "ids/00D.png does not exist"),
    "visible cut short": (lambda r: cut_short(r / "rgb/00D.png"), "rgb/00D.png cannot be read"),
    "empty file": (lambda r: (r / "ids/00D.png").write_bytes(b""), "ids/00D.png cannot be read"),
    "label out of range": (
        lambda r: write(r / "ids/00D.png", np.full(SIZE, 7, np.uint8)),
        "ids/00D.png holds the values 7"),
    "label in color": (
        lambda r: write(r / "ids/00D.png", np.zeros((*SIZE, 3), np.uint8)),
        "ids/00D.png has mode 'RGB'"),
    "auxiliary of another size": (
        lambda r: write(r / "thermal/00D.png", np.eye(9, dtype=np.uint8)),
        "thermal/00D.png is 9x9"),
    "label of another size": (
        lambda r: write(r / "ids/00D.png", np.ones((4, 6), np.uint8)), "ids/00D.png is 4x6"),
    "auxiliary in 16 bits": (
        lambda r: write(r / "thermal/00D.png", np.full(SIZE, 900, np.uint16)),
        "thermal/00D.png stores uint16 values"),
    "auxiliary color-mapped": (
        lambda r: copy(r / "rgb/01N.png", r / "thermal/00D.png"),
        "thermal/00D.png has 3 channel(s)"),
    "visible gray": (
        lambda r: copy(r / "thermal/00D.png", r / "rgb/00D.png"), "rgb/00D.png has mode 'L'"),
    "auxiliary constant": (
        lambda r: write(r / "thermal/00D.png", np.full(SIZE, 255, np.uint8)),
        "thermal/00D.png holds the single value 255"),
    "auxiliary is the visible": (to_gray, "thermal/00D.png is the visible image in gray"),
    "rotation tag": (with_rotation_tag, "rgb/00D.png carries EXIF orientation 8"),
    "more than published": (lambda r: append(r / "train.txt", "08D"), "9 pairs are listed but 8"),
    "pair in two splits": (lambda r: append(r / "val.txt", "03N"), "pair 03N is in both"),
    "image in two splits": (
        lambda r: copy(r / "rgb/00D.png", r / "rgb/08D.png"), "has the content of"),
    "auxiliary of another pair": (
        lambda r: copy(r / "thermal/01N.png", r / "thermal/03N.png"),
        "thermal/03N.png has the content of"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(root, check, fault):
    plant, words = FAULTS[fault]
    plant(root)
    status, output = check()
    problems = [line for line in output.splitlines() if "PROBLEM" in line]
    assert status == 1
    assert any(words in problem for problem in problems), problems


def test_pair_listed_twice_ends_the_check(root, check):
    append(root / "train.txt", "00D")
    with pytest.raises(ValueError, match=r"train\.txt, line 9: pair 00D .* before, in .*line 1\."):
        check()


def test_fault_costs_no_other_pair_its_place(root, check):
    cut_short(root / "rgb/00D.png")
    _, output = check()
    assert output.count("PROBLEM") == 1
    assert "pairs: 8, of which 7 sound" in output


def test_label_without_any_class_is_a_note(root, check):
    write(root / "ids/00D.png", np.zeros(SIZE, np.uint8))
    status, output = check()
    assert status == 0
    assert "ids/00D.png holds no class" in output
