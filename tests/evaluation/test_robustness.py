"""Robustness: which pairs are spoilt and how, and the table and the plot of what that costs."""

import csv
import json

import pytest
import torch
from PIL import Image

from smmcl.evaluation.robustness import (
    CONDITIONS,
    MISSING_SHARE,
    Condition,
    Robustness,
    all_conditions,
)

NUM_PAIRS = 400


def make_pair(index: int) -> dict:
    generator = torch.Generator().manual_seed(index)
    one = torch.randint(1, 256, (1, 12, 16), generator=generator, dtype=torch.uint8)
    image = torch.randint(1, 256, (3, 12, 16), generator=generator, dtype=torch.uint8)
    return {"image_id": f"street/{index}", "image": image, "auxiliary": one.repeat(3, 1, 1)}


def lost(condition: Condition) -> list[str]:
    """What each of many pairs lost: "", "image" or "auxiliary"; never both."""
    names = []
    for index in range(NUM_PAIRS):
        pair = {"image_id": index, "image": torch.ones(3, 2, 2), "auxiliary": torch.ones(1, 2, 2)}
        spoilt = condition(pair)
        gone = [key for key in ("image", "auxiliary") if not spoilt[key].any()]
        assert len(gone) < 2
        names.append("".join(gone))
    return names


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_either_image_is_lost_in_its_share_of_the_pairs(severity):
    names = lost(Condition("either", "missing", severity))
    share = MISSING_SHARE[severity - 1]
    # Three standard deviations of 400 draws with equal chances are 7.5%.
    assert 1 - names.count("") / NUM_PAIRS == pytest.approx(share, abs=0.075)
    assert names.count("image") / NUM_PAIRS == pytest.approx(share / 2, abs=0.075)
    assert lost(Condition("either", "missing", severity)) == names
    assert lost(Condition("either", "missing", severity, seed=1)) != names


def test_at_the_last_severity_all_pairs_lose_the_image():
    assert set(lost(Condition("visible", "missing", 5))) == {"image"}
    assert set(lost(Condition("auxiliary", "missing", 5))) == {"auxiliary"}


def test_what_is_lost_once_stays_lost():
    few, many = (lost(Condition("visible", "missing", severity)) for severity in (2, 3))
    assert all(b == "image" for a, b in zip(few, many, strict=True) if a == "image")


@pytest.mark.parametrize(
    "condition", list(all_conditions([5])), ids=lambda c: f"{c.image}_{c.corruption}"
)
def test_only_one_image_is_spoilt_and_in_its_own_form(condition):
    pair = make_pair(3)
    before = {key: pair[key].clone() for key in ("image", "auxiliary")}
    spoilt = condition(pair)
    changed = [key for key in before if not torch.equal(spoilt[key], before[key])]
    wanted = {"visible": ["image"], "auxiliary": ["auxiliary"]}.get(condition.image)
    assert changed == wanted if wanted else len(changed) == 1
    for key, image in before.items():
        assert torch.equal(pair[key], image)  # the caller's own stays
        assert spoilt[key].shape == image.shape
        assert spoilt[key].dtype == image.dtype
    # The channel that was repeated gets one noise, not three.
    assert torch.equal(spoilt["auxiliary"][0], spoilt["auxiliary"][2])


@pytest.fixture
def measured():
    """Scores by hand: a point of the clean 80 (or 40 by night) is lost with each severity."""
    spoilt = {
        condition: {"sem_seg": 80.0 - condition.severity, "sem_seg_night": 40.0}
        for condition in all_conditions([5, 1])
    }
    return Robustness({"dataset": "streets"}, {"sem_seg": 80.0, "sem_seg_night": 40.0}, spoilt)


def test_curves_and_their_mean(measured):
    curves = measured.curves("sem_seg")
    assert len(curves) == sum(map(len, CONDITIONS.values())) + 1
    assert curves["auxiliary", "shift"] == [(0, 80.0), (1, 79.0), (5, 75.0)]
    assert curves["all", "mean"] == [(0, 80.0), (1, 79.0), (5, 75.0)]
    assert measured.curves("sem_seg_night")["all", "mean"][-1] == (5, 40.0)


def test_files_hold_the_same_numbers(measured, tmp_path):
    measured.save(tmp_path / "deep")
    folder = tmp_path / "deep"
    content = json.loads((folder / "robustness.json").read_text())
    assert content["clean"]["sem_seg"] == 80
    assert {"image": "either", "corruption": "missing", "severity": 5, "seed": 0,
            "mIoU": {"sem_seg": 75.0, "sem_seg_night": 40.0}} in content["conditions"]  # fmt: skip
    with (folder / "robustness.csv").open() as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert ("sem_seg", "visible", "blur", "5", "75.0") in rows
    markdown = (folder / "robustness.md").read_text()
    assert "- dataset: streets" in markdown
    line = next(line for line in markdown.splitlines() if "over_exposure" in line)
    assert [cell.strip() for cell in line.split("|")[4:7]] == ["80.00", "79.00", "75.00"]
    assert Image.open(folder / "robustness.png").size == (1350, 600)
    assert "severity" in (folder / "robustness.svg").read_text()


def test_an_interrupted_measurement_has_no_mean_yet(tmp_path) -> None:
    spoilt = {Condition("visible", "noise", s): {"sem_seg": 30.0 - s} for s in (1, 3)}
    spoilt[Condition("visible", "blur", 1)] = {"sem_seg": 20.0}
    measured = Robustness({"dataset": "night"}, {"sem_seg": 31.0}, spoilt)
    measured.save_scores(tmp_path)
    curves = Robustness.read(tmp_path / "robustness.json").curves("sem_seg")
    assert curves["visible", "noise"] == [(0, 31.0), (1, 29.0), (3, 27.0)]
    assert curves["all", "mean"] == []


def test_a_spoiled_file_is_named(tmp_path) -> None:
    path = tmp_path / "robustness.json"
    path.write_text(json.dumps({"protocol": {"dataset": "night"}, "clean": {}, "conditions": []}))
    with pytest.raises(ValueError, match=r"robustness\.json, 'clean' has no key 'sem_seg'"):
        Robustness.read(path)
