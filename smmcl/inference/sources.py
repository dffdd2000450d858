"""What is to be predicted: files, folders, patterns, videos, cameras, or a dataset, as records."""

import dataclasses
import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from smmcl.d2 import DatasetCatalog
from smmcl.data.datasets.build import ensure_registered
from smmcl.files.pairing import base_folder, find_images, match_pairs, names_below
from smmcl.files.paths import relative_path
from smmcl.files.video import frame_rate, is_camera, is_video, read_frame_pairs

KEYS = ("file_name", "auxiliary_file_name", "sem_seg_file_name")

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Source:
    """The pairs that a user names: a dataset, or places of visible and perhaps further images.

    A place is a file, a folder with all below it, a pattern, a video, or the number of a camera.

    Args:
        visible: places of visible images, or of files that hold both images.
        auxiliary, truth: places of as many images, named alike.
        dataset: name of a registered one, instead of places.
        limit: number of pairs.
        results: folders of earlier results, whose files are never taken for inputs.
    """

    visible: Sequence[str] = ()
    auxiliary: Sequence[str] = ()
    truth: Sequence[str] = ()
    dataset: str = ""
    limit: int | None = None
    results: Sequence[Path] = ()

    def __post_init__(self) -> None:
        if not self.video:
            return
        if len(self.visible) > 1 or len(self.auxiliary) > 1 or self.truth:
            raise ValueError(
                "videos and cameras are predicted one pair at a time, without truth. Name one "
                "visible video or camera, and at most one auxiliary one."
            )
        if not all(map(is_video, self.auxiliary)):
            raise ValueError(
                f"{self.video} is a video or camera but {self.auxiliary[0]} is neither. Name an "
                "auxiliary video or camera that shows the same time."
            )

    @property
    def video(self) -> str | None:
        """The video or camera, if this is one."""
        return next(filter(is_video, self.visible), None)

    @property
    def name(self) -> str:
        """Of the results of a video or camera."""
        is_numbered = is_camera(self.video)
        return f"camera{self.video}" if is_numbered else Path(self.video).stem

    def records(self) -> Iterator[dict[str, Any]]:
        """In the form of the catalog; frames are arrays.

        Each has the "name" of its results, and "made_of", which changes when one of its files does.
        """
        found = self._frames() if self.video else self._listed()
        for record in itertools.islice(found, self.limit):
            files = self.places if self.video else map(record.get, KEYS)
            yield {**record, "made_of": state_of(files)}

    @property
    def places(self) -> tuple[str, ...]:
        """All that were given."""
        return (*self.visible, *self.auxiliary, *self.truth)

    def rate(self) -> float:
        """Frames per second of the video."""
        return frame_rate(self.video)

    def _frames(self) -> Iterator[dict[str, Any]]:
        auxiliary = self.auxiliary[0] if self.auxiliary else None
        for count, pair in enumerate(read_frame_pairs(self.video, auxiliary)):
            name = f"{self.name}/{count:05d}"
            yield {"file_name": pair[0], "auxiliary_file_name": pair[1], "name": name}

    def _listed(self) -> Iterator[dict[str, Any]]:
        if self.dataset:
            ensure_registered([self.dataset])
            for record in DatasetCatalog.get(self.dataset):
                name = relative_path(str(record["image_id"]), source="image_id")
                yield {**record, "name": name}
            return
        images = self._find(self.visible)
        names = names_below(base_folder(self.visible), images)
        records = [{"file_name": i, "name": n} for i, n in zip(images, names, strict=True)]
        for role, key in zip(("auxiliary", "truth"), KEYS[1:], strict=True):
            if places := getattr(self, role):
                found = self._find(places)
                matched = [other for _, other in match_pairs(images, found)]
                if extra := len(found) - len(matched):
                    example = next(path for path in found if path not in matched)
                    logger.warning(
                        f"{extra} of {len(found)} {role} images go with no visible image and are "
                        f"left out, such as {example}."
                    )
                records = [{**r, key: m} for r, m in zip(records, matched, strict=True)]
        yield from records

    def _find(self, places: Sequence[str]) -> list[Path]:
        found = [path for place in places for path in find_images(place)]
        results = [folder.absolute() for folder in self.results]
        return [p for p in found if not any(map(p.absolute().is_relative_to, results))]


def state_of(paths: Iterable[str | Path | None]) -> str:
    """A short text that changes when one of the files changes in size or time."""
    files = [Path(path) for path in paths if path is not None and Path(path).is_file()]
    facts = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
