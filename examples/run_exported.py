"""Runs an exported model without this package: run_exported.py model.onnx rgb.png thermal.png."""

import json
import pathlib
import sys

import numpy as np
import onnxruntime
from PIL import Image

path, visible, auxiliary = sys.argv[1:4]
facts = json.loads(pathlib.Path(path).with_suffix(".json").read_text())
channels = facts["inputs"]["auxiliary"][1]

visible = np.asarray(Image.open(visible).convert("RGB"), dtype=np.float32)  # (H, W, 3)
visible = visible if facts["visible_channels"] == "RGB" else visible[:, :, ::-1]
auxiliary = np.asarray(Image.open(auxiliary), dtype=np.float32)  # (H, W), stored values
low, high = facts["auxiliary"]["low"], facts["auxiliary"]["high"]
auxiliary = np.clip((auxiliary - low) / (high - low), 0, 1) * 255  # 0..255
auxiliary = np.repeat(auxiliary[None], channels, axis=0)  # (A, H, W)

session = onnxruntime.InferenceSession(path)
inputs = {"visible": visible.transpose(2, 0, 1)[None], "auxiliary": auxiliary[None]}
labels = session.run(["labels"], inputs)[0][0]  # (H, W)
picture = Image.fromarray(np.array(facts["colours"], dtype=np.uint8)[labels])
picture.save("labels.png")
print({facts["classes"][i]: float((labels == i).mean().round(3)) for i in np.unique(labels)})
