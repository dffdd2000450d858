"""Probes of what surrounds the model: scalars, results, inference, checkpoints, logs."""

import logging
import math
import pathlib
import types
from typing import Any

import torch
from probes_names import raised
from probes_training import MeanEvaluator, TinyModel, TinyTrainer, tiny_config
from torch import nn

import smmcl.d2 as d2


class Lines(logging.Handler):
    """Keeps what a logger says."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.logger = logging.getLogger(name)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname}: {record.getMessage()}")

    def __enter__(self) -> "Lines":
        self.logger.setLevel(logging.DEBUG)
        self.logger.addHandler(self)
        return self

    def __exit__(self, *exc: Any) -> None:
        self.logger.removeHandler(self)


def writers(folder: pathlib.Path, max_iter: int) -> list[Any]:
    cfg = types.SimpleNamespace(OUTPUT_DIR=str(folder))
    return d2.DefaultTrainer.build_writers(types.SimpleNamespace(cfg=cfg, max_iter=max_iter))


def observe_events(folder: pathlib.Path) -> dict[str, Any]:
    _, writer, *_ = writers(folder, max_iter=20)
    outside = [raised(d2.get_event_storage), d2.has_event_storage()]
    with d2.EventStorage(10) as storage:
        for iteration in range(10, 15):
            storage.put_scalar("loss", (iteration % 3) * 1.5)
            storage.put_scalars(lr=iteration, smoothing_hint=False)
            if iteration in (12, 14):
                writer.write()
            storage.step()
        storage.put_scalar("late", 7, cur_iter=20)
        writer.write()
        writer.close()
        inside = [d2.get_event_storage() is storage, d2.has_event_storage()]
        return {
            "outside": outside,
            "inside": inside,
            "latest": storage.latest(),
            "smoothed": storage.latest_with_smoothing_hint(4),
            "history": storage.history("loss").values(),
            "names": sorted(storage.histories()),
            "samples": storage.count_samples("loss", 2),
            "lines": (folder / "metrics.json").read_text().splitlines(),
            "errors": {
                "missing": raised(storage.history, "nothing"),
                "hint": raised(storage.put_scalar, "loss", 1.0, smoothing_hint=False),
                "text": raised(storage.put_scalar, "word", "x"),
            },
        }


def observe_printing(folder: pathlib.Path) -> list[str]:
    printer, *_ = writers(folder, max_iter=100)
    with d2.EventStorage() as storage, Lines("detectron2.utils.events") as log:
        for storage.iter in range(0, 45):
            storage.put_scalars(total_loss=storage.iter**1.5, loss_a=1 / (storage.iter + 1))
            storage.put_scalar("lr", 0.001 * storage.iter, smoothing_hint=False)
            storage.put_scalar("[metric]scale", 2.0)
            if storage.iter > 1:
                storage.put_scalars(time=0.5 + storage.iter / 8, data_time=storage.iter / 16)
            if storage.iter % 20 == 19:
                printer.write()
        storage.iter = 100
        printer.write()  # after training it is silent
    return [line.split("max_mem")[0].rstrip() for line in log.lines]


def observe_results(folder: pathlib.Path) -> dict[str, Any]:
    results = {"sem_seg": {"mIoU": 12.34567, "IoU-a": 3.0, "pACC": math.pi}}
    cfg = tiny_config(folder)
    expectations = {
        "none": [],
        "met": [["sem_seg", "mIoU", 12.3, 0.1], ["sem_seg", "pACC", 3.0, 1.0]],
        "missed": [["sem_seg", "mIoU", 12.0, 0.1]],
        "absent": [["sem_seg", "fwIoU", 12.0, 0.1]],
    }
    found: dict[str, Any] = {}
    for name, expected in expectations.items():
        cfg.TEST.EXPECTED_RESULTS = expected
        found[name] = raised(d2.verify_results, cfg, results)
    return found


class Other(MeanEvaluator):
    def evaluate(self) -> dict[str, Any]:
        return {"other": {"n": len(self.means)}}


def observe_testing(folder: pathlib.Path) -> dict[str, Any]:
    cfg, model = tiny_config(folder), TinyModel().train()
    several = cfg.clone()
    several.DATASETS.TEST = ("one", "other")
    with Lines("detectron2.evaluation.evaluator") as log, Lines("detectron2.evaluation") as csv:
        results = TinyTrainer.test(cfg, model)
    return {
        "results": results,
        "restored": model.training,
        "own": TinyTrainer.test(cfg, model, Other()),
        "several": TinyTrainer.test(several, model, [MeanEvaluator(), Other()]),
        "too few": raised(TinyTrainer.test, several, model, [Other()]),
        "lines": [line.split(":")[1].split("(")[0].strip() for line in log.lines],
        "csv": [line for line in csv.lines if "copypaste" in line],
    }


def observe_checkpoints(folder: pathlib.Path) -> dict[str, Any]:
    model, optimizer = TinyModel(), torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    checkpointer = d2.DetectionCheckpointer(model, str(folder), optimizer=optimizer)
    before = checkpointer.has_checkpoint()
    checkpointer.save("probe", iteration=4, note="x")
    saved = torch.load(folder / "probe.pth", weights_only=True)
    model.conv.weight.data.zero_()
    resumed = checkpointer.resume_or_load("", resume=True)
    silent = d2.DetectionCheckpointer(model, str(folder / "no"), save_to_disk=False)
    silent.save("probe")
    return {
        "has": [before, checkpointer.has_checkpoint()],
        "keys": sorted(saved),
        "last": (folder / "last_checkpoint").read_text(),
        "path": checkpointer.get_checkpoint_file().removeprefix(str(folder)),
        "resumed": [sorted(resumed), float(model.conv.weight.detach().abs().sum())],
        "empty": checkpointer.load(""),
        "missing": raised(checkpointer.load, str(folder / "none.pth")),
        "unsaved": (folder / "no").exists(),
    }


def observe_logging(folder: pathlib.Path) -> dict[str, Any]:
    logger = d2.setup_logger(str(folder), name="probe.main", configure_stdout=False)
    same = d2.setup_logger(str(folder), name="probe.main", configure_stdout=False)
    second = d2.setup_logger(str(folder), 2, name="probe.second")
    named = d2.setup_logger(str(folder / "own.txt"), name="probe.named", configure_stdout=False)
    for each in (logger, second, named):
        each.warning("first")
        logging.getLogger(each.name + ".child").debug("second")
    texts = {p.name: p.read_text().splitlines() for p in sorted(folder.iterdir())}
    return {
        "files": {name: [line.split("] ")[1] for line in lines] for name, lines in texts.items()},
        "handlers": [len(each.handlers) for each in (logger, second, named)],
        "same": same is logger,
        "propagates": logger.propagate,
    }
