"""Videos by hand: what is written is read again, and what is missing or cut short is named."""

import os
import pathlib
import resource

import numpy as np
import pytest

from smmcl.files.video import VideoWriter, is_video, read_frame_pairs, read_frames


def write(path: pathlib.Path, *, size: tuple[int, int] = (32, 48), num: int = 4) -> pathlib.Path:
    video = VideoWriter(path)
    for count in range(num):
        video.write(np.full((*size, 3), (200, 40 * count, 0), np.uint8))
    video.close()
    return path


def test_frames_are_rgb_in_their_order_and_of_even_sides(tmp_path: pathlib.Path) -> None:
    frames = list(read_frames(write(tmp_path / "v.mp4", size=(33, 49))))
    assert [frame.shape for frame in frames] == [(32, 48, 3)] * 4
    for count, frame in enumerate(frames):
        np.testing.assert_allclose(frame.mean(axis=(0, 1)), (200, 40 * count, 0), atol=12)


def test_a_gray_video_has_one_channel_and_a_missing_one_is_none(tmp_path: pathlib.Path) -> None:
    visible, gray = write(tmp_path / "v.mp4", num=1), VideoWriter(tmp_path / "g.mp4")
    gray.write(np.full((32, 48, 3), 90, np.uint8))
    gray.close()
    ((frame, other),) = read_frame_pairs(visible, gray.path)
    assert (frame.shape, other.shape) == ((32, 48, 3), (32, 48))
    ((_, colored),) = read_frame_pairs(visible, visible)
    assert colored.shape == (32, 48, 3)
    ((_, nothing),) = read_frame_pairs(visible, None)
    assert nothing is None


def test_a_video_that_is_missing_or_cut_short_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"video .*none\.mp4 does not exist"):
        next(read_frames(tmp_path / "none.mp4"))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"text\.mp4 is damaged, or none that OpenCV can open"):
        next(read_frames(tmp_path / "text.mp4"))
    video, rng = VideoWriter(tmp_path / "whole.avi"), np.random.default_rng(0)
    for _ in range(20):
        video.write(rng.integers(0, 256, (96, 128, 3)).astype(np.uint8))
    video.close()
    whole = video.path.read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    frames = read_frames(tmp_path / "cut.avi")
    assert next(frames).shape == (96, 128, 3)
    with pytest.raises(ValueError, match=r"cut\.avi ends early: \d+ of its 20 frames"):
        list(frames)


def test_what_is_a_video() -> None:
    assert is_video("a/b.MP4")
    assert not any(map(is_video, ("a.png", "folder", None)))


def test_only_regular_files_are_videos(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")  # opening one waits for whoever writes into it
    with pytest.raises(ValueError, match=r"video .*pipe\.mp4 is a folder, a pipe or a device"):
        next(read_frames(tmp_path / "pipe.mp4"))


def test_a_video_that_cannot_be_written_is_said(tmp_path: pathlib.Path) -> None:
    video = VideoWriter(tmp_path / "folder.mp4")
    video.path.mkdir()
    with pytest.raises(OSError, match=r"folder\.mp4"):
        video.write(np.zeros((32, 48, 3), np.uint8))


def test_a_video_on_a_full_disk_is_said_and_leaves_nothing(tmp_path: pathlib.Path) -> None:
    """OpenCV would leave a file that no player opens, and say nothing."""
    writer = VideoWriter(tmp_path / "a.mp4")
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), dtype=np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        for frame in noise:
            writer.write(frame)
        with pytest.raises(OSError, match=r"of 4 frames were written. Is the disk full\?") as error:
            writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.filename == str(tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())
