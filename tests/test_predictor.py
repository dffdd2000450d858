"""The model as a library: every form of an image gives the same result, wrong ones a sentence."""

import concurrent.futures
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image

from smmcl.checkpoint import RunCheckpointer
from smmcl.config import build_config
from smmcl.engine import Trainer
from smmcl.predictor import Prediction, Predictor

ROOT = pathlib.Path(__file__).resolve().parents[1]
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
    equal = predictor([visible, visible[::-1].copy()], (auxiliary, auxiliary))
    for one, other in zip(alone[:2], equal, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)


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
        ("grey", "grey", "3 channels"),
        ("float", "grey", "type float32"),
        ("rgb", 7, "auxiliary image is a int"),
        (["rgb", "rgb"], ["grey"], "2 visible but 1 auxiliary"),
    ],
)
def test_wrong_images_end_in_a_sentence(predictor, images, visible, auxiliary, words) -> None:
    forms = {
        "rgb": images[0],
        "grey": images[1],
        "short": images[1][:50],
        "float": images[0] / np.float32(255),
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
    with pytest.raises(ValueError, match="unfilled"):
        Predictor.from_checkpoint(checkpoint, overrides=["MODEL.PAIR.AUXILIARY.NAME", "mscan_s"])
    with pytest.raises(ValueError, match="9 classes"):
        Predictor.from_checkpoint(checkpoint, overrides=["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5])
    with pytest.raises(FileNotFoundError, match="there is no config"):
        Predictor.from_checkpoint(tmp_path / "model_final.pth")
    with pytest.raises(ValueError, match="are empty"):
        Predictor.from_checkpoint(checkpoint, overrides=["DATASETS.TEST", (), "DATASETS.TRAIN", ()])
