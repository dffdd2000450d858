"""What each config key accepts: one table, which every value of a file or command line fits.

The table holds the keys of keys.py and those of Detectron2 that something here reads.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from smmcl.d2 import CfgNode

MAX_SIDE = 1 << 14  # pixels of an image's side
MAX_COUNT = 1 << 16  # channels, pairs of a batch: beyond any memory
CORRUPTIONS = ("noise", "blur", "shift", "over_exposure", "under_exposure", "missing",
               "holes")  # fmt: skip


Fault = tuple[str, str]  # a key, and what follows "sets KEY"


@dataclass(frozen=True)
class Rule:
    """A condition on a value, and the words that complete "Set it to ..."."""

    wanted: str
    fits: Callable[[Any], bool]


def real(
    low: float = 0, high: float = math.inf, *, above: bool = False, below: bool = False
) -> Rule:
    """Finite numbers from `low` to `high`; `above` and `below` leave out the end itself."""
    start = f"above {low:g}" if above else f"of {low:g} or more"
    end = "" if high == math.inf else f", below {high:g}" if below else f", up to {high:g}"

    def fits(value: Any) -> bool:
        return (
            type(value) in (int, float)
            and math.isfinite(value)
            and (low < value if above else low <= value)
            and (value < high if below else value <= high)
        )

    return Rule("a number" if low == -math.inf else f"a number {start}{end}", fits)


def whole(low: int = 0, high: int = (1 << 31) - 1) -> Rule:
    """Integers from `low` to `high`."""
    return Rule(
        f"a whole number from {low} to {high}",
        lambda value: type(value) is int and low <= value <= high,
    )


def choice(*names: str) -> Rule:
    return Rule(" or ".join(map(repr, names)), lambda value: value in names)


def each(rule: Rule, *, length: int | None = None, least: int = 1) -> Rule:
    """Lists whose items fit a rule, of one length or of at least so many items."""
    count = f"{length} items" if length else f"{least} item or more" if least else "any length"
    return Rule(
        f"a list of {count}, each {rule.wanted}",
        lambda value: (
            isinstance(value, (list, tuple))
            and (len(value) == length if length else len(value) >= least)
            and all(map(rule.fits, value))
        ),
    )


def interval(rule: Rule) -> Rule:
    """[low, high], in this order, that both fit a rule."""
    pair = each(rule, length=2)
    return Rule(
        f"[low, high], each {rule.wanted}",
        lambda value: pair.fits(value) and value[0] <= value[1],
    )


def either(*rules: Rule) -> Rule:
    return Rule(
        " or ".join(rule.wanted for rule in rules),
        lambda value: any(rule.fits(value) for rule in rules),
    )


def _fits_expected(value: Any) -> bool:
    is_list = isinstance(value, (list, tuple)) and len(value) == 4
    return is_list and all(map(NAME.fits, value[:2])) and all(map(real(-math.inf).fits, value[2:]))


SWITCH = Rule("True or False", lambda value: type(value) is bool)
TEXT = Rule("a text", lambda value: isinstance(value, str))
NAME = Rule("a text that is not empty", lambda value: isinstance(value, str) and bool(value))
SHARE = real(0, 1)
POSITIVE = real(above=True)
FACTOR = real()
COUNT = whole(1, MAX_COUNT)
DEVICE = Rule(
    "cpu, cuda or cuda:1",
    lambda value: (
        isinstance(value, str) and bool(re.fullmatch(r"cpu|meta|(cuda|mps)(:\d+)?", value))
    ),
)
SIZE = each(whole(1, MAX_SIDE), length=2)
SCALES = each(real(0, 16, above=True))
PIXELS = each(real(-math.inf))
EXPECTED = Rule("[task, metric, value, tolerance]", _fits_expected)

RULES: dict[str, Rule] = {
    "VERSION": whole(2, 2),
    "IMPORTS": each(NAME, least=0),
    "OUTPUT_DIR": NAME,
    "TRACKING.WANDB": TEXT,
    "SEED": whole(-(1 << 31)),
    "CUDNN_BENCHMARK": SWITCH,
    "DATASETS.TRAIN": each(NAME, least=0),
    "DATASETS.TEST": each(NAME, least=0),
    "DATASETS.UNLABELED": each(NAME, least=0),
    "DATALOADER.NUM_WORKERS": whole(0, 1024),
    "DATALOADER.SKIP_BROKEN": whole(),
    # Our loaders neither group nor filter; Detectron2's loaders, with our mapper, do.
    "DATALOADER.ASPECT_RATIO_GROUPING": SWITCH,
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": SWITCH,
    "INPUT.FORMAT": choice("RGB", "BGR"),
    "INPUT.AUXILIARY_FORMAT": choice("L", "RGB"),
    "INPUT.CROP_SIZE": SIZE,
    "INPUT.SCALES": SCALES,
    "INPUT.FLIP": SHARE,
    "INPUT.PHOTOMETRIC.STRENGTH": SHARE,
    "INPUT.LOW_LIGHT.PROBABILITY": SHARE,
    "INPUT.LOW_LIGHT.NAME": NAME,
    "INPUT.CORRUPTION.PROBABILITY": SHARE,
    "INPUT.CORRUPTION.NAMES": each(choice(*CORRUPTIONS)),
    "INPUT.CORRUPTION.IMAGE": choice("either", "visible", "auxiliary"),
    "INPUT.CHANGED_AT_TEST": SWITCH,
    "INPUT.AUXILIARY_ABLATION": choice("", "swap", "visible", "noise"),
    "MODEL.META_ARCHITECTURE": NAME,
    "MODEL.BACKBONE.NAME": NAME,
    "MODEL.DEVICE": DEVICE,
    "MODEL.WEIGHTS": TEXT,
    "MODEL.UNFILLED_WEIGHTS": each(NAME, least=0),
    "MODEL.SYNC_BATCH_NORM": SWITCH,
    "MODEL.COMPILE": TEXT,
    "MODEL.PIXEL_MEAN": PIXELS,
    "MODEL.PIXEL_STD": each(POSITIVE),
    "MODEL.AUXILIARY.PIXEL_MEAN": PIXELS,
    "MODEL.AUXILIARY.PIXEL_STD": each(POSITIVE),
    **{
        f"MODEL.PAIR.{stream}.{key}": rule
        for stream in ("VISIBLE", "AUXILIARY")
        for key, rule in {
            "NAME": TEXT,
            "WEIGHTS": TEXT,
            "DROP_PATH_RATE": real(0, 1, below=True),
        }.items()
    },
    "MODEL.PAIR.RECOMPUTE": SWITCH,
    "MODEL.PAIR.FREEZE_NORM": SWITCH,
    "MODEL.FUSION.NAME": NAME,
    "MODEL.FUSION.SCALE": real(-math.inf),
    "MODEL.FUSION.SAGATE_RELU": SWITCH,
    "MODEL.FUSION.THRESHOLD": real(-math.inf),
    "MODEL.FUSION.ALL_CHANNELS": SWITCH,
    "MODEL.FUSION.SPARSITY_WEIGHT": FACTOR,
    "MODEL.SEM_SEG_HEAD.NAME": NAME,
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": each(NAME),
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": whole(1, 255),
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": whole(0, 255),
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": COUNT,
    "MODEL.SEM_SEG_HEAD.DROPOUT": real(0, 1, below=True),
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": FACTOR,
    "MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS": each(FACTOR, least=0),
    "MODEL.SEM_SEG_HEAD.HARD_SHARE": real(0, 1, above=True),
    "MODEL.SEM_SEG_HEAD.HAM.CHANNELS": COUNT,
    "MODEL.SEM_SEG_HEAD.HAM.RANK": COUNT,
    "MODEL.SEM_SEG_HEAD.HAM.STEPS_TRAIN": whole(0, 1000),
    "MODEL.SEM_SEG_HEAD.HAM.STEPS_TEST": whole(0, 1000),
    "MODEL.CLASSIFIER.NUM_CLASSES": whole(1, 255),
    "MODEL.CLASSIFIER.IN_FEATURE": choice("res2", "res3", "res4", "res5"),
    "MODEL.CLASSIFIER.LABEL_SMOOTHING": real(0, 1, below=True),
    "MODEL.CONTRAST.NAME": TEXT,
    "MODEL.SMMCL.IN_FEATURES": each(NAME, length=2),
    "MODEL.SMMCL.EMBED_DIM": COUNT,
    "MODEL.SMMCL.HIDDEN_DIM": COUNT,
    "MODEL.SMMCL.GATHER": SWITCH,
    "MODEL.SMMCL.CROSS_MODAL.WEIGHT": FACTOR,
    "MODEL.SMMCL.CROSS_MODAL.TEMPERATURE": POSITIVE,
    "MODEL.SMMCL.CROSS_MODAL.SYMMETRIC": SWITCH,
    "MODEL.SMMCL.CROSS_MODAL.POSITIVES": choice("all", "other_place", "other_index"),
    "MODEL.SMMCL.INTRA_MODAL.VISIBLE_WEIGHT": FACTOR,
    "MODEL.SMMCL.INTRA_MODAL.AUXILIARY_WEIGHT": FACTOR,
    "MODEL.SMMCL.INTRA_MODAL.TEMPERATURE": POSITIVE,
    "MODEL.SMMCL.SAMPLER.MIN_VIEWS": whole(1),
    "MODEL.SMMCL.SAMPLER.MAX_VIEWS": whole(1),
    "MODEL.SMMCL.SAMPLER.MAX_FEATURES": whole(1),
    "MODEL.SMMCL.SAMPLER.SHARED_POSITIONS": SWITCH,
    "MODEL.REGION_CONTRAST.MEMORY_SIZE": COUNT,
    "SOLVER.IMS_PER_BATCH": COUNT,
    "SOLVER.MAX_ITER": whole(),
    "SOLVER.EPOCHS": whole(),
    "SOLVER.BASE_LR": FACTOR,
    "SOLVER.BETAS": each(real(0, 1, below=True), length=2),
    "SOLVER.WEIGHT_DECAY": FACTOR,
    "SOLVER.WEIGHT_DECAY_NORM": either(FACTOR, Rule("None", lambda value: value is None)),
    "SOLVER.WEIGHT_DECAY_BIAS": either(FACTOR, Rule("None", lambda value: value is None)),
    "SOLVER.LR_SCHEDULER_NAME": choice("WarmupPolyLR", "WarmupCosineLR"),
    "SOLVER.WARMUP_METHOD": choice("linear"),
    "SOLVER.WARMUP_FACTOR": SHARE,
    "SOLVER.WARMUP_ITERS": whole(),
    "SOLVER.WARMUP_EPOCHS": whole(),
    "SOLVER.POLY_POWER": FACTOR,
    "SOLVER.CHECKPOINT_PERIOD": whole(1),
    "SOLVER.CHECKPOINTS_KEPT": whole(),
    "SOLVER.ACCUMULATION": COUNT,
    "SOLVER.AMP.ENABLED": SWITCH,
    "SOLVER.AMP.DTYPE": choice("auto", "bfloat16", "float16"),
    "SOLVER.AVERAGE_DECAY": real(0, 1, below=True),
    "SOLVER.STREAMS_LR_FACTOR": FACTOR,
    "SOLVER.FREEZE_LAYER_SCALE": SWITCH,
    "SOLVER.CLIP_GRADIENTS.ENABLED": SWITCH,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": choice("value", "norm"),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": POSITIVE,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": either(
        POSITIVE, Rule("infinity", lambda value: value == math.inf)
    ),
    "TEST.EVAL_PERIOD": whole(),
    "TEST.EXPECTED_RESULTS": each(EXPECTED, least=0),
    "TEST.ABSENT_CLASSES": choice("present", "truth", "zero"),
    "TEST.SLIDING.ENABLED": SWITCH,
    "TEST.SLIDING.SIZE": SIZE,
    "TEST.SLIDING.OVERLAP": real(0, 1, below=True),
    "TEST.SLIDING.BATCH_SIZE": COUNT,
    "TEST.AUG.ENABLED": SWITCH,
    "TEST.AUG.FLIP": SWITCH,
    "TEST.AUG.SCALES": SCALES,
    "TEST.AUG.SUM": choice("softmax", "exp"),
    "TEST.BASES_DRAWS": COUNT,
    "TEST.AMP": SWITCH,
    "TEST.BEST_METRIC": TEXT,
    "TEST.SAVE_PREDICTIONS": TEXT,
}


def group(cfg: CfgNode, name: str) -> Callable[[str, Any, Rule], None]:
    """Returns what adds a key to a group of the config, such as "MODEL.MINE", see `extends_config`.

    It takes the key, its default, and the rule of what the key accepts.
    """
    node = cfg
    for part in name.split("."):
        node = node.setdefault(part, CfgNode())

    def add(key: str, default: Any, rule: Rule) -> None:
        node[key], RULES[f"{name}.{key}"] = default, rule

    return add


def check_together(cfg: CfgNode) -> Iterator[Fault]:
    """Keys that fit alone but not with others, and for each the problem and the way out."""
    head = cfg.MODEL.SEM_SEG_HEAD
    for prefix, node in (("", cfg.MODEL), ("AUXILIARY.", cfg.MODEL.AUXILIARY)):
        if len(node.PIXEL_STD) != len(node.PIXEL_MEAN):
            yield (
                f"MODEL.{prefix}PIXEL_STD",
                f"to {len(node.PIXEL_STD)} values, but PIXEL_MEAN has {len(node.PIXEL_MEAN)}. Set "
                "both to one value per channel",
            )
    if head.IGNORE_VALUE < head.NUM_CLASSES:
        yield (
            "MODEL.SEM_SEG_HEAD.IGNORE_VALUE",
            f"to {head.IGNORE_VALUE}, which is one of {head.NUM_CLASSES} classes. Set it to 255",
        )
    if head.CLASS_WEIGHTS and not any(head.CLASS_WEIGHTS):
        yield (
            "MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS",
            "to zeros, so no class would be learned. Give one class more, or set it to []",
        )
