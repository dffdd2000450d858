"""The demo end to end at tiny size: what it writes, prints, refuses and skips."""

import json
import pathlib
import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from smmcl.d2 import DatasetCatalog, MetadataCatalog
from smmcl.data.datasets.build import ensure_registered
from smmcl.files.video import VideoWriter, read_frames
from smmcl.inference.predictor import Predictor

DATASET = "synthetic_night_val@64x96"


def demo(call_tool, run_folder: pathlib.Path, output: pathlib.Path, *arguments: object) -> None:
    weights = ("MODEL.WEIGHTS", run_folder / "model_final.pth")
    config = ("--config-file", run_folder / "config.yaml", "--output", output)
    call_tool("demo", *config, *arguments, *weights)


def records() -> list[dict]:
    ensure_registered([DATASET])
    return DatasetCatalog.get(DATASET)


def written(folder: pathlib.Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def names_of(*names: str) -> set[str]:
    """What the default parts of pairs of these names are called."""
    parts = ("labels", "overlays", "panels")
    return {"predictions.jsonl", *(f"{part}/{name}.png" for part in parts for name in names)}


def index_of(folder: pathlib.Path) -> dict[str, dict]:
    entries = map(json.loads, (folder / "predictions.jsonl").read_text().splitlines())
    return {entry["name"]: entry for entry in entries}


def write_four_channels(folder: pathlib.Path, *names: str) -> None:
    rng = np.random.default_rng(0)
    for name in names:
        four = rng.integers(0, 256, (40, 48, 4)).astype(np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(four).save(folder / name)


def test_a_dataset_with_its_truth(call_tool, run_folder, tmp_path, capsys) -> None:
    demo(call_tool, run_folder, tmp_path / "with", "--dataset", DATASET, "--limit", 2)
    assert written(tmp_path / "with") == names_of("00000", "00001")
    out = capsys.readouterr().out
    assert f"2 pairs predicted into {tmp_path / 'with'}" in out
    assert "pairs/s" in out

    record = records()[0]
    places = ("--visible", record["file_name"], "--auxiliary", record["auxiliary_file_name"])
    checkpoint = run_folder / "model_final.pth"
    call_tool("demo", "--checkpoint", checkpoint, *places, "--output", tmp_path / "without")
    with_truth = Image.open(tmp_path / "with/panels/00000.png")
    without = Image.open(tmp_path / "without/panels/00000.png")
    assert with_truth.width > without.width
    a, b = (Image.open(tmp_path / way / "overlays/00000.png") for way in ("with", "without"))
    assert np.array_equal(np.asarray(a), np.asarray(b))


def test_folders_patterns_and_json(call_tool, run_folder, tmp_path, capsys) -> None:
    folder = pathlib.Path(records()[0]["file_name"]).parents[1]
    places = ("--visible", folder / "visible", "--auxiliary", f"{folder}/auxiliary/*.png")
    options = ("--limit", 2, "--json", "--write", "probabilities", "panels")
    demo(call_tool, run_folder, tmp_path, *places, *options)
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["name"] for entry in entries] == ["00000", "00001"]
    assert list(index_of(tmp_path).values()) == entries
    for entry in entries:
        assert sum(entry["shares"].values()) == pytest.approx(1)
        assert 1 / 9 <= entry["confidence"] <= 1
        panel, probabilities = entry["files"]
        assert panel == f"panels/{entry['name']}.png"
        assert np.load(tmp_path / probabilities)["probabilities"].shape == (9, 64, 96)
        for name, size in entry["files"].items():
            assert (tmp_path / name).stat().st_size == size


def test_labels_are_in_the_ids_of_the_dataset(call_tool, run_folder, tmp_path) -> None:
    places = ("--dataset", DATASET, "--limit", 1, "--pictures", "none")
    demo(call_tool, run_folder, tmp_path, *places, "--write", "labels", "probabilities")
    assert written(tmp_path) == {
        "labels/00000.png", "probabilities/00000.npz", "predictions.jsonl",
    }  # fmt: skip
    labels = Image.open(tmp_path / "labels/00000.png")
    best = np.load(tmp_path / "probabilities/00000.npz")["probabilities"].argmax(axis=0)
    assert (np.asarray(labels) == best).mean() > 0.99  # float16 ties
    ensure_registered([DATASET])
    colors = np.asarray(MetadataCatalog.get(DATASET).stuff_colors)[np.asarray(labels)]
    assert np.array_equal(np.asarray(labels.convert("RGB")), colors)


def test_without_pictures_nothing_is_drawn(call_tool, run_folder, tmp_path, monkeypatch) -> None:
    for name in ("overlay", "pictures"):
        monkeypatch.setattr(f"smmcl.inference.predict_files.{name}", None)
    places = ("--dataset", DATASET, "--limit", 1)
    demo(call_tool, run_folder, tmp_path / "a", *places, "--pictures", "none")
    assert written(tmp_path / "a") == {"labels/00000.png", "predictions.jsonl"}
    demo(call_tool, run_folder, tmp_path / "b", *places, "--write", "json")
    assert written(tmp_path / "b") == {"predictions.jsonl"}
    assert "shares" in index_of(tmp_path / "b")["00000"]


def test_folders_below_a_folder_are_kept(call_tool, run_folder, tmp_path) -> None:
    write_four_channels(tmp_path / "in", "night/1.png", "day/1.png")
    output = tmp_path / "in/out"  # results of an earlier call are no input
    for _ in range(2):
        demo(call_tool, run_folder, output, "--input", tmp_path / "in")
        assert written(output) == names_of("night/1", "day/1")


def test_what_is_done_and_whole_is_left_as_it_is(call_tool, run_folder, tmp_path, capsys) -> None:
    write_four_channels(tmp_path / "in", "a.png", "b.png", "c.png", "d.png")

    def again(*options: object) -> set[str]:
        """Names of the pairs that were predicted."""
        times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("labels/*.png")}
        demo(call_tool, run_folder, tmp_path / "out", "--input", tmp_path / "in", *options)
        new = (tmp_path / "out").rglob("labels/*.png")
        return {path.stem for path in new if path.stat().st_mtime_ns != times.get(path)}

    only = ("--write", "labels")
    assert again(*only, "--limit", 2) == {"a", "b"}
    assert again(*only) == {"c", "d"}
    assert "2 pairs predicted into" in (out := capsys.readouterr().out)
    assert "2 done before" in out
    # Cut short, removed, of another image, and a line that a killed process left.
    path = tmp_path / "out/labels/a.png"
    path.write_bytes(path.read_bytes()[:-5])
    (tmp_path / "out/labels/b.png").unlink()
    write_four_channels(tmp_path / "in", "x/c.png")
    (tmp_path / "in/x/c.png").rename(tmp_path / "in/c.png")
    with (tmp_path / "out/predictions.jsonl").open("a") as file:
        file.write('{"name": "d", "fil')
    assert again(*only) == {"a", "b", "c"}
    capsys.readouterr()
    assert again(*only) == set()
    assert capsys.readouterr().out.endswith("out, 4 done before, 0 skipped\n")
    assert list(index_of(tmp_path / "out")) == ["a", "b", "c", "d"]
    assert again("--limit", 1) == {"a"}  # its pictures were not there
    assert again(*only, "--short-side", 64, "--limit", 1) == {"a"}
    capsys.readouterr()
    assert again(*only) == {"a", "b", "c", "d"}  # of a model with other options
    assert again(*only, "--overwrite", "--limit", 1) == {"a"}


def test_results_of_another_checkpoint_are_replaced(
    call_tool, run_folder, tmp_path, caplog
) -> None:
    places = ("--dataset", DATASET, "--limit", 1, "--write", "labels", "--output", tmp_path / "out")
    call_tool("demo", "--checkpoint", run_folder / "model_final.pth", *places)
    before = index_of(tmp_path / "out")
    # The same file in another place is the same model.
    same = shutil.copy(run_folder / "model_final.pth", tmp_path / "same.pth")
    config = ("--config-file", run_folder / "config.yaml")
    call_tool("demo", "--checkpoint", same, *config, *places)
    assert index_of(tmp_path / "out") == before
    content = torch.load(same, weights_only=True)
    name = next(n for n, value in content["model"].items() if value.is_floating_point())
    content["model"][name] = content["model"][name] + 1
    torch.save(content, tmp_path / "other.pth")
    assert "another model" not in caplog.text
    call_tool("demo", "--checkpoint", tmp_path / "other.pth", *config, "--json", *places)
    assert "lists 1 results of another model" in caplog.text
    after = index_of(tmp_path / "out")
    assert after["00000"]["made_by"] != before["00000"]["made_by"]


def test_detectron2s_spellings(call_tool, run_folder, tmp_path, capsys) -> None:
    write_four_channels(tmp_path, "a.png", "b.png", "c.png")
    images = (tmp_path / "a.png", tmp_path / "b.png")
    weights = ("MODEL.WEIGHTS", run_folder / "model_final.pth")
    config = ("--config-file", run_folder / "config.yaml", "--pictures", "none")
    for name, spelling, more in (
        ("a", "--input", ()), ("b", "--source", ()), ("c", "--input", ("--opts",)),
    ):  # fmt: skip
        threshold = ("--output", tmp_path / name, "--confidence-threshold", 0.5)
        call_tool("demo", *config, *threshold, spelling, *images, *more, *weights)
        assert written(tmp_path / name) == {"labels/a.png", "labels/b.png", "predictions.jsonl"}
    with pytest.raises(SystemExit):
        call_tool("demo", *config, "--webcam", "--output", tmp_path / "d", "--opts", *weights)
    assert "camera 0 cannot be opened" in capsys.readouterr().err


def test_confidence_leaves_pixels_unpainted(call_tool, run_folder, tmp_path, capsys) -> None:
    places = ("--dataset", DATASET, "--limit", 1, "--json")
    demo(call_tool, run_folder, tmp_path, *places, "--confidence", 1.1)
    assert set(json.loads(capsys.readouterr().out)["shares"].values()) == {0.0}
    visible = np.asarray(Image.open(records()[0]["file_name"]))
    painted = np.asarray(Image.open(tmp_path / "overlays/00000.png"))
    assert np.array_equal(painted[::4, ::4], visible)
    assert (np.asarray(Image.open(tmp_path / "labels/00000.png")) == 255).all()  # its ignore value


def test_a_damaged_pair_is_skipped_only_on_demand(call_tool, run_folder, tmp_path, capsys) -> None:
    write_four_channels(tmp_path, "a.png", "c.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    with pytest.raises(SystemExit) as leaving:
        demo(call_tool, run_folder, tmp_path / "out", "--input", tmp_path)
    assert leaving.value.code == 2
    # The sentence comes last, below the progress bar.
    bar, error = capsys.readouterr().err.splitlines()[-2:]
    assert " 1/3 " in bar
    assert "b.png cannot be read" in error
    assert written(tmp_path / "out") == names_of("a")

    demo(call_tool, run_folder, tmp_path / "out", "--input", tmp_path, "--keep-going")
    done = capsys.readouterr()
    assert "1 pairs predicted" in done.out
    assert "1 done before, 1 skipped" in done.out
    assert "b.png cannot be read" in done.err
    assert written(tmp_path / "out") == names_of("a", "c")


@pytest.mark.parametrize("json", [(), ("--json",)], ids=["text", "json"])
def test_to_keep_going_with_nothing_done_is_a_failure(
    call_tool, run_folder, tmp_path, json
) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(SystemExit, match="none of 1 pairs could be predicted"):  # a text exits by 1
        demo(call_tool, run_folder, tmp_path, "--input", tmp_path / "a.png", "--keep-going", *json)


def test_an_interrupted_video_can_be_played(call_tool, run_folder, tmp_path, monkeypatch) -> None:
    visible, auxiliary = (write_video(tmp_path / name, num=3) for name in ("v.mp4", "a.mp4"))
    predict, calls = Predictor.predict, []

    def interrupted(self: Predictor, inputs: list) -> list:
        calls.append(inputs)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(self, inputs)

    monkeypatch.setattr(Predictor, "predict", interrupted)
    places = ("--visible", visible, "--auxiliary", auxiliary)
    with pytest.raises(SystemExit) as leaving:
        demo(call_tool, run_folder, tmp_path / "out", *places)
    assert leaving.value.code == 130
    for part in ("overlays", "panels"):
        assert len(list(read_frames(tmp_path / f"out/{part}/v.mp4"))) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--visible", "nowhere.png"), "nowhere.png is no image file"),
        (("--dataset", "nowhere"), "dataset 'nowhere' is not known"),
        (("--dataset", "synthetic_indoor_val"), "which the model was trained on"),
        (("--input", "a.png", "--auxiliary", "b.png"), "--auxiliary goes with --visible"),
        (("--dataset", DATASET, "--write", "label"), "--write has no part 'label'. Choose from"),
        (("--dataset", DATASET, "--truth", "b.png"), "--dataset has its own truth"),
        (("--visible", "a.mp4", "--auxiliary", "b.png"), "but b.png is neither"),
    ],
)
def test_wrong_requests_end_in_a_sentence(
    call_tool, run_folder, tmp_path, capsys, arguments, words
) -> None:
    with pytest.raises(SystemExit) as leaving:
        demo(call_tool, run_folder, tmp_path / "out", *arguments)
    assert leaving.value.code == 2
    assert words in capsys.readouterr().err


def write_video(path: pathlib.Path, *, num: int, size: tuple[int, int] = (64, 96)) -> pathlib.Path:
    video = VideoWriter(path)
    for count in range(num):
        video.write(np.full((*size, 3), 20 + 30 * count, np.uint8))
    video.close()
    return path


def test_a_pair_of_videos(call_tool, run_folder, tmp_path, capsys) -> None:
    visible = write_video(tmp_path / "v.mp4", num=3)
    auxiliary = write_video(tmp_path / "a.mp4", num=3)
    places, output = ("--visible", visible, "--auxiliary", auxiliary), tmp_path / "out"
    frames = [f"labels/v/0000{i}.png" for i in range(3)]
    wanted = {"overlays/v.mp4", "panels/v.mp4", *frames, "predictions.jsonl"}
    for options, done in (
        ((), 3), ((), 0), (("--limit", 2), 2), ((), 3), (("--write", "labels"), 0),
    ):  # fmt: skip
        demo(call_tool, run_folder, output, *places, *options)
        assert f"{done} pairs predicted" in capsys.readouterr().out
        assert written(output) == wanted
    for part in ("overlays", "panels"):
        assert len(list(read_frames(output / f"{part}/v.mp4"))) == 3
    (output / frames[1]).unlink()
    (output / "panels/v.mp4").write_bytes(b"cut")
    demo(call_tool, run_folder, output, *places, "--write", "labels")
    assert "1 pairs predicted into" in capsys.readouterr().out
    demo(call_tool, run_folder, output, *places)
    assert "3 pairs predicted into" in capsys.readouterr().out
    assert len(list(read_frames(output / "panels/v.mp4"))) == 3


def test_a_video_that_ends_early_leaves_what_was_drawn(
    call_tool, run_folder, tmp_path, capsys
) -> None:
    visible = write_video(tmp_path / "v.mp4", num=3)
    places = ("--visible", visible, "--auxiliary", write_video(tmp_path / "a.mp4", num=2))
    with pytest.raises(SystemExit):
        demo(call_tool, run_folder, tmp_path / "out", *places)
    assert "a.mp4 ends after 2 frames but" in capsys.readouterr().err
    assert len(list(read_frames(tmp_path / "out/overlays/v.mp4"))) == 2
    demo(call_tool, run_folder, tmp_path / "out", *places, "--keep-going")
    assert "2 pairs predicted" in capsys.readouterr().out


def test_two_cameras(call_tool, run_folder, tmp_path, capsys, monkeypatch) -> None:
    videos = [write_video(tmp_path / f"{i}.mp4", num=3) for i in (0, 1)]
    opened, capture = [], cv2.VideoCapture

    def open_camera(place: int | str) -> cv2.VideoCapture:
        if isinstance(place, str):  # the written file, which is checked
            return capture(place)
        opened.append(place)
        return capture(str(videos[place]))

    monkeypatch.setattr(cv2, "VideoCapture", open_camera)
    monkeypatch.chdir(tmp_path)
    places = ("--visible", 0, "--auxiliary", 1, "--limit", 2)
    for _ in range(2):  # a camera shows something else each time
        demo(call_tool, run_folder, tmp_path / "out", *places)
        assert "2 pairs predicted" in capsys.readouterr().out
    assert set(opened) == {0, 1}
    assert len(list((tmp_path / "out/labels/camera0").iterdir())) == 2
    (tmp_path / "0").write_text("a file of that name comes first")
    with pytest.raises(SystemExit):
        demo(call_tool, run_folder, tmp_path / "out", *places)
    assert "1 is no image file" in capsys.readouterr().err


def test_truth_and_resizing(call_tool, run_folder, tmp_path, capsys) -> None:
    record = records()[0]
    stored = Image.open(record["auxiliary_file_name"])
    stored.resize((40, 32)).save(tmp_path / "b.png")
    stored.resize((48, 32)).save(tmp_path / "a.png")
    places = ("--visible", record["file_name"], "--auxiliary", tmp_path / "b.png")
    with pytest.raises(SystemExit):
        demo(call_tool, run_folder, tmp_path / "out", *places)
    assert "their aspect ratios differ by 20%" in capsys.readouterr().err
    places = ("--visible", record["file_name"], "--auxiliary", tmp_path / "a.png")
    options = (
        "--truth",
        record["sem_seg_file_name"],
        "--short-side",
        96,
        "--write",
        "panels",
        "probabilities",
    )
    demo(call_tool, run_folder, tmp_path / "out", *places, *options)
    assert np.load(tmp_path / "out/probabilities/00000.npz")["probabilities"].shape == (9, 64, 96)
    # Six pictures of 144 columns, each shown three times as large.
    assert Image.open(tmp_path / "out/panels/00000.png").width == 6 * 3 * 144 + 5 * 14 + 2 * 28
