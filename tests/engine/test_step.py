"""A step in parts equals the step of the whole batch; mixed precision where it is meant."""

import argparse
import logging
import pathlib

import pytest
import torch
from torch import Tensor, nn

import smmcl.engine.trainer  # noqa: F401  registers the parts
from smmcl.cli import user_message
from smmcl.config import build_config
from smmcl.d2 import build_model, comm
from smmcl.engine.deployed import TrainingOnly, deployed
from smmcl.engine.launch import parallelize, start
from smmcl.engine.solver import build_optimizer
from smmcl.engine.step import (
    StepTrainer,
    amp_dtype,
    build_step_trainer,
    unsynchronised,
)
from smmcl.modeling.head.hamburger import MatrixFactorization

TINY = [
    "MODEL.DEVICE", "cpu", "MODEL.PAIR.VISIBLE.NAME", "mit_b0", "MODEL.PAIR.AUXILIARY.NAME",
    "mit_b0", "MODEL.PAIR.VISIBLE.DROP_PATH_RATE", "0.0",
    "MODEL.PAIR.AUXILIARY.DROP_PATH_RATE", "0.0", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.HAM.CHANNELS", "32",
    "MODEL.SEM_SEG_HEAD.HAM.RANK", "4", "MODEL.SEM_SEG_HEAD.DROPOUT", "0.0",
    "MODEL.SMMCL.IN_FEATURES", '["res4_visible", "res4_auxiliary"]',
]  # fmt: skip
BASELINE = [*TINY, "MODEL.CONTRAST.NAME", ""]


def batch(num_pairs: int = 4) -> list[dict]:
    """Pairs with very different numbers of labeled pixels, one of them without any."""
    generator = torch.Generator().manual_seed(3)
    pairs = []
    for index in range(num_pairs):
        image, auxiliary = (
            torch.randint(256, (3, 32, 32), generator=generator, dtype=torch.uint8)
            for _ in range(2)
        )
        labels = torch.randint(4, (32, 32), generator=generator)
        labels[:, 32 // (1 + index) :] = 255
        if index == 1:
            labels[:] = 255
        pairs.append(
            {"image": image, "auxiliary": auxiliary, "sem_seg": labels, "view_seed": index}
        )
    return pairs


def train(num_parts: int, pairs: list[dict], *, wrap=lambda model: model) -> nn.Module:
    """Two steps of a small float64 model whose images do not see each other."""
    torch.manual_seed(0)
    model = build_model(build_config("Base-SMMCL.yaml", BASELINE)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = StepTrainer(wrap(model), [pairs] * 2, optimizer, num_parts=num_parts)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    trainer.train(0, 2)
    return model


@pytest.fixture
def _given_bases(monkeypatch) -> None:
    monkeypatch.setattr(MatrixFactorization, "_draw", lambda self, data: self.start)


def largest_difference(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max((a.detach() - b.detach()).abs().max().item() for a, b in pairs)


@pytest.mark.usefixtures("_given_bases")
def test_parts_are_the_whole_batch() -> None:
    whole = train(1, batch())
    assert largest_difference(whole, train(4, batch())) < 1e-12  # one part without any label
    # Parts that divide by their own counts end elsewhere, so the test can fail.
    assert largest_difference(whole, train(1, batch()[:2])) > 1e-4


def _one_of_two(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    MatrixFactorization._draw = lambda self, data: self.start
    mine = batch(8)[comm.get_rank() :: 2]
    model = train(2, mine, wrap=lambda model: parallelize(model, has_sync_norm=False))
    if comm.is_main_process():
        torch.save(list(model.parameters()), args.folder / "parameters.pth")


@pytest.mark.slow
@pytest.mark.usefixtures("_given_bases")
def test_parts_of_two_processes_are_the_whole_batch(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parent)
    import test_step

    two = {"num_gpus": 2, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    start(test_step._one_of_two, argparse.Namespace(**two, folder=tmp_path))
    whole = train(1, batch(8)).parameters()
    parts = torch.load(tmp_path / "parameters.pth")
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_model_of_one_process_has_nothing_to_synchronise() -> None:
    with unsynchronised(nn.Linear(1, 1)):
        pass


def test_parts_must_divide_the_batch() -> None:
    cfg = build_config("Base-SMMCL.yaml", ["SOLVER.IMS_PER_BATCH", "4", "SOLVER.ACCUMULATION", "3"])
    with pytest.raises(ValueError, match="ACCUMULATION is 3 but each of 1 processes has 4 pairs"):
        build_step_trainer(cfg, nn.Linear(1, 1), [], torch.optim.SGD([torch.zeros(1)]))


def test_the_log_says_what_sees_a_part(caplog) -> None:
    caplog.set_level(logging.INFO, "smmcl")
    cfg = build_config("Base-SMMCL.yaml", ["SOLVER.IMS_PER_BATCH", "4", "SOLVER.ACCUMULATION", "2"])
    build_step_trainer(cfg, nn.Linear(1, 1), [], torch.optim.SGD([torch.zeros(1)]))
    assert "2 parts of 2; batch norm and the contrastive branch see one part" in caplog.text


def exact_losses(seed: int | None = None) -> dict[str, Tensor]:
    """In float64; a seed puts each weight off by up to the distance of bfloat16's numbers."""
    torch.manual_seed(0)
    model = build_model(build_config("Base-SMMCL.yaml", TINY)).double()
    generator = torch.Generator().manual_seed(seed or 0)
    for parameter in model.parameters():
        noise = 2 * torch.rand(parameter.shape, generator=generator, dtype=torch.float64) - 1
        parameter.data *= 1 + (seed is not None) * torch.finfo(torch.bfloat16).eps * noise
    return StepTrainer(model, [], torch.optim.SGD(model.parameters()))._accumulate(batch())


@pytest.mark.usefixtures("_given_bases")
def test_mixed_precision_spares_the_factorization_and_the_contrast(monkeypatch) -> None:
    torch.manual_seed(0)
    model = build_model(build_config("Base-SMMCL.yaml", TINY))
    trainer = StepTrainer(model, [], torch.optim.SGD(model.parameters()), dtype=torch.bfloat16)
    seen = []
    factorize = MatrixFactorization._factorize
    monkeypatch.setattr(
        MatrixFactorization,
        "_factorize",
        lambda self, data, bases: (
            seen.append((data.mT @ bases).dtype) or factorize(self, data, bases)
        ),
    )
    model.backbone.visible.stages[0].blocks[0].mlp.register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )
    model.contrast.projectors["visible"].register_forward_hook(
        lambda module, inputs, output: seen.append((torch.ones(1, 1) @ torch.ones(1, 1)).dtype)
    )
    losses = trainer._accumulate(batch())
    assert seen == [torch.bfloat16, torch.float32, torch.float32]
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    exact = exact_losses()
    noisy = [exact_losses(seed) for seed in range(8)]
    for name, loss in losses.items():
        spread = torch.stack([other[name] - exact[name] for other in noisy]).square().mean().sqrt()
        assert (loss - exact[name]).abs() <= 5 * spread


class OneWeight(nn.Module):
    """Loss: weight times the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch: list[float]) -> dict[str, Tensor]:
        return {"loss": self.weight * batch[0]}


class TwoLosses(OneWeight):
    """One is the weight, the other the inputs."""

    def forward(self, batch: list[dict]) -> dict[str, Tensor]:
        return {"loss_a": self.weight * 1, "loss_b": sum(pair["value"] for pair in batch) * 1}


def float16_trainer(batches: list[list[float]]) -> StepTrainer:
    model = OneWeight()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    return StepTrainer(model, batches, optimizer, dtype=torch.float16)


def test_the_loss_scale_halves_on_overflow_and_is_resumed() -> None:
    trainer = float16_trainer([[1.0], [1e38], [1.0]])
    trainer.train(0, 3)
    # 1 - 0.5, then 65536 * 1e38 overflows: no step, half the scale; then 0.5 - 0.5.
    assert trainer.model.weight.item() == 0.0
    assert trainer.scaler.get_scale() == 32768
    again = float16_trainer([])
    again.load_state_dict(trainer.state_dict())
    assert again.scaler.get_scale() == 32768


def test_gradients_are_clipped_without_their_scale() -> None:
    model = OneWeight()
    keys = ["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.75"]
    optimizer = build_optimizer(build_config("Base-SMMCL.yaml", keys), model)
    assert optimizer._step_supports_amp_scaling  # it would unscale by itself, after clipping
    trainer = StepTrainer(model, [[0.5], [3.0]], optimizer, dtype=torch.float16)
    for expected in (0.5, 0.75):
        trainer.train(trainer.iter, trainer.iter + 1)
        assert model.weight.grad.item() == expected


def test_a_checkpoint_without_scale_says_so(caplog) -> None:
    caplog.set_level(logging.INFO, "smmcl")
    model = OneWeight()
    plain = StepTrainer(model, [], torch.optim.SGD(model.parameters()))
    assert "grad_scaler" not in plain.state_dict()
    float16_trainer([]).load_state_dict(plain.state_dict())
    assert "the scale starts anew" in caplog.text


@pytest.mark.parametrize("dtype", [None, torch.float16], ids=["float32", "float16"])
def test_a_loss_that_is_not_finite_names_its_term_and_keeps_its_batch(tmp_path, dtype) -> None:
    model = TwoLosses()
    batches = [[{"file_name": f"{name}.png", "value": torch.tensor(value)} for name in pair]
               for pair, value in (("ab", 1.0), ("cd", float("nan")))]  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = StepTrainer(model, batches, optimizer, dtype=dtype, folder=str(tmp_path))
    words = r"^loss_b is nan in iteration 1, of c\.png, d\.png\. .*rank0\.pth holds the batch"
    with pytest.raises(FloatingPointError, match=rf"{words}.*Lower SOLVER.BASE_LR") as error:
        trainer.train(0, 2)
    assert ("AMP.DTYPE bfloat16" in str(error.value)) is (dtype is torch.float16)
    assert "weights are not finite" not in str(error.value)
    assert model.weight.item() == 0.5  # after the first step
    kept = torch.load(tmp_path / "non_finite_batch_rank0.pth", weights_only=True)
    assert (kept["iteration"], kept["losses"]["loss_a"]) == (1, 0.5)
    assert [pair["file_name"] for pair in kept["batch"]] == ["c.png", "d.png"]
    assert kept["batch"][0]["value"].isnan()
    assert user_message(error.value) == str(error.value)


def test_weights_that_diverged_before_are_said() -> None:
    model = TwoLosses()
    model.weight.data.fill_(float("inf"))
    trainer = StepTrainer(model, [[{"value": torch.ones(())}]], torch.optim.SGD([model.weight]))
    with pytest.raises(FloatingPointError, match=r"loss_a is inf .*weights are not finite either"):
        trainer.train(0, 1)


def test_a_gpu_without_memory_left_names_the_keys(monkeypatch) -> None:
    def fails(batch: list) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")

    model = OneWeight()
    trainer = StepTrainer(model, [[1.0] * 4], torch.optim.SGD(model.parameters()), num_parts=2)
    monkeypatch.setattr(model, "forward", fails)
    words = (
        r"iteration 0 with 2 pairs at once: CUDA .* 2\.00 GiB\. Raise SOLVER.ACCUMULATION \(now 2"
    )
    with pytest.raises(ValueError, match=words + ".*IMS_PER_BATCH.*CROP_SIZE.*RECOMPUTE") as error:
        trainer.train(0, 1)
    assert "More" not in str(error.value)


def test_automatic_precision(monkeypatch) -> None:
    assert amp_dtype(build_config("Base-SMMCL.yaml", ["MODEL.DEVICE", "cpu"])) is torch.bfloat16
    for capability, dtype in (((7, 5), torch.float16), ((8, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_, c=capability: c)
        assert amp_dtype(build_config("Base-SMMCL.yaml", ["MODEL.DEVICE", "cuda"])) is dtype


def test_what_is_for_training_only_is_kept_apart() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.extra = nn.Linear(2, 2), nn.Linear(2, 1)

        @property
        def deployed(self) -> nn.Module:
            return self.inner

    first, second = Wrapper(), Wrapper()
    assert deployed(first) is first.inner
    assert deployed(first.inner) is first.inner
    state = TrainingOnly(first, first.inner).state_dict()
    assert set(state) == {"extra.weight", "extra.bias"}
    before = second.inner.weight.clone()
    TrainingOnly(second, second.inner).load_state_dict(state)
    assert torch.equal(second.extra.weight, first.extra.weight)
    assert torch.equal(second.inner.weight, before)
    with pytest.raises(RuntimeError, match=r"extra\.bias"):
        TrainingOnly(second, second.inner).load_state_dict({"extra.weight": state["extra.weight"]})
