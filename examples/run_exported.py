"""Runs an exported model without this package: run_exported.py model.onnx rgb.png thermal.png"""

import json
import pathlib
import sys

import numpy as np
import onnxruntime
from PIL import Image


def scale(stored: np.ndarray, contract: dict, channels: int) -> np.ndarray:
    """Stored values (H, W) or (H, W, channels) on the scale 0..255: (channels, H, W)."""
    low, high = contract["low"], contract["high"]
    scaled = np.clip((stored.astype(np.float32) - low) / (high - low), 0, 1) * 255
    scaled = np.where(stored == contract["invalid"], np.float32(0), scaled)
    planes = scaled.transpose(2, 0, 1) if scaled.ndim == 3 else scaled[None]
    return np.broadcast_to(planes, (channels, *planes.shape[1:]))


def main(path: str, visible: str, auxiliary: str) -> None:
    beside = pathlib.Path(f"{path}.json")  # of files of version 0.1.0: model.json
    beside = beside if beside.exists() else pathlib.Path(path).with_suffix(".json")
    facts = json.loads(beside.read_text())
    if facts["outputs"] == "logits" or facts["values"] == "normalized":
        raise SystemExit(f"error: export {path} with --labels and without --normalized")
    image = np.asarray(Image.open(visible).convert("RGB"), dtype=np.float32)  # (H, W, 3)
    image = image if facts["visible_channels"] == "RGB" else image[:, :, ::-1]
    if facts["auxiliary"].get("camera"):
        raise SystemExit("error: the model takes HHA made of depth; give the HHA image itself")
    other = np.asarray(Image.open(auxiliary))  # stored values
    other = scale(other, facts["auxiliary"], facts["inputs"]["auxiliary"][1])  # (A, H, W)

    session = onnxruntime.InferenceSession(path)
    inputs = {"visible": image.transpose(2, 0, 1)[None], "auxiliary": other[None]}
    labels = session.run(["labels"], inputs)[0][0]  # (H, W)
    ids = labels + facts.get("label_offset", 0)
    Image.fromarray(ids.astype(np.uint8 if ids.max() < 256 else np.uint16)).save("ids.png")
    colors = np.array(facts.get("colors") or facts["colours"], dtype=np.uint8)
    Image.fromarray(colors[labels]).save("colors.png")
    print({facts["classes"][i]: round(float((labels == i).mean()), 3) for i in np.unique(labels)})


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
