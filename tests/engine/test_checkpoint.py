"""Checkpoints: whole or not at all, the sound one found, nothing left unfilled unnoticed."""

import os
import pathlib
import pickle
import resource

import pytest
import torch
from torch import nn

from smmcl.engine.checkpoint import RunCheckpointer, read_facts
from smmcl.files.archive import is_sound
from smmcl.files.atomic import PREFIX


def model(width: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, width), nn.Linear(width, 1))


def test_round_trip_names_the_engine(tmp_path: pathlib.Path) -> None:
    saved = model()
    RunCheckpointer(saved, str(tmp_path)).save("model_0000009", iteration=9)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000009.pth"
    loaded = model()
    nn.init.zeros_(loaded[0].weight)
    checkpointer = RunCheckpointer(loaded, str(tmp_path))
    rest = checkpointer.resume_or_load("", resume=True)
    assert torch.equal(loaded[0].weight, saved[0].weight)
    assert rest["iteration"] == 9
    assert rest["engine"].split()[0] in ("detectron2", "builtin")


@pytest.mark.parametrize("name", ["../other/model_0000005.pth", "model_best.pth", "x" * 5000, "."])
def test_a_last_checkpoint_of_another_folder_or_kind_is_not_taken(tmp_path, name: str) -> None:
    for folder in ("run", "other"):
        RunCheckpointer(nn.Linear(2, 2), str(tmp_path / folder)).save("model_0000005")
    (tmp_path / "run/last_checkpoint").write_text(name)
    run = RunCheckpointer(nn.Linear(2, 2), str(tmp_path / "run"))
    assert run.get_checkpoint_file() == str(tmp_path / "run/model_0000005.pth")


def test_a_torn_last_checkpoint_gives_way_to_the_one_before(tmp_path, caplog) -> None:
    checkpointer = RunCheckpointer(model(), str(tmp_path))
    for iteration in (9, 19):
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    last = tmp_path / "model_0000019.pth"
    last.write_bytes(last.read_bytes()[:-200])
    assert checkpointer.get_checkpoint_file().endswith("model_0000009.pth")
    assert "model_0000019.pth is missing or damaged" in caplog.text


def test_a_flipped_byte_is_seen(tmp_path: pathlib.Path) -> None:
    RunCheckpointer(model(64), str(tmp_path)).save("model_0000009")
    path = tmp_path / "model_0000009.pth"
    assert is_sound(path)
    content = bytearray(path.read_bytes())
    content[content.index(model(64)[0].weight.detach().numpy().tobytes()[:16])] ^= 1
    path.write_bytes(content)
    assert not is_sound(path)


def test_no_sound_checkpoint_is_an_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    with pytest.raises(ValueError, match="None of the checkpoints"):
        RunCheckpointer(model(), str(tmp_path)).get_checkpoint_file()


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch) -> None:
    checkpointer = RunCheckpointer(model(), str(tmp_path))
    checkpointer.save("model_final")
    before = (tmp_path / "model_final.pth").read_bytes()

    def fail(data: object, file: object) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpointer.save("model_final")
    assert (tmp_path / "model_final.pth").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"last_checkpoint", "model_final.pth"}


def test_a_full_disk_is_told_by_the_file(tmp_path: pathlib.Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))
    try:
        with pytest.raises(OSError, match=r"too large.*/model_final\.pth'$"):
            RunCheckpointer(model(64), str(tmp_path)).save("model_final")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_what_a_file_leaves_unfilled_is_an_error_unless_named(tmp_path: pathlib.Path) -> None:
    RunCheckpointer(model(), str(tmp_path)).save("model_final")
    path = str(tmp_path / "model_final.pth")
    with pytest.raises(ValueError, match=r"(?s)leaves 3 .*0\.weight is \(3, 2\) in the file but"):
        RunCheckpointer(model(4)).load(path)
    RunCheckpointer(model(4), unfilled=["0.", "1.weight"]).load(path)


def test_the_newest_checkpoints_are_kept_and_no_remains_of_a_killed_write(tmp_path) -> None:
    (tmp_path / f"{PREFIX}0123456789ab-model_0000004.pth").write_bytes(b"half")
    checkpointer = RunCheckpointer(model(), str(tmp_path), num_kept=2)
    for name in ("model_0000009", "model_best", "model_0000019", "model_0000029", "model_final"):
        checkpointer.save(name)
    assert {path.name for path in tmp_path.iterdir()} == {
        "last_checkpoint", "model_0000019.pth", "model_0000029.pth", "model_best.pth",
        "model_final.pth",
    }  # fmt: skip
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_a_run_removes_only_its_own_checkpoints(tmp_path: pathlib.Path) -> None:
    other = RunCheckpointer(model(), str(tmp_path))
    other.save("model_0000005")
    new = RunCheckpointer(model(), str(tmp_path), num_kept=1)
    for name in ("model_0000009", "model_0000019"):
        new.save(name)
    left = ["model_0000005", "model_0000019"]
    assert sorted(path.stem for path in tmp_path.glob("*.pth")) == left

    resumed = RunCheckpointer(model(), str(tmp_path), num_kept=2)
    resumed.resume_or_load("", resume=True)
    resumed.save("model_0000029")
    left = ["model_0000019", "model_0000029"]
    assert sorted(path.stem for path in tmp_path.glob("*.pth")) == left


def test_a_negative_number_of_kept_checkpoints_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="CHECKPOINTS_KEPT is -1"):
        RunCheckpointer(model(), str(tmp_path), num_kept=-1)


@pytest.mark.parametrize("tag", [None, b"", b"\xff\xfe", b"model_0000099.pth"])
@pytest.mark.parametrize("last", ["model_final", "model_0000019"])
def test_without_its_tag_the_newest_sound_checkpoint_is_found(tmp_path, tag, last, caplog) -> None:
    """By iteration: a copy of a folder has its own times."""
    checkpointer = RunCheckpointer(model(), str(tmp_path))
    for name, iteration in ((last, 19), ("model_0000009", 9), ("model_best", 18)):
        checkpointer.save(name, iteration=iteration)
    (tmp_path / "last_checkpoint").unlink()
    if tag is not None:
        (tmp_path / "last_checkpoint").write_bytes(tag)
    (tmp_path / "model_0000029.pth").write_bytes(b"torn")
    assert checkpointer.get_checkpoint_file() == str(tmp_path / f"{last}.pth")
    assert "model_0000029.pth is missing or damaged" in caplog.text
    (tmp_path / f"{last}.pth").unlink()
    (tmp_path / "model_0000009.pth").write_bytes(b"torn")
    with pytest.raises(ValueError, match="None of the checkpoints"):
        checkpointer.resume_or_load("", resume=True)


def test_no_checkpoint_goes_before_the_next_is_written(tmp_path, monkeypatch) -> None:
    checkpointer = RunCheckpointer(model(), str(tmp_path), num_kept=1)
    checkpointer.save("model_0000009")
    monkeypatch.setattr(torch, "save", lambda data, file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checkpointer.save("model_0000019")
    assert checkpointer.get_checkpoint_file().endswith("model_0000009.pth")


def test_the_best_checkpoint_is_not_what_a_run_goes_on_from(tmp_path) -> None:
    checkpointer = RunCheckpointer(model(), str(tmp_path))
    checkpointer.save("model_0000009")
    checkpointer.save("model_best")
    assert checkpointer.get_checkpoint_file().endswith("model_0000009.pth")
    (tmp_path / "model_0000009.pth").write_bytes(b"torn")
    with pytest.raises(ValueError, match="None of the checkpoints"):
        checkpointer.get_checkpoint_file()


def test_a_checkpoint_carries_the_config(tmp_path: pathlib.Path) -> None:
    RunCheckpointer(model(), str(tmp_path), config="SEED: 3").save("model_final")
    assert torch.load(tmp_path / "model_final.pth")["config"] == "SEED: 3"


class Hostile:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("name", ["a.pth", "a.pkl", "a.pyth"])
def test_nothing_in_a_file_runs(tmp_path: pathlib.Path, name: str) -> None:
    hostile = Hostile()
    hostile.folder = str(tmp_path / "run")
    data = {"model": {}, "__author__": hostile, "model_state": {}}
    if name.endswith(".pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(data))
    else:
        torch.save(data, tmp_path / name)
    with pytest.raises(ValueError, match="could run code"):
        RunCheckpointer(model()).load(str(tmp_path / name))
    assert not (tmp_path / "run").exists()


def test_what_only_the_file_has_is_an_error_but_for_the_branch(tmp_path: pathlib.Path) -> None:
    saved = nn.ModuleDict({"contrast": nn.Linear(1, 1), "head": model()})
    RunCheckpointer(saved, str(tmp_path)).save("model_final")
    path = str(tmp_path / "model_final.pth")
    RunCheckpointer(nn.ModuleDict({"head": model()})).load(path)
    with pytest.raises(ValueError, match=r"4 of its own unused, among them head\.0\.weight"):
        RunCheckpointer(nn.ModuleDict({"contrast": nn.Linear(1, 1)})).load(path)


def test_a_run_is_told_by_its_files(tmp_path: pathlib.Path) -> None:
    theirs = "MODEL:\n  A: 1\n  DEVICE: cpu\n  B: x\nSEED: 1\n"
    RunCheckpointer(model(), str(tmp_path), config=theirs).save("model_final")
    path = str(tmp_path / "model_final.pth")
    assert read_facts(path) == {"config": theirs}
    ours = "MODEL:\n  A: 2\n  DEVICE: cuda\n  B: x\nSEED: 2\n"
    with pytest.raises(ValueError, match=r"which differ here: MODEL\.A 1\. Give"):
        RunCheckpointer(model(4), config=ours).load(path)
    (tmp_path / "other.pth").write_bytes(b"no archive")
    assert read_facts(tmp_path / "other.pth") == {}


def test_a_missing_file_is_answered_by_name(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth does not exist"):
        RunCheckpointer(model()).load(str(tmp_path / "nothing.pth"))
