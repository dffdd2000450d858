"""Sets with one class an image: folders, CODaN's tree, generated objects, and what goes wrong."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from smmcl.config import build_config
from smmcl.d2 import DatasetCatalog, MetadataCatalog
from smmcl.data.datasets.build import ensure_registered
from smmcl.data.datasets.check import check_split
from smmcl.data.datasets.description import read_description
from smmcl.data.datasets.layouts import find_split
from smmcl.data.datasets.synthetic import build as synthetic
from smmcl.data.datasets.synthetic import objects
from smmcl.data.loader import unlabeled_stream
from smmcl.data.mapper import MultiModalDatasetMapper
from smmcl.engine.setup import check_datasets

OWN = """
task: classification
classes: [cat, dog]
auxiliary: {kind: thermal}
tags: {night: "*_n"}
splits: {train: {}, val: {}}
layouts: [{visible: "{split}/rgb/{id}.png", auxiliary: "{split}/heat/{id}.png"}]
"""
SMALL = ["INPUT.CROP_SIZE", "[8, 8]", "INPUT.AUXILIARY_FORMAT", "L",
         "MODEL.AUXILIARY.PIXEL_MEAN", "[0.0]", "MODEL.AUXILIARY.PIXEL_STD", "[1.0]"]  # fmt: skip


def write(path: pathlib.Path, shape: tuple[int, ...] = (8, 8, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, 90, np.uint8)).save(path)


@pytest.fixture
def own(tmp_path: pathlib.Path) -> str:
    (tmp_path / "dataset.yaml").write_text(OWN)
    for name in ("cat/1", "cat/2_n", "dog/1"):
        write(tmp_path / f"train/rgb/{name}.png")
        write(tmp_path / f"train/heat/{name}.png", (8, 8))
    return f"{tmp_path}/dataset.yaml:train"


def test_the_folder_is_the_class(own: str) -> None:
    ensure_registered([own])
    records = DatasetCatalog.get(own)
    assert [(r["image_id"], r["class_id"]) for r in records] == [
        ("cat/1", 0), ("cat/2_n", 0), ("dog/1", 1),
    ]  # fmt: skip
    assert [r["tags"] for r in records] == [[], ["night"], []]
    assert records[2]["auxiliary_file_name"].endswith("train/heat/dog/1.png")
    assert MetadataCatalog.get(own).evaluator_type == "classification"
    cfg = build_config(overrides=["DATASETS.TRAIN", (own,), *SMALL])
    sample = MultiModalDatasetMapper(cfg, is_train=True)(records[2])
    assert sample["class_id"] == 1
    assert sample["auxiliary"].shape == (1, 8, 8)
    assert "sem_seg" not in sample


def test_checking_counts_images_by_class(own: str) -> None:
    ensure_registered([own])
    report = check_split(own)
    assert report.class_images.tolist() == [2, 1]
    assert report.num_sound == 3
    assert not any("classes that never occur" in note for note in report.notes)


@pytest.mark.parametrize(
    ("model", "name", "words"),
    [
        ("MultiModalSegmentor", "synthetic_objects_day_val", "labels of one class an image"),
        ("ImageClassifier", "synthetic_night_val", "labels of a class at every pixel"),
        ("LightAdapter", "synthetic_objects_day_val", "MODEL.CLASSIFIER.NUM_CLASSES is 7 but"),
    ],
)
def test_task_and_classes_are_held_against_the_model(model: str, name: str, words: str) -> None:
    keys = ["MODEL.META_ARCHITECTURE", model, "MODEL.CLASSIFIER.NUM_CLASSES", 7]
    with pytest.raises(ValueError, match=words):
        check_datasets(build_config(overrides=[*keys, "DATASETS.TEST", (name,)]))


def test_classes_of_an_unlabeled_set_are_dropped(own: str) -> None:
    cfg = build_config(overrides=["DATASETS.TRAIN", (own,), *SMALL])
    assert "class_id" not in unlabeled_stream(cfg, [own], seed=0)[0]


def test_an_image_in_no_class_is_named(own: str, tmp_path: pathlib.Path) -> None:
    write(tmp_path / "train/rgb/cow/1.png")
    with pytest.raises(ValueError, match=r"cow/1 .*no folder of a class. Put it into one of cat, "):
        find_split(read_description(tmp_path / "dataset.yaml"), "train", base=tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("task: classification", "task: detection", "'segmentation' or 'classification' is needed"),
        ('heat/{id}.png"', 'heat/{id}.png", label: "l/{id}.png"', "or is for classification"),
    ],
)
def test_files_that_are_refused(old: str, new: str, words: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "dataset.yaml").write_text(OWN.replace(old, new))
    with pytest.raises(ValueError, match=words):
        read_description(tmp_path / "dataset.yaml")


def test_codan_as_it_is_published(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Bicycle/COCO_1.jpg", "Chair/n02_3.JPEG"):
        write(tmp_path / "codan/data/test_night" / name)
    (tmp_path / "codan/data/test_night/Chair/Thumbs.db").touch()
    description = read_description(pathlib.Path(synthetic.__file__).parents[1] / "codan.yaml")
    found = find_split(description, "test_night", base=tmp_path)
    assert [(r["image_id"], r["class_id"]) for r in found.records] == [
        ("Bicycle/COCO_1.jpg", 0), ("Chair/n02_3.JPEG", 9),
    ]  # fmt: skip
    assert {f"codan_{s}" for s in ("train", "val", "test_day", "test_night")} == {
        f"codan_{split}" for split in description.splits
    }


@pytest.fixture(scope="module", params=["objects_day", "objects_night"])
def drawn(request) -> tuple[str, np.ndarray, np.ndarray]:
    """Kind, 200 images (N, H, W, 3), and their classes."""
    pairs = [synthetic.render_pair(request.param, "train", i, size=(32, 32)) for i in range(200)]
    images = np.stack([pair["visible"] for pair in pairs]).astype(float)
    return request.param, images, np.arange(200) % len(objects.CLASSES)


def nearest_mean(features: np.ndarray, classes: np.ndarray) -> float:
    """Accuracy on the second half of the features (N, F), by means of the first."""
    half = len(features) // 2
    known = features[:half], classes[:half]
    means = np.stack([known[0][known[1] == k].mean(axis=0) for k in range(len(objects.CLASSES))])
    distances = ((features[half:, None] - means) ** 2).sum(axis=2)  # (N / 2, K)
    return (distances.argmin(axis=1) == classes[half:]).mean()


def test_neither_color_nor_brightness_tells_the_class(drawn) -> None:
    """By chance 10% are right, of 100 images 20% or more once in 500 draws."""
    _, images, classes = drawn
    assert nearest_mean(images.mean(axis=(1, 2)), classes) < 0.2
    brightness = images.mean(axis=(1, 2, 3))[:, None]
    assert nearest_mean(brightness, classes) < 0.2
    levels = np.quantile(images.mean(axis=3).reshape(200, -1), (0.05, 0.25, 0.75, 0.95), axis=1)
    assert nearest_mean(levels.T, classes) < 0.25  # thin shapes cover less


def test_an_object_is_a_function_of_its_place_and_shows_in_both_images(drawn) -> None:
    kind, images, _ = drawn
    pair = synthetic.render_pair(kind, "train", 7, size=(32, 32))
    assert np.array_equal(pair["visible"], images[7])
    assert set(pair) == {"visible", "auxiliary"}
    assert pair["auxiliary"].dtype == np.uint8
    assert pair["auxiliary"].std() > 5


def test_night_is_dark_and_no_scene_of_it_is_one_of_the_day() -> None:
    day, night = (
        np.stack([synthetic.render_pair(f"objects_{light}", "val", i)["visible"]
                  for i in range(20)]).astype(float)
        for light in ("day", "night")
    )  # fmt: skip
    assert night.mean() < 0.35 * day.mean()
    heat = [synthetic.render_pair(f"objects_{light}", "val", 0)["auxiliary"].astype(float).ravel()
            for light in ("day", "night")]  # fmt: skip
    assert abs(np.corrcoef(*heat)[0, 1]) < 0.6


def test_generated_objects_in_the_catalog(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setitem(objects.SPLITS, "val", 12)
    ensure_registered(["synthetic_objects_night_val@32x48"])
    records = DatasetCatalog.get("synthetic_objects_night_val@32x48")
    assert [r["class_id"] for r in records] == [*range(10), 0, 1]
    assert records[0]["tags"] == ["night"]
    assert "sem_seg_file_name" not in records[0]
    assert Image.open(records[0]["file_name"]).size == (48, 32)
    metadata = MetadataCatalog.get("synthetic_objects_night_val")
    assert metadata.evaluator_type == "classification"
    assert tuple(metadata.stuff_classes) == objects.CLASSES
