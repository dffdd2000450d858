#!/usr/bin/env python3
"""Measures what parts of the program cost: `contrast`, the loss, `data`, the loader, `model`."""

import argparse
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmark_model
import torch
import torch.nn.functional as F
from benchmark_data import add_command, load_module
from torch import Tensor

from smmcl.cli import run
from smmcl.modeling.contrastive.loss import contrastive_losses, normalize
from smmcl.modeling.contrastive.sampling import Views, draw_keys, sample_views, take_cells

EMBED_DIM = 256
TEMPERATURE = 0.1
MIB = 2**20

# Views in all: images, height and width of their feature maps, sets in each image, views per set.
SIZES = {
    594: (16, (15, 20), (7, 7, 7, *[6] * 13), 6),
    4800: (16, (15, 20), (3,) * 16, 100),
    19200: (64, (15, 20), (3,) * 64, 100),
    65536: (128, (16, 32), (4,) * 128, 128),
}


@dataclasses.dataclass
class Problem:
    """One batch of embeddings: the (N, D, h, w) maps, (N, h, w) labels and the sampled views."""

    visible: Tensor
    auxiliary: Tensor
    labels: Tensor
    num_classes: int
    views: Views

    @functools.cached_property
    def taken(self) -> list[Tensor]:
        """The views' embeddings, (M, D), detached."""
        return [stream.detach() for stream in self.embeddings()]

    def embeddings(self) -> list[Tensor]:
        """The views' embeddings, (M, D), attached to the maps."""
        pairs = (
            (self.visible, self.views.visible), (self.auxiliary, self.views.auxiliary)
        )  # fmt: skip
        return [take_cells(stream.detach().requires_grad_(), cells.to(stream.device))
                for stream, cells in pairs]  # fmt: skip


def make_problem(num_views: int, *, num_classes: int, device: str) -> Problem:
    """Random maps whose labels give the sets and views of SIZES."""
    num_images, size, sets, views_per_set = SIZES[num_views]
    generator = torch.Generator().manual_seed(0)
    labels = torch.full((num_images, size[0] * size[1]), 255)
    for image, num_sets in zip(labels, sets, strict=True):
        classes = torch.randperm(num_classes, generator=generator)[:num_sets]
        cells = torch.randperm(len(image), generator=generator)[: num_sets * views_per_set]
        image[cells] = classes.repeat_interleave(views_per_set)
    maps = torch.randn(2, num_images, EMBED_DIM, *size, generator=generator).to(device)
    labels = labels.view(num_images, *size)
    return Problem(*maps, labels, num_classes, draw_views(labels, num_classes))


def draw_views(labels: Tensor, num_classes: int) -> Views:
    keys = draw_keys(range(len(labels)), size=labels.shape[1:], num_classes=num_classes)
    return sample_views(
        labels, num_classes=num_classes, keys=keys, min_views=5, max_views=300, max_features=65536
    )


def run_whole(problem: Problem) -> Tensor:
    """Sampling, taking the views from the maps, and the loss."""
    problem.views = draw_views(problem.labels, problem.num_classes)
    return run_ours(problem, embeddings=problem.embeddings())


def run_ours(problem: Problem, *, embeddings: list[Tensor] | None = None) -> Tensor:
    """The three terms of sampled views, forward and backward."""
    losses = contrastive_losses(*(embeddings or leaves(problem)), problem.views.labels)
    total = sum(losses.values())
    total.backward()
    return total.detach()


def leaves(problem: Problem) -> list[Tensor]:
    return [views.detach().requires_grad_() for views in problem.taken]


def run_dense(problem: Problem) -> Tensor:
    """The same formula written down plainly: matrices and masks of all pairs, and autograd."""
    visible, auxiliary = (normalize(stream) for stream in leaves(problem))
    labels = problem.views.labels.to(visible.device)
    is_same = labels[:, None] == labels  # (M, M)
    is_other = ~torch.eye(len(labels), dtype=torch.bool, device=visible.device)  # (M, M)
    total = 0
    for anchors, keys, is_positive in (
        (visible, auxiliary, is_same),
        (visible, visible, is_same & is_other),
        (auxiliary, auxiliary, is_same & is_other),
    ):
        similarity = anchors @ keys.t() / TEMPERATURE  # (M, M)
        negatives = similarity.masked_fill(is_same, -torch.inf).logsumexp(1, keepdim=True)
        losses = F.softplus(negatives - similarity) * is_positive  # (M, M)
        total = total + (losses.sum(1) / is_positive.sum(1).clamp_min(1)).mean()
    total.backward()
    return total.detach()


def seconds(function: Callable[[Problem], Any], problem: Problem, clock: str) -> float:
    read = {"wall": time.perf_counter, "cpu": time.process_time}[clock]
    synchronize(problem)
    start = read()
    function(problem)
    synchronize(problem)
    return read() - start


def synchronize(problem: Problem) -> None:
    if problem.visible.is_cuda:
        torch.cuda.synchronize()


def peak_mib(function: Callable[[Problem], Any], size: int, arguments: argparse.Namespace) -> float:
    """Peak memory above the problem's own, in a new process where nothing is left over."""
    with torch.multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_mib, (function, size, arguments))


def _peak_mib(
    function: Callable[[Problem], Any], size: int, arguments: argparse.Namespace
) -> float:
    torch.set_num_threads(arguments.threads)
    # Libraries and threads take their memory before it is measured.
    function(make_problem(min(SIZES), num_classes=arguments.classes, device=arguments.device))
    problem = make_problem(size, num_classes=arguments.classes, device=arguments.device)
    if problem.visible.is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function(problem)
        return (torch.cuda.max_memory_allocated() - before) / MIB
    before = _resident_mib("VmRSS")
    function(problem)
    return _resident_mib("VmHWM") - before


def _resident_mib(field: str) -> float:
    """Of this process, as Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def contrast(arguments: argparse.Namespace) -> None:
    """Cost of the contrastive loss, forward and backward: one row of a table per size.

    Seconds are medians over rounds in which everything runs in turn, ratios are medians of the
    rounds' ratios, memory is the peak above the embeddings' maps. `dense`: the same formula with
    matrices of all pairs. `whole`: our loss with the sampling and the taking of views. `beside`:
    what --beside names, compared with `whole`.
    """
    torch.set_num_threads(arguments.threads)
    beside = {"beside": load_module(arguments.beside).run} if arguments.beside else {}
    print("| views | ours, s | dense, s | dense / ours | whole, s | beside, s | beside / whole "
          "| ours, MiB | dense, MiB |")  # fmt: skip
    print("|" + "---|" * 9)
    for size in arguments.views:
        problem = make_problem(size, num_classes=arguments.classes, device=arguments.device)
        functions = {"ours": run_ours, "whole": run_whole}
        if size <= arguments.dense_limit:
            functions |= {"dense": run_dense, **beside}
        for function in functions.values() if size == min(SIZES) else ():
            function(problem)  # to warm up
        rounds = [
            {
                name: seconds(function, problem, arguments.clock)
                for name, function in functions.items()
            }
            for _ in range(arguments.rounds)
        ]
        peaks = [
            peak_mib(function, size, arguments) if name in functions else None
            for name, function in (("ours", run_ours), ("dense", run_dense))
        ]
        print(row(size, rounds, peaks), flush=True)


def row(size: int, rounds: list[dict[str, float]], peaks: list[float | None]) -> str:
    def time_of(name: str) -> str:
        if name not in rounds[0]:
            return "-"
        return f"{statistics.median(times[name] for times in rounds):.4f}"

    def ratio(above: str, below: str) -> str:
        if above not in rounds[0]:
            return "-"
        return f"{statistics.median(times[above] / times[below] for times in rounds):.2f}"

    cells = [
        f"{size:,}", time_of("ours"), time_of("dense"), ratio("dense", "ours"), time_of("whole"),
        time_of("beside"), ratio("beside", "whole"),
        *("-" if peak is None else f"{peak:.0f}" for peak in peaks),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_command(commands)
    benchmark_model.add_command(commands)
    command = commands.add_parser(
        "contrast",
        help="cost of the contrastive loss",
        description=contrast.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(function=contrast)
    command.add_argument("--views", type=int, nargs="+", choices=SIZES, default=[594, 4800])
    command.add_argument("--classes", type=int, default=14)
    command.add_argument("--rounds", type=int, default=9)
    command.add_argument("--threads", type=int, default=2)
    command.add_argument("--clock", choices=("wall", "cpu"), default="wall",
                         help="cpu: seconds of this process alone, for a machine that is shared "
                         "(then with --threads 1)")  # fmt: skip
    command.add_argument("--device", default="cpu")
    command.add_argument("--dense-limit", type=int, default=4800, metavar="VIEWS",
                         help="largest problem for the dense form, and for --beside")  # fmt: skip
    command.add_argument("--beside", type=Path, metavar="FILE",
                         help="a Python file whose run(problem) is another loss")  # fmt: skip
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    arguments.function(arguments)


if __name__ == "__main__":
    run(main)
