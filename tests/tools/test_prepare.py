"""Preparation of datasets: what is written, and that a second run keeps what is there."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smmcl.data.datasets.description import read_description
from smmcl.data.datasets.layouts import find_split
from smmcl.data.hha import NYU_CAMERA, compute_hha
from smmcl.data.reader import PairReader
from smmcl.files.atomic import write_new_image, write_new_text
from smmcl.files.images import decode

ROOT = Path(__file__).resolve().parents[2]
SETS = ROOT / "smmcl/data/datasets"


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "datasets" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # worker processes look their function up by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(monkeypatch):
    def call(module, *arguments):
        monkeypatch.setattr(sys, "argv", ["prepare", *map(str, arguments)])
        module.main()

    return call


def test_files_are_never_overwritten(tmp_path):
    path = tmp_path / "a/b.png"
    assert write_new_image(path, np.full((2, 2), 7, np.uint16))
    assert not write_new_image(path, np.zeros((2, 2), np.uint8))
    assert np.asarray(Image.open(path)).tolist() == [[7, 7], [7, 7]]
    assert [entry.name for entry in path.parent.iterdir()] == ["b.png"]
    assert write_new_text(tmp_path / "list.txt", "1\n")
    assert not write_new_text(tmp_path / "list.txt", "1\n")
    with pytest.raises(ValueError, match=r"list\.txt exists with another content"):
        write_new_text(tmp_path / "list.txt", "2\n")


def test_hha_of_a_folder(tmp_path, run, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    prepare = load("prepare_hha")
    depth = np.random.default_rng(0).integers(1500, 1600, (48, 64)).astype(np.uint16)
    (tmp_path / "Depth").mkdir()
    Image.fromarray(depth).save(tmp_path / "Depth/7.png")
    run(prepare, tmp_path / "Depth", tmp_path / "HHA", "--unit", 0.001)
    expected = compute_hha(depth * 0.001, camera=NYU_CAMERA).image()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "HHA/7.png")), expected)
    prepared, made = read_description(SETS / "nyudv2_hha.yaml").auxiliary
    images = [
        PairReader(format, num_classes=40).auxiliary(decode(tmp_path / place, role=""))
        for format, place in ((prepared, "HHA/7.png"), (made, "Depth/7.png"))
    ]
    assert np.array_equal(*images)
    before = (tmp_path / "HHA/7.png").stat().st_mtime_ns
    run(prepare, tmp_path / "Depth", tmp_path / "HHA", "--unit", 0.001)
    assert (tmp_path / "HHA/7.png").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="holds no"):
        run(prepare, tmp_path / "nowhere", tmp_path / "HHA", "--unit", 0.001)


def test_nyudv2_from_its_arrays(tmp_path):
    prepare = load("prepare_nyudv2")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 3, 6, 4), dtype=np.uint8)  # (N, 3, W, H)
    depths = rng.uniform(0.5, 9.9, (3, 6, 4))
    labels = rng.integers(0, 5, (3, 6, 4)).astype(np.uint16)
    root = tmp_path / "nyudv2"
    prepare.write_lists({"train": [3, 1], "test": [2]}, output=root, num_pairs=3)
    mapping = np.array([40, 3, 0, 12])  # of labels 1 to 4
    prepare.convert(images, depths, labels, class_of_label=mapping, output=root)
    description = read_description(SETS / "nyudv2.yaml")
    found = find_split(description, "train", base=tmp_path)
    assert [record["image_id"] for record in found.records] == ["0", "2"]
    assert found.format.unit == "mm"
    record = found.records[1]
    reader = PairReader(found.format, label_offset=1, stored_ignore=0, num_classes=40)
    visible, auxiliary = reader.images(record)
    assert visible[1, 5].tolist() == images[2, :, 5, 1].tolist()
    assert auxiliary[1, 5, 0] == pytest.approx(depths[2, 5, 1] * 25.5, abs=0.013)
    expected = {0: 255, 1: 39, 2: 2, 3: 255, 4: 11}[int(labels[2, 5, 1])]
    assert reader.label(record)[1, 5] == expected
    with pytest.raises(ValueError, match="not each of the 4 once"):
        prepare.write_lists({"train": [3, 1], "test": [2]}, output=root, num_pairs=4)


def test_nyudv2_from_its_files(tmp_path, run):
    """The .mat files as they are published: two of MATLAB 5, one of 7.3, which is HDF5."""
    h5py = pytest.importorskip("h5py", reason="the extra nyudv2 is not installed")
    io = pytest.importorskip("scipy.io", reason="the extra nyudv2 is not installed")
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "labeled.mat", "w", userblock_size=512) as file:
        file["images"] = rng.integers(0, 256, (3, 3, 6, 4), dtype=np.uint8)  # (N, 3, W, H)
        file["depths"] = np.full((3, 6, 4), 2.5, np.float32)
        file["labels"] = np.full((3, 6, 4), 894, np.uint16)
    io.savemat(tmp_path / "splits.mat", {"trainNdxs": [[3], [1]], "testNdxs": [[2]]})
    io.savemat(tmp_path / "map.mat", {"mapClass": np.full((1, 894), 40)})
    files = [tmp_path / f"{name}.mat" for name in ("labeled", "splits", "map")]
    for _ in range(2):  # the second time everything is there
        run(load("prepare_nyudv2"), *files, tmp_path / "nyudv2")
    root = tmp_path / "nyudv2"
    assert (root / "train.txt").read_text() == "0\n2\n"
    assert np.unique(np.asarray(Image.open(root / "Depth/1.png"))).tolist() == [2500]
    assert np.unique(np.asarray(Image.open(root / "Label/1.png"))).tolist() == [40]
    assert Image.open(root / "RGB/1.png").size == (6, 4)
    with pytest.raises(FileNotFoundError, match=r"gone\.mat does not exist"):
        run(load("prepare_nyudv2"), tmp_path / "gone.mat", *files[1:], root)


@pytest.fixture
def llrgbd(tmp_path):
    for part in ("rgb", "depth", "label"):
        shape = (2, 2, 3) if part == "rgb" else (2, 2)
        for index in range(5):
            write_new_image(tmp_path / part / f"{index}.png", np.full(shape, index, np.uint8))
    return [f"--{part}={tmp_path / part}" for part in ("rgb", "depth", "label")]


def test_llrgbd_by_own_draw(tmp_path, llrgbd, run, monkeypatch):
    prepare = load("prepare_llrgbd")
    monkeypatch.setattr(prepare, "NUM_PAIRS", 5)
    monkeypatch.setattr(prepare, "NUM_TRAIN", 3)
    for _ in range(2):  # the second time everything is there
        run(prepare, *llrgbd, tmp_path / "llrgbd")
    assert "own draw, seed 0" in (tmp_path / "llrgbd/SPLIT.txt").read_text()
    description = read_description(SETS / "llrgbd.yaml")
    found = {split: find_split(description, split, base=tmp_path) for split in ("train", "test")}
    ids = {split: [record["image_id"] for record in f.records] for split, f in found.items()}
    assert (len(ids["train"]), len(ids["test"])) == (3, 2)
    assert sorted(ids["train"] + ids["test"]) == list("01234")
    with pytest.raises(ValueError, match="another content"):
        run(prepare, *llrgbd, "--seed", 1, tmp_path / "llrgbd")


def test_llrgbd_by_lists(tmp_path, llrgbd, run):
    prepare = load("prepare_llrgbd")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/train.txt").write_text("4\n0\n")
    (tmp_path / "lists/test.txt").write_text("1\n")
    run(prepare, *llrgbd, "--lists", tmp_path / "lists", tmp_path / "llrgbd")
    assert (tmp_path / "llrgbd/train/train.txt").read_text() == "4\n0\n"
    assert "published" in (tmp_path / "llrgbd/SPLIT.txt").read_text()


def test_llrgbd_with_files_missing(tmp_path, llrgbd, run):
    prepare = load("prepare_llrgbd")
    with pytest.raises(ValueError, match="5 pairs are here, 1897 are published"):
        run(prepare, *llrgbd, tmp_path / "llrgbd")
    (tmp_path / "depth/3.png").unlink()
    with pytest.raises(ValueError, match=r"rgb 5, depth 4, label 5; 3 \.png is missing"):
        run(prepare, *llrgbd, tmp_path / "llrgbd")
