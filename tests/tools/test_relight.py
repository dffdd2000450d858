"""The tools that darken and brighten: what they keep, resume, refuse, print. Any model will do."""

import pathlib
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from smmcl.files.pictures import read_colors
from smmcl.files.video import VideoWriter, read_frames
from smmcl.inference import relight_files


class Power(nn.Module):
    """Takes an image to the power of a parameter: darker, or brighter."""

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor(exponent), requires_grad=False)

    def relight(self, visible: Tensor, *, seeds: list[int], **options) -> Tensor:
        self.calls = [*getattr(self, "calls", []), (seeds, options)]
        return visible**self.exponent


@pytest.fixture
def model(monkeypatch, tmp_path) -> Power:
    """What every checkpoint holds."""
    power = Power(2.0)
    monkeypatch.setattr(relight_files, "load_relighter", lambda path, **_: power)
    (tmp_path / "model.pth").write_bytes(b"weights")
    return power


@pytest.fixture
def pictures(tmp_path) -> pathlib.Path:
    """A folder of pictures of five kinds, in subfolders."""
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (20, 24, 4), dtype=np.uint8)
    folder = tmp_path / "in"
    (folder / "a/b").mkdir(parents=True)
    Image.fromarray(colors[:, :, :3]).save(folder / "plain.png")
    Image.fromarray(colors).save(folder / "a/with_thermal.png")
    Image.fromarray(colors[:, :, 0]).save(folder / "a/gray.png")
    Image.fromarray(colors[:, :, :3]).save(folder / "a/b/photo.jpg", quality=95)
    deep = rng.integers(0, 65536, (20, 24, 3), dtype=np.uint16)
    cv2.imwrite(str(folder / "a/b/deep.png"), deep)
    return folder


def darken(call_tool, tmp_path, *arguments: object) -> None:
    call_tool("darken", *arguments, "--checkpoint", tmp_path / "model.pth")


def names(folder: pathlib.Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_names_folders_depth_and_alpha_stay(call_tool, model, pictures, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    darken(call_tool, tmp_path, pictures, out)
    assert names(out) == {*names(pictures), ".relit.jsonl"}
    for name in ("plain.png", "a/with_thermal.png", "a/gray.png", "a/b/deep.png"):
        before, after = (cv2.imread(str(p / name), cv2.IMREAD_UNCHANGED) for p in (pictures, out))
        top = np.iinfo(before.dtype).max
        expected = np.rint((before / top) ** 2 * top).astype(before.dtype)
        assert after.dtype == before.dtype
        if before.ndim == 3 and before.shape[2] == 4:
            expected[:, :, 3] = before[:, :, 3]  # the auxiliary image is never darkened
        assert np.abs(after.astype(int) - expected).max() <= 1, name
    text = capsys.readouterr().out
    assert "5 darkened into" in text
    means = [
        np.mean(
            [read_colors(folder / name, role="image").values.mean() for name in names(pictures)]
        )
        for folder in (pictures, out)
    ]
    before, after = map(
        float, re.search(r"mean brightness (\S+) before, (\S+) after", text).groups()
    )
    assert [before, after] == pytest.approx(means, abs=2e-3)


def test_work_that_was_stopped_goes_on(call_tool, model, pictures, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    darken(call_tool, tmp_path, pictures, out, "--limit", 2)
    assert len(model.calls) == 2
    darken(call_tool, tmp_path, pictures, out)
    assert len(model.calls) == 5
    assert "2 of them before" in capsys.readouterr().out
    (out / "plain.png").unlink()
    darken(call_tool, tmp_path, pictures, out)
    assert len(model.calls) == 6
    darken(call_tool, tmp_path, pictures, out, "--exposure", "0.3")  # other options, other images
    assert len(model.calls) == 11
    assert re.search(r"after, 0\.0\d\d from the wanted one on average", capsys.readouterr().out)
    (seeds, options), (others, _) = model.calls[-1], model.calls[-2]
    assert options == {"exposure": (0.3, 0.3), "has_noise": False}
    assert seeds != others


def test_options_reach_the_model(call_tool, model, pictures, tmp_path) -> None:
    out = tmp_path / "out"
    darken(call_tool, tmp_path, pictures, out, "--exposure", "U(0.1, 0.4)", "--noise")
    assert model.calls[0][1] == {"exposure": (0.1, 0.4), "has_noise": True}


@pytest.mark.parametrize("text", ["dark", "U(0.1", "1.2.3", "0.1,0.2,0.3"])
def test_exposures_that_are_none(text: str, call_tool, model, pictures, tmp_path, capsys) -> None:
    if text == "U(0.1":
        pytest.skip("a forgotten bracket is forgiven")
    with pytest.raises(SystemExit):
        darken(call_tool, tmp_path, pictures, tmp_path / "out", "--exposure", text)
    assert "is no brightness. Give a number of 0 to 1" in capsys.readouterr().err


def test_truth_and_panels(call_tool, model, pictures, tmp_path, capsys) -> None:
    out, truth = tmp_path / "out", tmp_path / "truth"
    darken(call_tool, tmp_path, pictures, truth)
    call_tool("enhance", pictures, out, "--checkpoint", tmp_path / "model.pth", "--truth", truth,
              "--panels", tmp_path / "panels", "--limit", 1)  # fmt: skip
    text = capsys.readouterr().out
    assert "against the truth: PSNR" in text
    assert "SSIM 1.000, LOE 0" in text or "SSIM 0.99" in text
    (panel,) = (tmp_path / "panels").rglob("*.png")
    assert Image.open(panel).width > 3 * 24
    small = tmp_path / "small"
    small.mkdir()
    Image.new("RGB", (9, 9)).save(small / "plain.png")
    with pytest.raises(SystemExit) as stopped:
        call_tool("enhance", pictures / "plain.png", tmp_path / "other", "--checkpoint",
                  tmp_path / "model.pth", "--truth", small / "plain.png")  # fmt: skip
    assert stopped.value.code == 2
    assert "is 20x24 but its truth" in capsys.readouterr().err


def test_videos(call_tool, model, tmp_path, capsys) -> None:
    writer = VideoWriter(tmp_path / "clip.mp4")
    for value in (200, 210, 220):
        writer.write(np.full((32, 48, 3), value, np.uint8))
    writer.close()
    out = tmp_path / "out"
    for _ in range(2):
        call_tool("enhance", tmp_path / "clip.mp4", out, "--checkpoint", tmp_path / "model.pth")
    frames = list(read_frames(out / "clip.mp4"))
    assert len(frames) == 3
    assert np.mean(frames[0]) == pytest.approx(255 * (200 / 255) ** 2, abs=12)  # by codecs
    assert len(model.calls) == 3  # the second call found it done
    assert len({tuple(seeds) for seeds, _ in model.calls}) == 1  # one draw for the clip
    assert "1 of them before" in capsys.readouterr().out
    # Panels are wanted later: they are drawn, from the beginning, as a video too.
    panels = ("--checkpoint", tmp_path / "model.pth", "--panels", tmp_path / "panels")
    for _ in range(2):
        call_tool("enhance", tmp_path / "clip.mp4", out, *panels)
    drawn = list(read_frames(tmp_path / "panels" / "clip.mp4"))
    assert len(drawn) == 3
    assert len(model.calls) == 6
    assert drawn[0].shape[0] > 32
    assert drawn[0].shape[1] > 2 * 48  # before, and after


def test_a_dataset_by_its_name(call_tool, model, tmp_path) -> None:
    out = tmp_path / "out"
    darken(call_tool, tmp_path, "synthetic_night_val@64x96", out, "--limit", 2)
    assert names(out) == {"00000.png", "00001.png", ".relit.jsonl"}


def test_what_is_refused_or_skipped(call_tool, model, pictures, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        darken(call_tool, tmp_path, pictures, pictures)
    assert "is where the images come from, and they would be replaced" in capsys.readouterr().err
    Image.fromarray(np.ones((8, 8), np.float32)).save(pictures / "floats.tiff")
    with pytest.raises(SystemExit):
        darken(call_tool, tmp_path, pictures, tmp_path / "out")
    assert "floats.tiff has mode 'F' but 8 or 16 bits" in capsys.readouterr().err
    darken(call_tool, tmp_path, pictures, tmp_path / "out", "--keep-going")
    out, err = capsys.readouterr()
    assert "skipped: image" in err
    assert "1 skipped" in out
    only = tmp_path / "only"
    only.mkdir()
    shutil.move(pictures / "floats.tiff", only)
    with pytest.raises(SystemExit, match="none of 1 images could be read"):
        darken(call_tool, tmp_path, only, tmp_path / "none", "--keep-going")


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white(value: int, call_tool, model, tmp_path) -> None:
    Image.new("RGB", (9, 9), (value,) * 3).save(tmp_path / "flat.png")
    darken(call_tool, tmp_path, tmp_path / "flat.png", tmp_path / "out")
    assert (np.asarray(Image.open(tmp_path / "out/flat.png")) == value).all()


def test_checkpoints_of_other_kinds(call_tool, run_folder, tmp_path, capsys) -> None:
    checkpoint = run_folder / "model_final.pth"
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    for tool in ("darken", "enhance"):
        with pytest.raises(SystemExit):
            call_tool(tool, tmp_path / "a.png", tmp_path / "out", "--checkpoint", checkpoint)
        assert "holds a MultiModalSegmentor, which shows images in no" in capsys.readouterr().err
