"""The model as a library: every form of an image gives the same result, wrong ones a sentence."""

import argparse
import concurrent.futures
import copy
import dataclasses
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image

from smmcl.config import build_config
from smmcl.data.datasets.build import build_model_inputs
from smmcl.engine.checkpoint import RunCheckpointer, build_checkpointer
from smmcl.engine.setup import changed
from smmcl.engine.trainer import Trainer
from smmcl.inference.predictor import Prediction, Predictor

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZE = (64, 96)


def write_run(folder: pathlib.Path, *overrides: object) -> pathlib.Path:
    """A run of an untrained tiny model: its config and a checkpoint."""
    folder.mkdir()
    cfg = build_config(
        str(ROOT / "configs/synthetic_night.yaml"), ["OUTPUT_DIR", str(folder), *overrides]
    )
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    (folder / "config.yaml").write_text(cfg.dump())
    RunCheckpointer(model, str(folder)).save("model_final")
    return folder / "model_final.pth"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_run(tmp_path_factory.mktemp("runs") / "pair")


@pytest.fixture(scope="module")
def predictor(checkpoint: pathlib.Path) -> Predictor:
    return Predictor.from_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    visible = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    return visible, rng.integers(0, 256, SIZE).astype(np.uint8)


def same(a: Prediction, b: Prediction) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(a, b, strict=True))


def test_labels_are_the_most_probable_classes(predictor: Predictor, images) -> None:
    labels, probabilities = predictor(*images)
    assert labels.shape == SIZE
    assert labels.dtype == np.uint8
    assert probabilities.shape == (9, *SIZE)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    assert (probabilities.argmax(axis=0) == labels).all()


def test_every_form_of_a_pair_gives_the_same(predictor: Predictor, images, tmp_path) -> None:
    visible, auxiliary = images
    wanted = predictor(visible, auxiliary)
    Image.fromarray(visible).save(tmp_path / "v.png")
    Image.fromarray(auxiliary).save(tmp_path / "a.png")
    assert same(wanted, predictor(tmp_path / "v.png", str(tmp_path / "a.png")))
    assert same(wanted, predictor(Image.fromarray(visible), Image.fromarray(auxiliary)))
    channels_first = torch.from_numpy(visible).permute(2, 0, 1)
    assert same(wanted, predictor(channels_first, torch.from_numpy(auxiliary)[None]))
    assert same(wanted, predictor(visible, auxiliary[:, :, None]))
    four = np.dstack([visible, auxiliary])
    assert same(wanted, predictor(four))
    Image.fromarray(four, "RGBA").save(tmp_path / "four.png")
    assert same(wanted, predictor(tmp_path / "four.png"))


def test_prepared_pairs_are_the_mappers(predictor: Predictor, images, tmp_path) -> None:
    visible, auxiliary = images
    Image.fromarray(visible).save(tmp_path / "v.png")
    Image.fromarray(auxiliary).save(tmp_path / "a.png")
    record = {"file_name": str(tmp_path / "v.png"), "auxiliary_file_name": str(tmp_path / "a.png")}
    mapped = predictor.mapper(record)
    prepared = predictor.prepare(visible, auxiliary)
    for key in ("image", "auxiliary"):
        assert torch.equal(mapped[key], prepared[key])
        assert mapped[key].dtype == prepared[key].dtype


def test_a_batch_gives_what_its_pairs_give_alone(predictor: Predictor, images) -> None:
    visible, auxiliary = images
    pairs = [
        (visible, auxiliary),
        (visible[::-1].copy(), auxiliary),
        (visible[:50], auxiliary[:50]),
    ]
    alone = [predictor(*pair) for pair in pairs]
    mixed = predictor([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    assert all(same(a, b) for a, b in zip(alone, mixed, strict=True))
    exact = copy.copy(predictor)  # a batch may sum in another order, which float32 shows
    exact.model = copy.deepcopy(predictor.model).double()
    alone = [exact(*pair) for pair in pairs[:2]]
    equal = exact([visible, visible[::-1].copy()], (auxiliary, auxiliary))
    for one, other in zip(alone, equal, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-6)


def test_threads_may_share_a_predictor(predictor: Predictor, images) -> None:
    visible, auxiliary = images
    shifted = [np.roll(visible, shift, axis=1) for shift in range(4)]
    wanted = [predictor(image, auxiliary) for image in shifted]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda image: predictor(image, auxiliary), shifted))
    assert all(same(a, b) for a, b in zip(wanted, got, strict=True))
    assert not same(wanted[0], wanted[1])


def test_visualize_is_a_picture_for_notebooks(predictor: Predictor, images) -> None:
    picture = predictor.visualize(*images, heading="noise")
    assert isinstance(picture, Image.Image)
    assert picture.width > 4 * 320


@pytest.mark.parametrize(
    ("visible", "auxiliary", "words"),
    [
        ("rgb", None, "no auxiliary image comes with"),
        ("rgb", "short", "64x96 but"),
        ("rgb", "rgb", "3 channel"),
        ("gray", "gray", "3 channels"),
        ("float", "gray", "type float32"),
        ("long", "gray", "type int64"),
        ("rgb", 7, "auxiliary image is a int"),
        (["rgb", "rgb"], ["gray"], "2 visible but 1 auxiliary"),
    ],
)
def test_wrong_images_end_in_a_sentence(predictor, images, visible, auxiliary, words) -> None:
    forms = {
        "rgb": images[0],
        "gray": images[1],
        "short": images[1][:50],
        "float": images[0] / np.float32(255),
        "long": images[1].astype(np.int64),
    }

    def form(name):
        return [form(part) for part in name] if isinstance(name, list) else forms.get(name, name)

    with pytest.raises(ValueError, match=words):
        predictor(form(visible), form(auxiliary))


def test_a_model_without_auxiliary_stream_needs_no_such_image(tmp_path, images) -> None:
    checkpoint = write_run(
        tmp_path / "visible",
        *("MODEL.PAIR.AUXILIARY.NAME", "", "MODEL.CONTRAST.NAME", ""),
    )
    predictor = Predictor.from_checkpoint(checkpoint)
    assert same(predictor(images[0]), predictor(*images))


def test_a_checkpoint_of_another_model_is_refused(checkpoint, tmp_path) -> None:
    other = ["MODEL.PAIR.AUXILIARY.NAME", "mscan_s"]
    with pytest.raises(ValueError, match="unfilled"):
        Predictor.from_checkpoint(checkpoint, overrides=other)
    with pytest.raises(ValueError, match="9 classes"):
        Predictor.from_checkpoint(checkpoint, overrides=["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5])
    with pytest.raises(FileNotFoundError, match="does not exist or holds no config"):
        Predictor.from_checkpoint(tmp_path / "none" / "model_final.pth")
    with pytest.raises(ValueError, match="no dataset is named"):
        Predictor.from_checkpoint(checkpoint, overrides=["DATASETS.TEST", (), "DATASETS.TRAIN", ()])


def test_a_checkpoint_stands_alone(tmp_path, images) -> None:
    """Without config.yaml, and where the dataset that it was trained on is not."""
    folder = write_run(tmp_path / "run").parent
    cfg = build_config(str(folder / "config.yaml"))
    model = Trainer.build_model(cfg)
    inputs = build_model_inputs(cfg)
    facts = inputs.facts[0] = inputs.facts[0] | {"name": "mine_train"}
    absent = ["DATASETS.TRAIN", ("mine_train",), "DATASETS.TEST", ("mine_val",)]
    build_checkpointer(changed(cfg, *absent), model, inputs=inputs).save("alone")
    (folder / "config.yaml").unlink()
    predictor = Predictor.from_checkpoint(folder / "alone.pth")
    assert predictor.metadata.name.startswith("mine_train (as its checkpoint says")
    assert predictor.metadata.stuff_classes == facts["stuff_classes"]
    assert predictor(*images).labels.shape == SIZE
    again = Predictor.from_checkpoint(folder / "alone.pth")  # the same facts, registered once
    assert again.metadata.name == predictor.metadata.name

    # Another model is refused by the keys that differ, ready to be given.
    words = r"differ here: .*MODEL\.PAIR\.AUXILIARY\.NAME 'mscan_t'. Give them likewise"
    visible_only = ["MODEL.PAIR.AUXILIARY.NAME", ""]
    with pytest.raises(ValueError, match=words):  # its parameters are all filled
        Predictor.from_checkpoint(
            folder / "alone.pth", overrides=[*visible_only, "MODEL.CONTRAST.NAME", ""]
        )
    with pytest.raises(ValueError, match=r"as its checkpoint says, \w+\) has 9 classes"):
        Predictor.from_checkpoint(
            folder / "alone.pth", overrides=["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5]
        )


def test_a_checkpoint_knows_how_its_cameras_are_aligned(tmp_path, images) -> None:
    cfg = build_config(str(write_run(tmp_path / "run").with_name("config.yaml")))
    model, inputs = Trainer.build_model(cfg), build_model_inputs(cfg)
    align = {"rule": "matrix", "matrix": [[2, 0, 4], [0, 2, 0]], "interpolation": "nearest"}
    for name, changes in {
        "own": {"align": align},
        "old": {},
        "bad": {"align": {"rule": "?"}},
    }.items():
        facts = inputs.facts[0] | {"name": "mine_train"} | changes
        if name == "old":
            del facts["align"]  # as checkpoints had it before
        inputs.facts[0] = facts
        absent = ["DATASETS.TRAIN", ("mine_train",), "DATASETS.TEST", ("mine_val",)]
        build_checkpointer(changed(cfg, *absent), model, inputs=inputs).save(name)
    visible, auxiliary = images[0], images[1][::2, ::2]
    own, old = (Predictor.from_checkpoint(tmp_path / f"run/{name}.pth") for name in ("own", "old"))
    seen = own.prepare(visible, auxiliary)["auxiliary"][0].numpy()
    assert np.array_equal(seen[::2, 4::2], auxiliary[:, :-2])
    assert not seen[:, :3].any()
    assert old.prepare(visible, auxiliary)["auxiliary"].shape == (3, *SIZE)
    with pytest.raises(ValueError, match=r"bad\.pth has inputs.* align is '\?'"):
        Predictor.from_checkpoint(tmp_path / "run/bad.pth")


def test_missing_auxiliary_images_are_blank_for_who_trained_so(checkpoint, images) -> None:
    overrides = ["INPUT.CORRUPTION.PROBABILITY", 0.2]
    predictor = Predictor.from_checkpoint(checkpoint, overrides=overrides)
    assert same(predictor(images[0]), predictor(images[0], np.zeros(SIZE, np.uint8)))


def test_resized_pairs_return_to_their_own_size(predictor: Predictor, images) -> None:
    visible, auxiliary = images
    inputs = predictor.prepare(visible, auxiliary[::2, ::2], short_side=128)
    assert inputs["image"].shape == (3, 128, 192)
    assert inputs["auxiliary"].shape == (3, 128, 192)
    assert predictor.predict([inputs])[0].labels.shape == SIZE
    same_size = predictor.prepare(visible, auxiliary, short_side=SIZE[0])
    assert torch.equal(same_size["image"], predictor.prepare(visible, auxiliary)["image"])


def test_a_checkpoint_of_a_stranger_ends_in_a_sentence(tmp_path: pathlib.Path, checkpoint) -> None:
    """Its config makes no object, a damaged part is seen, and what is no checkpoint is named."""
    path = tmp_path / "model.pth"
    hostile = f"SEED: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]"
    torch.save({"model": {}, "config": hostile}, path)
    with pytest.raises(ValueError, match=r"the config in .*model\.pth cannot be read as YAML"):
        Predictor.from_checkpoint(path)
    assert not (tmp_path / "made").exists()
    path.write_text("some text")
    with pytest.raises(ValueError, match=r"model\.pth was not read: it begins with b'some'"):
        Predictor.from_checkpoint(path)
    with pytest.raises(ValueError, match="are a folder"):
        Predictor.from_checkpoint(tmp_path)
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1  # in the weights
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pth is damaged: its part"):
        Predictor.from_checkpoint(path, config_file=checkpoint.with_name("config.yaml"))


def test_a_prediction_is_saved_in_the_ids_of_its_dataset(predictor, images, tmp_path) -> None:
    facts = predictor.metadata
    prediction = predictor(*images)
    assert np.array_equal(prediction.ids, prediction.labels + facts.label_offset)
    for labels in (prediction.labels, np.zeros_like(prediction.labels)):
        dataclasses.replace(prediction, labels=labels).save(tmp_path / "new" / "labels.png")
        written = Image.open(tmp_path / "new" / "labels.png")
        assert np.array_equal(np.asarray(written), labels + facts.label_offset)
        colors = np.asarray(facts.stuff_colors, np.uint8)[labels]
        assert np.array_equal(np.asarray(written.convert("RGB")), colors)
    prediction.save(tmp_path / "p.npz")
    np.testing.assert_allclose(
        np.load(tmp_path / "p.npz")["probabilities"], prediction.probabilities, atol=1e-3
    )
    for stored_ignore, offset, void in ((7, 8, 7), (None, 0, 255), (None, 250, 0)):
        facts = argparse.Namespace(
            stored_ignore=stored_ignore, label_offset=offset, stuff_classes="abcdefghi"
        )
        unsure = dataclasses.replace(prediction, metadata=facts).above(1.1)
        assert (unsure.ids == void).all()
    facts = argparse.Namespace(label_offset=300, stuff_colors=[])
    wide = dataclasses.replace(prediction, metadata=facts)
    wide.save(tmp_path / "wide.png")  # too large for a palette
    assert np.array_equal(
        np.asarray(Image.open(tmp_path / "wide.png")), wide.labels.astype(int) + 300
    )
