"""Sensor failures: what each changes in what the network reads, and the benchmark's means."""

import json

import pytest
import torch

from smmcl.config import build_config
from smmcl.evaluation.failures import NOISE, Failure, SensorFailures, all_failures, expectation

MEAN, STD = torch.full((3, 1, 1), 100.0), torch.full((3, 1, 1), 50.0)
NORMALIZATION = {"image": (MEAN, STD), "auxiliary": (MEAN, 2 * STD)}


def make_pair(index: int = 0) -> dict:
    generator = torch.Generator().manual_seed(index)
    image, other = torch.randint(256, (2, 3, 40, 60), generator=generator).byte()
    return {"image_id": index, "image": image, "auxiliary": other}


def read(failure: Failure, inputs: dict, key: str) -> torch.Tensor:
    """What the network reads of an image: normalized."""
    mean, std = NORMALIZATION[key]
    return (failure(inputs)[key] - mean) / std


def test_a_dead_sensor_gives_zeros_and_the_other_stays() -> None:
    pair = make_pair()
    failure = Failure("EMM", "visible", 1.0, 0, NORMALIZATION)
    assert not read(failure, pair, "image").any()
    assert failure(pair)["auxiliary"] is pair["auxiliary"]
    assert pair["image"].dtype == torch.uint8  # the caller's own stays


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_missing_values_are_a_share_and_the_others_are_as_they_were(share: float) -> None:
    pair = make_pair()
    failure = Failure("RMM", "auxiliary", share, 0, NORMALIZATION)
    values = read(failure, pair, "auxiliary")
    whole = (pair["auxiliary"].float() - MEAN) / (2 * STD)
    is_missing = (values == 0) & (whole != 0)
    assert is_missing.float().mean() == pytest.approx(share, abs=0.02)  # 7,200 draws: 4 deviations
    torch.testing.assert_close(values[~is_missing], whole[~is_missing], atol=1e-6, rtol=0)
    # Drawn for each value, so channels differ.
    assert not torch.equal(is_missing[0], is_missing[1])


@pytest.mark.parametrize("level", NOISE)
def test_noise_of_both_sensors_has_its_shares_and_deviation(level: str) -> None:
    share, std = NOISE[level]
    image = torch.full((3, 100, 100), 100.0)
    image[:, 0, 0], image[:, 0, 1] = 250, -50  # 3 and -3 as the network reads them
    pair = {"image_id": 0, "image": image, "auxiliary": 2 * image - 100}
    failure = Failure("NM", "both", level, 0, NORMALIZATION)
    for key in NORMALIZATION:
        values = read(failure, pair, key)
        for is_extreme in (values > 1.6, values < -1.6):  # 3.2 deviations of the highest noise
            # 30,000 values; positions repeat now and then.
            assert is_extreme.float().mean() == pytest.approx(share / 2, rel=0.15)
        assert values[values.abs() < 1.6].std() == pytest.approx(std, rel=0.02)


def test_draws_belong_to_the_pair_and_the_seed() -> None:
    one, other = (Failure("RMM", "visible", 0.5, seed, NORMALIZATION) for seed in (0, 1))
    pair = make_pair()
    assert torch.equal(one(pair)["image"], one(pair)["image"])
    assert not torch.equal(one(pair)["image"], other(pair)["image"])
    assert not torch.equal(one(pair)["image"], one({**pair, "image_id": 5})["image"])


def test_a_set_without_auxiliary_images_gets_a_sentence() -> None:
    pair = {"file_name": "a.png", **make_pair()}
    del pair["auxiliary"]
    with pytest.raises(ValueError, match=r"a\.png has no auxiliary image.*DATASETS\.TEST"):
        Failure("EMM", "auxiliary", 1.0, 0, NORMALIZATION)(pair)


def test_expectation_by_hand() -> None:
    scores = {(): 60.0, ("visible",): 20.0, ("auxiliary",): 40.0}
    assert expectation(scores, 0.5, count=2) == pytest.approx(40)  # all cases weigh the same
    # Weights 0.81, 0.09, 0.09 of 0.99.
    wanted = (0.81 * 60 + 0.09 * 20 + 0.09 * 40) / 0.99
    assert expectation(scores, 0.1, count=2) == pytest.approx(wanted)


@pytest.fixture
def measured() -> SensorFailures:
    failures = list(all_failures(build_config("synthetic_night.yaml")))
    scores = {failure: {"sem_seg": 10.0 + place} for place, failure in enumerate(failures)}
    return SensorFailures({"dataset": "set"}, {"sem_seg": 70.0}, scores)


def test_means_are_over_nothing_visible_and_auxiliary(measured) -> None:
    figures = measured.means("sem_seg")
    assert figures["EMM Avg"] == pytest.approx((70 + 10 + 11) / 3)
    assert figures["RMM r=0.75 Avg"] == pytest.approx((70 + 16 + 17) / 3)
    wanted = (0.95**2 * 70 + 0.05 * 0.95 * (10 + 11)) / (1 - 0.05**2)
    assert figures["EMM E p=0.05"] == pytest.approx(wanted)
    assert [figures[f"NM {level}"] for level in NOISE] == [18, 19, 20]
    assert len(figures) == 4 * 4 + 3


def test_what_is_written_is_read_again(measured, tmp_path) -> None:
    measured.save(tmp_path)
    assert measured.earlier(tmp_path) == measured.spoilt
    content = json.loads((tmp_path / "failures.json").read_text())
    assert content["results"]["sem_seg"] == measured.means("sem_seg")
    page = (tmp_path / "failures.md").read_text()
    assert "| EMM Avg" in page
    assert "- dataset: set" in page
    assert SensorFailures({}, {"sem_seg": 1.0}, {}).earlier(tmp_path) == {}


def test_the_normalization_is_the_config_s() -> None:
    cfg = build_config("synthetic_night.yaml")
    failure = next(all_failures(cfg))
    mean, std = failure.normalization["image"]
    assert mean.flatten().tolist() == pytest.approx(cfg.MODEL.PIXEL_MEAN)
    assert std.flatten().tolist() == pytest.approx(cfg.MODEL.PIXEL_STD)
