"""Darkener and enhancer from a config: the run, what its checkpoint holds and needs, the seams."""

import math
import pathlib
import re
import shutil
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from smmcl.config import build_config
from smmcl.d2 import META_ARCH_REGISTRY, DatasetCatalog, build_model
from smmcl.data.datasets.synthetic import build as synthetic
from smmcl.data.mapper import MultiModalDatasetMapper
from smmcl.engine.trainer import Trainer
from smmcl.inference.named_model import load_named
from smmcl.lowlight.relight import RelightView
from smmcl.modeling.perceptual import VGG16

KIND = {"Darkener": "MODEL.DARKENER.DAY_MODEL", "Enhancer": "MODEL.ENHANCER.SEGMENTOR"}
SMALL = [
    "IMPORTS", "['smmcl.lowlight.register']", "MODEL.CONTRAST.NAME", "",
    "MODEL.DARKENER.WIDTH", "8", "MODEL.ENHANCER.WIDTH", "8",
    "MODEL.DARKENER.IN_FEATURES", "['res4', 'res5_visible']", "SOLVER.WARMUP_ITERS", "0",
    "SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.MAX_ITER", "4", "DATASETS.TEST", "()",
]  # fmt: skip


@pytest.fixture(scope="module")
def day_model(tiny_config, tmp_path_factory) -> pathlib.Path:
    """The checkpoint of a model, of which nothing else is left."""
    cfg = tiny_config(tmp_path_factory.mktemp("day"), "SEED", "1", "MODEL.CONTRAST.NAME", "")
    trainer = Trainer(cfg)
    trainer.checkpointer.save("day")
    (pathlib.Path(cfg.OUTPUT_DIR) / "config.yaml").unlink()
    return pathlib.Path(cfg.OUTPUT_DIR) / "day.pth"


@pytest.fixture
def config_of(tiny_config, tmp_path, day_model) -> Callable:
    def build(kind: str, name: str, *overrides: str):
        own = ("MODEL.META_ARCHITECTURE", kind, KIND[kind], str(day_model))
        return tiny_config(tmp_path / name, *SMALL, *own, *overrides)

    return build


def train(cfg, *, resume: bool = False) -> pathlib.Path:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return pathlib.Path(cfg.OUTPUT_DIR) / "model_final.pth"


def test_no_stream_is_filled(config_of) -> None:
    cfg = config_of("Darkener", "weights", "MODEL.PAIR.VISIBLE.WEIGHTS", "nowhere.pth")
    Trainer(cfg).resume_or_load(resume=False)


def state(path: pathlib.Path) -> dict:
    return torch.load(path, map_location="cpu", weights_only=True)


@pytest.mark.parametrize("kind", KIND)
def test_a_run_resumes_exactly_and_its_checkpoint_is_whole(kind, config_of, tmp_path) -> None:
    final = train(config_of(kind, "whole"))
    whole = state(final)
    names = {name.partition(".")[0] for name in whole["model"]}
    assert names == {"curve", *(["exposure_range"] if kind == "Darkener" else [])}
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    shutil.copy(tmp_path / "whole/model_0000001.pth", stopped)
    (stopped / "last_checkpoint").write_text("model_0000001.pth")
    again = state(train(config_of(kind, "stopped"), resume=True))
    for name, value in whole["model"].items():
        assert torch.equal(value, again["model"][name]), name
    # The checkpoint names no file of the frozen model.
    alone = shutil.copy(final, tmp_path / "alone.pth")
    model, cfg = load_named(alone)
    assert type(model) is META_ARCH_REGISTRY.get(kind)
    assert "day.pth" not in cfg.dump()
    image = torch.rand(1, 3, 12, 20)
    options = {"exposure": (0.1, 0.2)} if kind == "Darkener" else {}
    relit = model.relight(image, seeds=[0], **options)
    assert relit.shape == image.shape
    with pytest.raises(ValueError, match=f"{KIND[kind]} is empty. Set it to the checkpoint"):
        model.train()([{}])


def test_every_loss_of_the_config_reaches_the_step(config_of) -> None:
    for kind in KIND:
        cfg = config_of(kind, f"weights_{kind}")
        model = build_model(cfg).train()
        losses = model(next(iter(Trainer.build_train_loader(cfg))))
        assert {name.removeprefix("loss_") for name in losses} == set(model.WEIGHTS)
        assert all(loss.isfinite() for loss in losses.values())
    # The frozen model is in evaluation mode, in which its head has no losses of its own.
    (gradient,) = torch.autograd.grad(losses["loss_segmentation"], [*model.curve.parameters()][:1])
    assert gradient.any()
    assert 0.5 * math.log(9) < losses["loss_segmentation"] < 2 * math.log(9)  # of 9 classes
    cfg = config_of("Darkener", "heavier", "MODEL.DARKENER.WEIGHTS.COLOR", "50.0")
    assert build_model(cfg).weights == {**model_weights("Darkener"), "color": 50.0}


def model_weights(kind: str) -> dict[str, float]:
    return META_ARCH_REGISTRY.get(kind).WEIGHTS


def test_exposed_images_are_made_from_the_training_images(config_of, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.setitem(synthetic.SPLITS, "train", 4)
    options = ["DATASETS.TRAIN", "('synthetic_day_train@64x96',)"]
    cfg = config_of("Enhancer", "made", *options, "MODEL.ENHANCER.WELL_EXPOSED", "[[0.4, 0.6]]")
    batches = iter(Trainer.build_train_loader(cfg))
    samples = [sample for _ in range(6) for sample in next(batches)]
    for key, ranges in (("positive", [(0.4, 0.6)]), ("negative", [(0.02, 0.15), (0.8, 0.95)])):
        means = [sample[key].float().mean().item() / 255 for sample in samples]
        assert all(any(a - 0.03 < m < b + 0.03 for a, b in ranges) for m in means), means
        assert len(set(means)) > 6
    again = next(iter(Trainer.build_train_loader(cfg)))
    assert torch.equal(again[1]["negative"], samples[1]["negative"])
    # Well exposed images are those of the day as they are, unless ranges are given.
    sample = next(iter(Trainer.build_train_loader(config_of("Enhancer", "stored", *options))))[0]
    records = DatasetCatalog.get("synthetic_day_train@64x96")
    stored = [torch.from_numpy(np.array(Image.open(record["file_name"]))) for record in records]
    assert any(torch.equal(sample["positive"], image.permute(2, 0, 1)) for image in stored)


def test_a_folder_with_one_image_is_enough(config_of, tmp_path) -> None:
    (tmp_path / "good").mkdir()
    shutil.copy(DatasetCatalog.get("few_train")[0]["file_name"], tmp_path / "good/one.png")
    cfg = config_of("Enhancer", "one", "MODEL.ENHANCER.POSITIVES", str(tmp_path / "good"))
    first, second = next(iter(Trainer.build_train_loader(cfg)))
    assert torch.equal(first["positive"], second["positive"])


def test_a_trained_darkener_darkens_what_others_train_on(config_of, tiny_config, tmp_path) -> None:
    path = str(train(config_of("Darkener", "run", "SOLVER.MAX_ITER", "1")))
    seams = ["IMPORTS", "['smmcl.lowlight.register']"]
    dark = [*seams, "INPUT.LOW_LIGHT.NAME", "darkener", "INPUT.LOW_LIGHT.PROBABILITY", "1.0"]
    record = {**DatasetCatalog.get("few_train")[0], "position": 3}
    plain = MultiModalDatasetMapper(tiny_config(tmp_path / "plain"), is_train=True)(record)
    cfg = tiny_config(tmp_path / "darkened", *dark, "INPUT.LOW_LIGHT.CHECKPOINT", path)
    darkened = MultiModalDatasetMapper(cfg, is_train=True)(record)
    assert torch.equal(plain["auxiliary"], darkened["auxiliary"])
    assert torch.equal(plain["sem_seg"], darkened["sem_seg"])
    assert darkened["image"].float().mean() < plain["image"].float().mean()
    with pytest.raises(ValueError, match=r"INPUT\.LOW_LIGHT\.CHECKPOINT is empty"):
        MultiModalDatasetMapper(tiny_config(tmp_path / "none", *dark), is_train=True)
    moon = [*dark[:3], "moon", *dark[4:]]
    with pytest.raises(ValueError, match=r"NAME is 'moon'. Choose camera, gamma, darkener"):
        MultiModalDatasetMapper(tiny_config(tmp_path / "moon", *moon), is_train=True)


def test_views_of_the_adapter_by_checkpoint(config_of, tiny_config, tmp_path) -> None:
    dark, bright = (
        str(train(config_of(kind, kind, "SOLVER.MAX_ITER", "1")))
        for kind in ("Darkener", "Enhancer")
    )
    keys = [
        "IMPORTS", "['smmcl.lowlight.register']", "MODEL.META_ARCHITECTURE", "LightAdapter",
        "MODEL.CONTRAST.NAME", "", "MODEL.LIGHT_ADAPTER.VIEW.NAME", "darkener",
        "DATASETS.UNLABELED", "('few_val',)", "DATASETS.TEST", "()",
        "MODEL.LIGHT_ADAPTER.NIGHT.WEIGHT", "0.1", "MODEL.LIGHT_ADAPTER.NIGHT.ENHANCER", bright,
        "SOLVER.MAX_ITER", "1", "SOLVER.WARMUP_ITERS", "0",
    ]  # fmt: skip
    view = "MODEL.LIGHT_ADAPTER.VIEW."
    final = train(tiny_config(tmp_path / "adapted", *keys, f"{view}CHECKPOINT", dark))
    text = state(final)["config"]
    assert build_config("it", text=text).MODEL.META_ARCHITECTURE == "MultiModalSegmentor"
    assert not re.search("DARKENER|ENHANCER|CHECKPOINT:|lowlight", text)
    model = build_model(tiny_config(tmp_path / "parts", *keys, f"{view}CHECKPOINT", dark))
    assert isinstance(model.second_view, RelightView)
    assert isinstance(model.night_view, RelightView)
    for value, message in (
        ("", r"VIEW\.CHECKPOINT is empty"),
        (bright, "holds Enhancer, which takes no exposure"),
        (str(final), "holds a MultiModalSegmentor, which shows images in no other light"),
    ):
        with pytest.raises(ValueError, match=message):
            build_model(tiny_config(tmp_path / "bad", *keys, f"{view}CHECKPOINT", value))


def test_enhanced_night_images_are_found_by_name(tiny_config, tmp_path, monkeypatch) -> None:
    folder = str(pathlib.Path(DatasetCatalog.get("few_val")[0]["file_name"]).parent)
    cfg = tiny_config(
        tmp_path / "stored", "IMPORTS", "['smmcl.lowlight.register']", "MODEL.META_ARCHITECTURE",
        "LightAdapter", "MODEL.CONTRAST.NAME", "", "DATASETS.UNLABELED", "('few_val',)",
        "DATASETS.TEST", "()", "MODEL.LIGHT_ADAPTER.NIGHT.WEIGHT", "0.1",
        "MODEL.LIGHT_ADAPTER.NIGHT.FOLDER", folder,
    )  # fmt: skip
    for sample in next(iter(Trainer.build_train_loader(cfg))):
        assert torch.equal(sample["unlabeled"]["translated"], sample["unlabeled"]["image"])


@pytest.mark.parametrize("kind", KIND)
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["INPUT.AUXILIARY_FORMAT", "L", "MODEL.AUXILIARY.PIXEL_MEAN", "[0.0]",
          "MODEL.AUXILIARY.PIXEL_STD", "[1.0]"], r"is 'L', but the model of .* reads 'RGB'"),
        (["INPUT.FORMAT", "BGR"], r"INPUT\.FORMAT is 'BGR', but the model of"),
    ],
)  # fmt: skip
def test_images_that_the_frozen_model_does_not_read(kind, overrides, message, config_of) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(config_of(kind, "other", *overrides))


@pytest.mark.parametrize("kind", KIND)
def test_frozen_models_that_do_not_fit(kind, config_of, day_model, tmp_path) -> None:
    bare = tmp_path / "elsewhere/bare.pth"
    bare.parent.mkdir()
    torch.save({"model": state(day_model)["model"]}, bare)
    with pytest.raises(ValueError, match=f"{KIND[kind]}: .* normalizes images is unknown"):
        build_model(config_of(kind, "bare", KIND[kind], str(bare)))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth does not exist"):
        build_model(config_of(kind, "none", KIND[kind], str(tmp_path / "nowhere.pth")))
    other = train(config_of(kind, "itself", "SOLVER.MAX_ITER", "1"))
    with pytest.raises(ValueError, match=f"{kind} has no preprocess, normalize, features"):
        build_model(config_of(kind, "twice", KIND[kind], str(other)))


def test_features_that_the_frozen_model_lacks(config_of) -> None:
    with pytest.raises(ValueError, match=r"MODEL\.DARKENER\.IN_FEATURES names res9, but the model"):
        build_model(config_of("Darkener", "none", "MODEL.DARKENER.IN_FEATURES", "['res9']"))


def test_style_needs_a_visible_stream_or_a_file(config_of, day_model, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"is no file of VGG-16: it has no features\.0\.weight"):
        build_model(config_of("Enhancer", "vgg", "MODEL.ENHANCER.VGG", str(day_model)))
    network, path = VGG16(), tmp_path / "vgg.pth"
    torch.save({f"features.{name}": value for name, value in network.state_dict().items()}, path)
    model = build_model(config_of("Enhancer", "file", "MODEL.ENHANCER.VGG", str(path)))
    assert isinstance(model.perceptual.frozen.module, VGG16)
    assert torch.equal(model.perceptual.frozen.module[0].weight, network[0].weight)
    assert isinstance(build_model(config_of("Enhancer", "own")).perceptual.frozen.module, nn.Module)


@pytest.mark.parametrize("kind", KIND)
def test_what_predicts_no_classes(kind, config_of, call_tool, tmp_path, capsys) -> None:
    with pytest.raises(ValueError, match=f"a {kind} predicts no classes, .* score on few_val"):
        build_model(config_of(kind, "tested", "DATASETS.TEST", "('few_val',)"))
    final = train(config_of(kind, "run", "SOLVER.MAX_ITER", "1"))
    image = DatasetCatalog.get("few_train")[0]["file_name"]
    with pytest.raises(SystemExit):
        call_tool("demo", "--checkpoint", final, "--input", image, "--output", tmp_path / "out")
    assert f"a {kind} predicts no classes" in capsys.readouterr().err
    right, wrong, said = ("darken", "enhance", "holds Darkener, which needs exposure")
    if kind == "Enhancer":
        right, wrong, said = ("enhance", "darken", "holds Enhancer, which takes no exposure")
    call_tool(right, image, tmp_path / "out", "--checkpoint", final)
    assert "1 " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        call_tool(wrong, image, tmp_path / "out", "--checkpoint", final)
    assert said in capsys.readouterr().err
