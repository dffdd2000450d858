"""The whole path on a CPU: train, stop, resume, evaluate."""

import itertools
import json
import logging
import pathlib
import signal
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from smmcl.d2 import HookBase
from smmcl.engine.setup import changed, load_weights, with_device, with_iterations
from smmcl.engine.trainer import Trainer, evaluate
from smmcl.modeling.streams.base import build_stream
from smmcl.modeling.streams.mscan import NAMES as MSCAN


@pytest.fixture
def config(tiny_config) -> Callable:
    return tiny_config


def weights(folder: pathlib.Path) -> dict[str, Tensor]:
    return torch.load(folder / "model_final.pth", map_location="cpu")["model"]


class StopAt(HookBase):
    """Sends this process a signal after an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            signal.raise_signal(signal.SIGTERM)


def test_train_stop_resume_evaluate(config, tmp_path) -> None:
    trainer = Trainer(config(tmp_path / "whole"))
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    assert 0 < results["sem_seg"]["mIoU"] < 100

    lines = (tmp_path / "whole/metrics.json").read_text().splitlines()
    metrics = [json.loads(line, parse_constant=pytest.fail) for line in lines]  # no NaN
    losses = [entry["total_loss"] for entry in metrics if "total_loss" in entry]
    assert losses[-1] < losses[0] if len(losses) > 1 else losses
    assert {"loss_sem_seg", "loss_contrast_cross"} <= set(metrics[-1]) | set(metrics[0])

    log = (tmp_path / "whole/log.txt").read_text()
    assert "smmcl.engine.setup INFO: Engine: " in log

    # The same run, stopped by a signal in iteration 6, goes on to the same weights.
    cfg = config(tmp_path / "halves")
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.register_hooks([StopAt(6)])
    with pytest.raises(SystemExit) as stop:
        trainer.train()
    assert stop.value.code == 128 + signal.SIGTERM
    assert (tmp_path / "halves/last_checkpoint").read_text() == "model_0000006.pth"
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 7
    again = trainer.train()
    whole, halves = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    assert again == results

    # Evaluation by itself finds the last checkpoint and gives the training's numbers.
    assert evaluate(cfg) == results

    # Over two draws of the Hamburger's bases, of which these numbers are one.
    drawn = evaluate(config(tmp_path / "halves", "TEST.BASES_DRAWS", "2"))
    mean, spread = drawn["sem_seg"]["fwIoU"], drawn["sem_seg_spread"]["fwIoU"]
    assert spread > 0
    assert abs(results["sem_seg"]["fwIoU"] - mean) == pytest.approx(spread / 2**0.5)


def test_a_resume_without_a_checkpoint_says_so(config, tmp_path, caplog) -> None:
    trainer = Trainer(config(tmp_path))
    logging.getLogger("smmcl").propagate = True
    trainer.resume_or_load(resume=True)
    assert f"{tmp_path} has no checkpoint: --resume starts anew" in caplog.text


def rates_of(trainer: Trainer) -> list[float]:
    """Trains, and returns the rate of each step."""
    seen = []
    step = trainer._trainer.optimizer.step
    trainer._trainer.optimizer.step = lambda *args: (
        seen.append(trainer._trainer.optimizer.param_groups[0]["lr"]),
        step(*args),
    )
    trainer.train()
    return seen


def test_a_run_can_be_made_longer(config, tmp_path) -> None:
    """Its schedule is then that of the longer run, from the first step on."""
    keys = ["DATASETS.TEST", "()", "SOLVER.BASE_LR", "1e-3", "SOLVER.WARMUP_ITERS", "0"]
    first = Trainer(config(tmp_path, *keys, "SOLVER.MAX_ITER", "3"))
    assert rates_of(first) == pytest.approx([1e-3 * (1 - i / 3) ** 0.9 for i in range(3)])
    longer = Trainer(config(tmp_path, *keys, "SOLVER.MAX_ITER", "6"))
    longer.resume_or_load(resume=True)
    assert rates_of(longer) == pytest.approx([1e-3 * (1 - i / 6) ** 0.9 for i in range(3, 6)])


def test_a_negative_seed_is_another_order_each_time(config, tmp_path) -> None:
    """Detectron2's loader takes -1 for a seed like others: one order for all such runs."""

    def first_pairs(trainer: Trainer) -> list[str]:
        batches = itertools.islice(iter(trainer._trainer.data_loader), 8)
        return [pair["image_id"] for batch in batches for pair in batch]

    cfg = config(tmp_path, "SEED", "-1")
    one, other = Trainer(cfg), Trainer(cfg)
    assert first_pairs(one) != first_pairs(other)
    one.iter = one._trainer.iter = 7  # 16 pairs, the first epoch
    one.checkpointer.save("model_0000007", iteration=7)
    other.resume_or_load(resume=True)
    again = Trainer(changed(cfg, "SEED", one.cfg.SEED))
    position = 8 * cfg.SOLVER.IMS_PER_BATCH
    again._trainer.reset_data_loader(
        lambda: Trainer.build_train_loader(again.cfg, start_position=position)
    )
    assert first_pairs(other) == first_pairs(again)  # the drawn seed, and on from its place


@pytest.mark.slow
def test_with_everything_on_a_stop_changes_nothing(
    config: Callable, tmp_path: pathlib.Path
) -> None:
    """Parts, bfloat16, recomputing, drop path, average and best checkpoint, together."""
    keys = [
        "SOLVER.MAX_ITER", "6", "SOLVER.IMS_PER_BATCH", "4", "SOLVER.ACCUMULATION", "2",
        "SOLVER.AMP.ENABLED", "True", "TEST.AMP", "True", "MODEL.PAIR.RECOMPUTE", "True",
        "MODEL.PAIR.VISIBLE.DROP_PATH_RATE", "0.2", "SOLVER.AVERAGE_DECAY", "0.9",
        "TEST.EVAL_PERIOD", "3", "TEST.BEST_METRIC", "sem_seg/mIoU",
    ]  # fmt: skip
    results = []
    for name in ("whole", "halves"):
        cfg = config(tmp_path / name, *keys)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        if name == "halves":
            trainer.register_hooks([StopAt(3)])
            with pytest.raises(SystemExit):
                trainer.train()
            trainer = Trainer(cfg)
            trainer.resume_or_load(resume=True)
            assert trainer.start_iter == 4
        results.append(trainer.train())
        # A checkpoint is evaluated by its averaged weights, as in training.
        assert evaluate(cfg) == results[-1]
    assert results[0] == results[1]
    for file in ("model_final.pth", "model_best.pth"):
        whole, halves = (torch.load(tmp_path / name / file) for name in ("whole", "halves"))
        assert all(torch.equal(whole["model"][key], halves["model"][key]) for key in whole["model"])
        averages = [run["trainer"]["hooks"]["WeightAverage"] for run in (whole, halves)]
        assert all(torch.equal(averages[0][key], averages[1][key]) for key in averages[0])
        assert any(not torch.equal(averages[0][key], whole["model"][key]) for key in averages[0])
        assert whole.get("score") == halves.get("score")


@pytest.mark.slow
def test_a_compiled_backbone_gives_the_same_numbers(
    config: Callable, tmp_path: pathlib.Path
) -> None:
    sizes = ["MODEL.PAIR.VISIBLE.NAME", "resnet18", "MODEL.PAIR.AUXILIARY.NAME", "resnet18"]
    inputs = [{"image": torch.full((3, 32, 64), 90), "auxiliary": torch.full((3, 32, 64), 9)}]
    outputs = []
    for backend in ("", "aot_eager"):
        cfg = config(tmp_path, *sizes, "MODEL.COMPILE", backend)
        torch.manual_seed(0)
        model = Trainer.build_model(cfg).eval().double()
        with torch.no_grad():
            outputs.append(model(inputs)[0]["sem_seg"])
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["MODEL.COMPILE", "fast"], "MODEL.COMPILE is 'fast'.*inductor"),
        (["MODEL.COMPILE", "eager", "MODEL.PAIR.RECOMPUTE", "True"], "Choose one of them"),
    ],
)
def test_what_cannot_be_compiled_is_refused(
    config: Callable, tmp_path, keys: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Trainer.build_model(config(tmp_path, *keys))


def test_evaluation_without_a_trained_model_is_refused(
    config: Callable, tmp_path: pathlib.Path
) -> None:
    cfg = config(tmp_path)
    with pytest.raises(ValueError, match="no trained model"):
        load_weights(cfg, Trainer.build_model(cfg))


def test_a_gpu_that_is_not_there_becomes_the_cpu(
    config: Callable, tmp_path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = with_device(config(tmp_path, "MODEL.DEVICE", "cuda"))
    assert cfg.MODEL.DEVICE == "cpu"


def test_an_unknown_dataset_is_answered_by_name(config, tmp_path) -> None:
    with pytest.raises(ValueError, match="no_such_set"):
        config(tmp_path, "DATASETS.TEST", "('no_such_set',)")


def test_iterations_follow_from_epochs_pairs_and_batch(
    config: Callable, tmp_path: pathlib.Path
) -> None:
    """16 pairs in batches of 3 are 6 iterations an epoch."""
    overrides = ["SOLVER.EPOCHS", "5", "SOLVER.WARMUP_EPOCHS", "2", "SOLVER.IMS_PER_BATCH", "3"]
    cfg = config(tmp_path, "SOLVER.MAX_ITER", "0", *overrides)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (5 * 6, 2 * 6)
    assert with_iterations(changed(cfg, "SOLVER.MAX_ITER", 0)).SOLVER.MAX_ITER == 5 * 6
    # A number of iterations that is asked for stands.
    assert config(tmp_path, "SOLVER.MAX_ITER", "7", *overrides).SOLVER.MAX_ITER == 7


def test_a_head_for_other_classes_is_answered_by_name(
    config: Callable, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ValueError, match=r"NUM_CLASSES is 5 but dataset few_train"):
        config(tmp_path, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "5")


def test_a_start_reads_the_streams_weights_and_nothing_else_does(
    config: Callable, tmp_path: pathlib.Path
) -> None:
    torch.manual_seed(1)
    published = build_stream("mscan_t")
    state = {MSCAN.to_theirs(name): value for name, value in published.state_dict().items()}
    file = tmp_path / "mscan_t.pth"
    torch.save({"state_dict": state}, file)
    keys = ["MODEL.PAIR.VISIBLE.NAME", "mscan_t", "MODEL.PAIR.VISIBLE.WEIGHTS", str(file)]
    cfg = config(tmp_path / "run", *keys)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    ours = trainer.model.backbone.visible.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in published.state_dict().items())

    trainer.checkpointer.save("model_0000000", iteration=0)
    file.unlink()
    Trainer(cfg).resume_or_load(resume=True)
    last = str(tmp_path / "run/model_0000000.pth")
    assert load_weights(cfg, Trainer.build_model(cfg)) == last
    weights = ["MODEL.WEIGHTS", last]
    Trainer(config(tmp_path / "other", *keys, *weights)).resume_or_load(resume=False)
    with pytest.raises(FileNotFoundError, match=r"mscan_t\.pth do not exist"):
        Trainer(cfg).resume_or_load(resume=False)


def test_a_checkpoint_knows_the_inputs_it_was_trained_on(
    config: Callable, tmp_path: pathlib.Path
) -> None:
    trainer = Trainer(config(tmp_path))
    trainer.checkpointer.save("model_0000000", iteration=0)
    inputs = torch.load(tmp_path / "model_0000000.pth")["inputs"]
    assert (inputs["format"], inputs["stuff_classes"][0]) == ("RGB", "road")
    assert inputs["auxiliary"]["unit"] == "8-bit"
    with pytest.raises(ValueError, match=r"trained on RGB colors but .* is 'BGR'"):
        load_weights(config(tmp_path, "INPUT.FORMAT", "BGR"), trainer.model)
