"""Weight files, local or by URL, read such that nothing in them can run."""

import argparse
import hashlib
import logging
import pathlib
import pickle
import re
from typing import IO, Any
from urllib.parse import urlparse

import numpy as np
import torch
from iopath.common.file_io import HTTPURLHandler, PathManager, get_cache_dir
from torch import Tensor

DETECTRON2_URL = "https://dl.fbaipublicfiles.com/detectron2/"

logger = logging.getLogger(__name__)


def read_file(path: str, *, is_mapped: bool = False) -> dict[str, Any]:
    """Reads a checkpoint: `.pkl` as Detectron2's zoo has them, anything else by torch.

    Only tensors, arrays, numbers, strings and plain containers of them are admitted.

    Args:
        path: of the file, or its URL; `detectron2://` is the model zoo of Detectron2.
        is_mapped: leaves tensors on the disk until they are used, for who reads the rest alone.
    """
    local = local_file(path)
    with local.open("rb") as file:
        try:
            if path.endswith(".pkl"):
                data = _ArrayUnpickler(file, encoding="latin1").load()  # Python 2 wrote some
            else:
                # timm's trainer keeps its arguments beside the weights.
                with torch.serialization.safe_globals([argparse.Namespace]):
                    source = local if is_mapped else file
                    data = torch.load(source, "cpu", weights_only=True, mmap=is_mapped)
        except Exception as error:  # damaged and hostile files fail in a hundred ways
            reason = str(error).partition("\n")[0].partition(". ")[0]
            raise ValueError(
                f"{path} was not read: {reason}. It is damaged, or holds objects that could run "
                "code. Take it from its publisher, or save its tensors alone where it is trusted: "
                "torch.save(model.state_dict(), 'weights.pth')."
            ) from error
    if not isinstance(data, dict):
        raise ValueError(
            f"{path} holds a {type(data).__name__}, not tensors by name. Save a state dict."
        )
    return data


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
    return state


def local_file(path: str) -> pathlib.Path:
    """Where a file lies; one given by URL is downloaded once and its checksum held to.

    torchvision's file names end in the beginning of the SHA-256 checksum; that of other files is
    written beside them at the first load and compared from then on.
    """
    if "://" not in path:
        if not pathlib.Path(path).is_file():
            raise FileNotFoundError(f"weights {path} do not exist. Name an existing file or a URL.")
        return pathlib.Path(path)
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


def _check_sum(file: pathlib.Path) -> None:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    record = file.with_name(f"{file.name}.sha256")
    if stated := re.search(r"-([0-9a-f]{8,64})\.\w+$", file.name):
        wanted = stated[1]
    elif record.is_file():
        wanted = record.read_text(encoding="ascii").strip()
    else:
        record.write_text(found, encoding="ascii")
        logger.info("%s has SHA-256 %s, which is checked from now on", file, found)
        return
    if not found.startswith(wanted):
        raise ValueError(
            f"{file} has SHA-256 {found}, but {wanted} is expected. Remove it, and {record.name} "
            "beside it if the publisher has changed the file, to download it again."
        )


def _latin1(text: str, encoding: str) -> bytes:
    """What pickles of protocol 2 spell the bytes of an array with."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding}")
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    """Makes arrays and plain containers; the name of anything else is refused, not imported."""

    # What numpy itself pickles arrays and numbers by; the modules' names differ by its version.
    NUMPY = {
        "ndarray": np.ndarray,
        "dtype": np.dtype,
        "_reconstruct": np.zeros(1).__reduce__()[0],
        "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
        "scalar": np.float32(1).__reduce__()[0],
    }

    def __init__(self, file: IO[bytes], *, encoding: str) -> None:
        super().__init__(file, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in self.NUMPY:
            return self.NUMPY[name]
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
