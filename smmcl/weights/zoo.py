"""Trained models that come with this project, named zoo://NAME wherever a checkpoint is named."""

import json
from pathlib import Path

from smmcl.files.paths import sha256, shipped_folder

PREFIX = "zoo://"
SUMS = "zoo.json"  # beside the files: the SHA-256 of each by its name


def zoo_sums() -> dict[str, str]:
    """The names of the zoo, each with the SHA-256 of its file."""
    return json.loads((shipped_folder("zoo") / SUMS).read_text(encoding="utf-8"))


def zoo_file(path: str | Path) -> str | Path:
    """The file of `zoo://NAME`, its checksum verified; any other path as it is."""
    if not str(path).startswith(PREFIX):
        return path
    name, sums = str(path).removeprefix(PREFIX), zoo_sums()
    if name not in sums:
        raise FileNotFoundError(
            f"the zoo has no model {name!r}. Choose from {', '.join(sums)}. A file of your own is "
            "named by its path (--checkpoint FILE, MODEL.WEIGHTS FILE)."
        )
    file = shipped_folder("zoo") / f"{name}.safetensors"
    found = sha256(file)
    if found != sums[name]:
        raise ValueError(
            f"{file} has SHA-256 {found}, but {sums[name]} is expected. It is damaged or "
            "incomplete: install smmcl again, or restore the file from the repository."
        )
    return str(file)
