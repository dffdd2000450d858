"""Checkpoints: archives by torch and files of before them, pickles of arrays, safetensors."""

import argparse
import io
import json
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mutations import EDGES, HOSTILE, spoil_bytes, spoil_tree
from safetensors.torch import save
from torch import nn
from worker import Kind

from smmcl.config import build_config
from smmcl.data.datasets.build import register_facts
from smmcl.data.format import ModelInputs
from smmcl.engine.checkpoint import RunCheckpointer, read_facts
from smmcl.inference.named_model import checkpoint_config
from smmcl.weights.convert import convert_from_authors
from smmcl.weights.files import read_file, tensors_in

CONFIG = "VERSION: 2\nMODEL: {META_ARCHITECTURE: MultiModalSegmentor}\n"
INPUTS = {
    "name": "mine", "format": "RGB", "uses_auxiliary": True, "stuff_classes": ["floor", "wall"],
    "stuff_colors": [[0, 0, 0], [255, 0, 0]], "label_offset": 0, "stored_ignore": 255,
    "ignore_label": 255, "auxiliary": {"kind": "thermal", "channels": 1, "unit": "8-bit"},
    "align": {"rule": "auto", "matrix": None, "interpolation": "linear"},
}  # fmt: skip
RAN = "ran"  # the file that code in a checkpoint would leave


class Evil:
    """Runs a command when Python's own unpickler reads it."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {RAN}",)


def _content(draw: random.Random) -> dict[str, Any]:
    state = nn.Linear(3, 2).state_dict()
    trainer = {"iteration": 7, "hooks": {"WeightAverage": dict(state)}, "optimizer": {"lr": 0.1}}
    return {
        "model": dict(state), "trainer": trainer, "inputs": INPUTS, "config": CONFIG,
        "iteration": 7, "engine": "builtin", "smmcl_version": "0",
    }  # fmt: skip


def _odd_values(draw: random.Random) -> Any:
    """Tensors that are no plain numbers, objects, and what a config or an array may become."""
    return draw.choice((
        lambda: torch.zeros(1).expand(2**40), lambda: torch.eye(3).to_sparse(),
        lambda: torch.full((2,), float("nan")), lambda: torch.zeros(2, device="meta"),
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        lambda: torch.zeros(2, dtype=torch.complex64), lambda: torch.zeros(0, 2**40),
        lambda: np.zeros(3), lambda: np.float32(2), lambda: {1, 2}, lambda: b"x" * 100,
        lambda: argparse.Namespace(a=1), lambda: "A: !!python/object/apply:os.getpid []",
        lambda: "A: [&a [1], *a, *a]", lambda: "[" * 500, lambda: nn.Parameter(torch.ones(3, 2)),
        Evil,
    ))()  # fmt: skip


def _spoiled(draw: random.Random, tree: dict[str, Any]) -> Any:
    if draw.random() < 0.5:
        holder = draw.choice([tree, *(value for value in tree.values() if type(value) is dict)])
        if holder:
            holder[draw.choice(list(holder))] = _odd_values(draw)
    if draw.random() < 0.6:
        tree = spoil_tree(draw, tree)
    return tree


def write_checkpoint(draw: random.Random, folder: Path) -> Path:
    file, tree = io.BytesIO(), _content(draw)
    tree["inputs"] = spoil_tree(draw, INPUTS) if draw.random() < 0.3 else dict(INPUTS)
    tree = _spoiled(draw, tree) if draw.random() < 0.6 else tree
    is_archive = draw.random() < 0.7
    torch.save(tree, file, _use_new_zipfile_serialization=is_archive)
    content = file.getvalue()
    if is_archive and draw.random() < 0.3:
        content = _spoil_members(draw, content)
    elif draw.random() < 0.3:
        content = spoil_bytes(draw, content)
    path = folder / draw.choice(("input.pth", "input.pth", "input.pth", "input.pkl", "input.bin"))
    path.write_bytes(content)
    return path


def _spoil_members(draw: random.Random, content: bytes) -> bytes:
    """An archive whose parts are wrong, but whose checksums are right."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = [[name, archive.read(name)] for name in archive.namelist()]
    part = draw.choice([p for p in parts if p[0].endswith("data.pkl") or draw.random() < 0.3])
    match draw.randrange(5):
        case 0:
            name = draw.choice([text for text in HOSTILE if isinstance(text, str) and text])
            part[0] = name.replace("\0", "") or "x"
        case 1:
            parts.remove(part)
        case 2:
            parts.append(
                [draw.choice(("../x", "/x", "archive/.data/x", "archive/code/a.py")), b"1"]
            )
        case _:
            part[1] = spoil_bytes(draw, part[1])
    way = zipfile.ZIP_DEFLATED if draw.random() < 0.1 else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", way) as archive:
        for name, data in parts:
            archive.writestr(name.encode(errors="replace").decode(), data)
    return file.getvalue()


def write_pickle(draw: random.Random, folder: Path) -> Path:
    model = {"weight": np.ones((2, 3), np.float32), "bias": np.zeros(2)}
    tree = {"model": model, "__author__": "me", "matching_heuristics": True}
    tree = _spoiled(draw, tree) if draw.random() < 0.5 else tree
    content = pickle.dumps(tree, protocol=draw.randrange(6))
    path = folder / "input.pkl"
    path.write_bytes(spoil_bytes(draw, content) if draw.random() < 0.7 else content)
    return path


def write_safetensors(draw: random.Random, folder: Path) -> Path:
    content = save(nn.Linear(3, 2).state_dict(), {"config": CONFIG})
    (length,) = struct.unpack("<Q", content[:8])
    if draw.random() < 0.7:
        header, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
        header = spoil_tree(draw, header)
        if draw.random() < 0.5 and isinstance(header, dict):
            odd = {"dtype": draw.choice(("F32", "F64", "BF16", "F8_E4M3", "BOOL", "C64", "U64"))}
            sizes = [draw.choice(EDGES) for _ in range(draw.randrange(4))]
            header["odd"] = odd | {"shape": sizes, "data_offsets": [32, draw.choice(EDGES)]}
        text = json.dumps(header).encode()
        content = struct.pack("<Q", len(text)) + text + rest
    if draw.random() < 0.4:
        content = spoil_bytes(draw, content)
    path = folder / "input.safetensors"
    path.write_bytes(content)
    return path


def read_checkpoint(path: Path) -> None:
    """All that the tools do with a file of weights; each is tried, whatever came of the others."""
    os.chdir(path.parent)
    errors = []
    for use in (_use_config, _use_inputs, _use_weights, _resume):
        try:
            use(path)
        except (ValueError, FileNotFoundError) as error:
            errors.append(error)
        assert not (path.parent / RAN).exists(), "code of the file ran"
    unnamed = [error for error in errors if path.name not in str(error)]
    if errors:
        raise (unnamed or errors)[0]


def _use_config(path: Path) -> None:
    checkpoint_config(path) if read_facts(path).get("config") else build_config()


def _use_inputs(path: Path) -> None:
    if inputs := read_facts(path).get("inputs"):
        register_facts(inputs)


def _use_weights(path: Path) -> None:
    data = read_file(str(path))
    tensors = tensors_in(data, str(path))
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    if any(name.startswith("backbone.") for name in tensors):
        convert_from_authors(data, str(path))


def _resume(path: Path) -> None:
    inputs = ModelInputs([INPUTS])
    checkpointer = RunCheckpointer(nn.Linear(3, 2), config=CONFIG, inputs=inputs)
    checkpointer.load(str(path), checkpointables=["inputs"])


CHECKPOINT = Kind(write_checkpoint, read_checkpoint)
PICKLE = Kind(write_pickle, read_checkpoint)
SAFETENSORS = Kind(write_safetensors, read_checkpoint)
