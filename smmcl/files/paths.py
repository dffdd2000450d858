"""Paths of users: only regular files are read, and no name leads out of its folder."""

import hashlib
import posixpath
import re
from pathlib import Path


def shipped_folder(name: str) -> Path:
    """A folder of what comes with the package: inside of it in a wheel, beside it in a clone."""
    package = Path(__file__).parents[1]
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def sha256(path: str | Path) -> str:
    """The checksum of a file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_regular(path: str | Path, *, role: str, hint: str = "") -> None:
    """Raises unless a path is a regular file or a link to one; reading a pipe would never end."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{role} {path} does not exist. {hint}".strip())
    if not path.is_file():
        raise ValueError(
            f"{role} {path} is a folder, a pipe or a device. Put a regular file, or a link to one, "
            "in its place."
        )


def without_home(path: str | Path) -> Path:
    """A path whose ~ is a folder; that of a user who does not exist stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def relative_path(name: str, *, source: str) -> str:
    """Returns a relative POSIX path in its shortest form, or raises if it may leave its folder.

    Args:
        source: where the name stands, for the error.
    """
    is_windows = "\\" in name or re.match("[A-Za-z]:", name)
    has_controls = any(ord(character) < 32 or character == "\x7f" for character in name)
    path = posixpath.normpath(name)
    if name.startswith("/") or ".." in name.split("/") or path == "." or is_windows or has_controls:
        raise ValueError(
            f"{source}: {name!r} is no path inside its folder. Write it relative to that folder, "
            "with / between its parts, and without '..', drive letters or control characters."
        )
    return path
