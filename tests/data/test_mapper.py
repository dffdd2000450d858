"""The mapper: what reaches the model, from which draws, and what a run refuses."""

import numpy as np
import pytest
import torch
from PIL import Image

from smmcl.config import build_config
from smmcl.d2 import DatasetCatalog, MetadataCatalog
from smmcl.data.appearance.photometric import ModalityCorruption
from smmcl.data.format import AuxiliaryFormat
from smmcl.data.mapper import MultiModalDatasetMapper
from smmcl.data.reader import PairReader

THERMAL = AuxiliaryFormat(kind="thermal")
LABELS = {"label_offset": 1, "stored_ignore": 0, "num_classes": 3, "ignore": 255}


def make_mapper(is_train=True, *, format=THERMAL, order="RGB", channels=1, **changes):
    reader = PairReader(format, channel_order=order, channels=channels, **LABELS)
    options = {
        "reader": reader,
        "crop_size": (32, 32),
        "scales": (0.5, 1.0, 1.75),
        "flip_probability": 0.5,
        "seed": 7,
    }
    return MultiModalDatasetMapper(is_train, **{**options, **changes})


@pytest.fixture
def record(registered_pairs):
    return DatasetCatalog.get(registered_pairs())[3]


def test_training_sample(record):
    sample = make_mapper()({**record, "position": 11})
    assert sample["image"].shape == (3, 32, 32)
    assert sample["image"].dtype == torch.uint8
    assert sample["auxiliary"].shape == (1, 32, 32)
    assert sample["sem_seg"].shape == (32, 32)
    assert sample["sem_seg"].dtype == torch.int64
    assert (sample["height"], sample["width"], sample["position"]) == (40, 48, 11)
    assert sample["image_id"] == record["image_id"]


def test_padding_is_what_the_valid_box_leaves_out(record):
    mapper = make_mapper(crop_size=(64, 64))
    for position in range(5):
        sample = mapper({**record, "position": position})
        top, left, bottom, right = sample["valid_box"]
        outside = torch.ones(64, 64, dtype=torch.bool)
        outside[top:bottom, left:right] = False
        assert (sample["sem_seg"][outside] == 255).all()
        assert (sample["image"][:, outside] == 0).all()
        # Both images hold the index 3 in every real pixel.
        assert (sample["image"][0, ~outside] == 3).all()
        assert (sample["auxiliary"][0, ~outside] == 3).all()
        assert (sample["auxiliary"][0, outside] == 0).all()


def test_draws_depend_on_seed_and_position_alone(record):
    first, second = make_mapper(), make_mapper()
    second({**record, "position": 4})  # an earlier call must not matter
    a, b = (mapper({**record, "position": 5}) for mapper in (first, second))
    assert torch.equal(a["image"], b["image"])
    assert torch.equal(a["sem_seg"], b["sem_seg"])
    assert a["view_seed"] == b["view_seed"]
    others = [make_mapper(seed=8)({**record, "position": 5})]
    others += [first({**record, "position": position}) for position in range(6, 12)]
    assert sum(torch.equal(a["sem_seg"], other["sem_seg"]) for other in others) == 0


def test_test_sample_is_the_file_as_it_is(record):
    sample = make_mapper(is_train=False, order="BGR", channels=3)(record)
    assert sample["valid_box"] == (0, 0, 40, 48)
    assert sample["image"][:, 0, 5].tolist() == [0, 5, 3]
    assert sample["auxiliary"].shape == (3, 40, 48)
    assert "sem_seg" not in sample
    assert sample["sem_seg_file_name"] == record["sem_seg_file_name"]


def test_unaugmented_training_label_equals_the_file(record):
    mapper = make_mapper(crop_size=(40, 48), scales=(1.0,), flip_probability=0.0)
    sample = mapper({**record, "position": 0})
    label = mapper.reader.label(record)
    assert np.array_equal(sample["sem_seg"].numpy(), label)


def test_repeated_channel_equals_three_that_are_moved(record):
    single, triple = make_mapper(), make_mapper(channels=3)
    for position in range(6):
        one = single({**record, "position": position})["auxiliary"]
        three = triple({**record, "position": position})["auxiliary"]
        assert three.is_contiguous()
        assert torch.equal(three, one.expand(3, -1, -1))


@pytest.mark.parametrize("invalid", [0, None])
def test_gaps_matter_where_the_format_has_them(record, invalid):
    columns = np.zeros((40, 48), np.uint8)
    columns[:, ::4] = 200
    Image.fromarray(columns).save(record["auxiliary_file_name"])
    format = AuxiliaryFormat(kind="depth", invalid=invalid)
    mapper = make_mapper(format=format, scales=(1.75,))
    values = set(mapper({**record, "position": 0})["auxiliary"].unique().tolist())
    assert (values <= {0, *range(199, 202)}) == (invalid == 0)


def test_three_channels_do_not_fit_one():
    format = AuxiliaryFormat(kind="hha", channels=3)
    with pytest.raises(ValueError, match=r"3 channels but the model takes 1.*AUXILIARY_FORMAT"):
        make_mapper(format=format)


def test_record_is_left_as_it_was(record):
    before = dict(record)
    make_mapper()({**record, "position": 0})
    make_mapper(is_train=False)(record)
    assert record == before


def test_label_of_another_size(registered_pairs, record):
    small = DatasetCatalog.get(registered_pairs(size=(20, 24)))[0]
    record = {**record, "sem_seg_file_name": small["sem_seg_file_name"], "position": 0}
    with pytest.raises(ValueError, match=r"40x48 but .* is 20x24"):
        make_mapper()(record)


def test_from_config_takes_the_facts_from_the_metadata(registered_pairs):
    facts = {"kind": "depth", "unit": "mm", "high": 8000}
    name = registered_pairs(auxiliary=facts)
    overrides = ["DATASETS.TRAIN", (name,), "INPUT.AUXILIARY_FORMAT", "L", "INPUT.FLIP", 0.0]
    mapper = MultiModalDatasetMapper(build_config(overrides=overrides), True)
    format = AuxiliaryFormat(**facts)
    assert mapper.reader == PairReader(format, channel_order="BGR", channels=1, **LABELS)
    assert mapper.flip_probability == 0.0


@pytest.mark.parametrize(
    "fact", [{"label_offset": 4}, {"stuff_classes": ["a", "b"]}, {"auxiliary": {"kind": "depth"}}]
)
def test_training_sets_that_disagree(registered_pairs, fact):
    names = (registered_pairs(), registered_pairs(**fact))
    cfg = build_config(overrides=["DATASETS.TRAIN", names])
    with pytest.raises(ValueError, match=f"differ in {next(iter(fact))}"):
        MultiModalDatasetMapper(cfg, True)


def test_training_set_that_holds_no_pairs():
    MetadataCatalog.get("boxes_train").set(thing_classes=["cup"])
    DatasetCatalog.register("boxes_train", list)
    with pytest.raises(ValueError, match=r"'boxes_train' is registered without classes"):
        MultiModalDatasetMapper(build_config(overrides=["DATASETS.TRAIN", ("boxes_train",)]), True)
    DatasetCatalog.remove("boxes_train")


def test_unknown_dataset_lists_the_known_ones():
    cfg = build_config(overrides=["DATASETS.TRAIN", ("nothing_train",)])
    with pytest.raises(ValueError, match=r"'nothing_train' is not known .*synthetic_"):
        MultiModalDatasetMapper(cfg, True)


def test_appearance_changes_neither_geometry_nor_views(record):
    plain = make_mapper()({**record, "position": 2})
    lost = make_mapper(appearance=[ModalityCorruption(1.0, ("missing",))])
    sample = lost({**record, "position": 2})
    assert torch.equal(sample["sem_seg"], plain["sem_seg"])
    assert sample["valid_box"] == plain["valid_box"]
    assert sample["view_seed"] == plain["view_seed"]
    changed = [not torch.equal(sample[key], plain[key]) for key in ("image", "auxiliary")]
    assert sum(changed) == 1


@pytest.fixture
def config(registered_pairs):
    def build(*overrides):
        names = (registered_pairs(),)
        sets = ["DATASETS.TRAIN", names, "DATASETS.TEST", names, "INPUT.CROP_SIZE", [32, 32]]
        return build_config(overrides=[*sets, *overrides])

    return build


def test_appearance_is_for_training_unless_the_config_says_otherwise(config, record):
    change = ("INPUT.CORRUPTION.PROBABILITY", 1.0, "INPUT.CORRUPTION.NAMES", ["noise"],
              "INPUT.CORRUPTION.IMAGE", "auxiliary")  # fmt: skip
    plain, training, always, again = (
        MultiModalDatasetMapper(config(*keys), is_train=False)(record)
        for keys in ((), change, *[(*change, "INPUT.CHANGED_AT_TEST", True)] * 2)
    )
    for key in ("image", "auxiliary"):
        assert torch.equal(training[key], plain[key])
        assert torch.equal(always[key], again[key])
    assert torch.equal(always["image"], plain["image"])
    assert not torch.equal(always["auxiliary"], plain["auxiliary"])


@pytest.mark.parametrize("is_train", [True, False])
def test_ablations_replace_the_auxiliary_image(config, record, is_train):
    names = ("", "visible", "noise", "swap")
    plain, copied, noise, swapped = (
        MultiModalDatasetMapper(config("INPUT.AUXILIARY_ABLATION", name), is_train=is_train)(
            {**record, "position": 3}
        )
        for name in names
    )
    for sample in (copied, noise, swapped):
        assert torch.equal(sample["image"], plain["image"])
        assert sample["auxiliary"].shape == plain["auxiliary"].shape
    assert torch.equal(copied["auxiliary"], plain["image"])
    assert torch.equal(swapped["auxiliary"], plain["auxiliary"])  # the loader exchanges the files
    values = noise["auxiliary"].float()
    assert values.min() < 10
    assert values.max() > 245
    assert abs(values.mean() - 127.5) < 6  # of 3072 draws or more the mean spreads by 1.3


def test_noise_differs_from_sample_to_sample(config, record):
    mapper = MultiModalDatasetMapper(config("INPUT.AUXILIARY_ABLATION", "noise"), is_train=False)
    one, same, other = (mapper({**record, "image_id": name})["auxiliary"] for name in "aab")
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_ablations_that_cannot_be_made(config):
    cfg = config("INPUT.AUXILIARY_ABLATION", "visible", "INPUT.AUXILIARY_FORMAT", "L")
    with pytest.raises(ValueError, match=r"3 channels, but INPUT\.AUXILIARY_FORMAT"):
        MultiModalDatasetMapper(cfg, is_train=True)


def test_further_images_are_cut_like_the_visible_one(record):
    further = {"translated": record["file_name"]}
    for position in range(5):
        sample = make_mapper()({**record, "position": position, "further_file_names": further})
        assert torch.equal(sample["translated"], sample["image"])


def test_further_images_have_the_size_of_the_visible_one(record, tmp_path):
    path = tmp_path / "other.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"40x48 but .*other\.png is 8x8"):
        make_mapper()({**record, "position": 0, "further_file_names": {"translated": str(path)}})
