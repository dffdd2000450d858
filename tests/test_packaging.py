"""What is installed is the whole package: configs by name, dataset files, and a quick import."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

from smmcl.config import build_config, find_config, shipped_configs
from smmcl.files.yaml import find_line

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Takes half a second and more to import, so that an import of the package leaves it to its users.
SLOW = {"matplotlib.pyplot", "onnxruntime", "pandas", "scipy", "sklearn", "tensorboard",
        "torch._dynamo", "torch._inductor", "torch.onnx", "torchvision"}  # fmt: skip


def test_shipped_configs_have_names() -> None:
    assert shipped_configs()["mfnet_r101.yaml"] == ROOT / "configs/mfnet_r101.yaml"
    assert len(shipped_configs()) == len(list((ROOT / "configs").rglob("*.yaml")))


def test_a_name_stands_for_its_file(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ablations/llrgbd_baseline.yaml", "configs/ablations/llrgbd_baseline.yaml"):
        assert find_config(name) == str(ROOT / "configs/ablations/llrgbd_baseline.yaml")
        assert build_config(name).MODEL.CONTRAST.NAME == ""
    (tmp_path / "mfnet_r101.yaml").write_text("SEED: 7\n")
    assert build_config("mfnet_r101.yaml").SEED == 7  # a file of the user's own comes first
    with pytest.raises(FileNotFoundError, match=r"by name mfnet_r101\.yaml"):
        find_config("mfnet_r11.yaml")


def test_a_base_may_be_a_shipped_config(tmp_path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("_BASE_: ablations/llrgbd_baseline.yaml\nOUTPUT_DIR: mine\n")
    cfg = build_config(str(own))
    assert (cfg.OUTPUT_DIR, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES) == ("mine", 14)
    assert find_line(own, "MODEL.CONTRAST.NAME", shipped=ROOT / "configs")[0].parent == (
        ROOT / "configs/ablations"
    )
    (tmp_path / "ablations").mkdir()
    (tmp_path / "ablations/llrgbd_baseline.yaml").write_text("SEED: 8\n")
    assert build_config(str(own)).SEED == 8  # a file beside it comes first
    own.write_text("_BASE_: mfnet_none.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"Correct the path, or name a file of .*configs"):
        build_config(str(own))


def test_the_sdist_has_every_page() -> None:
    manifest = (ROOT / "MANIFEST.in").read_text() + " README.md"  # which setuptools adds
    assert [page.name for page in ROOT.glob("*.md") if page.name not in manifest] == []


def test_what_is_built_stands_alone(tmp_path) -> None:
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not here: pip install setuptools")
    build = ["build", "--build-base", tmp_path / "base", "--build-lib", tmp_path / "lib"]
    subprocess.run([sys.executable, "setup.py", "-q", *build], cwd=ROOT, check=True)
    code = (
        "import sys, smmcl; from smmcl import Predictor\n"
        f"slow = {SLOW} & set(sys.modules)\n"
        "from smmcl.config import shipped_configs\n"
        "from smmcl.data.datasets.build import builtin_splits\n"
        "from smmcl.weights.zoo import zoo_file, zoo_sums\n"
        "files = [zoo_file(f'zoo://{name}') for name in zoo_sums()]\n"
        "assert files and all(file.startswith(smmcl.__path__[0]) for file in files), files\n"
        "print(smmcl.__file__, len(shipped_configs()), len(builtin_splits()), *slow)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "lib"), "SMMCL_ENGINE": "builtin"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    file, configs, splits, *slow = done.stdout.split()
    assert pathlib.Path(file).is_relative_to(tmp_path)
    assert int(configs) == len(shipped_configs())
    assert int(splits) > 10
    assert not slow
    long_description = subprocess.run(
        [sys.executable, "setup.py", "-q", "--long-description"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "Semantic segmentation of dark scenes" in long_description
    assert not re.findall(r"\]\((?!https?:|#)", long_description)  # no index has those files
    for file in ("visualization/report.html.j2", "py.typed", "tools/train_net.py"):
        assert (tmp_path / "lib/smmcl" / file).is_file()
    code = "from smmcl.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "convert", "nowhere.pth", "ours.pth"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "nowhere.pth" in done.stderr
