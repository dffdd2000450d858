"""A trained model as a file of the zoo: half precision, its config inside, and a card beside it."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from smmcl.d2 import CfgNode, DatasetCatalog, build_model
from smmcl.engine.checkpoint import read_facts
from smmcl.engine.grid import RECORD
from smmcl.engine.setup import changed, load_weights, with_device
from smmcl.evaluation.report import FORM
from smmcl.files.atomic import atomic, write_text
from smmcl.files.json import read_json
from smmcl.files.paths import sha256
from smmcl.inference.named_model import checkpoint_config
from smmcl.modeling.classifier import check_segments
from smmcl.weights.zoo import SUMS

EVALUATED = {key: FORM[key] for key in ("protocol", "results")}  # of evaluation.json
MAX_BYTES = 25_000_000  # of a file: all of them are in every clone and every wheel
TOLERANCE = 0.1  # of the reproduced mIoU, in points: half precision, other processors
# What training alone needs, and what depends on the machine.
STRIPPED = ("MODEL.CONTRAST.NAME", "", "MODEL.PAIR.VISIBLE.WEIGHTS", "",
            "MODEL.PAIR.AUXILIARY.WEIGHTS", "", "MODEL.DEVICE", "cuda")  # fmt: skip

CARD = """\
# {name}

{parts}; {parameters:.1f} M parameters in half precision, {megabytes:.1f} MB.

| | |
|---|---|
| trained on | {training_sets} |
| training | {iterations} iterations of {batch} pairs, crops of {crop}, contrast: {contrast} |
| command | `{command}` |
| commit, machine | {sessions} |
| file | `{name}.safetensors`, SHA-256 `{digest}` |
{notes}
## Score

{scores}

{protocol}

IoU by class: {classes}.

The scores are those of the run in {precision}. This command evaluates the file, and fails if its
mIoU differs by more than {tolerance} points:

```bash
smmcl evaluate --model {name} OUTPUT_DIR output/{name} \\
    TEST.EXPECTED_RESULTS "[['{task}', 'mIoU', {mean:.2f}, {tolerance}]]"
```

## Use

```bash
smmcl predict --model {name} --visible color.png --auxiliary other.png --output predictions
```

In Python: `smmcl.Predictor.from_zoo("{name}")(visible, auxiliary).labels`. The auxiliary image
holds what the training set's files hold: {auxiliary}.

## License

For research. The code is Apache-2.0; the weights are subject to the terms of the datasets that they
were trained on: {data}.
"""


def publish(checkpoint: str, output: Path, *, command: str, notes: str = "") -> None:
    """Writes `output`, its card as .md, and its checksum into the zoo.json beside it.

    Args:
        checkpoint: in the folder of its run, which has been evaluated.
        output: of the zoo, ending in .safetensors; its stem is the model's name.
        command: that trained the model, for the card.
        notes: further sentences for the card.
    """
    if output.suffix != ".safetensors":
        raise ValueError(f"{output} is no file of a zoo. Let its name end in .safetensors.")
    trained = checkpoint_config(checkpoint)
    cfg = changed(trained, *STRIPPED, "OUTPUT_DIR", f"output/{output.stem}")
    facts = read_facts(checkpoint)
    if "inputs" not in facts:
        raise ValueError(f"{checkpoint} does not say what its images hold. Name one of a run.")
    evaluation = _evaluation(Path(checkpoint).parent, cfg)
    model = build_model(with_device(trained))
    check_segments(model, "The zoo")
    load_weights(trained, model)
    model.contrast = None  # its weights are left out
    metadata = {
        "format": "pt",
        "config": changed(cfg, "MODEL.WEIGHTS", "").dump(),
        "inputs": json.dumps(facts["inputs"]),
    }
    with atomic(output) as partial:
        halves = {name: _half(name, value) for name, value in model.state_dict().items()}
        size = partial.write_bytes(save(halves, metadata=metadata))
        if size > MAX_BYTES:
            raise ValueError(f"{output} would have {size} bytes, more than {MAX_BYTES}.")
    sums = output.with_name(SUMS)
    known = read_json(sums, {"*": str}) if sums.is_file() else {}
    digest = sha256(output)
    write_text(sums, json.dumps({**known, output.stem: digest}, indent=1, sort_keys=True) + "\n")
    values = {
        **{"name": output.stem, "command": command, "digest": digest, "megabytes": size / 1e6},
        **{"notes": f"\n{notes}\n" if notes else "", "tolerance": TOLERANCE},
        **_of_training(trained, model, Path(checkpoint).parent),
        **_of_evaluation(evaluation),
        "auxiliary": _described(facts["inputs"]["auxiliary"]),
    }
    write_text(output.with_suffix(".md"), CARD.format(**values))


def _half(name: str, value: Tensor) -> Tensor:
    """Contiguous, and in half precision unless it counts something."""
    half = value.half() if value.is_floating_point() else value
    if not torch.isfinite(half).all():
        raise ValueError(f"{name} has values beyond half precision, which ends at 65504.")
    return half.contiguous()


def _evaluation(folder: Path, cfg: CfgNode) -> dict[str, Any]:
    """What the run's evaluation wrote, with its table of means."""
    place = folder / "inference" / cfg.DATASETS.TEST[0] / "evaluation.json"
    if not place.is_file():
        raise FileNotFoundError(
            f"{place} does not exist, and a card needs a score. Evaluate the run first: smmcl "
            f"evaluate --checkpoint FILE OUTPUT_DIR {folder}."
        )
    table = [
        line
        for line in place.with_suffix(".md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    return {**read_json(place, EVALUATED), "table": "\n".join(table)}


def _of_training(cfg: CfgNode, model: nn.Module, folder: Path) -> dict[str, Any]:
    """The card's values of a run: its networks, data, length, and where it was computed."""
    names = [cfg.MODEL.PAIR[role].NAME or "none" for role in ("VISIBLE", "AUXILIARY")]
    record = folder / "experiment.json"
    sessions = read_json(record, RECORD)["sessions"] if record.is_file() else []
    sessions = [session for session in sessions if session["seconds"]]
    commits, machines = ({s[key]: 0 for s in sessions} for key in ("commit", "machine"))
    minutes = sum(session["seconds"] for session in sessions) / 60
    sets = [f"{name}, {len(DatasetCatalog.get(name))} pairs" for name in cfg.DATASETS.TRAIN]
    weights = {cfg.MODEL.PAIR[role].WEIGHTS for role in ("VISIBLE", "AUXILIARY")} - {""}
    return {
        "parts": f"Streams {' and '.join(names)}, {cfg.MODEL.FUSION.NAME}, "
        f"{cfg.MODEL.SEM_SEG_HEAD.NAME}",
        "parameters": sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        "training_sets": "; ".join(sets),
        "iterations": cfg.SOLVER.MAX_ITER,
        "batch": cfg.SOLVER.IMS_PER_BATCH,
        "crop": "{}x{}".format(*cfg.INPUT.CROP_SIZE),
        "contrast": cfg.MODEL.CONTRAST.NAME or "none",
        "sessions": f"{', '.join(commits)}; {', '.join(machines)}; {minutes:.0f} min"
        if sessions
        else "not recorded",
        "data": ", ".join([*cfg.DATASETS.TRAIN, *(f"{w} (ImageNet)" for w in sorted(weights))]),
    }


def _of_evaluation(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The card's values of a score."""
    task, scores = next(iter(evaluation["results"].items()))
    protocol = {k: v for k, v in evaluation["protocol"].items() if k != "checkpoint"}
    ious = {k.removeprefix("IoU-"): v for k, v in scores.items() if k.startswith("IoU-")}
    return {
        "scores": evaluation["table"],
        "protocol": "\n".join(f"- {key}: {value}" for key, value in protocol.items()),
        "precision": protocol["precision"],
        "classes": ", ".join(f"{name} {iou:.1f}" for name, iou in ious.items()),
        "task": task,
        "mean": scores["mIoU"],
    }


def _described(auxiliary: dict[str, Any] | None) -> str:
    if auxiliary is None:
        return "nothing, the model reads the visible image alone"
    facts = {k: v for k, v in auxiliary.items() if v is not None and k != "kind"}
    return f"{auxiliary['kind']} ({', '.join(f'{k} {v}' for k, v in facts.items())})"
