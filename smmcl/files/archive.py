"""Archives as torch writes them, checked whole before anything in them is read."""

import struct
import zipfile
import zlib
from pathlib import Path

START = b"PK\3\4"
ZIP_ERRORS = (
    *(OSError, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError, struct.error),
    *(zipfile.BadZipFile, zlib.error),
)


def is_archive(path: Path) -> bool:
    """Whether there is a file that begins as an archive does, damaged or not."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(START)) == START


def check_archive(path: Path, *, name: str = "") -> None:
    """Raises ValueError unless a file is an archive by `torch.save`, every part with its checksum.

    Args:
        path: of the file.
        name: what errors call it; by default the path.
    """
    name = name or str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if not any(member.filename.endswith("/data.pkl") for member in members):
                raise ValueError(
                    f"{name} is a zip archive, but torch.save did not write it: it holds "
                    f"{[member.filename for member in members[:3]]}. Name a file of weights."
                )
            # Before the checksums, whose reading would unpack a part that is larger than the file.
            stated = sum(member.file_size for member in members)
            if stated > path.stat().st_size:
                raise ValueError(
                    f"{name} has {path.stat().st_size} bytes, but its parts state {stated}, as no "
                    "file by torch.save does. Take it from its publisher."
                )
            damaged = archive.testzip()
    except ZIP_ERRORS as error:
        raise ValueError(f"{name} is damaged: {error}. Copy or download it again.") from error
    if damaged:
        raise ValueError(
            f"{name} is damaged: its part {damaged} has another checksum than it was written with. "
            "Copy or download it again, or use the checkpoint before it."
        )


def is_sound(path: Path) -> bool:
    """Whether an archive is there and whole."""
    try:
        check_archive(path)
    except ValueError:
        return False
    return True
