"""Published weights: made-up files of every publisher, what is refused, and how names turn."""

import argparse
import collections
import io
import itertools
import logging
import os
import pathlib
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smmcl.config import add_smmcl_config
from smmcl.d2 import ENGINE, get_cfg
from smmcl.modeling.backbone.pair import STAGES, stream_from_config
from smmcl.modeling.streams import efficientnet_lite
from smmcl.modeling.streams.base import build_stream
from smmcl.modeling.streams.mit import NAMES as MIT
from smmcl.modeling.streams.mscan import NAMES as MSCAN
from smmcl.modeling.streams.names import Names
from smmcl.modeling.streams.resnet import DETECTRON2, TORCHVISION
from smmcl.weights import files as weight_files
from smmcl.weights.convert import (
    AUTHORS,
    FIRST_CONVOLUTIONS,
    load_stream,
)
from smmcl.weights.files import local_file, read_file

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
LITE = {
    name: efficientnet_lite.publisher(size["repeats"]).names
    for name, size in efficientnet_lite.SIZES.items()
}
PUBLISHED = {"mscan_t": MSCAN, "mit_b0": MIT, "resnet18": TORCHVISION} | LITE


def published(stream: nn.Module, names: Names) -> dict[str, Tensor]:
    """A publisher's file with the values of a stream, and a classifier."""
    state = {names.to_theirs(ours): value for ours, value in stream.state_dict().items()}
    return {**state, "head.weight": torch.zeros(2, 3), "head.bias": torch.zeros(2)}


def built(name: str, **settings: Any) -> tuple[nn.Module, nn.Module]:
    """Two streams of other values each."""
    torch.manual_seed(0)
    return build_stream(name), build_stream(name, **settings)


def save(data: Any, path: pathlib.Path) -> str:
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(data, protocol=2))
    else:
        torch.save(data, path)
    return str(path)


def is_same(a: nn.Module, b: nn.Module) -> bool:
    values = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in values)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize(
    ("key", "prefix"),
    [("", ""), ("state_dict", ""), ("model", "module."), ("state_dict", "module.backbone.")],
)
def test_a_published_file_fills_its_stream(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, name: str, key: str, prefix: str
) -> None:
    theirs, ours = built(name)
    assert not is_same(theirs, ours)
    state = {prefix + k: value for k, value in published(theirs, PUBLISHED[name]).items()}
    path = save({key: state, "epoch": 3} if key else state, tmp_path / "file.pth")
    with caplog.at_level(logging.INFO, "smmcl"):
        load_stream(ours, path, name=name)
    assert is_same(theirs, ours)
    assert "100.00% of the values; missing: none; unexpected: none" in caplog.text
    assert "left out, of the classifier: head.weight, head.bias" in caplog.text


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_detectron2s_torchvision_file_fills_its_stream(tmp_path: pathlib.Path, name: str) -> None:
    theirs, ours = built(name)
    state = {DETECTRON2.to_theirs(key): value.numpy() for key, value in theirs.state_dict().items()}
    data = {"model": state, "__author__": "torchvision", "matching_heuristics": True}
    load_stream(ours, save(data, tmp_path / "R.pkl"), name=name)
    assert is_same(theirs, ours)
    assert {"stem.conv1.weight", "res5.1.conv2.norm.running_var"} < set(state)
    data["__author__"] = "Caffe2"
    with pytest.raises(ValueError, match="by Caffe2, not by torchvision"):
        load_stream(ours, save(data, tmp_path / "R.pkl"), name=name)


def by_msra(stream: nn.Module) -> dict[str, np.ndarray]:
    """A file like Detectron2's MSRA/R-50.pkl with the values of a stream, in the names that its
    users' logs show, the first convolution for BGR pixels that no deviation divides."""
    rules = [
        (r"^stem\.conv1\.norm", "res_conv1_bn"), (r"^stem\.", ""), (r"\.norm\.", "_bn_"),
        (r"bn\.weight$|bn_weight$", "bn_gamma"), (r"bn\.bias$|bn_bias$", "bn_beta"),
        (r"\.weight$", "_w"), (r"\.shortcut", "_branch1"),
        (r"\.conv(\d)", lambda found: "_branch2" + " abc"[int(found[1])]), (r"\.", "_"),
    ]  # fmt: skip
    blobs = {"fc1000_w": np.zeros((2, 3)), "fc1000_b": np.zeros(2)}
    for ours, value in stream.state_dict().items():
        theirs = DETECTRON2.to_theirs(ours)
        for pattern, word in rules:
            theirs = re.sub(pattern, word, theirs)
        if ours == FIRST_CONVOLUTIONS[0]:
            value = (value / torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)).flip(1)
        if not theirs.endswith("tracked"):
            blobs[theirs] = value.numpy()
    assert {"conv1_w", "res_conv1_bn_gamma", "res2_0_branch1_w", "res2_0_branch1_bn_beta",
            "res4_5_branch2c_bn_running_var", "res5_0_branch2b_w"} < set(blobs)  # fmt: skip
    return blobs


@pytest.mark.parametrize("key", ["blobs", "model"])
def test_msras_file_fills_the_stream_that_is_named_after_it(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    theirs, ours = built("resnet50_msra")
    blobs = by_msra(theirs)
    path = save({key: blobs, "__author__": "Caffe2"}, tmp_path / "R-50.pkl")
    with caplog.at_level(logging.INFO, "smmcl"):
        load_stream(ours, path, name="resnet50_msra")
    assert "missing: none; unexpected: none" in caplog.text
    # MSRA's convolution over BGR pixels less their mean is ours over normalized RGB ones.
    mean, std = torch.tensor([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]]).view(2, 3, 1, 1)
    pixels = torch.randint(256, (1, 3, 9, 9)).double()  # RGB
    first = ours.state_dict()[FIRST_CONVOLUTIONS[0]].double()
    by_theirs = F.conv2d((pixels - mean).flip(1), torch.from_numpy(blobs["conv1_w"]).double())
    torch.testing.assert_close(F.conv2d((pixels - mean) / std, first), by_theirs, rtol=0, atol=1e-4)
    with torch.no_grad():
        theirs.stages[0].embed[0].weight.copy_(first)
    assert is_same(theirs, ours)


def test_a_detector_of_the_zoo_fills_the_stream_of_its_resnet(tmp_path, caplog) -> None:
    """A ResNet below an FPN, over BGR pixels that nothing divides; the rest of it is named."""
    theirs, ours = built("resnet50_msra")
    state = {
        f"backbone.bottom_up.{DETECTRON2.to_theirs(key)}": value.numpy()
        for key, value in theirs.state_dict().items()
        if not key.endswith("num_batches_tracked")  # frozen norms have none
    }
    state["backbone.fpn_lateral2.weight"] = np.zeros(1, np.float32)
    data = {"model": state, "__author__": "Detectron2 Model Zoo"}
    path = save(data, tmp_path / "model_final_280758.pkl")
    with caplog.at_level(logging.INFO, "smmcl"):
        load_stream(ours, path, name="resnet50_msra")
    assert "missing: none; unexpected: fpn_lateral2.weight" in caplog.text
    pixels = torch.randn(1, 3, 9, 9, dtype=torch.double)  # BGR less its mean
    std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    wanted, got = (stream.state_dict()[FIRST_CONVOLUTIONS[0]].double() for stream in (theirs, ours))
    outputs = F.conv2d(pixels, wanted), F.conv2d(pixels.flip(1) / std, got)
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)
    with torch.no_grad():
        theirs.stages[0].embed[0].weight.copy_(got)
    assert is_same(theirs, ours)
    with pytest.raises(ValueError, match=r"reads torchvision's ResNet"):
        load_stream(build_stream("resnet50"), path, name="resnet50")


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("is_msra", [True, False])
def test_a_stream_of_detectron2s_own_modules_is_filled(
    is_msra: bool, channels: int, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    if ENGINE != "detectron2":
        pytest.skip("Detectron2 is not here")
    cfg = get_cfg()
    add_smmcl_config(cfg)
    cfg.MODEL.PAIR.AUXILIARY.NAME = "build_resnet_backbone"
    cfg.MODEL.AUXILIARY.PIXEL_MEAN = [0.0] * channels
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = list(STAGES)
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = is_msra
    theirs, ours = build_stream("resnet50"), stream_from_config(cfg, "AUXILIARY")
    data = {"model": by_msra(theirs)} if is_msra else {
        "model": {DETECTRON2.to_theirs(k): v.numpy() for k, v in theirs.state_dict().items()},
        "__author__": "torchvision",
    }  # fmt: skip
    with caplog.at_level(logging.INFO, "smmcl"):
        load_stream(ours, save(data, tmp_path / "R.pkl"), name="auxiliary stream")
    assert "100.00% of the values; missing: none" in caplog.text
    last = "blocks.2.layers.2.0.weight", "2.conv3.weight"
    got, wanted = ours.stages[3].get_parameter(last[1]), theirs.stages[3].get_parameter(last[0])
    assert torch.equal(got, wanted)


def test_strides_of_msra_and_torchvision_are_not_confused(tmp_path: pathlib.Path) -> None:
    msra, other = build_stream("resnet50_msra"), build_stream("resnet50")
    with pytest.raises(
        ValueError, match=r"R-50.pkl is of MSRA's ResNet.*The visible stream reads torchvision's"
    ):
        load_stream(other, save(by_msra(msra), tmp_path / "R-50.pkl"), name="visible stream")
    path = save(published(other, TORCHVISION), tmp_path / "resnet50.pth")
    with pytest.raises(
        ValueError, match=r"resnet50.pth is of torchvision.*The resnet50_msra reads MSRA.*1x1"
    ):
        load_stream(msra, path, name="resnet50_msra")


def test_openmmlabs_copy_of_mscan_fills_its_stream(tmp_path: pathlib.Path) -> None:
    """Its depthwise convolutions are a module less deep."""
    theirs, ours = built("mscan_t")
    state = {
        name.replace(".dwconv.dwconv.", ".dwconv."): value
        for name, value in published(theirs, MSCAN).items()
    }
    assert "block1.0.mlp.dwconv.weight" in state
    load_stream(ours, save({"state_dict": state}, tmp_path / "mscan_t.pth"), name="mscan_t")
    assert is_same(theirs, ours)


def test_missing_and_unexpected_tensors_are_named(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs, ours = built("mscan_t")
    state = published(theirs, MSCAN)
    del state["block2.0.layer_scale_1"]
    state["block9.extra"] = torch.zeros(1)
    before = ours.stages[1].blocks[0].layer_scale_1.detach().clone()
    load_stream(ours, save(state, tmp_path / "file.pth"), name="mscan_t")
    assert "missing: stages.1.blocks.0.layer_scale_1; unexpected: block9.extra" in caplog.text
    assert torch.equal(ours.stages[1].blocks[0].layer_scale_1, before)


def test_a_file_of_another_size_is_refused_and_changes_nothing(tmp_path: pathlib.Path) -> None:
    theirs, ours = built("mscan_t")
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    path = save(published(build_stream("mscan_s"), MSCAN), tmp_path / "mscan_s.pth")
    with pytest.raises(ValueError, match=r"mscan_s.pth .*fills .*less than 95%"):
        load_stream(ours, path, name="mscan_t")
    # Biases, norms and layer scales are 1.3% of MSCAN-T's values, but two thirds of its tensors.
    state = {key: value for key, value in published(theirs, MSCAN).items() if value.dim() != 1}
    with pytest.raises(ValueError, match="less than 95%"):
        load_stream(ours, save(state, tmp_path / "file.pth"), name="mscan_t")
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())


def test_an_unknown_file_is_refused_by_its_names(tmp_path: pathlib.Path) -> None:
    stream = build_stream("mscan_t")
    path = save({"stem.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(
        ValueError, match=r"stem\.weight.*none of .*SegFormer's MiT, SegNeXt's MSCAN"
    ):
        load_stream(stream, path, name="mscan_t")
    with pytest.raises(ValueError, match="no tensors by name"):
        load_stream(stream, save({"epoch": 3}, tmp_path / "empty.pth"), name="mscan_t")
    with pytest.raises(ValueError, match="holds a list"):
        load_stream(stream, save([1], tmp_path / "list.pth"), name="mscan_t")
    with pytest.raises(FileNotFoundError, match=r"no\.pth do not exist"):
        load_stream(stream, str(tmp_path / "no.pth"), name="mscan_t")


@pytest.mark.parametrize("name", PUBLISHED)
def test_one_channel_gives_what_three_equal_ones_give(tmp_path: pathlib.Path, name: str) -> None:
    theirs, ours = built(name, in_channels=1)
    load_stream(ours, save(published(theirs, PUBLISHED[name]), tmp_path / "f.pth"), name=name)
    theirs, ours, gray = theirs.double(), ours.double(), torch.randn(1, 1, 64, 64).double()
    with torch.no_grad():
        expected = theirs.eval()(gray.expand(-1, 3, -1, -1))[3]
        torch.testing.assert_close(ours.eval()(gray)[3], expected, atol=1e-4, rtol=1e-4)


def test_a_convolution_over_one_channel_is_repeated_and_divided(tmp_path: pathlib.Path) -> None:
    theirs, ours = build_stream("mscan_t", in_channels=1), build_stream("mscan_t")
    load_stream(ours, save(published(theirs, MSCAN), tmp_path / "f.pth"), name="mscan_t")
    one, three = (stream.state_dict()[FIRST_CONVOLUTIONS[0]] for stream in (theirs, ours))
    torch.testing.assert_close(three, torch.cat([one / 3] * 3, dim=1))


def test_the_size_of_an_efficientnet_is_told_by_its_blocks(tmp_path: pathlib.Path) -> None:
    """Lite0 has fewer; Lite1 and Lite2 have as many, of other widths."""
    for name, other in itertools.permutations(LITE, 2):
        path = save(published(build_stream(name), LITE[name]), tmp_path / f"{name}.pth")
        with pytest.raises(
            ValueError, match=rf"{name}.pth .*Lite.*(fills .*less than 95%| reads Eff)"
        ):
            load_stream(build_stream(other), path, name=other)


class Command:
    """An object whose unpickling runs a command."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_a_file_that_would_run_code_is_refused(tmp_path: pathlib.Path, suffix: str) -> None:
    data = {"model": {"weight": np.zeros(1)}, "extra": Command(tmp_path / "ran")}
    path = save(data, tmp_path / f"evil{suffix}")
    with pytest.raises(ValueError, match=rf"evil\{suffix} was not read.*run code.*torch\.save"):
        read_file(path)
    assert not (tmp_path / "ran").exists()
    if suffix == ".pkl":  # the file would have done it
        pickle.loads((tmp_path / "evil.pkl").read_bytes())
        assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cbuiltins\neval\n(V1\ntR.",
        b"cnumpy\nload\n.",
        b"cnumpy.testing\nrundocs\n.",
        b"c_codecs\nencode\n(VAA\nVzip\ntR.",
        b"\x80\x04",
        b"junk",
    ],
)
def test_names_beside_arrays_and_containers_are_refused(
    tmp_path: pathlib.Path, opcodes: bytes
) -> None:
    (tmp_path / "file.pkl").write_bytes(opcodes)
    with pytest.raises(ValueError, match=r"file\.pkl was not read"):
        read_file(str(tmp_path / "file.pkl"))


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol_are_read(tmp_path: pathlib.Path, protocol: int) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    data = {
        "model": collections.OrderedDict(a=array, b=array.T),
        "n": np.float64(2),
        "x": [1, (2,)],
    }
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(data, protocol=protocol))
    read = read_file(str(tmp_path / "file.pkl"))
    np.testing.assert_array_equal(read["model"]["a"], array)
    np.testing.assert_array_equal(read["model"]["b"], array.T)
    assert (read["n"], read["x"]) == (2, [1, (2,)])


def test_the_arguments_that_timm_leaves_in_its_files_are_admitted(tmp_path: pathlib.Path) -> None:
    data = {"state_dict": {"a": torch.ones(1)}, "args": argparse.Namespace(model="mscan_b")}
    assert read_file(save(data, tmp_path / "file.pth"))["args"].model == "mscan_b"


def test_every_rule_turns_back() -> None:
    names = np.load(GOLDEN / "keys_mscan_b_c14.npz")["keys"].tolist()
    assert [AUTHORS.to_theirs(AUTHORS.to_ours(name)) for name in names] == names
    for stream, rules in PUBLISHED.items():
        ours = list(build_stream(stream).state_dict())
        assert [rules.to_ours(rules.to_theirs(name)) for name in ours] == ours
    assert MSCAN.to_ours("patch_embed1.proj.3.weight") == "stages.0.embed.3.weight"
    assert MSCAN.to_ours("patch_embed3.proj.weight") == "stages.2.embed.0.weight"
    assert DETECTRON2.to_ours("res4.22.conv3.norm.bias") == "stages.2.blocks.22.layers.2.1.bias"
    assert MSCAN.to_ours("head.weight") is None


class Publisher(weight_files.HTTPURLHandler):
    """Serves a file from this machine."""

    content = b""

    def _get_local_path(self, path: str, **kwargs: Any) -> str:
        if path.startswith("https://nowhere"):
            raise OSError("no route")
        file = pathlib.Path(weight_files.get_cache_dir(), path.rpartition("/")[2])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self.content)
        self.asked = path
        return str(file)


def test_downloads_are_held_to_their_checksums(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(weight_files, "HTTPURLHandler", Publisher)
    stream = io.BytesIO()
    torch.save({"a": torch.ones(1)}, stream)
    monkeypatch.setattr(Publisher, "content", stream.getvalue())
    assert read_file("detectron2://some/file.pth")["a"] == 1  # recorded
    assert local_file("detectron2://some/file.pth") == tmp_path / "file.pth"  # compared
    with pytest.raises(ValueError, match="but 01234567 is expected"):
        local_file("https://somewhere/file-01234567.pth")
    monkeypatch.setattr(Publisher, "content", b"other")
    with pytest.raises(ValueError, match=r"file\.pth\.sha256 beside it"):
        local_file("detectron2://some/file.pth")


def test_without_a_network_the_place_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(weight_files, "HTTPURLHandler", Publisher)
    place = tmp_path / "zoo" / "mscan_b.pth"
    with pytest.raises(
        ValueError, match=rf"no route.*[Pp]ut the file at {place}, .*'' to train from random"
    ):
        local_file("https://nowhere/zoo/mscan_b.pth")
