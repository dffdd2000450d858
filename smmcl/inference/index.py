"""The index of a folder of results: what is done, whole, and made by the same model and options."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from smmcl.cli import user_message
from smmcl.files.atomic import write_text
from smmcl.files.json import read_json_lines
from smmcl.files.paths import sha256

ENTRY = {"name": str, "made_by": str, "made_of": object, "files": {"*": int}, "*": object}

logger = logging.getLogger(__name__)


class Index:
    """One line of JSON per result, written once all files of it are whole.

    A result is done if it has a line of the same model, options and input files, and its files
    still have the sizes in that line. So work that was stopped goes on where it was.
    """

    def __init__(self, path: Path, *, made_by: str) -> None:
        """
        Args:
            path: of the index, in the folder of the results.
            made_by: identifies the model and its options.
        """
        self.folder, self.made_by = path.parent, made_by
        self._done = self._read(path)
        write_text(path, "".join(f"{json.dumps(entry)}\n" for entry in self._done.values()))
        self._file = path.open("a", encoding="utf-8")

    def find(self, record: Mapping[str, Any], files: Iterable[str]) -> dict[str, Any] | None:
        """The entry of a record ("name", "made_of") whose files are all there and whole."""
        entry = self._done.get(record["name"], {"made_of": None})
        if entry["made_of"] != record["made_of"]:
            return None
        paths = {name: self.folder / name for name in files}
        sizes = {n: path.stat().st_size for n, path in paths.items() if path.is_file()}
        is_whole = all(sizes.get(name, -1) == entry["files"].get(name) for name in paths)
        return entry if is_whole else None

    def add(self, entry: dict[str, Any], files: Iterable[Path]) -> dict[str, Any]:
        """Writes the line of a result ("name", "made_of", and what else it says) and its files."""
        sizes = {p.relative_to(self.folder).as_posix(): p.stat().st_size for p in files}
        entry = {**entry, "files": sizes, "made_by": self.made_by}
        self._done[entry["name"]] = entry
        self._file.write(f"{json.dumps(entry)}\n")
        self._file.flush()
        return entry

    def close(self) -> None:
        self._file.close()

    def _read(self, path: Path) -> dict[str, dict[str, Any]]:
        """Entries by name, the last one of each; a line that a killed process cut is left out."""
        entries = read_json_lines(path, ENTRY) if path.is_file() else []
        found = {entry["name"]: entry for entry in entries}
        same = {name: entry for name, entry in found.items() if entry["made_by"] == self.made_by}
        if others := len(found) - len(same):
            logger.warning(
                f"{path} lists {others} results of another model or other options. They do not "
                "count as done."
            )
        return same


def identity(weights: Path, *facts: object) -> str:
    """A short name of a model with its options: results of another one do not count as done."""
    return hashlib.sha256(repr((sha256(weights), *facts)).encode()).hexdigest()[:16]


def take_up(
    records: Iterable[dict[str, Any]],
    find: Callable[[dict[str, Any]], dict[str, Any] | None],
    make: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    keep_going: bool = False,
) -> Iterator[tuple[dict[str, Any], bool]]:
    """Makes what is not done; yields the entry of each record, and whether it was done before.

    Args:
        find: the entry of a record that is done, else None.
        make: the same of one that is not.
        keep_going: a record that cannot be read becomes an entry with its "error".
    """
    records, name = iter(records), ""
    while True:
        try:
            record = next(records, None)  # of a video that ends early, this raises once
            if record is None:
                return
            name = record["name"]
            found = find(record)
            entry = found or make(record)
        except (ValueError, OSError) as error:
            if not keep_going:
                raise
            entry, found = {"name": name, "error": user_message(error)}, None
        yield entry, found is not None
