"""Segments two cameras or videos as they run: live.py CONFIG WEIGHTS VISIBLE AUXILIARY [OUTPUT].

VISIBLE and AUXILIARY are video files or camera numbers; OUTPUT is a video of the predicted classes
in color. The config names the dataset, which defines how auxiliary frames are read.
"""

import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch

from smmcl import Predictor
from smmcl.config import build_config
from smmcl.inference.fold import fold

SIZE = (320, 240)  # width and height that the model sees
AT_ONCE = 2  # pairs in flight; two cores have more throughput with one pair each


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


def main(config: str, weights: str, visible: str, auxiliary: str, output: str = "") -> float:
    """Returns the pairs per second, including reading and writing."""
    predictor = Predictor(build_config(config, ["MODEL.WEIGHTS", weights]))
    device = predictor.model.device.type
    flags = getattr(torch.cpu, "get_capabilities", dict)()  # older torch reports none
    is_fast = device != "cpu" or flags.get("amx_bf16") or flags.get("avx512_bf16")
    dtype = torch.bfloat16 if is_fast else torch.float32
    predictor.model = fold(predictor.model, dtype=dtype)
    colors = np.array(predictor.metadata.stuff_colors, dtype=np.uint8)[:, ::-1]  # (K, 3) in BGR
    codec = cv2.VideoWriter_fourcc(*"MJPG")
    writer = cv2.VideoWriter(output, codec, 10, SIZE) if output else None

    def label(pair):
        inputs = predictor.prepare(*pair)
        with torch.inference_mode(), torch.autocast(device, dtype, enabled=bool(is_fast)):
            return predictor.model([inputs])[0]["sem_seg"].max(dim=0).indices.cpu()  # (240, 320)

    torch.set_num_threads(max(1, torch.get_num_threads() // AT_ONCE))
    start, count = time.perf_counter(), 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for labels in in_turn(pool, label, frames(visible, auxiliary)):
            if writer is not None:
                writer.write(colors[labels.numpy()])
            count += 1
            print(f"\r{count / (time.perf_counter() - start):.1f} pairs/s", end="", flush=True)
    if writer is not None:
        writer.release()
    print()
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
