"""Semantic segmentation of dark scenes from pairs of visible and auxiliary images."""

import importlib
from typing import Any

__version__ = "0.1.0"

# What a user is told of modules that come with an extra.
MISSING = {
    "cv2": "OpenCV is missing: pip install 'smmcl[headless]', or 'smmcl[opencv]' with a display.",
    **dict.fromkeys(
        ("onnx", "onnxruntime", "onnxscript"), "ONNX is missing: pip install 'smmcl[export]'."
    ),
}
_LAZY = {"Predictor": "smmcl.inference.predictor", "Prediction": "smmcl.inference.predictor"}


def __getattr__(name: str) -> Any:
    # Loaded when asked for, so that the mathematics imports with torch alone.
    if name in _LAZY:
        try:
            return getattr(importlib.import_module(_LAZY[name]), name)
        except ModuleNotFoundError as error:
            text = MISSING.get(error.name, str(error))
            raise ModuleNotFoundError(text, name=error.name) from error
    raise AttributeError(f"smmcl has no '{name}'; it offers {', '.join(_LAZY)}.")
