"""What auxiliary images store, and how they lie on the visible ones, by looking at a few."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smmcl.data.alignment import TOLERANCE
from smmcl.files.images import decode, read_size

NUM_PROBES = 8  # pairs looked at, spread over the folder
CENTIKELVIN = (20000, 40000)  # 200 K to 400 K, as radiometric cameras store them
ENDS = (0.5, 99.5)  # percentiles of the measured values that become 0 and 255


def probe(pairs: Sequence[dict[str, Path]], *, kind: str) -> tuple[dict[str, Any], list[str]]:
    """The keys `auxiliary` and `align` of a dataset file, and a sentence for each guess.

    Args:
        kind: "depth", "thermal" or "hha" where names say it, else "auxiliary".
    """
    probes = pairs[:: max(1, len(pairs) // NUM_PROBES)][:NUM_PROBES]
    pictures = [decode(one["auxiliary"], role="auxiliary image") for one in probes]
    values = [p.values[:, :, 3] if p.mode == "RGBA" else p.values for p in pictures]
    is_gray = all(v.ndim == 2 or (v == v[:, :, :1]).all() for v in values)
    flat = np.concatenate([(v if v.ndim == 2 else v[:, :, 0]).ravel() for v in values])
    if kind == "auxiliary":
        is_heat = flat.dtype.kind != "u" or flat.dtype == np.uint8
        kind = (
            "thermal" if is_heat or CENTIKELVIN[0] < np.median(flat) < CENTIKELVIN[1] else "depth"
        )
    facts = {"kind": kind, **({} if is_gray else {"channels": 3})}
    if flat.dtype != np.uint8:
        facts |= _scale(flat, kind)
    named = f"unit {facts.get('unit', '8-bit')}, {facts.get('low', 0)} to {facts.get('high', 255)}"
    sentences = [
        f"auxiliary images hold {kind} in {flat.dtype.itemsize * 8} bits: {named}"
        + (f", {facts['invalid']} without a measurement." if "invalid" in facts else ".")
    ]
    align, text = _align(
        [(read_size(one["auxiliary"]), read_size(one["visible"])) for one in probes]
    )
    return {"auxiliary": facts, **align}, [*sentences, *text]


def _scale(flat: np.ndarray, kind: str) -> dict[str, Any]:
    is_float = flat.dtype.kind == "f"
    measured = flat[np.isfinite(flat)] if is_float else flat
    holes = {"invalid": 0} if (measured == 0).any() and kind in ("depth", "hha") else {}
    if kind == "thermal" and (measured == 0).any() and np.median(measured) > 256:
        holes = {"invalid": 0}
    measured = measured[measured != 0] if holes else measured
    if not measured.size:
        raise ValueError("the auxiliary images looked at hold no measurement. Check the files.")
    low, high = (float(value) for value in np.percentile(measured, ENDS))
    step = 10.0 ** np.floor(np.log10(max(high - low, 1e-3))) / 10
    low, high = step * np.floor(low / step), step * np.ceil(high / step)
    if is_float:
        unit = "m" if kind == "depth" else "float"
    else:
        low, high = int(low), max(int(high), 256)
        is_kelvin = CENTIKELVIN[0] < np.median(measured) < CENTIKELVIN[1]
        unit = "mm" if kind in ("depth", "hha") else "0.01 K" if is_kelvin else "16-bit"
    return {"unit": unit, "low": 0 if kind == "depth" else low, "high": high, **holes}


def _align(
    sizes: Sequence[tuple[tuple[int, int], tuple[int, int]]],
) -> tuple[dict[str, str], list[str]]:
    """The key `align`; absent where sizes agree or aspect ratios do."""
    differing = [(stored, size) for stored, size in sizes if stored != size]
    if not differing:
        return {}, []
    (h, w), (height, width) = differing[0]
    text = f"auxiliary images of {h}x{w} are brought to the visible ones' {height}x{width}"
    if abs((w / h) / (width / height) - 1) <= TOLERANCE:
        return {}, [f"{text}, stretched (align: resize)."]
    return {"align": "crop"}, [
        f"{text}: their aspect ratios differ, so the middle is cut out (align: crop). Look at the "
        "sheet; if outlines stand twice, give align a calibration file."
    ]
