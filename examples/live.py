"""Segments two cameras or videos as they run: live.py MODEL VISIBLE AUXILIARY [OUTPUT].

MODEL is a checkpoint, one of the zoo (zoo://nyudv2_lite0), or a file of `export_model.py --labels`
ending in .onnx, which OpenVINO runs. VISIBLE and AUXILIARY are videos or camera numbers, of the
8-bit values that the model was trained on. OUTPUT is a video of the predicted classes in color.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch

from smmcl import Predictor
from smmcl.inference.fold import fold

SIZE = (320, 240)  # width and height that the model sees
AT_ONCE = 2  # pairs in flight; two cores have more throughput with one pair each

Labeler = Callable[[tuple[np.ndarray, np.ndarray]], np.ndarray]  # of a pair, to (240, 320)


def frames(visible: str, auxiliary: str):
    """Yields pairs of frames, (H, W, 3) in RGB and (H, W), until one of the videos ends."""
    captures = [cv2.VideoCapture(int(s) if s.isdecimal() else s) for s in (visible, auxiliary)]
    for source, capture in zip((visible, auxiliary), captures, strict=True):
        if not capture.isOpened():
            raise SystemExit(f"{source} is no video or camera that OpenCV can open.")
    while True:
        (seen, picture), (sensed, other) = (capture.read() for capture in captures)
        if not (seen and sensed):
            return
        picture = cv2.cvtColor(cv2.resize(picture, SIZE), cv2.COLOR_BGR2RGB)  # (240, 320, 3)
        yield picture, cv2.cvtColor(cv2.resize(other, SIZE), cv2.COLOR_BGR2GRAY)  # (240, 320)


def in_turn(pool, function, items):
    """Yields results in the order of the items; at most AT_ONCE + 1 items are in flight."""
    pending = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > AT_ONCE:
            yield pending.popleft().result()
    yield from (future.result() for future in pending)


def by_torch(model: str) -> tuple[Labeler, list]:
    """What labels a pair, and the classes' colors; in bfloat16 where the processor has it."""
    predictor = Predictor.from_checkpoint(model)
    device = predictor.model.device.type
    flags = getattr(torch.cpu, "get_capabilities", dict)()  # older torch reports none
    is_fast = device != "cpu" or flags.get("amx_bf16") or flags.get("avx512_bf16")
    dtype = torch.bfloat16 if is_fast else torch.float32
    network = fold(predictor.model, dtype=dtype)

    def label(pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        inputs = predictor.prepare(*pair)
        with torch.inference_mode(), torch.autocast(device, dtype, enabled=bool(is_fast)):
            return network([inputs])[0]["sem_seg"].max(dim=0).indices.cpu().numpy()

    return label, predictor.metadata.stuff_colors


def by_openvino(model: str) -> tuple[Labeler, list]:
    """The same of an exported file; its auxiliary image has 8-bit values and no gaps."""
    import openvino

    facts = json.loads(Path(f"{model}.json").read_text(encoding="utf-8"))
    network, (width, height) = openvino.Core().read_model(model), SIZE
    channels = facts["inputs"]["auxiliary"][1]
    network.reshape({"visible": [1, 3, height, width], "auxiliary": [1, channels, height, width]})
    settings = {"NUM_STREAMS": AT_ONCE, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.compile_model(network, "CPU", settings)

    def label(pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        visible = pair[0].transpose(2, 0, 1)[None].astype(np.float32)  # (1, 3, 240, 320)
        other = np.repeat(pair[1][None, None].astype(np.float32), channels, axis=1)
        request = compiled.create_infer_request()
        return request.infer({"visible": visible, "auxiliary": other})["labels"][0]

    return label, facts["colors"]


def main(model: str, visible: str, auxiliary: str, output: str = "") -> float:
    """Returns the pairs per second, including reading and writing."""
    label, colors = (by_openvino if model.endswith(".onnx") else by_torch)(model)
    colors = np.array(colors, dtype=np.uint8)[:, ::-1]  # (K, 3) in BGR
    codec = cv2.VideoWriter_fourcc(*"MJPG")
    writer = cv2.VideoWriter(output, codec, 10, SIZE) if output else None
    torch.set_num_threads(max(1, torch.get_num_threads() // AT_ONCE))
    start, count = time.perf_counter(), 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for labels in in_turn(pool, label, frames(visible, auxiliary)):
            if writer is not None:
                writer.write(colors[labels])
            count += 1
            print(f"\r{count / (time.perf_counter() - start):.1f} pairs/s", end="", flush=True)
    if writer is not None:
        writer.release()
    print()
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
