"""IMPORTS: parts of the user's own; a checkpoint names only what the user has named before."""

import pathlib
import subprocess
import sys

import pytest

from smmcl.config import build_config
from smmcl.modeling.fusion.base import FUSION_REGISTRY

ROOT = pathlib.Path(__file__).resolve().parents[2]
PART = """
from smmcl.config import extends_config
from smmcl.modeling.fusion.base import FUSION_REGISTRY
from smmcl.modeling.fusion.plain import PlainSum

@FUSION_REGISTRY.register()
class {name}(PlainSum):
    pass

@extends_config
def add(cfg):
    cfg.MODEL.FUSION.{key} = 3
"""


@pytest.fixture
def part(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """A function that writes a file with a fusion and a config key of these names."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("smmcl.config.keys.EXTENSIONS", [])

    def write(name: str, key: str) -> str:
        path = tmp_path / f"{name.lower()}.py"
        path.write_text(PART.format(name=name, key=key))
        return path.name

    return write


def test_a_file_registers_parts_and_keys_before_the_config_is_merged(part) -> None:
    file = part("OwnSum", "OWN")
    keys = ["IMPORTS", f"['{file}']", "MODEL.FUSION.NAME", "OwnSum", "MODEL.FUSION.OWN", "5"]
    cfg = build_config("Base-SMMCL.yaml", keys)
    assert cfg.MODEL.FUSION.OWN == 5
    assert "OwnSum" in FUSION_REGISTRY
    assert build_config("Base-SMMCL.yaml", keys).dump() == cfg.dump()  # imported once


def test_a_config_file_names_them_too(part, tmp_path: pathlib.Path) -> None:
    file = part("FileSum", "OF_FILE")
    (tmp_path / "c.yaml").write_text(f"IMPORTS: ['{file}']\nMODEL: {{FUSION: {{OF_FILE: 7}}}}\n")
    assert build_config(str(tmp_path / "c.yaml")).MODEL.FUSION.OF_FILE == 7


def test_a_checkpoint_imports_only_what_the_user_has_named_before(part) -> None:
    file = part("CheckpointSum", "OF_CHECKPOINT")
    text = f"IMPORTS: ['{file}']\nVERSION: 2\n"
    with pytest.raises(ValueError, match=r"checkpointsum\.py, which you have not named.*IMPORTS"):
        build_config("the config in x.pth", text=text)
    assert "CheckpointSum" not in FUSION_REGISTRY
    build_config("", ["IMPORTS", f"['{file}']"])
    assert build_config("the config in x.pth", text=text).MODEL.FUSION.OF_CHECKPOINT == 3
    pathlib.Path(file).write_text("raise SystemExit('another content')")
    with pytest.raises(ValueError, match="have not named"):
        build_config("the config in x.pth", text=text)


def test_a_module_by_name(part, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part("ModuleSum", "OF_MODULE")
    monkeypatch.syspath_prepend(tmp_path)
    text = "IMPORTS: ['modulesum']\nVERSION: 2\n"
    with pytest.raises(ValueError, match="have not named"):
        build_config("the config in x.pth", text=text)
    assert "modulesum" not in sys.modules
    assert build_config("", ["IMPORTS", "['modulesum']"]).MODEL.FUSION.OF_MODULE == 3
    assert build_config("the config in x.pth", text=text).IMPORTS == ["modulesum"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("['gone.py']", r"gone\.py, which does not exist in"),
        ("['no_such_module_here']", "no such module"),
        ("[3]", "Give a list of modules or files"),
    ],
)
def test_what_cannot_be_imported(part, value: str, words: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        build_config("", ["IMPORTS", value])


def test_a_part_of_ones_own_trains_in_two_processes_and_predicts(
    part, tmp_path: pathlib.Path
) -> None:
    file = part("RunSum", "OF_RUN")
    run = [
        "tools/train_net.py", "--config-file", "configs/synthetic_night.yaml", "--num-gpus", "2",
        "IMPORTS", f"['{tmp_path / file}']", "MODEL.FUSION.NAME", "RunSum",
        "SOLVER.MAX_ITER", "1", "SOLVER.WARMUP_ITERS", "0", "SOLVER.IMS_PER_BATCH", "2",
        "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path / "run"),
        "DATASETS.TRAIN", "('synthetic_night_val@64x96',)", "DATASETS.TEST", "()",
        "INPUT.CROP_SIZE", "[64, 96]",
    ]  # fmt: skip
    predict = [
        "tools/demo.py", "--checkpoint", str(tmp_path / "run/model_final.pth"),
        "--dataset", "synthetic_night_val@64x96", "--limit", "1", "--output", str(tmp_path / "out"),
    ]  # fmt: skip
    for command in (run, predict):
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out").glob("panels/*.png"))


def test_parts_of_this_project_need_no_permission(part, tmp_path: pathlib.Path) -> None:
    cfg = build_config("a checkpoint", text="IMPORTS: ['smmcl.modeling.fusion.plain']\n")
    assert cfg.IMPORTS == ["smmcl.modeling.fusion.plain"]
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ValueError, match=r"asks to import smmcl\.moon: No module.*Correct IMPORTS"):
        build_config("a checkpoint", text="IMPORTS: ['smmcl.moon']\n")
