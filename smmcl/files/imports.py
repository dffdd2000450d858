"""The key IMPORTS: modules of the user's own, imported before anything is built.

The user chooses config files and command lines. A checkpoint may come from a stranger: what it
names is imported only if the user has named the same module, or a file of the same content, on this
machine before.
"""

import hashlib
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from smmcl.files.atomic import write_text

logger = logging.getLogger(__name__)


def import_own(names: Sequence[str], *, source: str, is_trusted: bool) -> None:
    """Imports modules by name, such as "my_project.parts", or files by path, such as "parts.py".

    Args:
        names: what to import, in this order; what is imported already stays as it is.
        source: of the names, for errors.
        is_trusted: the user named them; they are remembered, and may stand in checkpoints.
    """
    is_list = isinstance(names, list | tuple)
    if not is_list or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{source} sets IMPORTS to {names!r}. Give a list of modules or files.")
    for name in names:
        if name.partition(".")[0] == __name__.partition(".")[0]:  # a part of this project
            _import_ours(name, source)
            continue
        mark = _mark(name, source)
        known = _known_file()
        marks = known.read_text(encoding="utf-8").splitlines() if known.is_file() else []
        if mark not in marks and not is_trusted:
            raise ValueError(
                f"{source} asks to import {name}, which you have not named on this machine before. "
                f"If you trust it, name it yourself: IMPORTS \"['{name}']\"."
            )
        if mark not in marks:
            write_text(known, "\n".join([*marks, mark]) + "\n")
        logger.info(f"Importing {name}, which {source} names")
        _import(name)


def _import_ours(name: str, source: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{source} asks to import {name}: {error}. Correct IMPORTS, or install what is missing."
        ) from error


def _mark(name: str, source: str) -> str:
    """What a module or file is remembered by; nothing of it runs yet."""
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise FileNotFoundError(
                f"{source} asks to import {name}, which does not exist in {Path.cwd()}. Run from "
                "the folder that the path starts in, or correct IMPORTS."
            )
        return hashlib.sha256(Path(name).read_bytes()).hexdigest()
    spec = importlib.util.find_spec(name.partition(".")[0]) if name.isascii() and name else None
    if spec is None:
        raise ValueError(
            f"{source} asks to import {name}, but there is no such module. Install it, put its "
            "folder on PYTHONPATH, or give the path of a .py file."
        )
    return f"{name} {spec.origin}"


def _import(name: str) -> None:
    if not name.endswith(".py"):
        importlib.import_module(name)
        return
    path = Path(name).resolve()
    module_name = f"own_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if module_name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise


def _known_file() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "smmcl" / "known_imports.txt"
