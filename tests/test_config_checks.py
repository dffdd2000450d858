"""One validation of the config: a value that does not fit is refused by key and source."""

import pathlib
import re

import pytest
import yaml

from smmcl.config import add_smmcl_config, build_config
from smmcl.config.checks import RULES
from smmcl.config.unread import ENGINE_NODES
from smmcl.d2 import ENGINE, CfgNode, get_cfg
from smmcl.data.appearance.corruption import CORRUPTIONS
from smmcl.data.mapper import AUXILIARY_CHANNELS
from smmcl.engine.step import DTYPES
from smmcl.evaluation.confusion import ABSENT_RULES
from smmcl.inference.sliding_window import SUMS
from smmcl.modeling.contrastive.loss import POSITIVES

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAN, INF, HUGE = ".nan", ".inf", "1000000000000"
# Values in YAML, of which each is wrong by itself.
WRONG = {
    "OUTPUT_DIR": ["''", "3", "null"],
    "SEED": [HUGE, "1.5", "null"],
    "CUDNN_BENCHMARK": ["2", "null"],
    "DATASETS.UNLABELED": ["mfnet_train", "[1]"],
    "DATASETS.TRAIN": ["mfnet_train", "[1]", "['']", "null"],
    "DATALOADER.NUM_WORKERS": ["-1", HUGE, "null"],
    "INPUT.FORMAT": ["RGBA", "rgb", "''"],
    "INPUT.AUXILIARY_FORMAT": ["HHA"],
    "INPUT.CROP_SIZE": [
        "[]",
        "[480]",
        "[0, 640]",
        "[-1, 640]",
        "[480.5, 640]",
        "480",
        "[9999999, 9]",
    ],
    "INPUT.SCALES": ["[0]", "[]", "[-1.0]", f"[{NAN}]", f"[{INF}]", "['a']", "1.0", "[1000000]"],
    "INPUT.FLIP": ["5", "-0.5", NAN, "often", "null"],
    "INPUT.PHOTOMETRIC.STRENGTH": ["-1.0", "1.5", NAN],
    "INPUT.LOW_LIGHT.PROBABILITY": ["2.0", NAN],
    "INPUT.CORRUPTION.PROBABILITY": ["-0.1", "7"],
    "INPUT.CORRUPTION.NAMES": ["[]", "['fog']", "[1]", "missing"],
    "INPUT.AUXILIARY_ABLATION": ["shuffle"],
    "MODEL.DEVICE": ["foo", "''", "cuda:x", "0"],
    "MODEL.WEIGHTS": ["null", "3"],
    "MODEL.UNFILLED_WEIGHTS": ["[1]", "head"],
    "MODEL.PIXEL_MEAN": ["[]", f"[{NAN}, 1.0, 1.0]", "['a', 'b', 'c']"],
    "MODEL.PIXEL_STD": ["[1.0]", "[0.0, 1.0, 1.0]", "[-1.0, 1.0, 1.0]", "[]"],
    "MODEL.AUXILIARY.PIXEL_STD": ["[1.0]", "[0, 0, 0]", f"[{INF}, 1.0, 1.0]"],
    "MODEL.PAIR.VISIBLE.NAME": ["null", "[mscan_t]", "3"],
    "MODEL.PAIR.VISIBLE.DROP_PATH_RATE": ["1.0", "-0.1", NAN],
    "MODEL.FUSION.SCALE": [NAN, INF],
    "MODEL.FUSION.THRESHOLD": [INF, NAN],
    "MODEL.FUSION.SPARSITY_WEIGHT": ["-1.0", INF],
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["[]", "[2]"],
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": ["0", "-1", "256", HUGE],
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": ["-1", "3", "256"],
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": ["0", "-8", HUGE],
    "MODEL.SEM_SEG_HEAD.DROPOUT": ["1", "-0.1", NAN],
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": ["-1.0", NAN],
    "MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS": [f"[{NAN}]", "[-1.0]", "[0, 0, 0, 0, 0, 0, 0, 0, 0]"],
    "MODEL.SEM_SEG_HEAD.HARD_SHARE": ["0.0", "1.5", NAN],
    "MODEL.SEM_SEG_HEAD.HAM.CHANNELS": ["0"],
    "MODEL.SEM_SEG_HEAD.HAM.RANK": ["0", "-1", HUGE],
    "MODEL.SEM_SEG_HEAD.HAM.STEPS_TRAIN": ["-1"],
    "MODEL.SEM_SEG_HEAD.HAM.STEPS_TEST": ["-1", HUGE],
    "MODEL.SMMCL.IN_FEATURES": ["[]", "[res5_visible]"],
    "MODEL.SMMCL.EMBED_DIM": ["0", "-1"],
    "MODEL.SMMCL.HIDDEN_DIM": ["0"],
    "MODEL.SMMCL.CROSS_MODAL.WEIGHT": ["-1.0", NAN],
    "MODEL.SMMCL.CROSS_MODAL.TEMPERATURE": ["0.0", "-0.1", NAN],
    "MODEL.SMMCL.CROSS_MODAL.POSITIVES": ["some"],
    "MODEL.SMMCL.INTRA_MODAL.TEMPERATURE": ["0", INF],
    "MODEL.SMMCL.SAMPLER.MIN_VIEWS": ["0", "-5"],
    "MODEL.SMMCL.SAMPLER.MAX_VIEWS": ["0"],
    "MODEL.REGION_CONTRAST.MEMORY_SIZE": ["0", HUGE],
    "SOLVER.IMS_PER_BATCH": ["0", "-4", "2.5", HUGE],
    "SOLVER.MAX_ITER": ["-5", "1.5", HUGE],
    "SOLVER.EPOCHS": ["-1"],
    "SOLVER.BASE_LR": ["-0.1", NAN, INF, "fast"],
    "SOLVER.BETAS": ["[0.9]", "[0.9, 1.0]", "[]", f"[{NAN}, 0.9]"],
    "SOLVER.WEIGHT_DECAY": ["-0.1", NAN],
    "SOLVER.LR_SCHEDULER_NAME": ["StepLR", "null"],
    "SOLVER.WARMUP_METHOD": ["constant"],
    "SOLVER.WARMUP_FACTOR": ["-1.0", NAN],
    "SOLVER.WARMUP_ITERS": ["-1"],
    "SOLVER.POLY_POWER": ["-1.0", NAN],
    "SOLVER.CHECKPOINT_PERIOD": ["0", "-1"],
    "SOLVER.CHECKPOINTS_KEPT": ["-1"],
    "SOLVER.ACCUMULATION": ["0"],
    "SOLVER.AMP.DTYPE": ["float8"],
    "SOLVER.AVERAGE_DECAY": ["1.0", "-0.1", NAN],
    "SOLVER.STREAMS_LR_FACTOR": ["-1.0"],
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ["both"],
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": ["0.0", "-1.0", NAN],
    "TEST.EVAL_PERIOD": ["-1"],
    "TEST.EXPECTED_RESULTS": ["[1]", "[[sem_seg, mIoU]]", f"[[sem_seg, mIoU, {NAN}, 1.0]]"],
    "TEST.ABSENT_CLASSES": ["none"],
    "TEST.SLIDING.SIZE": ["[0, 0]", "[480]"],
    "TEST.SLIDING.OVERLAP": ["1.0", "-0.1", NAN],
    "TEST.SLIDING.BATCH_SIZE": ["0"],
    "TEST.AUG.SCALES": ["[0]", "[]"],
    "TEST.AUG.SUM": ["mean"],
    "TEST.BASES_DRAWS": ["0", "-1"],
}
CASES = [(key, value) for key, values in WRONG.items() for value in values]
UNREAD = {
    "INPUT.MIN_SIZE_TRAIN": ("(640,)", r"INPUT\.SCALES"),
    "INPUT.MAX_SIZE_TEST": ("999", r"TEST\.SLIDING"),
    "INPUT.CROP.ENABLED": ("True", r"INPUT\.CROP_SIZE"),
    "INPUT.RANDOM_FLIP": ("none", r"INPUT\.FLIP"),
    "SOLVER.STEPS": ("(100,)", r"SOLVER\.LR_SCHEDULER_NAME"),
    "SOLVER.GAMMA": ("0.5", r"SOLVER\.POLY_POWER"),
    "SOLVER.MOMENTUM": ("0.8", r"SOLVER\.BETAS"),
    "SOLVER.NESTEROV": ("True", "AdamW"),
    "SOLVER.BIAS_LR_FACTOR": ("2.0", "nothing here reads"),
    "DATALOADER.SAMPLER_TRAIN": ("RepeatFactorTrainingSampler", "nothing here reads"),
    "TEST.AUG.MIN_SIZES": ("(64,)", r"TEST\.AUG\.SCALES"),
    "MODEL.BACKBONE.FREEZE_AT": ("0", r"MODEL\.PAIR\.FREEZE_NORM"),
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": ("8", "only heads of Detectron2"),
    "MODEL.RESNETS.DEPTH": ("18", "build_resnet_backbone|embedded engine"),
    "MODEL.RPN.NMS_THRESH": ("0.5", "nothing (here|in the embedded engine) reads"),
    "MODEL.ROI_HEADS.NUM_CLASSES": ("3", "nothing (here|in the embedded engine) reads"),
    "VIS_PERIOD": ("3", "nothing here reads"),
}


def leaves(node: CfgNode, prefix: str = "") -> set[str]:
    return {
        leaf
        for key, value in node.items()
        for leaf in (
            leaves(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {prefix + key}
        )
    }


def write(folder: pathlib.Path, key: str, value: str, *, base: str = "# no base") -> str:
    """A config whose fourth line, or a later one, sets a key."""
    lines = [base, "", "# a comment"]
    for depth, name in enumerate(key.split(".")):
        lines.append("  " * depth + f"{name}:")
    path = folder / "own.yaml"
    path.write_text("\n".join(lines) + f" {value}\n")
    return str(path)


@pytest.mark.parametrize(("key", "value"), CASES, ids=lambda text: re.sub(r"[^\w.-]+", "_", text))
def test_a_value_that_does_not_fit_is_refused(key: str, value: str, tmp_path: pathlib.Path) -> None:
    path, line = write(tmp_path, key, value), 4 + key.count(".")
    start = re.escape(f"{path}, line {line}, sets {key} to ")
    with pytest.raises(ValueError, match=rf"^{start}.*\. (Set|Give) "):
        build_config(path)
    start = re.escape(f"the command line sets {key} to ")
    with pytest.raises(ValueError, match=rf"^{start}.*\. (Set|Give) "):
        build_config("", [key, yaml.safe_load(value)])


def test_every_key_has_a_rule() -> None:
    cfg = get_cfg()
    stock = leaves(cfg)
    add_smmcl_config(cfg)
    assert leaves(cfg) - stock - RULES.keys() == set()
    assert RULES.keys() <= leaves(cfg)


def test_the_choices_are_those_of_the_parts() -> None:
    choices = {
        "INPUT.CORRUPTION.NAMES": [[name] for name in CORRUPTIONS],
        "INPUT.AUXILIARY_FORMAT": AUXILIARY_CHANNELS,
        "SOLVER.AMP.DTYPE": ["auto", *DTYPES],
        "TEST.ABSENT_CLASSES": ABSENT_RULES,
        "TEST.AUG.SUM": SUMS,
        "MODEL.SMMCL.CROSS_MODAL.POSITIVES": POSITIVES,
    }
    for key, values in choices.items():
        assert all(map(RULES[key].fits, values)), key


def test_a_value_that_the_command_line_replaces_is_not_held_against_the_file(tmp_path) -> None:
    path = write(tmp_path, "SOLVER.CHECKPOINT_PERIOD", "0")
    cfg = build_config(path, ["SOLVER.CHECKPOINT_PERIOD", "10"])
    assert cfg.SOLVER.CHECKPOINT_PERIOD == 10


def test_the_file_is_named_also_where_it_disagrees_with_a_default(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, "MODEL.PIXEL_MEAN", "[1.0, 2.0, 3.0, 4.0]")
    words = re.escape(f"{path}: the default sets MODEL.PIXEL_STD to 3 values, but PIXEL_MEAN has 4")
    with pytest.raises(ValueError, match=words):
        build_config(path)


def test_a_whole_number_stands_for_a_float(tmp_path: pathlib.Path) -> None:
    assert build_config(write(tmp_path, "INPUT.FLIP", "1")).INPUT.FLIP == 1.0
    cfg = build_config("synthetic_night.yaml", ["INPUT.FLIP", "0"])
    assert isinstance(cfg.INPUT.FLIP, float)


def test_the_line_is_that_of_the_base_which_sets_it(tmp_path: pathlib.Path) -> None:
    base = write(tmp_path, "SOLVER.MAX_ITER", "-5")
    (tmp_path / "leaf.yaml").write_text("_BASE_: own.yaml\nSOLVER: {EPOCHS: 3}\n")
    with pytest.raises(ValueError, match=rf"^{re.escape(base)}, line 5, sets SOLVER\.MAX_ITER"):
        build_config(str(tmp_path / "leaf.yaml"))


def test_an_empty_file_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"empty\.yaml is empty"):
        build_config(str(tmp_path / "empty.yaml"))


@pytest.mark.parametrize("key", UNREAD)
def test_a_key_without_effect_is_refused(key: str, tmp_path: pathlib.Path) -> None:
    value, reason = UNREAD[key]
    path = write(tmp_path, key, value, base=f"_BASE_: {ROOT / 'configs/synthetic_night.yaml'}")
    for arguments in ((path,), ("synthetic_night.yaml", [key, value])):
        with pytest.raises(ValueError, match=rf"{re.escape(key)} .*({reason})"):
            build_config(*arguments)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("INPUT.MIN_SIZE_TRAIN", "5", "5, but nothing here reads it: INPUT.SCALES"),
        ("INPUT.CROP.ENABLED", "1", "1, but nothing here reads it: INPUT.CROP_SIZE"),
        ("MODEL.BACKBONE.FREEZE_AT", "none", "'none'. Set it to a value such as its default, 2"),
        ("INPUT", "5", "5, but it is a group of keys. Set one of the keys below it"),
        ("MODEL.PAIR", "null", "None, but it is a group of keys. Set one of the keys below it"),
    ],
)
def test_a_value_of_another_type_is_refused(key: str, value: str, words: str, tmp_path) -> None:
    path, line = write(tmp_path, key, value), 4 + key.count(".")
    for arguments, source in (
        ((path,), f"{path}, line {line},"),
        (("", [key, yaml.safe_load(value)]), "the command line"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(f'{source} sets {key} to {words}')}"):
            build_config(*arguments)


def test_keys_that_a_part_of_detectron2_reads_are_allowed() -> None:
    keys = ["MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead", "MODEL.SEM_SEG_HEAD.NORM", "BN"]
    assert build_config("synthetic_night.yaml", keys).MODEL.SEM_SEG_HEAD.NORM == "BN"
    keys = ["MODEL.PAIR.VISIBLE.NAME", "build_resnet_backbone", "MODEL.BACKBONE.FREEZE_AT", "0"]
    assert build_config("synthetic_night.yaml", keys).MODEL.BACKBONE.FREEZE_AT == 0


def test_a_dump_of_every_key_reads_back() -> None:
    """As checkpoints and folders of runs hold it, from before the schedule had a name of ours."""
    cfg = build_config("synthetic_night.yaml")
    assert cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupPolyLR"
    text = cfg.dump().replace("WarmupPolyLR", "WarmupMultiStepLR")
    assert "WarmupMultiStepLR" in text
    # A dump writes tuples within tuples as lists.
    dumps = (cfg.dump(), build_config("a checkpoint", text=text).dump())
    assert yaml.safe_load(dumps[0]) == yaml.safe_load(dumps[1])
    with pytest.raises(ValueError, match=r"LR_SCHEDULER_NAME to 'WarmupMultiStepLR'\. Set it"):
        build_config("synthetic_night.yaml", ["SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR"])


@pytest.mark.skipif(ENGINE == "builtin", reason="the embedded engine has no such keys")
def test_keys_of_the_engine_itself_are_allowed() -> None:
    assert all(any(key.startswith(node) for key in leaves(get_cfg())) for node in ENGINE_NODES)
    assert build_config("synthetic_night.yaml", ["TEST.PRECISE_BN.ENABLED", "True"])
