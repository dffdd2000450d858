"""The demo end to end at tiny size: what it writes, prints, refuses and skips."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from smmcl.d2 import DatasetCatalog
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
    return {path.name for path in folder.iterdir()}


def test_a_dataset_with_its_truth(call_tool, run_folder, tmp_path, capsys) -> None:
    demo(call_tool, run_folder, tmp_path / "with", "--dataset", DATASET, "--limit", 2)
    names = {f"0000{i}_{part}.png" for i in (0, 1) for part in ("overlay", "panel")}
    assert written(tmp_path / "with") == names
    out = capsys.readouterr().out
    assert f"2 pairs drawn into {tmp_path / 'with'}" in out
    assert "pairs/s" in out

    record = records()[0]
    places = ("--visible", record["file_name"], "--auxiliary", record["auxiliary_file_name"])
    checkpoint = run_folder / "model_final.pth"
    call_tool("demo", "--checkpoint", checkpoint, *places, "--output", tmp_path / "without")
    with_truth = Image.open(tmp_path / "with/00000_panel.png")
    without = Image.open(tmp_path / "without/00000_panel.png")
    assert with_truth.width > without.width
    a, b = (Image.open(tmp_path / way / "00000_overlay.png") for way in ("with", "without"))
    assert np.array_equal(np.asarray(a), np.asarray(b))


def test_folders_patterns_and_json(call_tool, run_folder, tmp_path, capsys) -> None:
    folder = pathlib.Path(records()[0]["file_name"]).parents[1]
    places = ("--visible", folder / "visible", "--auxiliary", f"{folder}/auxiliary/*.png")
    demo(call_tool, run_folder, tmp_path, *places, "--limit", 2, "--json", "--probabilities")
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["name"] for entry in entries] == ["00000", "00001"]
    for entry in entries:
        assert sum(entry["shares"].values()) == pytest.approx(1)
        assert 1 / 9 <= entry["confidence"] <= 1
        probabilities = np.load(entry["probabilities"])["probabilities"]
        assert probabilities.shape == (9, 64, 96)
        assert pathlib.Path(entry["panel"]).is_file()


def test_confidence_leaves_pixels_unpainted(call_tool, run_folder, tmp_path, capsys) -> None:
    places = ("--dataset", DATASET, "--limit", 1, "--json")
    demo(call_tool, run_folder, tmp_path, *places, "--confidence", 1.1)
    assert set(json.loads(capsys.readouterr().out)["shares"].values()) == {0.0}
    visible = np.asarray(Image.open(records()[0]["file_name"]))
    painted = np.asarray(Image.open(tmp_path / "00000_overlay.png"))
    assert np.array_equal(painted[::4, ::4], visible)


def test_four_channel_files(call_tool, run_folder, tmp_path) -> None:
    four = np.random.default_rng(0).integers(0, 256, (40, 48, 4)).astype(np.uint8)
    Image.fromarray(four).save(tmp_path / "four.png")
    demo(call_tool, run_folder, tmp_path / "out", "--input", tmp_path / "four.png")
    assert written(tmp_path / "out") == {"four_overlay.png", "four_panel.png"}


def test_a_damaged_pair_is_skipped_only_on_demand(call_tool, run_folder, tmp_path, capsys) -> None:
    four = np.random.default_rng(0).integers(0, 256, (40, 48, 4)).astype(np.uint8)
    for name in ("a", "c"):
        Image.fromarray(four).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    with pytest.raises(SystemExit) as leaving:
        demo(call_tool, run_folder, tmp_path / "out", "--input", tmp_path)
    assert leaving.value.code == 2
    # The sentence comes last, below the progress bar.
    assert "b.png cannot be read" in capsys.readouterr().err.splitlines()[-1]
    assert written(tmp_path / "out") == {"a_overlay.png", "a_panel.png"}

    demo(call_tool, run_folder, tmp_path / "out", "--input", tmp_path, "--keep-going")
    done = capsys.readouterr()
    assert "2 pairs drawn" in done.out
    assert "1 skipped" in done.out
    assert "b.png cannot be read" in done.err
    assert "c_panel.png" in written(tmp_path / "out")


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
    for part in ("overlay", "panel"):
        assert len(list(read_frames(tmp_path / f"out/v_{part}.mp4"))) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--visible", "nowhere.png"), "nowhere.png is no image file"),
        (("--dataset", "nowhere"), "dataset 'nowhere' is not known"),
        (("--dataset", "synthetic_indoor_val"), "which the model was trained on"),
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
    places = ("--visible", visible, "--auxiliary", auxiliary)
    demo(call_tool, run_folder, tmp_path / "out", *places)
    assert "3 pairs drawn" in capsys.readouterr().out
    assert written(tmp_path / "out") == {"v_overlay.mp4", "v_panel.mp4"}
    for part in ("overlay", "panel"):
        assert len(list(read_frames(tmp_path / f"out/v_{part}.mp4"))) == 3


def test_a_video_that_ends_early_leaves_what_was_drawn(
    call_tool, run_folder, tmp_path, capsys
) -> None:
    visible = write_video(tmp_path / "v.mp4", num=3)
    places = ("--visible", visible, "--auxiliary", write_video(tmp_path / "a.mp4", num=2))
    with pytest.raises(SystemExit):
        demo(call_tool, run_folder, tmp_path / "out", *places)
    assert "a.mp4 ends after 2 frames but" in capsys.readouterr().err
    assert len(list(read_frames(tmp_path / "out/v_overlay.mp4"))) == 2
    demo(call_tool, run_folder, tmp_path / "out", *places, "--keep-going")
    assert "2 pairs drawn" in capsys.readouterr().out


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
    options = ("--truth", record["sem_seg_file_name"], "--short-side", 96, "--probabilities")
    demo(call_tool, run_folder, tmp_path / "out", *places, *options)
    assert np.load(tmp_path / "out/00000_probabilities.npz")["probabilities"].shape == (9, 64, 96)
    # Six pictures of 144 columns, each shown three times as large.
    assert Image.open(tmp_path / "out/00000_panel.png").width == 6 * 3 * 144 + 5 * 14 + 2 * 28
