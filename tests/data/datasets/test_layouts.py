"""Datasets on disk: every known layout is recognized, lists are read, and bad files explained."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smmcl.config import build_config
from smmcl.d2 import DatasetCatalog, MetadataCatalog
from smmcl.data.datasets import build
from smmcl.data.datasets.build import builtin_splits, ensure_registered
from smmcl.data.datasets.description import Description, Split, palette, read_description
from smmcl.data.datasets.layouts import FoundSplit, find_split
from smmcl.data.format import AuxiliaryFormat
from smmcl.data.mapper import MultiModalDatasetMapper

FOLDER = Path(build.__file__).parent
LAYOUTS = [
    (path.stem, index, split)
    for path in sorted(FOLDER.glob("*.yaml"))
    for index in range(len(read_description(path).layouts))
    for split in list(read_description(path).splits)[:2]
    if read_description(path).task == "segmentation"
]
OWN = """
classes: [floor, wall]
label_offset: 1
stored_ignore: 0
auxiliary: {kind: depth, unit: mm, high: 5000, invalid: 0}
tags: {dark: dark.txt}
splits:
  train: {lists: [train.txt]}
  val: {lists: [val.txt]}
layouts: [{visible: "rgb/{id}.png", auxiliary: "depth/{id}.png", label: "ids/{id}.png"}]
"""


def test_a_name_that_the_catalog_has_otherwise_is_refused(monkeypatch):
    contract = AuxiliaryFormat(kind="thermal", channels=1, unit="8-bit", low=0, high=255)
    found = FoundSplit({}, contract, [], 0)
    monkeypatch.setattr(build, "find_split", lambda *args, **kwargs: found)
    MetadataCatalog.get("taken").set(stuff_classes=["sky"])
    with pytest.raises(ValueError, match=r"'taken' is not what .*'stuff_classes'.*another name"):
        build.register_split("taken", read_description(FOLDER / "mfnet.yaml"), "val", base="")
    assert "taken" not in DatasetCatalog.list()


def write_image(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_pair(root, layout, name, *, split="", channels=1, kind=np.uint8, size=(4, 6), label=1):
    paths = {part: root / pattern.format(id=name, split=split) for part, pattern in layout.items()}
    shared = paths["visible"] == paths["auxiliary"]
    write_image(paths["visible"], np.full((*size, 4 if shared else 3), 40, np.uint8))
    if not shared:
        shape = (*size, 3) if channels == 3 else size
        pixels = np.arange(np.prod(shape)).reshape(shape) + 1
        write_image(paths["auxiliary"], pixels.astype(kind))
    write_image(paths["label"], np.full(size, label, np.uint8))


def write_lists(root, description, split, lines):
    for name in description.splits[split].lists:
        path = root / name.format(split=split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize(("name", "index", "split"), LAYOUTS)
def test_every_layout_of_every_built_in_set(tmp_path, caplog, name, index, split):
    description = read_description(FOLDER / f"{name}.yaml")
    layout = description.layouts[index]
    root = tmp_path / description.root[0]
    ids = ["00001D", "00002N"]
    for one in ids:
        write_pair(root, layout, one, split=split, channels=description.auxiliary[0].channels)
    write_lists(root, description, split, ids)
    with caplog.at_level(logging.INFO, logger="smmcl"):
        found = find_split(description, split, base=tmp_path)
    assert found.layout == layout
    assert sorted(record["image_id"] for record in found.records) == ids
    for record in found.records:
        for key in ("file_name", "auxiliary_file_name", "sem_seg_file_name"):
            assert Path(record[key]).is_file()
    assert layout["visible"] in caplog.text
    assert f"unit {description.auxiliary[0].unit}" in caplog.text


def test_files_that_fit_no_format_are_told_what_each_wants(tmp_path):
    description = read_description(FOLDER / "nyudv2_hha.yaml")
    layout = next(one for one in description.layouts if "Depth" in one["auxiliary"])
    write_pair(tmp_path / "nyudv2", layout, "1")
    write_lists(tmp_path / "nyudv2", description, "test", ["1"])
    words = r"Depth/1\.png has 1 channel.* Or: auxiliary image .*Depth/1\.png stores uint8 values"
    with pytest.raises(ValueError, match=words):
        find_split(description, "test", base=tmp_path)


def test_built_in_sets_have_the_published_counts():
    pairs = {
        name: read_description(path).splits[split].pairs
        for name, (path, split) in builtin_splits().items()
    }
    assert pairs["mfnet_train"] + pairs["mfnet_val"] == pairs["mfnet_trainval"] == 1176
    assert pairs["mfnet_test_day"] + pairs["mfnet_test_night"] == pairs["mfnet_test"] == 393
    assert (pairs["nyudv2_train"], pairs["nyudv2_test"]) == (795, 654)
    assert (pairs["nyudv2_hha_train"], pairs["llrgbd_train"]) == (795, 1418)
    classes = {name: len(read_description(FOLDER / f"{name}.yaml").classes) for name in
               ("mfnet", "nyudv2", "nyudv2_hha", "llrgbd", "sunrgbd", "pst900", "fmb")}  # fmt: skip
    assert list(classes.values()) == [9, 40, 40, 14, 37, 5, 14]


@pytest.fixture
def mfnet(tmp_path):
    description = read_description(FOLDER / "mfnet.yaml")
    for name in ("00001D", "00002N", "00003N"):
        write_pair(tmp_path / "mfnet", description.layouts[0], name)
    return description


def test_flipped_entries_are_skipped_with_a_count(mfnet, tmp_path, caplog):
    write_lists(tmp_path / "mfnet", mfnet, "train", ["00001D", "00001D_flip", "00002N_flip"])
    with caplog.at_level(logging.INFO, logger="smmcl"):
        found = find_split(mfnet, "train", base=tmp_path)
    assert [record["image_id"] for record in found.records] == ["00001D"]
    assert found.num_skipped == 2
    assert "2 entries '*_flip' skipped" in caplog.text


def test_tags_and_the_splits_made_by_them(mfnet, tmp_path):
    write_lists(tmp_path / "mfnet", mfnet, "test", ["00001D", "00002N", "00003N"])
    records = find_split(mfnet, "test", base=tmp_path).records
    assert [record["tags"] for record in records] == [["day"], ["night"], ["night"]]
    night = find_split(mfnet, "test_night", base=tmp_path).records
    assert [record["image_id"] for record in night] == ["00002N", "00003N"]


@pytest.mark.parametrize("line", ["7", "7.jpg", "7.webp", "RGB/7.jpg\tLabel/7.png", "Label/7.png"])
def test_lines_of_lists(tmp_path, line):
    description = read_description(FOLDER / "nyudv2.yaml")
    write_pair(tmp_path / "nyudv2", description.layouts[0], "7")
    write_lists(tmp_path / "nyudv2", description, "train", [line, ""])
    found = find_split(description, "train", base=tmp_path)
    assert [record["image_id"] for record in found.records] == ["7"]


def test_a_pair_in_two_lists_of_one_split_is_refused(own):
    own.write_text(OWN.replace("train.txt]", "train.txt, val.txt]"))
    (own.parent / "val.txt").write_text("3\na/2\n")
    with pytest.raises(ValueError, match=r"val\.txt, line 2: pair a/2 .*train\.txt, line 2"):
        find_split(read_description(own), "train", base=own.parent)


def test_linked_roots_and_files_work(own, tmp_path):
    outside = tmp_path.with_name(tmp_path.name + "_elsewhere")
    outside.mkdir()
    for part in ("rgb", "depth", "ids"):
        (tmp_path / part / "3.png").rename(outside / f"{part}.png")
        (tmp_path / part / "3.png").symlink_to(outside / f"{part}.png")
    (outside / "root").symlink_to(tmp_path, target_is_directory=True)
    found = find_split(read_description(own), "val", base=outside / "root")
    assert Path(found.records[0]["file_name"]) == outside / "root/rgb/3.png"


def test_lists_of_tags_are_read_as_those_of_splits(own):
    (own.parent / "dark.txt").write_text("\ufeff./rgb/a/2.png\n")
    records = find_split(read_description(own), "train", base=own.parent).records
    assert [record["tags"] for record in records] == [[], ["dark"]]


def test_sixteen_bit_depth_is_told_from_eight(tmp_path):
    description = read_description(FOLDER / "nyudv2.yaml")
    write_pair(tmp_path / "nyudv2", description.layouts[0], "7", kind=np.uint16)
    write_lists(tmp_path / "nyudv2", description, "train", ["7"])
    format = find_split(description, "train", base=tmp_path).format
    assert (format.unit, format.high) == ("mm", 10000)


def test_hha_is_made_where_there_is_only_depth(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    description = read_description(FOLDER / "nyudv2_hha.yaml")
    write_pair(tmp_path / "nyudv2", description.layouts[3], "7", kind=np.uint16, size=(30, 40))
    write_lists(tmp_path / "nyudv2", description, "train", ["7"])
    with caplog.at_level(logging.INFO, logger="smmcl"):
        found = find_split(description, "train", base=tmp_path)
    assert found.records[0]["auxiliary_file_name"].endswith("Depth/7.png")
    assert len(found.format.camera) == 4
    assert "unit mm, HHA made of it when read" in caplog.text
    # Once there are prepared files, they are taken.
    write_pair(tmp_path / "nyudv2", description.layouts[1], "7", channels=3, size=(30, 40))
    found = find_split(description, "train", base=tmp_path)
    assert found.records[0]["auxiliary_file_name"].endswith("HHA/7.png")
    assert found.format.camera is None


def test_one_missing_or_damaged_file_does_not_hide_the_layout(mfnet, tmp_path):
    write_lists(tmp_path / "mfnet", mfnet, "train", ["gone", "00001D", "00002N"])
    (tmp_path / "mfnet/images/00001D.png").write_bytes(b"")
    found = find_split(mfnet, "train", base=tmp_path)
    assert len(found.records) == 3


def test_missing_root_list_and_layout(mfnet, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"MFNet is no folder.*DETECTRON2_DATASETS"):
        find_split(mfnet, "train", base=tmp_path / "elsewhere")
    write_lists(tmp_path / "mfnet", mfnet, "train", ["00001D"])
    with pytest.raises(FileNotFoundError, match=r"val\.txt does not exist .*: train\.txt"):
        find_split(mfnet, "val", base=tmp_path)
    write_lists(tmp_path / "mfnet", mfnet, "val", ["nothing"])
    with pytest.raises(FileNotFoundError, match=r"none of the known layouts .*images/nothing\.png"):
        find_split(mfnet, "val", base=tmp_path)
    with pytest.raises(ValueError, match=r"no split 'tset'; known are train, val"):
        find_split(mfnet, "tset", base=tmp_path)


@pytest.fixture
def own(tmp_path):
    """A user's folder with its dataset file; what it registers is forgotten afterwards."""
    path = tmp_path / "dataset.yaml"
    path.write_text(OWN)
    description = read_description(path)
    for name in ("a/1", "a/2", "3"):
        write_pair(tmp_path, description.layouts[0], name, kind=np.uint16)
    write_lists(tmp_path, description, "train", ["a/1", "a/2"])
    write_lists(tmp_path, description, "val", ["3"])
    (tmp_path / "dark.txt").write_text("a/2\n3\n")
    before = set(DatasetCatalog.list())
    yield path
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_own_dataset_is_used_by_naming_its_file(own):
    cfg = build_config(overrides=["DATASETS.TRAIN", (f"{own}:train",), "INPUT.CROP_SIZE", [4, 6],
                                  "INPUT.AUXILIARY_FORMAT", "L"])  # fmt: skip
    mapper = MultiModalDatasetMapper(cfg, is_train=True)
    records = DatasetCatalog.get(f"{own}:train")
    sample = mapper({**records[1], "position": 0})
    assert (sample["image_id"], sample["tags"]) == ("a/2", ["dark"])
    assert sample["auxiliary"].shape == (1, 4, 6)
    assert MetadataCatalog.get(f"{own}:train").stuff_classes == ["floor", "wall"]
    ensure_registered([f"{own}:train"])  # a second time is no error


def test_own_dataset_with_several_splits_must_name_one(own):
    with pytest.raises(ValueError, match=r"several splits.*dataset\.yaml:train, .*:val"):
        ensure_registered([str(own)])


def test_own_dataset_without_lists_takes_the_folder(own):
    own.write_text(OWN.replace("train: {lists: [train.txt]}", "all: {}").replace(
        "val: {lists: [val.txt]}", ""))  # fmt: skip
    ensure_registered([str(own)])
    records = DatasetCatalog.get(str(own))
    assert [record["image_id"] for record in records] == ["3", "a/1", "a/2"]


def test_a_single_entry_needs_no_list(own):
    own.write_text(OWN.replace("[train.txt]", "train.txt").replace("[{visible", "{visible")
                   .replace('.png"}]', '.png"}'))  # fmt: skip
    description = read_description(own)
    assert description.splits["train"].lists == ["train.txt"]
    assert len(find_split(description, "train", base=own.parent).records) == 2


def test_a_chosen_background_is_gray_and_all_other_classes_are_not():
    colors = palette(["Background", *(f"class {i}" for i in range(40)), "other"])
    is_gray = [len(set(color)) == 1 for color in colors]
    assert is_gray == [True] + 41 * [False]
    assert len(set(map(tuple, colors))) == 42


def test_a_registered_set_without_colors_gets_them(registered_pairs):
    name = registered_pairs()
    metadata = MetadataCatalog.get(name)
    del metadata.stuff_colors
    ensure_registered([name])
    assert metadata.stuff_colors == palette(["floor", "wall", "lamp"])


def test_missing_dataset_file():
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml does not exist"):
        ensure_registered(["nothing.yaml"])


def test_auxiliary_of_another_unit_is_refused_at_once(own):
    own.write_text(OWN.replace("unit: mm, high: 5000", "unit: 8-bit"))
    with pytest.raises(ValueError, match="stores uint16 values"):
        ensure_registered([f"{own}:train"])


@pytest.mark.parametrize(
    ("pattern", "wanted"), [("{id}.ppm", ["a"]), ("{id}", ["b.png"])], ids=["named", "open"]
)
def test_files_of_any_ending_that_the_pattern_names(tmp_path, pattern, wanted):
    for name in ("a.ppm", "b.png", "notes.txt"):
        (tmp_path / name).touch()
    facts = {"classes": ["floor"], "colors": [[0, 0, 0]], "splits": {"all": Split()}}
    description = Description(layouts=[{"visible": pattern}], **facts)
    records = find_split(description, "all", base=tmp_path).records
    assert [record["image_id"] for record in records] == wanted


def test_worked_example_of_the_readme(own, tmp_path, monkeypatch):
    text = (Path(__file__).parents[3] / "datasets/README.md").read_text()
    root = tmp_path / "kitchen"
    root.mkdir()
    (root / "dataset.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    description = read_description(root / "dataset.yaml")
    for name in ("0001", "0002"):
        write_pair(root, description.layouts[0], name, kind=np.uint16)
    (root / "train.txt").write_text("0001\n")
    (root / "val.txt").write_text("0002\n")
    (root / "evening.txt").write_text("0002\n")
    monkeypatch.chdir(tmp_path)
    assert "'kitchen/dataset.yaml:train'" in text
    ensure_registered(["kitchen/dataset.yaml:train", "kitchen/dataset.yaml:val"])
    (record,) = DatasetCatalog.get("kitchen/dataset.yaml:val")
    assert (record["image_id"], record["tags"]) == ("0002", ["evening"])
    assert MetadataCatalog.get("kitchen/dataset.yaml:val").auxiliary["high"] == 6000
