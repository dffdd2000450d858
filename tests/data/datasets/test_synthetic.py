"""Generated pairs: what they are a function of, their files, that one pixel gives little away."""

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from smmcl.d2 import DatasetCatalog, MetadataCatalog
from smmcl.data.datasets.synthetic import build as synthetic

SIZE = (128, 160)
AUXILIARY_TYPES = {"indoor": np.uint16, "night": np.uint8, "day": np.uint8}
each_kind = pytest.mark.parametrize("kind", list(AUXILIARY_TYPES))


@pytest.fixture
def forget():
    """A list of names to take out of the catalog after the test."""
    names = []
    yield names
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def read_pair(record):
    return {
        "visible": cv2.imread(record["file_name"], cv2.IMREAD_COLOR)[:, :, ::-1],
        "auxiliary": cv2.imread(record["auxiliary_file_name"], cv2.IMREAD_UNCHANGED),
        "label": cv2.imread(record["sem_seg_file_name"], cv2.IMREAD_UNCHANGED),
    }


def file_times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}


@each_kind
def test_pair_is_a_function_of_seed_split_and_index(kind):
    first = synthetic.render_pair(kind, "train", 3, size=(48, 64))
    again = synthetic.render_pair(kind, "train", 3, size=(48, 64))
    others = [
        synthetic.render_pair(kind, "train", 5, size=(48, 64)),
        synthetic.render_pair(kind, "val", 3, size=(48, 64)),
        synthetic.render_pair(kind, "train", 3, size=(48, 64), seed=1),
    ]
    for part in synthetic.PARTS.values():
        np.testing.assert_array_equal(first[part], again[part])
        assert all((first[part] != other[part]).any() for other in others)


@each_kind
@pytest.mark.parametrize("size", [(33, 47), (96, 64), (120, 160)])
def test_types_and_ranges_at_any_size(kind, size):
    pair = synthetic.render_pair(kind, "val", 0, size=size)
    assert pair["visible"].shape == (*size, 3)
    assert pair["auxiliary"].shape == pair["label"].shape == size
    assert pair["visible"].dtype == pair["label"].dtype == np.uint8
    assert pair["auxiliary"].dtype == AUXILIARY_TYPES[kind]
    format = synthetic.KINDS[kind].auxiliary
    assert pair["auxiliary"].max() <= format["high"]
    assert pair["auxiliary"].std() > 0.05 * pair["auxiliary"].mean()
    assert pair["label"].max() < len(synthetic.KINDS[kind].classes)


def test_no_ray_slips_between_floor_and_wall():
    """This room at this size had a pixel without depth, which warns when it becomes a number."""
    with np.errstate(invalid="raise"):
        synthetic.render_pair("indoor", "train", 8, size=(480, 640))


@each_kind
def test_another_size_shows_the_same_scene(kind):
    small = synthetic.render_pair(kind, "train", 1, size=(64, 80))["label"]
    large = synthetic.render_pair(kind, "train", 1, size=(192, 240))["label"]
    # With an odd factor, pixel centers of the small image are pixel centers of the large one.
    assert (large[1::3, 1::3] == small).mean() > 0.98


@each_kind
def test_every_class_is_common_in_both_subsets(kind):
    num_classes = len(synthetic.KINDS[kind].classes)
    counts = np.zeros((2, num_classes))
    for index in range(50):
        label = synthetic.render_pair(kind, "train", index, size=(64, 80))["label"]
        counts[index % 2] += np.bincount(label.ravel(), minlength=num_classes)
    assert (counts / counts.sum(1, keepdims=True) > 0.01).all()


@pytest.mark.parametrize("kind", ["indoor", "night"])
def test_visible_image_is_dark_but_glares_where_lit(kind):
    lit, unlit = (
        np.stack([synthetic.render_pair(kind, "train", index)["visible"] for index in indices])
        for indices in (range(0, 12, 2), range(1, 12, 2))
    )
    assert unlit.mean() < lit.mean() < 70
    assert lit.max() == 255


def test_flat_things_have_the_depth_of_what_they_lie_on():
    classes = synthetic.KINDS["indoor"].classes
    pair = synthetic.render_pair("indoor", "train", 0)
    steps = np.abs(np.diff(pair["auxiliary"].astype(float), axis=1))
    steps[(pair["auxiliary"][:, 1:] == 0) | (pair["auxiliary"][:, :-1] == 0)] = np.nan
    label = pair["label"]

    def median_step(inside, outside):
        left, right = label[:, :-1], label[:, 1:]
        edge = (left == classes.index(inside)) & (right == classes.index(outside))
        edge |= (right == classes.index(inside)) & (left == classes.index(outside))
        assert edge.sum() > 20
        return np.nanmedian(steps[edge])

    assert median_step("window", "wall") < 150 < 300 < median_step("lamp", "wall")


@each_kind
def test_files_hold_the_arrays_and_are_written_once(kind, tmp_path):
    options = {"size": (40, 56), "seed": 2, "root": tmp_path}
    records = synthetic.load_synthetic(kind, "val", count=4, **options)
    times = file_times(tmp_path)
    assert len(times) == 12
    assert [record["tags"] for record in records] == [["lit"], ["unlit"]] * 2
    assert len({record["image_id"] for record in records}) == 4
    for index, record in enumerate(records):
        assert (record["height"], record["width"]) == (40, 56)
        rendered = synthetic.render_pair(kind, "val", index, size=(40, 56), seed=2)
        for part, stored in read_pair(record).items():
            assert stored.dtype == rendered[part].dtype
            np.testing.assert_array_equal(stored, rendered[part])
    assert synthetic.load_synthetic(kind, "val", count=3, **options) == records[:3]
    assert file_times(tmp_path) == times


def test_interrupted_rendering_is_finished(tmp_path, monkeypatch):
    options = {"size": (40, 56), "root": tmp_path}
    real, written = synthetic.write_new_image, []

    def stop_in_the_middle(path, image):
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(Path(path))
        real(path, image)

    monkeypatch.setattr(synthetic, "write_new_image", stop_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        synthetic.load_synthetic("night", "train", count=5, **options)
    times = file_times(tmp_path)
    assert len(times) == 7  # two whole pairs and one file of the third
    monkeypatch.undo()
    synthetic.load_synthetic("night", "train", count=5, **options)
    assert len(file_times(tmp_path)) == 15
    kept = [path for path in written[:6] if file_times(tmp_path)[path] == times[path]]
    assert len(kept) == 6
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".png"]


def test_changed_generator_renders_into_another_folder(tmp_path, monkeypatch):
    options = {"size": (40, 56), "count": 1, "root": tmp_path}
    before = synthetic.load_synthetic("night", "train", **options)
    assert synthetic.load_synthetic("night", "train", **options) == before
    monkeypatch.setattr(synthetic, "_generator_version", lambda: "changed")
    assert synthetic.load_synthetic("night", "train", **options) != before


def test_two_processes_render_at_once(tmp_path):
    code = (
        "import sys; from smmcl.data.datasets.synthetic import build as synthetic\n"
        "synthetic.load_synthetic('indoor', 'val', size=(64, 80), count=40, root=sys.argv[1])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    options = {"size": (64, 80), "count": 40, "seed": 0, "root": tmp_path}
    for index, record in enumerate(synthetic.load_synthetic("indoor", "val", **options)):
        label = synthetic.render_pair("indoor", "val", index, size=(64, 80))["label"]
        np.testing.assert_array_equal(read_pair(record)["label"], label)


@each_kind
def test_one_pixel_gives_little_away(kind):
    """A linear classifier on the four values of a pixel stays far below what a network reaches."""
    num_classes = len(synthetic.KINDS[kind].classes)
    values, labels = {}, {}
    for split, count in (("train", 60), ("val", 30)):
        pairs = [synthetic.render_pair(kind, split, index) for index in range(count)]
        pixels = [
            np.concatenate([pair["visible"], pair["auxiliary"][..., None]], axis=2)[::3, ::3]
            for pair in pairs
        ]
        values[split] = np.concatenate([part.reshape(-1, 4) for part in pixels]).astype(float)
        labels[split] = np.concatenate([pair["label"][::3, ::3].ravel() for pair in pairs])
    center, spread = values["train"].mean(0), values["train"].std(0)
    design = {split: np.c_[(part - center) / spread, np.ones(len(part))]
              for split, part in values.items()}  # fmt: skip
    targets = np.eye(num_classes)[labels["train"]]
    balance = 1 / np.maximum(targets.sum(0), 1)[labels["train"]]  # every class weighs the same
    for weight in (np.ones_like(balance), balance):
        root = np.sqrt(weight)[:, None]
        solution = np.linalg.lstsq(design["train"] * root, targets * root, rcond=None)[0]
        predicted = (design["val"] @ solution).argmax(1)
        joint = np.bincount(labels["val"] * num_classes + predicted, minlength=num_classes**2)
        joint = joint.reshape(num_classes, num_classes)
        union = joint.sum(0) + joint.sum(1) - joint.diagonal()
        assert (joint.diagonal() / union).mean() < 0.33


def test_built_in_names_are_in_the_catalog(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for kind, drawn in synthetic.KINDS.items():
        for split, count in drawn.splits.items():
            metadata = MetadataCatalog.get(f"synthetic_{kind}_{split}")
            assert metadata.num_images == count
            assert len(metadata.stuff_colors) == len(metadata.stuff_classes) >= 6
            assert len(set(map(tuple, metadata.stuff_colors))) == len(metadata.stuff_classes)
    assert not list(tmp_path.iterdir()), "nothing is rendered before it is asked for"


def test_name_tells_the_size(tmp_path, monkeypatch, forget):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setitem(synthetic.SPLITS, "val", 2)
    name = "synthetic_night_val@40x56"
    forget.append(name)
    synthetic.register_synthetic(name)
    records = DatasetCatalog.get(name)
    assert [(record["height"], record["width"]) for record in records] == [(40, 56)] * 2
    assert read_pair(records[1])["label"].shape == (40, 56)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("synthetic_night_train@40x16", "at least 32"),
        ("synthetic_night_train@40", "<height>x<width>"),
        ("synthetic_night_test", "split of train, val"),
        ("synthetic_forest_train", "kind of indoor, night"),
        ("street_train", "names no generated dataset"),
    ],
)
def test_wrong_names_are_refused(name, answer):
    with pytest.raises(ValueError, match=answer):
        synthetic.register_synthetic(name)
    assert name not in DatasetCatalog.list()


def test_other_code_fills_another_folder(tmp_path, monkeypatch):
    # The pattern once matched no file, so the pairs of an older generator were taken for new ones.
    folder = shutil.copytree(Path(synthetic.__file__).parent, tmp_path / "code")
    monkeypatch.setattr(synthetic, "__file__", str(folder / "build.py"))
    before = synthetic._generator_version()
    (folder / "night.py").write_text((folder / "night.py").read_text() + "\n")
    assert synthetic._generator_version() != before


def test_folder_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "datasets"
    blocked.write_text("a file, where a folder is wanted")
    with pytest.raises(OSError, match="Set DETECTRON2_DATASETS"):
        synthetic.load_synthetic("night", "val", count=1, root=blocked)


def test_the_day_is_bright_and_shows_other_streets():
    day, night = (synthetic.render_pair(kind, "train", 0, size=SIZE) for kind in ("day", "night"))
    assert day["visible"].mean() > 3 * night["visible"].mean()
    assert (day["label"] != night["label"]).any()
