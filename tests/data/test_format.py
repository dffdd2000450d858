"""The input format: units that follow from each other, and checkpoints that ask for theirs."""

import dataclasses
import json

import numpy as np
import pytest

from smmcl.config import build_config
from smmcl.data.datasets.build import build_model_inputs
from smmcl.data.format import (
    AuxiliaryFormat,
    ModelInputs,
    length_of_step,
)

STEPS = AuxiliaryFormat(kind="depth", invalid=0)
MILLIMETERS = AuxiliaryFormat(kind="depth", unit="mm", low=0, high=10000, invalid=0)
METERS = AuxiliaryFormat(kind="depth", unit="m", low=0, high=10)
HHA = AuxiliaryFormat(kind="hha", channels=3)
MADE_HHA = AuxiliaryFormat("hha", unit="mm", high=10000, camera=[500, 500, 320, 240])


def facts_of(auxiliary, **changes):
    facts = {"name": "set", "format": "RGB", "stuff_classes": ["floor", "wall"]}
    facts |= {"uses_auxiliary": True, "auxiliary": dataclasses.asdict(auxiliary)}
    return {**facts, **changes}


@pytest.mark.parametrize(
    ("unit", "length"),
    [("m", 1), ("cm", 0.01), ("mm", 0.001), ("39.2 mm", 0.0392), ("8-bit", None), ("x mm", None)],
)
def test_length_of_a_step(unit, length):
    assert length_of_step(unit) == (length and pytest.approx(length))


def test_files_in_another_length_reach_the_same_scale():
    # 2.5 of 10 m are a quarter of 255, in whatever unit they are stored.
    for unit, stored in (
        ("mm", np.uint16(2500)), ("m", np.float32(2.5)), ("5 mm", np.uint16(500)),
        ("50 mm", np.uint8(50)),
    ):  # fmt: skip
        format = MILLIMETERS.in_unit(unit)
        assert format.scale(np.array([[[stored]]]), source="")[0, 0, 0] == 63.75
        assert format.scale(np.array([[[stored * 0]]]), source="")[0, 0, 0] == 0
    assert METERS.in_unit("m") is METERS


@pytest.mark.parametrize(("trained", "unit"), [(STEPS, "mm"), (MILLIMETERS, "8-bit")])
def test_steps_of_unknown_length_do_not_follow_from_a_length(trained, unit):
    with pytest.raises(ValueError, match=f"in the unit '{unit}', but .* '{trained.unit}'.*Give"):
        trained.in_unit(unit)


def test_files_of_no_dataset_must_name_their_unit():
    assert STEPS.of_files(None) is STEPS
    assert MILLIMETERS.of_files("mm") is MILLIMETERS
    assert MILLIMETERS.of_files("cm").high == 1000
    with pytest.raises(ValueError, match=r"depth images in the unit 'mm', .*Name it"):
        MILLIMETERS.of_files(None)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_millimeters_are_no_8_bit_steps_whatever_their_type(kind):
    stored = np.array([[[2500]]]).astype(kind)
    with pytest.raises(ValueError, match=rf"a\.png stores {kind.__name__} values.*'8-bit'.*Give"):
        STEPS.scale(stored, source="a.png")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "depth"}, "of kind 'depth'"),
        ({"unit": "8-bit"}, "in the unit '8-bit'"),
        ({"channels": 3}, r"with 3 channel\(s\)"),
        ({"camera": [500, 500]}, r"is \[500, 500\]"),
    ],
)
def test_camera_needs_depth_in_a_length(changes, words):
    with pytest.raises(ValueError, match=rf"auxiliary\.camera .*{words}.*Give fx"):
        dataclasses.replace(MADE_HHA, **changes)


def test_description_is_plain_and_comes_back(registered_pairs):
    name = registered_pairs(auxiliary=dataclasses.asdict(MADE_HHA))
    cfg = build_config(overrides=["DATASETS.TRAIN", (name,), "INPUT.FORMAT", "BGR"])
    facts = build_model_inputs(cfg).state_dict()
    assert json.loads(json.dumps(facts)) == facts
    assert AuxiliaryFormat(**facts["auxiliary"]) == MADE_HHA
    assert (facts["format"], facts["stuff_classes"]) == ("BGR", ["floor", "wall", "lamp"])
    assert (facts["label_offset"], facts["stored_ignore"]) == (1, 0)


@pytest.mark.parametrize(
    ("trained", "given"),
    [(MILLIMETERS, METERS), (HHA, MADE_HHA), (MADE_HHA, HHA), (STEPS, STEPS)],
)
def test_inputs_that_mean_the_same(trained, given):
    ModelInputs([facts_of(given)]).load_state_dict(facts_of(trained))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (facts_of(STEPS), "in the unit '8-bit', but the model was trained on 'mm'"),
        (
            facts_of(dataclasses.replace(MILLIMETERS, high=8000)),
            "but set has depth, 0..8000",
        ),
        (facts_of(dataclasses.replace(MILLIMETERS, kind="thermal")), "but set has thermal"),
        (facts_of(MILLIMETERS, format="BGR"), "trained on RGB colors .*Set it to 'RGB'"),
        (
            facts_of(MILLIMETERS, stuff_classes=["wall", "floor"]),
            "set has other classes, .*floor, wall",
        ),
    ],
)
def test_inputs_of_another_meaning(given, words):
    with pytest.raises(ValueError, match=words):
        ModelInputs([given]).load_state_dict(facts_of(MILLIMETERS))


def test_a_model_without_auxiliary_stream_takes_any():
    ModelInputs([facts_of(MILLIMETERS)]).load_state_dict(facts_of(STEPS, uses_auxiliary=False))


def test_inputs_in_a_checkpoint():
    inputs = ModelInputs([facts_of(MILLIMETERS), facts_of(METERS, name="other")])
    assert inputs.state_dict() == facts_of(MILLIMETERS)
    with pytest.raises(ValueError, match="unit 'mm', but the model was trained on '8-bit'"):
        inputs.load_state_dict(facts_of(STEPS))
    with pytest.raises(ValueError, match="unit '8-bit', but the model was trained on 'mm'"):
        ModelInputs([facts_of(MILLIMETERS), facts_of(STEPS, name="other")])
    none = ModelInputs([])
    assert none.state_dict() == {}
    none.load_state_dict(facts_of(STEPS))
    inputs.load_state_dict({})
