"""A network beside another of the same weights, on a CPU: the command `model` of benchmark.py."""

import argparse
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmark_data import load_module

from smmcl.config import build_config
from smmcl.d2 import build_model
from smmcl.inference.cost import CLOCKS, infer, make_pairs, train
from smmcl.inference.export import compare
from smmcl.inference.fold import fold


def add_command(commands: Any) -> None:
    command = commands.add_parser("model", help="a network beside another", description=__doc__)
    command.set_defaults(function=model)
    command.add_argument("--config-file", required=True)
    command.add_argument("--size", type=int, nargs=2, default=[480, 640], metavar=("H", "W"))
    command.add_argument("--batch", type=int, default=1)
    command.add_argument("--train", action="store_true", help="forward and backward")
    command.add_argument("--rounds", type=int, default=5)
    command.add_argument("--threads", type=int, default=2)
    command.add_argument("--clock", choices=CLOCKS, default="wall", help="as of `contrast`")
    command.add_argument("--beside", type=Path, required=True, metavar="FILE",
                         help="a Python file whose build(model, pairs) gives a function: of the "
                         "same logits, or of a training step if the model trains")  # fmt: skip
    command.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")


def model(arguments: argparse.Namespace) -> None:
    """Medians over rounds, after one that warms up, in which everything runs in turn."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    cfg = build_config(arguments.config_file, [*arguments.opts, "MODEL.DEVICE", "cpu"])
    network = build_model(cfg).train(arguments.train)
    pairs = make_pairs(cfg, size=tuple(arguments.size), num_pairs=arguments.batch)
    functions = {"beside": load_module(arguments.beside).build(network, pairs)}
    if arguments.train:
        functions["plain"] = step = partial(train, network, pairs)
    else:
        functions["plain"] = partial(infer, network, pairs)
        functions["folded"] = partial(infer, fold(network), pairs)
        step = partial(infer, fold(network, dtype=torch.bfloat16), pairs)
    functions["bfloat16"] = torch.autocast("cpu", torch.bfloat16)(step)
    results, rounds = {}, []
    for _ in range(arguments.rounds + 1):
        rounds.append({})
        for name, function in functions.items():
            start = CLOCKS[arguments.clock]()
            results[name] = function()
            rounds[-1][name] = CLOCKS[arguments.clock]() - start
    print("| | s | beside / this | largest difference | same class |\n|---|---|---|---|---|")
    for name, result in results.items():
        taken = [times[name] for times in rounds[1:]]
        gains = [times["beside"] / times[name] for times in rounds[1:]]
        cells = [name, f"{statistics.median(taken):.3f}", f"{statistics.median(gains):.2f}"]
        if not arguments.train:
            difference, share = compare(results["beside"], result)
            cells += [f"{difference:.1e}", f"{share:.4f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
