"""What a model costs by part: parameters, FLOPs, output values, time and memory of its steps."""

import functools
import math
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from smmcl.d2 import CfgNode, build_model
from smmcl.engine.setup import changed
from smmcl.modeling.backbone.shared import SharedPairBackbone
from smmcl.modeling.classifier import check_segments

Counts = dict[str, float]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def parts_of(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The modules that each part of the model calls."""
    streams = {side: getattr(model.backbone, side) for side in ("visible", "auxiliary")}
    parts = {f"{side} stream": list(s.stages) for side, s in streams.items() if s is not None}
    if all(stream is not None for stream in streams.values()):
        parts["fusions"] = list(model.backbone.fusions)
    if isinstance(model.backbone, SharedPairBackbone):  # its parts run in step
        parts = {"backbone": [model.backbone]}
    parts["head"] = [model.sem_seg_head]
    if model.contrast is not None:
        parts["branch"] = [model.contrast]
    return parts


def make_pairs(cfg: CfgNode, *, size: tuple[int, int], num_pairs: int) -> list[dict]:
    """Random pairs in the mapper's form; each cell at stride 32 has one class."""
    generator = torch.Generator().manual_seed(0)
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    means = {"image": cfg.MODEL.PIXEL_MEAN, "auxiliary": cfg.MODEL.AUXILIARY.PIXEL_MEAN}
    pairs = []
    for i in range(num_pairs):
        cells = torch.randint(num_classes, [-(-side // 32) for side in size], generator=generator)
        labels = cells.repeat_interleave(32, 0).repeat_interleave(32, 1)[: size[0], : size[1]]
        images = {name: torch.randint(256, (len(mean), *size), generator=generator).byte()
                  for name, mean in means.items()}  # fmt: skip
        pairs.append({**images, "sem_seg": labels, "valid_box": (0, 0, *size), "view_seed": i})
    return pairs


def infer(model: nn.Module, pairs: list[dict]) -> Tensor:
    model.eval()
    with torch.inference_mode():
        return torch.stack([output["sem_seg"] for output in model(pairs)])  # (N, K, H, W)


def forward(model: nn.Module, pairs: list[dict]) -> dict[str, Tensor]:
    """The losses of a training step."""
    model.train()
    return model(pairs)


def train(model: nn.Module, pairs: list[dict]) -> None:
    """Forward and backward; what the optimizer does is elementwise and not counted."""
    sum(forward(model, pairs).values()).backward()
    model.zero_grad()


def convolution_backward(
    grad: list[int], image: list[int], weight: list[int], *args: Any, **kwargs: Any
) -> int:
    """FLOPs of the two gradients; torch's own formula overlooks groups in that of the weight."""
    needs_image, needs_weight, _ = args[-1]
    return 2 * math.prod(grad) * math.prod(weight[1:]) * (needs_image + needs_weight)


def count_flops(model: nn.Module, step: Callable[[], object]) -> Counts:
    """FLOPs of the parts, two for each multiply-add of convolutions and matrix products.

    Attention and the matrix factorization are products and count; elementwise work does not.
    Only of forward passes the parts' shares are known, of a backward pass only the sum.
    """
    # The fused attention of CPUs has no formula; the plain one is two products.
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    with counter, sdpa_kernel(SDPBackend.MATH):
        step()
    by_name = counter.get_flop_counts()
    names = {module: f"{type(model).__name__}.{name}" for name, module in model.named_modules()}
    flops = {
        part: sum(sum(by_name.get(names[module], {}).values()) for module in modules)
        for part, modules in parts_of(model).items()
    }
    return {**flops, "all": counter.get_total_flops()}


FORMULAS = {torch.ops.aten.convolution_backward: convolution_backward}


def watch(
    model: nn.Module, step: Callable[[], object], *, read_clock: Callable[[], float]
) -> tuple[Counts, Counts]:
    """Runs a step once and reads a clock, in seconds.

    Returns:
        how many values the innermost modules of each part give out, and how many milliseconds its
        forward passes take; "all" of these is the whole step, its backward pass included.
    """
    parts = parts_of(model)
    outputs, spent = dict.fromkeys(parts, 0), dict.fromkeys(parts, 0.0)

    def clock(part: str, sign: int, *_: object) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        spent[part] += sign * 1000 * read_clock()

    def count(part: str, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        outputs[part] += output.numel()

    handles = []
    for part, modules in parts.items():
        for module in modules:
            handles.append(module.register_forward_pre_hook(functools.partial(clock, part, -1)))
            handles.append(module.register_forward_hook(functools.partial(clock, part, 1)))
        for leaf in (m for top in modules for m in top.modules() if not list(m.children())):
            handles.append(leaf.register_forward_hook(functools.partial(count, part)))
    spent["all"] = 0.0
    clock("all", -1)
    step()
    clock("all", 1)
    for handle in handles:
        handle.remove()
    return {**outputs, "all": sum(outputs.values())}, spent


def summary(milliseconds: list[float]) -> str:
    """Median and 90th percentile."""
    return "{:.0f} ({:.0f})".format(*np.quantile(milliseconds, (0.5, 0.9)))


def without_branch(model: nn.Module, pairs: list[dict], *, flops: Counts) -> str:
    """Takes the branch out and checks that inference is the same to the last bit and FLOP."""
    before, model.contrast = infer(model, pairs), None
    is_same = torch.equal(before, infer(model, pairs))
    bare = count_flops(model, functools.partial(infer, model, pairs))
    if not is_same or bare["all"] != flops["all"] or flops.get("branch", 0):
        raise AssertionError("the contrastive branch takes part in inference")
    needed = f"{num_parameters(model) / 1e6:.2f} M parameters needed"
    return f"same logits bit for bit, same FLOPs, {needed}"


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def peak_memory(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**20:.0f} MiB on the GPU"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB of the process"


def analyze(
    cfg: CfgNode, *, size: tuple[int, int], num_pairs: int, num_runs: int, clock: str
) -> Iterator[str]:
    """Lines of the report, in Markdown; `num_runs` are timed, after one that warms up."""
    torch.manual_seed(0)
    model = build_model(cfg)
    check_segments(model, "analyze_model")
    pairs = make_pairs(cfg, size=size, num_pairs=num_pairs)
    steps = {
        step.__name__: functools.partial(step, model, pairs) for step in (infer, forward, train)
    }
    runs, memory = {}, {}
    for name in ("infer", "train"):  # the lighter one first, since its peak is read first
        tried = (watch(model, steps[name], read_clock=CLOCKS[clock]) for _ in range(num_runs + 1))
        runs[name] = list(tried)[1:]
        memory[name] = peak_memory(model.device)
    flops = {name: count_flops(model, step) for name, step in steps.items()}
    parts = {**parts_of(model), "all": [model]}
    parameters = {part: sum(map(num_parameters, modules)) for part, modules in parts.items()}
    yield f"{num_pairs} x {size[0]}x{size[1]}, {model.device}\n"
    counted = "FLOPs G | outputs M | ms (p90)"
    yield f"| part | parameters M | multiply-adds G | {counted} | training {counted} |"
    yield "|---" * 9 + "|"
    for part, count in parameters.items():
        cells = [part, f"{count / 1e6:.3f}", f"{flops['infer'][part] / 2e9:.3f}"]
        for name, step in (("infer", "infer"), ("train", "forward")):
            cells.append(f"{flops[step][part] / 1e9:.3f}")
            cells.append(f"{runs[name][0][0][part] / 1e6:.2f}")
            cells.append(summary([spent[part] for _, spent in runs[name]]))
        yield f"| {' | '.join(cells)} |"
    yield "\nIn training, a part's numbers are of its forward pass; ms of all include backward."
    yield f"FLOPs of forward and backward: {flops['train']['all'] / 1e9:.3f} G."
    yield f"Peak memory: {memory['infer']} in inference, {memory['train']} in training."
    if model.contrast is not None:
        yield f"Without the branch: {without_branch(model, pairs, flops=flops['infer'])}."


def measure_inference(cfg: CfgNode, *, size: tuple[int, int], num_runs: int = 5) -> Counts:
    """What one pair costs at inference, without the branch: "ms" is this process's CPU time."""
    torch.manual_seed(0)
    model = build_model(changed(cfg, "MODEL.CONTRAST.NAME", ""))
    check_segments(model, "The cost of inference")
    step = functools.partial(infer, model, make_pairs(cfg, size=size, num_pairs=1))
    runs = [watch(model, step, read_clock=CLOCKS["cpu"])[1]["all"] for _ in range(num_runs + 1)]
    return {
        "parameters": num_parameters(model) / 1e6,
        "multiply_adds": count_flops(model, step)["all"] / 2e9,
        "ms": float(np.median(runs[1:])),
    }
