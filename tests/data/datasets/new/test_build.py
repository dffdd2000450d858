"""A folder becomes a dataset file by guesses that are told; the rest ends as a sentence."""

import json
import shlex
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from smmcl.config import build_config
from smmcl.data.datasets.build import ensure_registered
from smmcl.data.datasets.check import check_split
from smmcl.data.datasets.description import read_description
from smmcl.data.datasets.layouts import find_split
from smmcl.data.datasets.new.build import propose, write
from smmcl.files.images import decode_label

SIZE = (48, 64)


def save(path: Path, array: object, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path, **options)


def rgb(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def heat(seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).integers(29000, 31000, (24, 32))
    return values.astype(np.uint16)


def ids(seed: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, count, SIZE, dtype=np.uint8)


def lay(folder: Path, visible: str, auxiliary: str = "", label: str = "", count: int = 10) -> Path:
    for i in range(count):
        save(folder / visible.format(i), rgb(i))
        if auxiliary:
            save(folder / auxiliary.format(i), heat(i))
        if label:
            save(folder / label.format(i), ids(i))
    return folder


def make(folder: Path, **options: object) -> tuple[dict, str]:
    """Writes the files; returns the dataset file's keys and all sentences."""
    plan = propose(folder, **{"output": folder, **options})
    write(plan)
    return yaml.safe_load((folder / "dataset.yaml").read_text()), "\n".join(plan.sentences)


@pytest.mark.parametrize(
    "names",
    [
        ("color/cam0_{:04d}.jpg", "thermal/frame{:04d}_th.png", "labels/{:04d}.png"),
        ("{:d}_rgb.png", "{:d}_th.png", "{:d}_label.png"),  # side by side
        ("rgb/room/{:d}.png", "ir/room/{:d}.png", "mask/room/{:d}.png"),  # folders in folders
        ("left/a{:d}.jpg", "right/b{:d}.tiff", "third/c{:d}.png"),  # no word says what they are
        ("train/rgb/{:d}.png", "train/th/{:d}.png", "train/gt/{:d}.png"),
        ("rgb/v{:d}.png", "th/t{:06d}.png", "gt/{:02d}.png"),  # of several widths
        ("rgb/{:04d}.png", "th/{:d}.png", "gt/{:d}.png"),
    ],
)
def test_pairs_are_found_by_their_names(tmp_path, names) -> None:
    facts, _ = make(lay(tmp_path, *names))
    description = read_description(tmp_path / "dataset.yaml")
    records = [
        r for s in description.splits for r in find_split(description, s, base=tmp_path).records
    ]
    keys = ("file_name", "auxiliary_file_name", "sem_seg_file_name")
    found = [[Path(record[key]) for key in keys] for record in records]
    assert found == [[tmp_path / name.format(i) for name in names] for i in range(10)]
    # heat() has 2000 values evenly spread, which are in hundredths of a kelvin.
    assert facts["auxiliary"] == {"kind": "thermal", "unit": "0.01 K", "low": 29000, "high": 31000}


def test_the_config_builds_and_the_set_is_sound(tmp_path) -> None:
    make(lay(tmp_path, "rgb/{:d}.png", "th/{:d}.png", "label/{:d}.png"), classes="floor,cup,door")
    assert "_BASE_: mfnet_" in (tmp_path / "config.yaml").read_text()  # in any environment
    cfg = build_config(str(tmp_path / "config.yaml"))
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 3
    assert (cfg.INPUT.CROP_SIZE, cfg.SOLVER.EPOCHS) == ([32, 64], 0)
    (train,), (val,) = cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
    ensure_registered([train, val])
    report, held = check_split(train), check_split(val)
    assert (report.num_sound, report.problems, report.ids[-1]) == (8, [], "7")
    assert (held.num_sound, held.ids, list(held.classes)) == (
        2,
        ["8", "9"],
        ["floor", "cup", "door"],
    )


def test_nothing_is_overwritten(tmp_path) -> None:
    make(lay(tmp_path, "rgb/{:d}.png", "th/{:d}.png", "label/{:d}.png"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        make(tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_another_output_folder_leaves_the_images_alone(tmp_path) -> None:
    folder = lay(tmp_path / "a", "rgb/{:d}.png", "th/{:d}.png", "label/{:d}.png")
    before = sorted(folder.rglob("*"))
    write(propose(folder, output=tmp_path / "b/c"))
    assert sorted(folder.rglob("*")) == before
    description = read_description(tmp_path / "b/c/dataset.yaml")
    assert len(find_split(description, "train", base=tmp_path / "b/c").records) == 8


def test_visible_alone_and_without_labels(tmp_path) -> None:
    facts, told = make(lay(tmp_path, "rgb/{:d}.png"))
    assert "auxiliary" not in facts
    assert "label" not in facts["layouts"][0]
    assert "no auxiliary images" in told
    assert "no labels" in told
    assert not (tmp_path / "config.yaml").exists()


def test_visible_alone_trains_one_stream(tmp_path) -> None:
    make(lay(tmp_path, "rgb/{:d}.png", label="label/{:d}.png"))
    cfg = build_config(str(tmp_path / "config.yaml"))
    assert (cfg.MODEL.PAIR.AUXILIARY.NAME, cfg.MODEL.CONTRAST.NAME) == ("", "")


def test_four_channels_are_a_pair(tmp_path) -> None:
    for i in range(3):
        save(tmp_path / f"{i}.png", np.dstack([rgb(i), ids(i, 200)]))
    facts, told = make(tmp_path)
    assert facts["layouts"] == [{"visible": "{id}.png", "auxiliary": "{id}.png"}]
    assert "four channels" in told


def test_pairs_without_labels_are_a_set_of_their_own(tmp_path) -> None:
    lay(tmp_path, "rgb/{:d}.png", "th/{:d}.png", "label/{:d}.png")
    for i in (1, 5, 6):
        (tmp_path / f"label/{i}.png").unlink()
    _, told = make(tmp_path)
    assert "3 of 10 visible images lack a partner among the label images and have no label" in told
    description = read_description(tmp_path / "unlabeled.yaml")
    found = find_split(description, "unlabeled", base=tmp_path)
    assert [record["image_id"] for record in found.records] == ["1", "5", "6"]
    assert "sem_seg_file_name" not in found.records[0]


def test_lonely_images_are_named_and_left_out(tmp_path) -> None:
    lay(tmp_path, "rgb/{:d}.png", "th/{:d}.png", "label/{:d}.png")
    for i in range(5):
        (tmp_path / f"th/{i}.png").unlink()
    _, told = make(tmp_path)
    assert "5 of 10 visible images lack a partner among the auxiliary images and are left" in told
    assert (tmp_path / "train.txt").read_text().split() == ["5", "6", "7", "8"]


def test_names_that_do_not_match_are_a_sentence(tmp_path) -> None:
    lay(tmp_path, "rgb/{:d}.png", count=3)
    save(tmp_path / "th/k10.png", heat(0))
    save(tmp_path / "th/k12.png", heat(1))
    with pytest.raises(ValueError, match=r"no auxiliary image .* 0 \(nearest name: k10\), 1"):
        propose(tmp_path, output=tmp_path)


def test_numbers_of_no_single_width_are_no_names(tmp_path) -> None:
    lay(tmp_path, "rgb/{:d}.png", count=3)
    for name in ("00", "1", "002"):
        save(tmp_path / f"th/{name}.png", heat(0))
    _, told = make(tmp_path)
    assert "2 of 3 visible images lack a partner" in told


def test_a_single_pair_has_no_val(tmp_path) -> None:
    _, told = make(lay(tmp_path, "rgb/{:d}.png", "th/{:d}.png", "label/{:d}.png", count=1))
    assert "the first 1 of 1 pairs are train, no val" in told
    assert len(build_config(str(tmp_path / "config.yaml")).DATASETS.TEST) == 0


def test_the_commands_can_be_pasted(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = lay(Path("a b's"), "rgb/{:d}.png", label="label/{:d}.png", count=2)
    check, train, _ = propose(folder, output=folder).commands
    assert shlex.split(check)[:3] == ["smmcl", "check", "a b's/dataset.yaml"]
    assert shlex.split(train) == ["smmcl", "train", "--config-file", "a b's/config.yaml"]


def test_no_visible_images(tmp_path) -> None:
    save(tmp_path / "th/0.png", heat(0))
    with pytest.raises(ValueError, match=r"look like visible ones: th/\*\.png \(1 files\)\. Give"):
        propose(tmp_path, output=tmp_path)


def test_a_missing_file_of_classes_is_no_class(tmp_path) -> None:
    lay(tmp_path, "rgb/{:d}.png", label="label/{:d}.png", count=2)
    with pytest.raises(FileNotFoundError, match=r"--classes names\.txt is no file"):
        propose(tmp_path, output=tmp_path, classes="names.txt")


@pytest.mark.parametrize(("place", "words"), [("none", "is no folder"), (".", "holds no images")])
def test_nothing_to_look_at(tmp_path, place, words) -> None:
    with pytest.raises(FileNotFoundError, match=words):
        propose(tmp_path / place, output=tmp_path)


def test_a_wrong_guess_is_corrected(tmp_path) -> None:
    lay(tmp_path, "one/{:d}.png", "two/{:d}.png")
    lay(tmp_path, "three/{:d}.png")
    facts, told = make(tmp_path, visible="three", auxiliary="two/*.png")
    assert facts["layouts"] == [{"visible": "three/{id}.png", "auxiliary": "two/{id}.png"}]
    assert "not used: one/*.png (10 files)" in told
    with pytest.raises(FileNotFoundError, match="is no folder or pattern with images"):
        propose(tmp_path, output=tmp_path, visible="four")


def test_other_aspect_ratios_are_cropped(tmp_path) -> None:
    lay(tmp_path, "rgb/{:d}.png")
    for i in range(10):
        save(tmp_path / f"th/{i}.png", heat(i)[:, :24])
    facts, told = make(tmp_path)
    assert facts["align"] == "crop"
    assert "their aspect ratios differ" in told


def test_depth_in_16_bits(tmp_path) -> None:
    lay(tmp_path, "rgb/{:d}.png")
    for i in range(10):
        depth = np.linspace(1000, 4000, 48 * 64).reshape(SIZE).astype(np.uint16)
        depth[:4] = 0
        save(tmp_path / f"depth/{i}.png", depth)
    facts, _ = make(tmp_path)
    wanted = {"kind": "depth", "unit": "mm", "low": 0, "high": 4000, "invalid": 0}
    assert facts["auxiliary"] == wanted


def test_ids_beyond_the_named_classes_are_counted_by_file(tmp_path) -> None:
    lay(tmp_path, "rgb/{:d}.png", label="label/{:d}.png")
    label = ids(0, 2)
    label[0, :7] = 4
    save(tmp_path / "label/3.png", label)
    for i in {*range(10)} - {3}:
        save(tmp_path / f"label/{i}.png", ids(i, 2))
    with pytest.raises(ValueError, match=r"1 label image.* 2 classes .*3\.png \(4: 7 pixels\)"):
        propose(tmp_path, output=tmp_path, classes="floor,cup")


def test_255_is_ignored(tmp_path) -> None:
    lay(tmp_path, "rgb/{:d}.png", label="label/{:d}.png")
    save(tmp_path / "label/0.png", np.where(ids(0) == 2, 255, ids(0)).astype(np.uint8))
    assert make(tmp_path)[0]["stored_ignore"] == 255


def test_masks_and_scattered_ids_are_stored_anew(tmp_path) -> None:
    for name, values, wanted in (("a", [0, 255], [0, 1]), ("b", [7, 11, 33, 255], [0, 1, 2, 255])):
        folder = lay(tmp_path / name, "rgb/{:d}.png", count=4)
        for i in range(4):
            save(folder / f"gt/{i}.png", np.resize(np.uint8(values), SIZE))
        facts, told = make(folder)
        assert decode_label(folder / "labels/2.png")[0, : len(values)].tolist() == wanted
        assert len(facts["classes"]) == len(set(wanted) - {255})
        assert "stored" in told
        assert facts["layouts"][0]["label"] == "labels/{id}.png"


def test_labels_in_colors(tmp_path) -> None:
    colors = np.uint8([[0, 0, 0], [64, 0, 128], [220, 40, 40]])
    lay(tmp_path, "rgb/{:d}.png", count=4)
    for i in range(4):
        save(tmp_path / f"label/{i}.png", colors[ids(i)])
    told = propose(tmp_path, output=tmp_path).sentences
    assert any("color_000000, color_400080, color_dc2828" in sentence for sentence in told)
    listed = tmp_path / "classes.txt"
    listed.write_text("cup 220 40 40\nwall 64,0,128\n")
    with pytest.raises(ValueError, match=r"4 label image.*#000000"):
        propose(tmp_path, output=tmp_path, classes=str(listed))
    listed.write_text("cup 220 40 40\nwall 64,0,128\nnight sky: 0 0 0\n")
    facts, _ = make(tmp_path, classes=str(listed))
    assert facts["classes"] == ["cup", "wall", "night sky"]
    assert facts["colors"] == colors[::-1][[0, 1, 2]].tolist()
    assert (decode_label(tmp_path / "labels/3.png") == 2 - ids(3)).all()


def test_many_colors_are_asked_for(tmp_path) -> None:
    lay(tmp_path, "rgb/{:d}.png", count=2)
    for i in range(2):
        save(tmp_path / f"label/{i}.png", rgb(i))
    with pytest.raises(ValueError, match="Give --classes FILE"):
        propose(tmp_path, output=tmp_path)


def test_the_palette_of_a_label_file_is_kept(tmp_path) -> None:
    lay(tmp_path, "rgb/{:d}.png", count=2)
    for i in range(2):
        image = Image.fromarray(ids(i)).convert("P")
        image.putpalette([0, 0, 0, 9, 8, 7, 1, 2, 3])
        (tmp_path / "label").mkdir(exist_ok=True)
        image.save(tmp_path / f"label/{i}.png")
    assert make(tmp_path)[0]["colors"] == [[0, 0, 0], [9, 8, 7], [1, 2, 3]]


SQUARE = [4, 4, 20, 4, 20, 20, 4, 20]  # x, y of its corners
INNER = [8, 8, 12, 8, 12, 12, 8, 12]


def coco(folder: Path, *annotations: dict) -> Path:
    facts = {
        "images": [{"id": 5, "file_name": "x/0.png", "height": 48, "width": 64}],
        "annotations": [{"id": i, "image_id": 5, "iscrowd": 0, "area": 1, **annotation}
                        for i, annotation in enumerate(annotations, start=1)],
        "categories": [{"id": 30, "name": "car"}, {"id": 3, "name": "cup"}],
    }  # fmt: skip
    (folder / "instances.json").write_text(json.dumps(facts))
    return folder


def test_coco_polygons_the_smaller_on_top(tmp_path) -> None:
    lay(tmp_path, "rgb/{:d}.png", "th/{:d}.png", count=3)
    crowd = {"size": [48, 64], "counts": [48 * 40, 48 * 8, 48 * 16]}  # columns 40 to 47
    coco(
        tmp_path,
        {"category_id": 3, "segmentation": [INNER]},
        {"category_id": 30, "segmentation": [SQUARE]},
        {"category_id": 3, "segmentation": crowd, "iscrowd": 1},
    )
    facts, told = make(tmp_path)
    assert facts["classes"] == ["background", "cup", "car"]
    assert facts["stored_ignore"] == 255
    label = decode_label(tmp_path / "labels/0.png")
    assert [label[10, 10], label[6, 6], label[30, 30], label[30, 44]] == [1, 2, 0, 255]
    assert "the smaller object is on top" in told
    assert (tmp_path / "unlabeled.txt").read_text().split() == ["1", "2"]


def test_coco_with_boxes_alone(tmp_path) -> None:
    lay(tmp_path, "rgb/{:d}.png", count=2)
    coco(
        tmp_path, {"category_id": 3, "segmentation": [SQUARE]}, {"category_id": 3, "bbox": [0] * 4}
    )
    with pytest.raises(ValueError, match=r"1 of 2 annotations .* have no `segmentation`.* id 2"):
        propose(tmp_path, output=tmp_path)


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ({"size": [48, 64], "counts": "32o"}, "end within a number"),  # crashed the interpreter
        ({"size": [48, 64], "counts": [48, 48]}, "do not make up 48x64"),
        ({"size": [2, 3], "counts": [6]}, "but its image"),
        ([[4, 4, 20, 4, 20]], "5 coordinates"),
        ([SQUARE[:4]], "4 coordinates"),
        ([[4, 4, 20, 4, 20, 1e9]], "far outside"),
        ([[4, 4, 20, 4, 20, float("nan")]], "far outside"),
        ([["a"] * 6], "cannot be drawn"),
        ([[4, 4, 20, 4, 20, 10**400]], "cannot be drawn"),
        (["a", SQUARE], "cannot be drawn"),
        (7, "cannot be drawn"),
    ],
)
def test_spoiled_regions_are_named(tmp_path, segmentation, words) -> None:
    lay(tmp_path, "rgb/{:d}.png", count=2)
    coco(tmp_path, {"category_id": 3, "segmentation": segmentation})
    with pytest.raises(ValueError, match=rf"instances\.json: the segm.* annotation 1 .*{words}"):
        propose(tmp_path, output=tmp_path)


@pytest.mark.parametrize(
    ("part", "entry", "words"),
    [
        ("images", {"id": 5, "file_name": "0.png"}, "None as the height of"),
        ("images", {"id": 5, "file_name": "0.png", "height": 0, "width": 64}, "image of 0x64"),
        ("images", 7, "None as the height of 7"),
        ("annotations", {"image_id": 5, "category_id": 4}, "category 4, which its list"),
        ("annotations", {"image_id": 5}, "None as the category_id"),
        ("categories", {"id": "3"}, "'3' as the id of"),
    ],
)
def test_spoiled_entries_are_named(tmp_path, part, entry, words) -> None:
    lay(tmp_path, "rgb/{:d}.png", count=2)
    path = coco(tmp_path, {"category_id": 3, "segmentation": [SQUARE]}) / "instances.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, part: [entry]}))
    with pytest.raises(ValueError, match=rf"instances\.json has .*{words}"):
        propose(tmp_path, output=tmp_path)


def test_no_two_drawn_labels_are_in_memory_at_once(tmp_path) -> None:
    shape, count = (400, 500), 8
    for i in range(count):
        save(tmp_path / f"rgb/{i}.png", np.zeros((*shape, 3), dtype=np.uint8))
    path = coco(tmp_path, {"category_id": 3, "segmentation": [SQUARE]}) / "instances.json"
    size = dict(zip(("height", "width"), shape, strict=True))
    images = [{"id": i, "file_name": f"{i}.png", **size} for i in range(count)]
    path.write_text(json.dumps({**json.loads(path.read_text()), "images": images}))
    tracemalloc.start()
    plan = propose(tmp_path, output=tmp_path)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    write(plan)
    assert decode_label(tmp_path / "labels/5.png")[10, 10] == 1
    assert held < 2 * shape[0] * shape[1]


def labelme(folder: Path, name: str, *shapes: tuple[str, str, list]) -> None:
    named = [{"label": a, "shape_type": b, "points": c} for a, b, c in shapes]
    facts = {"imageHeight": 48, "imageWidth": 64, "shapes": named}
    (folder / f"{name}.json").write_text(json.dumps(facts))


def test_labelme_shapes(tmp_path) -> None:
    lay(tmp_path, "rgb/{:d}.png", count=2)
    square = [[4, 4], [20, 4], [20, 20], [4, 20]]
    labelme(tmp_path / "rgb", "0", ("cup", "rectangle", [[8, 8], [12, 12]]),
            ("car", "polygon", square), ("__ignore__", "circle", [[50, 20], [50, 24]]))  # fmt: skip
    labelme(tmp_path / "rgb", "1", ("bike", "polygon", square))
    assert make(tmp_path)[0]["classes"] == ["background", "bike", "car", "cup"]
    label = decode_label(tmp_path / "labels/0.png")
    assert [label[10, 10], label[6, 6], label[30, 30], label[20, 50]] == [3, 2, 0, 255]
    assert decode_label(tmp_path / "labels/1.png")[10, 10] == 1
    labelme(tmp_path / "rgb", "0", ("cup", "line", square[:2]))
    with pytest.raises(ValueError, match="shape of type 'line'"):
        propose(tmp_path, output=tmp_path)


def test_json_files_of_other_kinds_are_left_alone(tmp_path) -> None:
    lay(tmp_path, "rgb/{:d}.png", label="label/{:d}.png", count=2)
    (tmp_path / "camera.json").write_text('{"focal": 518.8}')
    (tmp_path / "broken.json").write_text("{")
    facts, told = make(tmp_path)
    assert facts["classes"] == ["class_0", "class_1", "class_2"]
    assert "no polygons, or cannot be read: " in told
    assert "broken.json, " in told


@pytest.mark.parametrize(
    ("spoiled", "words"),
    [
        ({"imageHeight": None}, "None as the imageHeight"),
        ({"shapes": [{"points": []}]}, "None as the label"),
        ({"shapes": [{"label": "cup", "points": [[1, 2], [3, 4]]}]}, "polygon of cup .* 4 coord"),
        ({"shapes": [{"label": "cup", "points": [[1, 2], [3]]}]}, "polygon of cup cannot"),
        ({"shapes": [{"label": "cup", "points": None}]}, "polygon of cup cannot"),
    ],
)
def test_spoiled_shapes_are_named(tmp_path, spoiled, words) -> None:
    lay(tmp_path, "rgb/{:d}.png", count=2)
    labelme(tmp_path / "rgb", "0")
    path = tmp_path / "rgb/0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **spoiled}))
    with pytest.raises(ValueError, match=rf"0\.json.*{words}"):
        propose(tmp_path, output=tmp_path)


@pytest.mark.parametrize(
    ("text", "words"), [("{", "is no JSON file"), ("{}", "0 COCO and 0 labelme files")]
)
def test_other_json(tmp_path, text, words) -> None:
    lay(tmp_path, "rgb/{:d}.png", count=2)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        propose(tmp_path, output=tmp_path, labels="a.json")
