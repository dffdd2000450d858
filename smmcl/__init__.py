"""Semantic segmentation of dark scenes from pairs of visible and auxiliary images."""

import importlib
from typing import Any

__version__ = "0.1.0"

_LAZY = {"Predictor": "smmcl.inference.predictor", "Prediction": "smmcl.inference.predictor"}


def __getattr__(name: str) -> Any:
    # Loaded when asked for, so that the mathematics imports with torch alone.
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"smmcl has no '{name}'; it offers {', '.join(_LAZY)}.")
