"""Sets of two cameras, of one camera, and without labels, from their files to the model's input."""

import json

import cv2
import pytest
from PIL import Image

from smmcl.config import build_config
from smmcl.d2 import DatasetCatalog, MetadataCatalog
from smmcl.data.datasets.build import build_model_inputs, ensure_registered
from smmcl.data.datasets.check import check_split
from smmcl.data.datasets.synthetic.build import render_pair
from smmcl.data.loader import swap_auxiliary
from smmcl.data.mapper import MultiModalDatasetMapper
from smmcl.evaluation.sem_seg import PairSemSegEvaluator
from smmcl.visualization.sheet import contact_sheet

SIZE = (64, 96)
FILE = """
classes: [a, b, c, d, e, f, g, h, i, j, k, l]
stored_ignore: 255
auxiliary: {kind: depth, unit: mm, high: 10000, invalid: 0}
splits: {all: {}}
layouts:
  - {visible: "left/{id}.png", auxiliary: "tof/depth_{id}.png", label: "ids/{id}.png"}
"""
SHIFT = "align: [[1, 0, 8], [0, 1, 0]]\n"


@pytest.fixture
def cameras(tmp_path):
    """The path of a set of three generated rooms, whose second camera has half the resolution."""
    for index in range(3):
        pair = render_pair("indoor", "val", index, size=SIZE)
        small = cv2.resize(pair["auxiliary"], SIZE[::-1], fx=0, fy=0)[::2, ::2].copy()
        files = {"left/{}.png": pair["visible"], "tof/depth_{}.png": small,
                 "ids/{}.png": pair["label"]}  # fmt: skip
        for pattern, image in files.items():
            path = tmp_path / pattern.format(index)
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(image).save(path)
    path = tmp_path / "dataset.yaml"
    path.write_text(FILE)
    before = set(DatasetCatalog.list())
    yield path
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def make_mapper(path, *overrides, is_train=False):
    keys = ["DATASETS.TRAIN", (str(path),), "DATASETS.TEST", (str(path),)]
    cfg = build_config(overrides=[*keys, "INPUT.CROP_SIZE", SIZE, *overrides])
    return MultiModalDatasetMapper(cfg, is_train)


def test_training_and_test_bring_both_images_to_one_size(cameras):
    mapper, trainer = make_mapper(cameras), make_mapper(cameras, is_train=True)
    for position, record in enumerate(DatasetCatalog.get(str(cameras))):
        sample = mapper(record)
        assert sample["image"].shape == sample["auxiliary"].shape == (3, *SIZE)
        sample = trainer({**record, "position": position})
        assert sample["auxiliary"].shape[1:] == sample["sem_seg"].shape == SIZE


def test_the_check_says_once_what_it_found(cameras):
    ensure_registered([str(cameras)])
    report = check_split(str(cameras))
    assert not report.problems
    assert "3 pairs: auxiliary 32x48 brought to 64x96 (resize)" in report.notes


def test_a_rule_refuses_every_pair_of_two_sizes(cameras):
    cameras.write_text(FILE + "align: strict\n")
    ensure_registered([str(cameras)])
    report = check_split(str(cameras))
    assert report.num_sound == 0
    assert len(report.problems) == 3
    assert all("must have one size" in problem for problem in report.problems)


def test_facts_of_a_model_hold_the_alignment(cameras):
    cameras.write_text(FILE + SHIFT)
    mapper = make_mapper(cameras)
    (record, *_) = DatasetCatalog.get(str(cameras))
    auxiliary = mapper(record)["auxiliary"]
    assert not auxiliary[:, :, :8].any()  # out of the second camera's view
    assert not auxiliary[:, 32:].any()
    assert auxiliary[:, :32, 8:56].any()
    cfg = build_config(overrides=["DATASETS.TRAIN", (str(cameras),)])
    facts = build_model_inputs(cfg).state_dict()
    assert facts["align"]["matrix"] == [[1, 0, 8], [0, 1, 0]]
    assert json.loads(json.dumps(facts)) == facts


def test_sets_of_other_cameras_are_not_trained_together(cameras):
    other = cameras.with_name("other.yaml")
    other.write_text(f"_BASE_: dataset.yaml\n{SHIFT}")
    cfg = build_config(overrides=["DATASETS.TRAIN", (str(cameras), str(other))])
    with pytest.raises(ValueError, match="differ in align"):
        MultiModalDatasetMapper(cfg, True)


def test_visible_images_alone(cameras):
    text = FILE.replace('auxiliary: "tof/depth_{id}.png", ', "")
    cameras.write_text("\n".join(line for line in text.splitlines() if "depth" not in line))
    mapper = make_mapper(cameras, "INPUT.CORRUPTION.PROBABILITY", 1.0, is_train=True)
    records = DatasetCatalog.get(str(cameras))
    for position, record in enumerate(records):
        assert "auxiliary_file_name" not in record
        sample = mapper({**record, "position": position})
        assert sample["image"].shape == (3, *SIZE)
        assert "auxiliary" not in sample
    report = check_split(str(cameras))
    assert (report.num_sound, report.problems) == (3, [])
    assert contact_sheet([str(cameras)], num_pairs=1).shape[1] == 3 * 384 + 3 + 2 * 28
    keys = ["DATASETS.TRAIN", (str(cameras),), "MODEL.PAIR.AUXILIARY.NAME"]
    assert build_model_inputs(build_config(overrides=[*keys, ""])).state_dict()["auxiliary"] is None
    cfg = build_config(overrides=[*keys, "mscan_t"])
    with pytest.raises(ValueError, match=r"has visible images alone\. Set MODEL\.PAIR\.AUXILIARY"):
        build_model_inputs(cfg)
    with pytest.raises(ValueError, match="'swap' but the dataset has visible images alone"):
        swap_auxiliary(records)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("auxiliary: {kind: depth, unit: mm, high: 10000, invalid: 0}", ""),
        ('auxiliary: "tof/depth_{id}.png", ', ""),
        ('visible: "left/{id}.png", ', ""),
        ("label:", "labels:"),
    ],
)
def test_layouts_have_what_the_file_says(cameras, old, new):
    cameras.write_text(FILE.replace(old, new))
    with pytest.raises(ValueError, match=r"pattern with \{id\} in it, once"):
        ensure_registered([str(cameras)])


def test_a_set_without_labels_is_for_prediction(cameras):
    cameras.write_text(FILE.replace(', label: "ids/{id}.png"', ""))
    mapper, trainer = make_mapper(cameras), make_mapper(cameras, is_train=True)
    record = DatasetCatalog.get(str(cameras))[0]
    assert "sem_seg_file_name" not in record
    assert mapper(record)["auxiliary"].shape == (3, *SIZE)
    with pytest.raises(ValueError, match=r"pair 0 has no label.*give its layouts a label pattern"):
        trainer({**record, "position": 0})
    with pytest.raises(ValueError, match=r"dataset\.yaml has no label.*can be predicted"):
        PairSemSegEvaluator(str(cameras))
    report = check_split(str(cameras))
    assert (report.num_sound, report.problems) == (3, [])
    assert any(note.startswith("no labels") for note in report.notes)
    assert contact_sheet([str(cameras)], num_pairs=2).any()
