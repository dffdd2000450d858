"""The examples are short, and they run as they stand."""

import importlib.util
import json
import math
import pathlib
import re
import runpy
import sys
import types

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from smmcl.config import build_config
from smmcl.d2 import SEM_SEG_HEADS_REGISTRY, CfgNode, DatasetCatalog, ShapeSpec, build_model
from smmcl.engine.setup import check_datasets
from smmcl.engine.trainer import Trainer
from smmcl.modeling.contrastive.base import CONTRAST_REGISTRY
from smmcl.modeling.fusion.base import FUSION_REGISTRY
from smmcl.modeling.streams.base import STREAM_REGISTRY

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"


def load(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_tiny(*overrides: str) -> tuple[CfgNode, nn.Module]:
    cfg = build_config(
        "Base-SMMCL.yaml",
        [
            "MODEL.DEVICE", "cpu", "MODEL.CONTRAST.NAME", "", "MODEL.PAIR.VISIBLE.NAME", "mscan_t",
            "MODEL.PAIR.AUXILIARY.NAME", "mscan_t", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "2",
            "MODEL.SEM_SEG_HEAD.HAM.CHANNELS", "32", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32",
            "INPUT.CROP_SIZE", "[64, 64]", *overrides,
        ],
    )  # fmt: skip
    return cfg, build_model(cfg)


def random_pair() -> dict:
    generator = torch.Generator().manual_seed(0)
    cells = torch.tensor([[0, 1], [255, 1]])  # one per place at stride 32
    return {
        "image": torch.rand(3, 64, 64, generator=generator) * 255,
        "auxiliary": torch.rand(3, 64, 64, generator=generator) * 255,
        "sem_seg": cells.repeat_interleave(32, 0).repeat_interleave(32, 1),
        "view_seed": 0,
    }


@pytest.mark.parametrize(
    ("name", "registry", "part", "overrides"),
    [
        ("own_stream", STREAM_REGISTRY, "PlainConvs", ["MODEL.PAIR.VISIBLE.NAME"]),
        ("own_fusion", FUSION_REGISTRY, "GatedMaximum", ["MODEL.FUSION.NAME"]),
        ("own_head", SEM_SEG_HEADS_REGISTRY, "SummedHead", ["MODEL.SEM_SEG_HEAD.NAME"]),
        ("own_branch", CONTRAST_REGISTRY, "ClassMeans", ["MODEL.CONTRAST.NAME"]),
    ],
)
def test_a_part_from_outside_trains_and_predicts(name, registry, part, overrides) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 40
    if part not in registry:
        load(name)

    _, model = build_tiny(*overrides, part)
    assert part in {type(module).__name__ for module in model.modules()}

    losses = model.train()([random_pair()])
    assert all(key.startswith("loss_") for key in losses)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())

    with torch.no_grad():
        (prediction,) = model.eval()([random_pair()])
    assert prediction["sem_seg"].shape == (2, 64, 64)
    assert prediction["sem_seg"].isfinite().all()


def test_the_branch_of_the_example_by_hand() -> None:
    if "ClassMeans" not in CONTRAST_REGISTRY:
        load("own_branch")
    cfg, _ = build_tiny()
    shape = {f"res5_{stream}": ShapeSpec(channels=64) for stream in ("visible", "auxiliary")}
    branch = CONTRAST_REGISTRY.get("ClassMeans")(cfg, shape)
    for projector in branch.projectors:
        projector.weight.data = torch.eye(64)[:, :, None, None]
        projector.bias.data.zero_()
    maps = torch.zeros(1, 64, 2, 2)
    maps[0, 0, 0, 0] = 3  # class 0 points along the first axis, class 1 along the second
    maps[0, 1, :, 1] = 5
    maps[0, 2, 1, 0] = 7  # of a cell without a label
    features = dict.fromkeys(shape, maps)
    labels = random_pair()["sem_seg"][None]

    (loss,) = branch(features, labels, [0]).values()
    # Cosines are 1 and 0, so each class loses log(1 + exp(-10)); the weight is 0.1.
    assert loss.item() == pytest.approx(0.1 * math.log1p(math.exp(-10)), rel=1e-2)

    (loss,) = branch(features, torch.full_like(labels, 255), [0]).values()
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is not None for parameter in branch.parameters())


def test_the_notebook_lines_of_the_page_run() -> None:
    page = (EXAMPLES.parent / "docs/extending.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict = {}
    exec(lines, names)
    assert names["features"]["res5"].shape == (1, 256, 4, 5)


def test_a_dataset_from_outside_trains_and_is_evaluated(tmp_path, monkeypatch) -> None:
    assert len((EXAMPLES / "own_dataset.py").read_text().splitlines()) <= 40
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (tmp_path / "garden").mkdir()
    generator = np.random.default_rng(0)
    rows = ["split,visible,auxiliary,label,time"]
    for split, time in (("train", "day"), ("train", "night"), ("val", "night")):
        images = {
            f"{split}_{time}_rgb.png": generator.integers(256, size=(64, 64, 3), dtype=np.uint8),
            f"{split}_{time}_heat.png": generator.integers(27000, 31000, (64, 64), dtype=np.uint16),
            f"{split}_{time}_label.png": generator.integers(3, size=(64, 64), dtype=np.uint8),
        }
        for name, image in images.items():
            assert cv2.imwrite(str(tmp_path / "garden" / name), image)
        rows.append(",".join([split, *images, time]))
    (tmp_path / "garden/pairs.csv").write_text("\n".join(rows) + "\n")
    for name in ("garden_train", "garden_val"):  # of another test, with another folder
        monkeypatch.delitem(DatasetCatalog, name, raising=False)
    load("own_dataset")

    cfg, model = build_tiny(
        "DATASETS.TRAIN", "('garden_train',)", "DATASETS.TEST", "('garden_val',)",
        "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path),
    )  # fmt: skip
    check_datasets(cfg)
    batch = next(iter(Trainer.build_train_loader(cfg)))
    assert {tag for record in batch for tag in record["tags"]} == {"day", "night"}
    assert {int(value) for record in batch for value in record["sem_seg"].unique()} == {0, 1, 255}
    sum(model.train()(batch).values()).backward()
    results = Trainer.test(cfg, model.eval())
    assert results["sem_seg"] == results["sem_seg_night"]


def write_video(path: pathlib.Path, num_frames: int) -> str:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for i in range(num_frames):
        writer.write(np.full((48, 64, 3), 40 * i, dtype=np.uint8))
    writer.release()
    return str(path)


@pytest.mark.parametrize(
    ("flag", "dtype"),
    [("avx2", torch.float32), ("avx512_bf16", torch.bfloat16), ("amx_bf16", torch.bfloat16)],
)
def test_live_labels_pairs_of_frames_until_one_video_ends(
    flag, dtype, tmp_path, capsys, monkeypatch
) -> None:
    assert len((EXAMPLES / "live.py").read_text().splitlines()) <= 120
    live = load("live")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {flag: True}, raising=False)
    fold, folded = live.fold, []
    monkeypatch.setattr(
        live, "fold", lambda model, *, dtype: folded.append(dtype) or fold(model, dtype=dtype)
    )
    config = EXAMPLES.parent / "configs/synthetic_night.yaml"
    cfg = build_config(str(config), ["MODEL.DEVICE", "cpu"])
    checkpoint = str(tmp_path / "model.pth")
    torch.save({"model": build_model(cfg).state_dict(), "config": cfg.dump()}, checkpoint)
    videos = write_video(tmp_path / "rgb.avi", 3), write_video(tmp_path / "heat.avi", 2)
    output = tmp_path / "labels.avi"
    assert live.main(checkpoint, *videos, str(output)) > 0
    assert folded == [dtype]
    assert "pairs/s" in capsys.readouterr().out
    written = cv2.VideoCapture(str(output))
    assert [written.read()[0] for _ in range(3)] == [True, True, False]
    assert written.get(cv2.CAP_PROP_FRAME_WIDTH) == 320
    with pytest.raises(SystemExit, match="is no video or camera"):
        live.main(checkpoint, "none.avi", videos[1])
    monkeypatch.setattr(sys, "argv", ["live.py", checkpoint])
    with pytest.raises(SystemExit, match=r"live\.py MODEL VISIBLE AUXILIARY"):
        runpy.run_path(str(EXAMPLES / "live.py"), run_name="__main__")


def test_live_runs_an_exported_file(tmp_path, monkeypatch) -> None:
    live, asked = load("live"), []
    facts = {"inputs": {"auxiliary": ["N", 3, "H", "W"]}, "colors": [[0, 0, 0]] * 256}
    (tmp_path / "model.onnx.json").write_text(json.dumps(facts))

    class Stand:
        """OpenVINO's parts in one; as labels it gives the auxiliary image."""

        def read_model(self, path: str) -> "Stand":
            assert path == str(tmp_path / "model.onnx")
            return self

        def reshape(self, shapes: dict) -> None:
            self.shapes = shapes

        def create_infer_request(self) -> "Stand":
            return self

        def infer(self, inputs: dict) -> dict:
            assert {name: list(image.shape) for name, image in inputs.items()} == self.shapes
            asked.append(inputs)
            return {"labels": inputs["auxiliary"][:, 2].astype(np.int64)}

    openvino = types.ModuleType("openvino")
    openvino.Core, openvino.compile_model = Stand, lambda network, *options: network
    monkeypatch.setitem(sys.modules, "openvino", openvino)
    videos = write_video(tmp_path / "rgb.avi", 3), write_video(tmp_path / "heat.avi", 2)
    output = tmp_path / "labels.avi"
    assert live.main(str(tmp_path / "model.onnx"), *videos, str(output)) > 0
    # Two threads ask, in any order.
    means = sorted(round(inputs["auxiliary"].mean()) for inputs in asked)
    assert means == pytest.approx([0, 40], abs=2)
    assert cv2.VideoCapture(str(output)).get(cv2.CAP_PROP_FRAME_COUNT) == 2
