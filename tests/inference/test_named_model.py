"""A model is named by its checkpoint alone, by a config, or by both."""

import argparse
import pathlib

import pytest
import torch

from smmcl.config import build_config
from smmcl.engine.setup import setup
from smmcl.inference.named_model import (
    add_checkpoint,
    add_model_arguments,
    named_config,
    put_checkpoint,
)


@pytest.fixture
def checkpoint(tmp_path: pathlib.Path) -> str:
    text = build_config("synthetic_night.yaml", ["SEED", 7]).dump()
    torch.save({"model": {}, "config": text}, tmp_path / "model.pth")
    return str(tmp_path / "model.pth")


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize("before", [[], ["--opts"]])
def test_a_checkpoint_needs_no_config(checkpoint, before) -> None:
    cfg = named_config(parse("--checkpoint", checkpoint, *before, "MODEL.DEVICE", "cpu"), "SEED", 8)
    assert (8, "cpu", checkpoint) == (cfg.SEED, cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS)
    assert named_config(parse("--checkpoint", checkpoint)).SEED == 7
    both = parse("--checkpoint", checkpoint, "--config-file", "synthetic_indoor.yaml")
    assert named_config(both).SEED == build_config("synthetic_indoor.yaml").SEED != 7
    assert checkpoint == named_config(both).MODEL.WEIGHTS
    assert named_config(parse("--model", "nyudv2_lite0")).MODEL.WEIGHTS == "zoo://nyudv2_lite0"
    alone = parse("--config-file", "synthetic_night.yaml", *before, "MODEL.WEIGHTS", "a.pth")
    assert named_config(alone).MODEL.WEIGHTS == "a.pth"


def test_no_model_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="no model is named"):
        named_config(parse())
    torch.save({"model": {}}, tmp_path / "bare.pth")
    with pytest.raises(FileNotFoundError, match="name its config by --config-file"):
        named_config(parse("--checkpoint", str(tmp_path / "bare.pth")))


def test_training_tools_take_the_same_name(checkpoint, tmp_path) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config-file", default="")
    add_checkpoint(parser)
    parser.set_defaults(eval_only=True, opts=["OUTPUT_DIR", str(tmp_path)])
    cfg = setup(put_checkpoint(parser.parse_args(["--checkpoint", checkpoint])))
    assert (7, checkpoint, str(tmp_path)) == (cfg.SEED, cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR)
