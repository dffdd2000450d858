"""The companions can be deleted: the rest of the project works, and passes its tests, without."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
COPIED = ("smmcl", "tests", "tools", "configs", "docs", "datasets", "examples", "benchmarks", "zoo")
COMPANIONS = ("smmcl/lowlight", "tests/lowlight", "configs/lowlight", "docs/lowlight.md",
              "configs/experiments/lowlight_*.yaml")  # fmt: skip
SELECTION = (
    "tests/test_architecture.py", "tests/test_config.py", "tests/test_config_checks.py",
    "tests/test_cli.py", "tests/test_pages.py", "tests/engine/test_grid.py",
    "tests/tools/test_relight.py", "tests/tools/test_classifier.py",
    "tests/modeling/test_classifier.py", "tests/test_mutations.py",
    "tests/inference/test_relight.py", "tests/modeling/contrastive/test_momentum.py",
)  # fmt: skip
# A project that is installed for development would lend the copy what it lacks.
BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("smmcl.lowlight"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.slow
def test_the_rest_stays_green_without_the_companions(tmp_path: pathlib.Path) -> None:
    for name in COPIED:
        generated = ["synthetic_*"] if name == "datasets" else []
        ignored = shutil.ignore_patterns("__pycache__", *generated)
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    for pattern in COMPANIONS:
        places = list(tmp_path.glob(pattern))
        assert places, f"{pattern} is not there: correct this test"
        for place in places:
            shutil.rmtree(place) if place.is_dir() else place.unlink()
    for page in (*tmp_path.glob("*.md"), *tmp_path.glob("docs/*.md"), tmp_path / "mkdocs.yml"):
        # Its links would lead nowhere.
        lines = page.read_text(encoding="utf-8").splitlines(keepends=True)
        page.write_text("".join(line for line in lines if "lowlight" not in line), encoding="utf-8")
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "SMMCL_ENGINE": "builtin"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", *SELECTION]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    code = "import smmcl; print(smmcl.__file__); import smmcl.lowlight"
    gone = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert gone.returncode != 0
    assert gone.stdout.startswith(str(tmp_path))  # not the project that is installed
