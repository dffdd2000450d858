"""Sets of pairs among Detectron2's: registered in code, with defaults, scored by its evaluator."""

import pathlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from smmcl.config import build_config
from smmcl.d2 import ENGINE, DatasetCatalog, MetadataCatalog
from smmcl.data.datasets import build
from smmcl.data.datasets.build import builtin_splits, ensure_registered, register_split
from smmcl.data.datasets.description import read_description
from smmcl.data.datasets.facts import LabelLoader
from smmcl.data.mapper import MultiModalDatasetMapper
from smmcl.evaluation.sem_seg import PairSemSegEvaluator

CLASSES = ["floor", "wall", "lamp"]
STORED = np.uint8([[0, 1, 2], [2, 255, 1]])


@pytest.fixture
def own_set(tmp_path):
    """Registers one pair of 8-bit files as a script of Detectron2's does; returns a function."""
    paths = {key: str(tmp_path / f"{key}.png") for key in ("visible", "heat", "ids")}
    Image.fromarray(np.full((2, 3, 3), 9, np.uint8)).save(paths["visible"])
    Image.fromarray(np.full((2, 3), 7, np.uint8)).save(paths["heat"])
    Image.fromarray(STORED).save(paths["ids"])
    record = {"file_name": paths["visible"], "auxiliary_file_name": paths["heat"]}
    record |= {"sem_seg_file_name": paths["ids"], "image_id": "only"}

    def register(**facts):
        DatasetCatalog.register("own", lambda: [record])
        MetadataCatalog.get("own").set(**facts)
        return record

    yield register
    DatasetCatalog.remove("own")
    MetadataCatalog.remove("own")


def one_hot(label: np.ndarray, count: int) -> Tensor:
    """Scores (K, H, W) of a perfect prediction."""
    ids = torch.from_numpy(np.where(label < count, label, 0)).long()
    return torch.nn.functional.one_hot(ids, count).permute(2, 0, 1).float()


def test_classes_alone_are_enough_for_8_bit_files(own_set) -> None:
    record = own_set(stuff_classes=CLASSES)
    cfg = build_config(overrides=["DATASETS.TRAIN", ("own",), "INPUT.CROP_SIZE", [2, 3]])
    sample = MultiModalDatasetMapper(cfg, True)({**record, "position": 0})
    assert sample["auxiliary"].unique().tolist() == [7]
    assert sample["sem_seg"].unique().tolist() == [0, 1, 2, 255]
    evaluator = PairSemSegEvaluator("own")
    evaluator.process([record], [{"sem_seg": one_hot(STORED, 3)}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100


def test_facts_that_are_given_stay(own_set) -> None:
    own_set(stuff_classes=CLASSES, ignore_label=254, auxiliary={"kind": "depth", "high": 200})
    ensure_registered(["own"])
    metadata = MetadataCatalog.get("own")
    assert (metadata.ignore_label, metadata.stored_ignore, metadata.label_offset) == (254, 254, 0)
    assert metadata.auxiliary == {"kind": "depth", "high": 200}


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"ignore_label": 0}, r"'own' stores 0 .* class 'floor'\. Set label_offset"),
        ({"auxiliary": {"sort": "depth"}}, r"auxiliary=\{'sort': 'depth'\}.*Write it as"),
        ({"auxiliary": {"kind": "depth", "high": -1}}, r"auxiliary\.low is 0.*Write it as"),
    ],
)
def test_facts_that_do_not_fit_are_refused_at_first_use(own_set, facts, sentence) -> None:
    own_set(stuff_classes=CLASSES, **facts)
    with pytest.raises(ValueError, match=sentence):
        ensure_registered(["own"])


def test_a_set_without_classes_is_no_set_for_segmentation(own_set) -> None:
    own_set(thing_classes=["cup"])
    with pytest.raises(ValueError, match=r"'own' .*set\(stuff_classes="):
        MultiModalDatasetMapper(build_config(overrides=["DATASETS.TRAIN", ("own",)]), True)


def test_a_record_of_detection_gets_a_sentence(own_set) -> None:
    record = own_set(stuff_classes=CLASSES)
    del record["sem_seg_file_name"]
    record["annotations"] = []
    mapper = MultiModalDatasetMapper(build_config(overrides=["DATASETS.TRAIN", ("own",)]), True)
    with pytest.raises(ValueError, match=r"'only' has no sem_seg_file_name\. Its 'annotations'"):
        mapper(record)
    with pytest.raises(ValueError, match="has no sem_seg_file_name"):
        PairSemSegEvaluator("own").process([record], [{}])
    with pytest.raises(ValueError, match=r"has no auxiliary_file_name\. Give"):
        MultiModalDatasetMapper(build_config(overrides=["DATASETS.TEST", ("own",)]), False)(
            {"file_name": "a.png"}
        )


@pytest.fixture(
    params=sorted({p for p, _ in builtin_splits().values() if p.stem != "codan"}),
    ids=lambda p: p.stem,
)
def built_in(request, tmp_path):
    """One pair on disk for each built-in set, with every class and a void pixel in its label."""
    description = read_description(request.param)
    split, layout = next(iter(description.splits)), description.layouts[0]
    root = tmp_path / description.root[0]
    first, count = description.label_offset, len(description.classes)
    stored = np.arange(first, first + count, dtype=np.uint8)[None].repeat(2, axis=0)
    stored = np.pad(stored, ((0, 0), (0, 1)), constant_values=first)
    if description.stored_ignore is not None:
        stored[:, -1] = description.stored_ignore
    fill = {"id": "1D", "split": split}
    shared = layout["visible"] == layout["auxiliary"]
    shape = (*stored.shape, 3) if description.auxiliary[0].channels == 3 else stored.shape
    images = {"visible": np.ones((*stored.shape, 4 if shared else 3), np.uint8), "label": stored}
    images |= {} if shared else {"auxiliary": np.ones(shape, np.uint8)}
    for part, image in images.items():
        path = root / layout[part].format(**fill)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    for name in description.splits[split].lists:
        (root / name.format(**fill)).write_text("1D\n")
    name = f"test of {request.param.stem}"
    register_split(name, description, split, base=tmp_path)
    yield name, description
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_a_set_is_looked_at_when_it_is_first_used(built_in) -> None:
    name, description = built_in
    metadata = MetadataCatalog.get(name)
    assert metadata.stuff_classes == list(description.classes)
    assert not hasattr(metadata, "auxiliary")
    assert len(DatasetCatalog.get(name)) == 1
    assert metadata.auxiliary["kind"] == description.auxiliary[0].kind


def test_only_sets_of_plain_ids_claim_the_stock_evaluator(built_in) -> None:
    name, description = built_in
    is_shifted = bool(description.label_offset) or description.stored_ignore is not None
    expected = "sem_seg_of_pairs" if is_shifted else "sem_seg"
    assert MetadataCatalog.get(name).evaluator_type == expected


def test_the_stock_evaluator_gives_a_perfect_prediction_100(built_in) -> None:
    if ENGINE != "detectron2":
        pytest.skip("Detectron2 is not here")
    from detectron2.evaluation import SemSegEvaluator

    name, description = built_in
    metadata, (record,) = MetadataCatalog.get(name), DatasetCatalog.get(name)
    reads = metadata.sem_seg_loading_fn
    truth = one_hot(reads(record["sem_seg_file_name"]), len(description.classes))
    by_us = SemSegEvaluator(name, distributed=False, sem_seg_loading_fn=reads)
    evaluators = [by_us]
    if metadata.evaluator_type == "sem_seg":  # then it needs no help
        evaluators += [SemSegEvaluator(name, distributed=False)]
    for evaluator in evaluators:
        evaluator.reset()
        evaluator.process([record], [{"sem_seg": truth}])
        results = evaluator.evaluate()["sem_seg"]
        assert results["mIoU"] == results["pACC"] == 100


def test_label_loaders_of_equal_facts_are_equal(tmp_path: pathlib.Path) -> None:
    """Or metadata, which takes no other value for a fact, could not be set a second time."""
    loader = LabelLoader(label_offset=1, stored_ignore=0, num_classes=2, ignore=255)
    assert loader == LabelLoader(label_offset=1, stored_ignore=0, num_classes=2, ignore=255)
    Image.fromarray(np.uint8([[0, 1, 2]])).save(tmp_path / "label.png")
    label = loader(str(tmp_path / "label.png"), dtype=int)
    assert label.tolist() == [[255, 0, 1]]
    assert label.dtype == int


def test_every_built_in_set_can_be_registered_without_its_files(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    catalog = type(DatasetCatalog)()
    monkeypatch.setattr(build, "DatasetCatalog", catalog)
    build.register_builtin()
    build.register_builtin()  # a second time is no error
    assert set(catalog.list()) == set(builtin_splits())
    with pytest.raises(FileNotFoundError, match=r"mfnet .*is no folder"):
        catalog.get("mfnet_train")
