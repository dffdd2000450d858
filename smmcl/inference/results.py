"""The folder of predictions: which parts are written, and which are there already, and whole."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from smmcl.files.atomic import atomic
from smmcl.files.video import VideoWriter, is_camera
from smmcl.inference.index import Index
from smmcl.inference.prediction import Prediction
from smmcl.inference.sources import Source, state_of

# What can be written, as <part>/<name of the pair>; "json" is the index, which is always written.
ENDINGS = {"labels": ".png", "overlays": ".png", "panels": ".png", "probabilities": ".npz"}
PARTS = (*ENDINGS, "json")
PICTURES = ("overlays", "panels")
OF_CLASSES = ("panels",)  # what a classifier has
INDEX = "predictions.jsonl"


class Results:
    """Writes predictions, and their `Index`. The pictures of a video become a video each; they are
    drawn from its beginning unless they are whole.

    Args:
        folder: to write to.
        parts: of `PARTS`.
        made_by: identifies the model and its options.
        source: of the pairs.
        is_new: no earlier result counts as done.
    """

    def __init__(
        self,
        folder: Path,
        parts: Sequence[str],
        *,
        made_by: str,
        source: Source,
        is_new: bool = False,
    ) -> None:
        self.folder, self.source = folder, source
        self.parts = [part for part in ENDINGS if part in parts]
        self._index = Index(folder / INDEX, made_by=made_by)
        self._videos: dict[str, VideoWriter] = {}
        self._is_new = is_new or is_camera(source.video)
        if source.video and set(PICTURES) & set(self.parts):
            self._plan_videos()

    def _plan_videos(self) -> None:
        """Leaves out videos of pictures that are whole; others need every frame again."""
        wanted = {part: f"{part}/{self.source.name}.mp4" for part in PICTURES if part in self.parts}
        if not self._is_new and self._index.find(self._video_entry(), wanted.values()):
            self.parts = [part for part in self.parts if part not in PICTURES]
            return
        self._is_new, rate = True, self.source.rate()
        self._videos = {p: VideoWriter(self.folder / f, rate=rate) for p, f in wanted.items()}

    def _video_entry(self) -> dict[str, Any]:
        made_of = f"{state_of(self.source.places)} {self.source.limit}"
        return {"name": self.source.name, "made_of": made_of}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: Any, *_: Any) -> None:
        for video in self._videos.values():
            video.close()
        files = [video.path for video in self._videos.values() if video.path.exists()]
        if files and error is None:
            self._index.add(self._video_entry(), files)
        self._index.close()

    def find(self, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """The entry of a record whose wanted parts are all there and whole."""
        wanted = [self._file(part, record["name"]) for part in self.parts]
        return None if self._is_new else self._index.find(record, wanted)

    def write(
        self,
        record: Mapping[str, Any],
        entry: Mapping[str, Any],
        prediction: Prediction,
        pictures: Mapping[str, np.ndarray],
    ) -> dict[str, Any]:
        """Writes the parts of one pair and its line in the index.

        Args:
            record: of `Source.records`.
            entry: what the line says of the pair.
            prediction: of the pair.
            pictures: (H, W, 3) uint8 by part; those of a video are its next frames.
        """
        files = []
        for part in self.parts:
            if part in self._videos:
                self._videos[part].write(pictures[part])
                continue
            files.append(self.folder / self._file(part, record["name"]))
            if part in PICTURES:
                with atomic(files[-1]) as path:
                    Image.fromarray(pictures[part]).save(path)
            else:
                prediction.save(files[-1])
        entry = {"name": record["name"], **entry, "made_of": record["made_of"]}
        return self._index.add(entry, files)

    def _file(self, part: str, name: str) -> str:
        return f"{part}/{name}{ENDINGS[part]}"
