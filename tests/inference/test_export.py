"""What is exported equals the model; the exported program runs at any size."""

import copy
import logging
import pathlib
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from smmcl.config import build_config
from smmcl.engine.trainer import Trainer
from smmcl.inference.export import (
    FromPixels,
    TensorSegmentor,
    ToLabels,
    check_program,
    compare,
    export_program,
    rounding,
    to_labels,
    write_program,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return Trainer.build_model(build_config(str(ROOT / "configs/synthetic_night.yaml"))).eval()


def random_pair(*size: int, num: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(255 * torch.rand(num, 3, *size, generator=generator) for _ in range(2))


def test_the_network_equals_the_model(model) -> None:
    visible, auxiliary = random_pair(64, 72)
    inputs = [{"image": a, "auxiliary": b} for a, b in zip(visible, auxiliary, strict=True)]
    with torch.inference_mode():
        wanted = torch.stack([output["sem_seg"] for output in model(inputs)])  # (N, K, H, W)
        pixels = FromPixels(TensorSegmentor(model), model=model)
        got = pixels(visible, auxiliary)
        labels, probability = ToLabels(pixels)(visible, auxiliary)
    assert torch.equal(wanted, got)
    assert torch.equal(labels, wanted.argmax(dim=1))
    torch.testing.assert_close(probability, wanted.softmax(dim=1).amax(dim=1))


def test_the_branch_is_not_exported(model) -> None:
    assert model.contrast is not None
    names = dict(FromPixels(TensorSegmentor(model), model=model).named_parameters())
    assert not [name for name in names if "contrast" in name]


def test_compare_by_hand() -> None:
    wanted = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # (1, 2, 1, 2): labels 0 and 1
    got = torch.tensor([[[[0.5, 1.5]], [[0.0, 1.0]]]])  # labels 0 and 0
    assert compare(wanted, got) == (1.5, 0.5)
    assert compare(torch.tensor([[[3, 4]]]), torch.tensor([[[3, 6]]])) == (2.0, 0.5)
    with pytest.raises(AssertionError):  # never by broadcasting
        compare(wanted, wanted.expand(2, -1, -1, -1))


def test_what_rounding_explains_is_no_difference() -> None:
    """A right file of two EfficientNet-Lite0 differed by 1.2e-3, of logits up to 76."""
    lite = Trainer.build_model(
        build_config("nyudv2_lite0.yaml", [
            "MODEL.DEVICE", "cpu", "MODEL.PAIR.VISIBLE.WEIGHTS", "",
            "MODEL.PAIR.AUXILIARY.WEIGHTS", "",
        ])
    )  # fmt: skip
    bound = rounding(TensorSegmentor(lite), torch.full((1, 2, 1, 1), -76.0))
    assert 1.2e-3 < bound < 0.01
    conv = torch.nn.Conv2d(3, 2, 1)  # three terms
    torch.nn.init.constant_(conv.weight, 4.0)
    pair = (torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2))
    unit = 5 * 2.0**-23 * 3**0.5 * conv(pair[0]).abs().max().item()

    def network(visible: Tensor, auxiliary: Tensor) -> Tensor:
        return conv(visible)

    network.parameters = conv.parameters
    for factor, agrees in ((0.5, True), (2.0, False)):
        call = lambda *pair, shift=factor * unit: (conv(pair[0]) + shift,)  # noqa: E731
        assert check_program(call, network, pair, gives_labels=False)[2] == agrees
    swapped = lambda *pair: (to_labels(-conv(pair[0]))[0], to_labels(conv(pair[0]))[1])  # noqa: E731
    assert not check_program(swapped, network, pair, gives_labels=True)[2]


def test_the_program_runs_at_any_size_and_number(model) -> None:
    model = copy.deepcopy(model).double()  # two of its classes come closer than float32 rounds
    network = FromPixels(TensorSegmentor(model), model=model).eval()
    program = export_program(network, auxiliary_channels=3).module()
    for num, *size in ((1, 96, 128), (2, 64, 64), (3, 71, 130)):
        visible, auxiliary = random_pair(*size, num=num)
        with torch.inference_mode():
            difference, share = compare(network(visible, auxiliary), program(visible, auxiliary))
        assert difference < 1e-9
        assert share == 1
    with pytest.raises(AssertionError, match="Guard failed"):  # below the least side
        program(*random_pair(32, 32))


def test_files_are_written_without_warnings(tmp_path, monkeypatch, caplog, recwarn) -> None:
    def save_views(program, buffer) -> None:
        warnings.warn("No complete tensor found in the group!", stacklevel=1)

    def export(program, **options: object) -> SimpleNamespace:
        logging.getLogger("torch.onnx._internal.exporter._registration").warning("no torchvision")
        warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated", FutureWarning, stacklevel=1)
        save = lambda path, **options: path.write_text("")  # noqa: E731
        return SimpleNamespace(model=SimpleNamespace(metadata_props={}), save=save)

    monkeypatch.setattr(torch.onnx, "export", export)
    monkeypatch.setattr("smmcl.inference.export.export_program", lambda *args, **options: None)
    monkeypatch.setattr(torch.export, "save", save_views)
    network = SimpleNamespace(output_names=("logits",))
    for name in ("m.onnx", "m.pt2"):
        write_program(network, tmp_path / name, auxiliary_channels=1, facts={})
    assert not caplog.records
    assert not recwarn.list
