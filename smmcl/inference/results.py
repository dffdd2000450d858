"""The folder of predictions: which parts are written, and which are there already, and whole."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from smmcl.files.atomic import atomic, write_text
from smmcl.files.video import VideoWriter, is_camera
from smmcl.inference.prediction import Prediction
from smmcl.inference.sources import Source, state_of

# What can be written, as <part>/<name of the pair>; "json" is the index, which is always written.
ENDINGS = {"labels": ".png", "overlays": ".png", "panels": ".png", "probabilities": ".npz"}
PARTS = (*ENDINGS, "json")
PICTURES = ("overlays", "panels")
INDEX = "predictions.jsonl"

logger = logging.getLogger(__name__)


class Results:
    """Writes predictions, and an index with one line per pair once all files of it are whole.

    The index makes the work resumable: a pair is done if it has a line of the same model, options
    and input files, and its files still have the sizes in that line. The pictures of a video become
    a video each; they are drawn from its beginning unless they are whole.

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
        self.folder, self.made_by, self.source = folder, made_by, source
        self.parts = [part for part in ENDINGS if part in parts]
        self._done = self._read()
        self._videos: dict[str, VideoWriter] = {}
        self._is_new = is_new or is_camera(source.video)
        if source.video and set(PICTURES) & set(self.parts):
            self._plan_videos()
        text = "".join(f"{json.dumps(entry)}\n" for entry in self._done.values())
        write_text(folder / INDEX, text)
        self._index = (folder / INDEX).open("a", encoding="utf-8")

    def _plan_videos(self) -> None:
        """Leaves out videos of pictures that are whole; others need every frame again."""
        wanted = {part: f"{part}/{self.source.name}.mp4" for part in PICTURES if part in self.parts}
        if not self._is_new and self._is_whole(self._video_entry(), wanted.values()):
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
            self._add(self._video_entry(), files)
        self._index.close()

    def find(self, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """The entry of a record whose wanted parts are all there and whole."""
        wanted = [self._file(part, record["name"]) for part in self.parts]
        is_done = not self._is_new and self._is_whole(record, wanted)
        return self._done[record["name"]] if is_done else None

    def _is_whole(self, record: Mapping[str, Any], files: Iterable[str]) -> bool:
        entry = self._done.get(record["name"], {"made_of": None})
        if entry["made_of"] != record["made_of"]:
            return False
        paths = {name: self.folder / name for name in files}
        sizes = {n: path.stat().st_size for n, path in paths.items() if path.is_file()}
        return all(sizes.get(name, -1) == entry["files"].get(name) for name in paths)

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
        return self._add(entry, files)

    def _add(self, entry: dict[str, Any], files: list[Path]) -> dict[str, Any]:
        sizes = {p.relative_to(self.folder).as_posix(): p.stat().st_size for p in files}
        entry = {**entry, "files": sizes, "made_by": self.made_by}
        self._done[entry["name"]] = entry
        self._index.write(f"{json.dumps(entry)}\n")
        self._index.flush()
        return entry

    def _read(self) -> dict[str, dict[str, Any]]:
        """Entries by name, the last one of each; a line that a killed process cut is left out."""
        found, path = {}, self.folder / INDEX
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            found[entry["name"]] = entry
        same = {name: entry for name, entry in found.items() if entry["made_by"] == self.made_by}
        if others := len(found) - len(same):
            logger.warning(
                f"{path} lists {others} results of another model or other options. They do not "
                "count as done."
            )
        return same

    def _file(self, part: str, name: str) -> str:
        return f"{part}/{name}{ENDINGS[part]}"
