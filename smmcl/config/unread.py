"""Keys of Detectron2 that nothing here reads: a value other than its default would have no effect.

Parts of Detectron2 or of the user's own may read any key below MODEL.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from smmcl.config.checks import RULES, Fault
from smmcl.d2 import CfgNode

# Read by Detectron2's own trainer and setup where that is the engine.
ENGINE_NODES = ("TEST.PRECISE_BN.", "FLOAT32_PRECISION")
# The parts that read no more than the table of checks.py.
OURS = {
    "META_ARCHITECTURE": ("MultiModalSegmentor", "ImageClassifier"),
    "BACKBONE": ("build_pair_backbone", "build_shared_backbone"),
    "SEM_SEG_HEAD": ("HamHead", "MLPHead", "FPNHead"),
}
SCHEDULE = "SOLVER.LR_SCHEDULER_NAME and SOLVER.POLY_POWER set the schedule"
# What to use in place of a key, or of the keys that begin so.
INSTEAD = {
    "INPUT.MIN_SIZE_TRAIN": "INPUT.SCALES sets the random resize",
    "INPUT.MAX_SIZE_TRAIN": "INPUT.SCALES sets the random resize",
    "INPUT.MIN_SIZE_TEST": "pairs are evaluated at their own size, or by TEST.SLIDING",
    "INPUT.MAX_SIZE_TEST": "pairs are evaluated at their own size, or by TEST.SLIDING",
    "INPUT.CROP.": "INPUT.CROP_SIZE sets the crop",
    "INPUT.RANDOM_FLIP": "INPUT.FLIP sets the probability of a flip",
    "SOLVER.STEPS": SCHEDULE,
    "SOLVER.GAMMA": SCHEDULE,
    "SOLVER.NUM_DECAYS": SCHEDULE,
    "SOLVER.RESCALE_INTERVAL": SCHEDULE,
    "SOLVER.BASE_LR_END": SCHEDULE,
    "SOLVER.MOMENTUM": "the optimizer is AdamW, whose momentum is SOLVER.BETAS",
    "SOLVER.NESTEROV": "the optimizer is AdamW, whose momentum is SOLVER.BETAS",
    "SOLVER.REFERENCE_WORLD_SIZE": "SOLVER.IMS_PER_BATCH is the batch of all processes",
    "TEST.AUG.": "TEST.AUG.SCALES sets the scales",
    "MODEL.RESNETS.": "name build_resnet_backbone in MODEL.PAIR.*.NAME, or leave it out",
    "MODEL.BACKBONE.FREEZE_AT": "MODEL.PAIR.FREEZE_NORM freezes batch norms",
    "MODEL.SEM_SEG_HEAD.": "only heads of Detectron2 do",
}


def check_unread(cfg: CfgNode, defaults: Mapping[str, Any]) -> Iterator[Fault]:
    """Keys that are set without effect, and for each the problem in words.

    Args:
        cfg: the whole config.
        defaults: values of the engine's own keys by their dotted names.
    """
    for key, default in defaults.items():
        if key in RULES or key.startswith(ENGINE_NODES):
            continue
        value = value_at(cfg, key)
        if as_lists(value) == as_lists(default) or (key.startswith("MODEL.") and _has_guest(cfg)):
            continue
        yield unread_fault(key, value)


def unread_fault(key: str, value: Any) -> Fault:
    hints = [hint for start, hint in INSTEAD.items() if key.startswith(start)]
    hint = f": {hints[0]}" if hints else ""
    return key, f"to {value!r}, but nothing here reads it{hint}. Remove the key"


def _has_guest(cfg: CfgNode) -> bool:
    """Whether a part of the model is none of this package."""
    model = cfg.MODEL
    streams = (model.PAIR.VISIBLE.NAME, model.PAIR.AUXILIARY.NAME)
    return (
        bool(cfg.IMPORTS)
        or model.META_ARCHITECTURE not in OURS["META_ARCHITECTURE"]
        or any(model[node].NAME not in OURS[node] for node in ("BACKBONE", "SEM_SEG_HEAD"))
        or any(name.startswith("build_") for name in streams)
    )


def value_at(node: Any, key: str) -> Any:
    for name in key.split("."):
        node = node[name]
    return node


def as_lists(value: Any) -> Any:
    """Tuples as lists, throughout: a dump does not tell them apart."""
    return [as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
