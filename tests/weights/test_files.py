"""Weight files of every kind: what each is said to be when it is not one of ours."""

import pathlib
import pickle
import struct
import subprocess
import sys
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from smmcl.d2 import MetadataCatalog
from smmcl.data.datasets.build import register_facts
from smmcl.data.format import ModelInputs
from smmcl.engine.checkpoint import RunCheckpointer, read_facts
from smmcl.weights.files import read_file, tensors_in

# An array of Python objects, its type's flag for objects cleared, so that any bytes are pointers.
POINTERS = (
    b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    b"(K\x01K\x01\x85cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R"
    b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08AAAAAAAAtbs."
)
ROOT = pathlib.Path(__file__).resolve().parents[2]
INPUTS = {
    "name": "pairs", "format": "RGB", "uses_auxiliary": True, "stuff_classes": ["a"],
    "auxiliary": {"kind": "depth"},
}  # fmt: skip


def load(path: pathlib.Path) -> None:
    RunCheckpointer(nn.Linear(2, 1)).load(str(path))


def damage(path: pathlib.Path, part: bytes) -> None:
    """Flips a bit of the stored bytes `part`."""
    content = bytearray(path.read_bytes())
    content[content.index(part)] ^= 1
    path.write_bytes(content)


def test_no_bytes_of_a_pickle_become_pointers(tmp_path: pathlib.Path) -> None:
    (tmp_path / "evil.pkl").write_bytes(POINTERS)
    code = (
        "import sys; from smmcl.weights.files import read_file, tensors_in\n"
        "try: tensors_in(read_file(sys.argv[1]), '')\n"
        "except ValueError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "evil.pkl")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, f"the process ended with {done.returncode}: {done.stderr[-300:]}"
    assert "evil.pkl was not read: it calls dtype" in done.stdout


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pth", b"just a text", r"was not read: it begins with b'just'"),
        ("a.pth", b"", "was not read: it is empty"),
        ("a.pth", b"version https://git-lfs.github.com/spec/v1", "was not read: it is a Git LFS"),
        ("a.pth", b"<!DOCTYPE html>", "was not read: it is a web page"),
        ("a.pth", b"\x89PNG\r\n", "was not read: it is an image"),
        ("a.pth", b"\x1f\x8b\x08", "was not read: it is compressed by gzip: unpack"),
        ("a.pth", struct.pack("<Q", 2) + b"{}", "was not read: it looks like safetensors"),
        ("a.pth", b"PK\3\4 torn", r"is damaged: File is not a zip file"),
        ("a.safetensors", b"{}", r"was not read: Error while deserializing header"),
        ("a.safetensors", struct.pack("<Q", 1 << 40) + b"{}", r"was not read: Error"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path: pathlib.Path, name: str, content: bytes, said: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} {said}"):
        load(tmp_path / name)


def test_a_folder_and_an_archive_of_another_kind(tmp_path: pathlib.Path) -> None:
    for reader in (load, lambda path: read_file(str(path))):
        with pytest.raises(ValueError, match=r"(is|are) a folder"):
            reader(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("word/document.xml", "x")
    with pytest.raises(ValueError, match=r"torch\.save did not write it.*word/document\.xml"):
        load(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([1], "holds a list, not tensors by name"),
        (torch.ones(1), "holds a Tensor, not tensors by name"),
        ({"model": 3}, "holds a int in place of tensors by name"),
        ({"model": {"a": "text"}}, "holds a str as 'a' in place of a tensor"),
        ({"model": {1: torch.ones(1)}}, "holds a Tensor as 1 in place of a tensor"),
        ({"state_dict": {"a": torch.ones(1)}}, "holds a dict as 'state_dict' in place of a tensor"),
        ({"model": {"a": torch.ones(1, device="meta")}}, "holds a as no plain tensor"),
        ({"model": {"a": torch.eye(2).to_sparse()}}, "holds a as no plain tensor"),
        ({"model": {}, "config": {"SEED": 1}}, "holds a dict as config"),
        ({"model": {}, "inputs": "RGB"}, "holds a str as inputs"),
        ({"model": {}, "inputs": INPUTS | {"stuff_classes": 3}}, r"a int as inputs\.stuff_classes"),
        ({"model": {}, "inputs": {"name": "x"}}, r"holds a NoneType as inputs\.format"),
        ({"model": {}, "inputs": INPUTS | {"auxiliary": {"x": 1}}}, "inputs that do not fit"),
        ({"model": {}, "inputs": INPUTS | {"stuff_classes": [1]}}, r"classes\[0\] is 1 \(int\)"),
        ({"model": {}, "inputs": INPUTS | {"label_offset": torch.ones(2)}}, "inputs.label_offset"),
        ({"model": {}, "inputs": INPUTS | {"stuff_colors": [[0, 0]]}}, "a color is needed"),
        ({"model": {}, "inputs": INPUTS | {"align": [1]}}, "a mapping is needed"),
        ({"model": {}, "trainer": [1]}, "holds a list as trainer"),
        ({"model": {}, "trainer": {"hooks": 1}}, r"holds a int as trainer\.hooks"),
        ({"model": {}, "iteration": "9"}, "holds a str as iteration"),
    ],
)
def test_odd_structures_are_told_in_a_sentence(tmp_path, data: Any, said: str) -> None:
    torch.save(data, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=rf"a\.pth(?s:.*){said}"):
        load(tmp_path / "a.pth")
    if isinstance(data, dict) and {"config", "inputs"} & set(data):
        with pytest.raises(ValueError, match=said):
            read_facts(tmp_path / "a.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path, value, suffix) -> None:
    state = {"bias": np.ones(1, np.float32), "weight": np.full((1, 2), value, np.float32)}
    path = tmp_path / f"a{suffix}"
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": state}))
    else:
        torch.save({"model": {name: torch.tensor(array) for name, array in state.items()}}, path)
    said = rf"a\{suffix} holds NaN or infinite values in weight"
    with pytest.raises(ValueError, match=said):
        load(path)
    with pytest.raises(ValueError, match=said):
        tensors_in(read_file(str(path)), str(path))


def test_an_average_that_is_no_number_is_refused(tmp_path: pathlib.Path) -> None:
    model = nn.Linear(2, 1).state_dict()
    average = {**model, "bias": torch.tensor([torch.nan])}
    data = {"model": model, "trainer": {"hooks": {"WeightAverage": average}}}
    torch.save(data, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="NaN or infinite values in bias"):
        load(tmp_path / "a.pth")


def test_a_view_that_repeats_one_value_without_end_is_refused(tmp_path: pathlib.Path) -> None:
    torch.save({"model": {"a": torch.ones(1).expand(1 << 40)}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="bytes of a that it does not hold"):
        load(tmp_path / "a.pth")
    torch.save({"a": torch.ones(1).expand(9)}, tmp_path / "a.pth")
    assert len(tensors_in(read_file(str(tmp_path / "a.pth")), "a")["a"]) == 9


def test_every_reader_sees_a_damaged_part(tmp_path: pathlib.Path) -> None:
    model = nn.Linear(2, 1)
    RunCheckpointer(model, str(tmp_path), config="SEED: 31").save("model_final")
    path = tmp_path / "model_final.pth"
    whole = path.read_bytes()
    for part in (model.weight.detach().numpy().tobytes(), b"SEED: 31"):
        path.write_bytes(whole)
        damage(path, part)
        for reader in (load, read_facts, lambda path: read_file(str(path))):
            with pytest.raises(ValueError, match=r"model_final\.pth is damaged: its part"):
                reader(path)


def test_an_archive_that_unpacks_to_more_than_itself_is_refused(tmp_path: pathlib.Path) -> None:
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "whole.pth")
    with (
        zipfile.ZipFile(tmp_path / "whole.pth") as whole,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in whole.infolist():
            bomb.writestr(member.filename, whole.read(member))
    with pytest.raises(ValueError, match=r"bomb\.pth has \d+ bytes, but its parts state \d+"):
        read_file(str(tmp_path / "bomb.pth"))


def test_files_by_torch_of_before_archives_are_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert read_file(str(path))["a"].tolist() == [1, 1]
    assert read_facts(path) == {}


def test_safetensors_are_read_with_their_config(tmp_path: pathlib.Path) -> None:
    saved, loaded = nn.Linear(2, 1), nn.Linear(2, 1)
    path = tmp_path / "a.safetensors"
    save_file(saved.state_dict(), path, metadata={"config": "SEED: 3", "format": "pt"})
    RunCheckpointer(loaded).load(str(path))
    assert torch.equal(loaded.weight, saved.weight)
    assert read_facts(path) == {"config": "SEED: 3"}
    save_file({"other": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="leaves 2 of the model's parameters unfilled"):
        RunCheckpointer(loaded).load(str(path))


def test_what_fits_no_model_is_told_with_its_file(tmp_path: pathlib.Path) -> None:
    torch.save({"model": {"other": torch.ones(1)}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"checkpoint .*a\.pth: The checkpoint leaves 2"):
        load(tmp_path / "a.pth")
    torch.save({"model": nn.Linear(2, 1).state_dict(), "inputs": INPUTS}, tmp_path / "b.pth")
    facts = ModelInputs([INPUTS | {"format": "BGR"}])
    with pytest.raises(ValueError, match=r"checkpoint .*b\.pth: the model was trained on RGB"):
        RunCheckpointer(nn.Linear(2, 1), inputs=facts).load(str(tmp_path / "b.pth"))


@pytest.mark.parametrize("spoil", ["name of a part", "end of the archive"])
def test_an_archive_whose_directory_is_torn_is_refused_by_name(tmp_path, spoil: str) -> None:
    path = tmp_path / "a.pth"
    torch.save({"model": nn.Linear(2, 1).state_dict()}, path)
    content = bytearray(path.read_bytes())
    if spoil == "name of a part":  # marked as UTF-8, which it is not
        place = content.index(b"PK\1\2")
        content[place + 9] |= 8
        content[place + 46] = 0xFF
    else:  # the archive is said to go on on another disk
        content[content.rindex(b"PK\6\7") + 4] = 9
    path.write_bytes(content)
    for read in (read_facts, load):
        with pytest.raises(ValueError, match=r"a\.pth is damaged"):
            read(path)


def test_facts_of_a_checkpoint_cannot_take_the_place_of_methods() -> None:
    facts = INPUTS | {"label_offset": 0, "stored_ignore": None, "ignore_label": 255, "get": "x"}
    assert MetadataCatalog.get(register_facts(facts)).get("stuff_classes") == ["a"]
