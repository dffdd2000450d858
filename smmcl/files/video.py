"""Pairs of videos or cameras, frame by frame, through OpenCV; one that ends early is named.

Shape shorthand in this module:
    H, W: height and width of a frame
"""

import contextlib
import errno
import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from smmcl.files.atomic import atomic
from smmcl.files.paths import check_regular

SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")
CODEC_ERROR = 8  # steps of 255 by which the channels of a gray video may differ


def is_video(place: str | Path | None) -> bool:
    """Whether a place is a video or a camera."""
    return Path(place or "").suffix.lower() in SUFFIXES or is_camera(place)


def is_camera(place: str | Path | None) -> bool:
    """Whether a place is the number of a camera, and no file of that name."""
    return str(place).isdecimal() and not Path(str(place)).exists()


def frame_rate(place: str | Path, *, default: float = 10.0) -> float:
    """Frames per second that the header of a video states; the default for a camera."""
    if is_camera(place):
        return default
    capture = cv2.VideoCapture(str(place))
    rate = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return rate if 0 < rate < 1000 else default


def read_frames(path: str | Path) -> Iterator[np.ndarray]:
    """Yields the frames of a video, (H, W, 3) uint8 RGB; a gray one has three equal channels.

    A camera, named by its number, goes on until the caller stops or the camera fails.
    """
    if not is_camera(path):
        check_regular(path, role="video", hint="Check the path.")
    capture = cv2.VideoCapture(int(path) if is_camera(path) else str(path))
    if not capture.isOpened() and is_camera(path):
        raise ValueError(
            f"camera {path} cannot be opened. Check that it is connected and that no other program "
            "uses it; cameras are numbered from 0."
        )
    if not capture.isOpened():
        raise ValueError(
            f"video {path} is damaged, or none that OpenCV can open. Fetch the file again, or "
            "convert it."
        )
    announced, count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0
    try:
        while (frame := capture.read()[1]) is not None:
            yield np.ascontiguousarray(frame[:, :, ::-1])  # (H, W, 3)
            count += 1
    finally:
        capture.release()
    if count < announced:
        raise ValueError(
            f"video {path} ends early: {count} of its {announced} frames can be read. The file is "
            "damaged or cut short: fetch it again, or go on without the rest."
        )


def read_frame_pairs(
    visible: str | Path, auxiliary: str | Path | None
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yields the frames of two videos that begin together, or of the visible one with None.

    Returns:
        visible (H, W, 3) uint8; auxiliary (H, W) uint8 of a gray video, else (H, W, 3).
    """
    if auxiliary is None:
        yield from ((frame, None) for frame in read_frames(visible))
        return
    videos = (read_frames(visible), read_frames(auxiliary))
    for count, (frame, other) in enumerate(itertools.zip_longest(*videos)):
        if frame is None or other is None:
            short, long = (visible, auxiliary) if frame is None else (auxiliary, visible)
            raise ValueError(
                f"video {short} ends after {count} frames but {long} goes on. The videos of a pair "
                "must show the same time: cut the longer one, or go on without the rest."
            )
        # A codec keeps gray only nearly: such a frame is one channel.
        is_gray = np.ptp(other.astype(np.int16), axis=2).max() <= CODEC_ERROR
        yield frame, other[:, :, 1] if is_gray else other


class VideoWriter:
    """Writes frames of one size as MP4, which takes its place once it is closed."""

    def __init__(self, path: str | Path, *, rate: float = 10.0) -> None:
        """
        Args:
            path: of the file, ending in .mp4.
            rate: frames per second.
        """
        self.path = Path(path)
        self.rate = rate
        self._writer: cv2.VideoWriter | None = None
        self._partial = self.path
        self._count = 0
        self._place = contextlib.ExitStack()

    def write(self, frame: np.ndarray) -> None:
        """Adds (H, W, 3) uint8 RGB; odd sides lose their last row or column, which MP4 has not."""
        frame = frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2, ::-1]
        if self._writer is None:
            code = cv2.VideoWriter_fourcc(*"mp4v")
            self._partial = partial = self._place.enter_context(atomic(self.path))
            partial.open("wb").close()  # an error says why it cannot be written; OpenCV is silent
            self._writer = cv2.VideoWriter(str(partial), code, self.rate, frame.shape[1::-1])
        self._writer.write(np.ascontiguousarray(frame))
        self._count += 1

    def close(self) -> None:
        """Ends the file; raises OSError where it does not hold all frames."""
        if self._writer is None:
            return
        self._writer.release()
        with self._place:
            capture = cv2.VideoCapture(str(self._partial))
            found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            capture.release()
            if found != self._count:  # OpenCV is silent about a full disk
                words = f"{found} of {self._count} frames were written. Is the disk full?"
                raise OSError(errno.EIO, words, str(self.path))
