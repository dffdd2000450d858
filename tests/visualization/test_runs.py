"""What is read of runs, and every difference that a reader must know of."""

import json

import pytest
import torch

from smmcl.visualization.runs import (
    WARNINGS,
    differences,
    protocol_differences,
    rank_pairs,
    read_runs,
    shared_datasets,
    warnings,
)

DATASET = "streets_val"


def test_differences_of_configs_are_named_by_full_keys(evaluated) -> None:
    texts = [
        "MODEL: {CONTRAST: {NAME: ''}, DEPTH: 3}\nOUTPUT_DIR: a\nSEED: 0\n",
        "MODEL: {CONTRAST: {NAME: SMMCL}, DEPTH: 3}\nOUTPUT_DIR: b\nSEED: 0\nNEW: 1\n",
    ]
    folders = [evaluated(name, config=text) for name, text in zip("ab", texts, strict=True)]
    assert differences(read_runs(folders)) == {
        "checkpoint": ["a.pth", "b.pth"],
        "MODEL.CONTRAST.NAME": ["none", "SMMCL"],
        "NEW": ["none", "1"],
    }
    assert warnings(read_runs(folders)) == []


def test_a_config_that_would_run_code_is_refused(evaluated) -> None:
    folder = evaluated("a", config="SEED: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ValueError, match=r"config\.yaml cannot be read as YAML of plain values"):
        read_runs([folder])


def test_engine_version_iteration_and_seed_are_compared_and_warned_about(evaluated) -> None:
    first = evaluated("a", config="SEED: 1\n", engine="builtin 0.6")
    second = evaluated("b", config="SEED: 2\n", engine="detectron2 0.6")
    for folder, iteration, version in ((first, 9, "0.1"), (second, 19, "0.2")):
        stored = {"model": {}, "iteration": iteration, "smmcl_version": version}
        torch.save(stored, folder / "model_final.pth")
    runs = read_runs([first, second])
    rows = differences(runs)
    assert rows["engine"] == ["builtin 0.6", "detectron2 0.6"]
    assert rows["iterations"] == ["10", "20"]
    assert rows["smmcl version"] == ["0.1", "0.2"]
    assert rows["SEED"] == ["1", "2"]
    assert set(WARNINGS.values()) < set(warnings(runs))
    # What differs here does not make scores incomparable.
    assert protocol_differences(runs, DATASET) == {}


def test_protocols_that_differ(evaluated) -> None:
    runs = read_runs([evaluated("a", flip="no"), evaluated("b", flip="yes", window="whole")])
    wanted = {"flip": ["no", "yes"], "window": ["not stated", "whole"]}
    assert protocol_differences(runs, DATASET) == wanted
    assert "different flip, window" in warnings(runs)[0]


def test_the_iteration_of_an_evaluation_in_training(evaluated) -> None:
    runs = read_runs([evaluated("a", checkpoint="iteration 20 of the run in output/a")])
    assert runs[0].facts(DATASET)["iterations"] == "20"
    with pytest.raises(FileNotFoundError, match=r"run a has no checkpoint.*--pairs 0"):
        runs[0].checkpoint(DATASET)
    for name in ("model_final.pth", "model_0000020.pth"):  # the second one is what was evaluated
        (runs[0].folder / name).touch()
        assert runs[0].checkpoint(DATASET).name == name


def test_another_checkpoint_than_the_one_evaluated_is_warned_about(evaluated, tmp_path) -> None:
    runs = read_runs([evaluated("a", checkpoint=str(tmp_path / "best.pth"))])
    final = runs[0].folder / "model_final.pth"
    (runs[0].folder / "model_0000000.pth").touch()
    assert runs[0].find_checkpoint(DATASET) is None
    torch.save({"model": {}}, final)
    sentence = f"Run a: {tmp_path / 'best.pth'} is gone; what is shown is of {final}."
    assert warnings(runs) == [sentence]
    final.rename(tmp_path / "best.pth")
    assert warnings(runs) == []


def test_a_run_without_config_is_warned_about(evaluated) -> None:
    runs = read_runs([evaluated("a"), evaluated("b", config=None)])
    assert list(differences(runs)) == ["checkpoint"]
    assert warnings(runs) == ["Run b has no config.yaml, so its configuration is not compared."]


def test_pairs_are_ranked_by_the_gain_of_the_last_run(evaluated) -> None:
    first = evaluated("a", ious={"0": 30.0, "1": 70.0, "2": 50.0, "3": 1.0})
    second = evaluated("b", ious={"0": 45.0, "1": 60.0, "2": 50.0})
    ranked = rank_pairs(read_runs([first, second]), DATASET)
    assert list(ranked.items()) == [("1", [70, 60]), ("2", [50, 50]), ("0", [30, 45])]
    assert list(rank_pairs(read_runs([first]), DATASET)) == ["3", "0", "2", "1"]


def test_folders_of_one_name_are_told_apart(evaluated, tmp_path) -> None:
    folders = [evaluated("one/run"), evaluated("two/run")]
    assert [run.name for run in read_runs(folders)] == [str(folder) for folder in folders]


def test_runs_need_a_dataset_in_common(evaluated) -> None:
    runs = read_runs([evaluated("a"), evaluated("b", dataset="others_val")])
    with pytest.raises(ValueError, match="no dataset in common"):
        shared_datasets(runs)


@pytest.mark.parametrize(
    ("key", "value"),
    [("protocol", {}), ("results", []), ("pairs", {"0": "x"}), ("confusion", {"sem_seg": [[1]]})],
)
def test_a_spoiled_evaluation_is_named(evaluated, key: str, value: object) -> None:
    path = evaluated("a") / f"inference/{DATASET}/evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=r"a/inference/streets_val/evaluation\.json"):
        read_runs([path.parents[2]])


def test_a_config_of_odd_keys_is_named(evaluated) -> None:
    with pytest.raises(ValueError, match=r"config\.yaml has the key 1 in MODEL, which is"):
        read_runs([evaluated("a", config="MODEL: {1: 2}\n")])
