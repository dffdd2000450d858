"""Brings an auxiliary image to the place and size of the visible one, by the rule of its dataset.

Shape shorthand in this module:
    h, w: size of the stored auxiliary image      H, W: size of the visible image      C: channels

Pixel coordinates are (x, y), x to the right and y down; the center of the first pixel is (0, 0). A
matrix maps the auxiliary image's coordinates to those of the visible image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from smmcl.data.geometry import without_gaps
from smmcl.files.yaml import read_yaml

Size = tuple[int, int]  # height, width
RULES = ("auto", "resize", "crop", "strict", "matrix")
TOLERANCE = 0.02  # by which aspect ratios may differ where no rule is given
MAX_SIDE = 2**15 - 1  # pixels: OpenCV's warps take no longer side
MODES = {
    "linear": (cv2.INTER_LINEAR, cv2.INTER_LINEAR),  # of a resize, of a warp
    "nearest": (cv2.INTER_NEAREST_EXACT, cv2.INTER_NEAREST),
}
WAYS_OUT = (
    "Say in the dataset file how they fit: 'align: resize' stretches the auxiliary image, 'align: "
    "crop' cuts its middle out, and 'align: calibration.yaml' maps its pixels by a matrix."
)


@dataclass(frozen=True)
class Alignment:
    """How auxiliary images come to lie on visible ones.

    Values move as they are stored, so that their unit stays exact, and no value without a
    measurement is mixed with its neighbors. What the auxiliary camera does not see has none.

    Args:
        rule: "resize" stretches, "crop" takes the middle that has the visible image's aspect ratio,
            "matrix" warps, "strict" refuses two sizes; "auto" resizes where the aspect ratios agree
            within 2% and refuses the rest.
        matrix: of the rule "matrix", a homography of 3 rows or an affine one of 2, 3 numbers each.
        interpolation: "linear" or "nearest".
    """

    rule: str = "auto"
    matrix: Sequence[Sequence[float]] | None = None
    interpolation: str = "linear"

    def __post_init__(self) -> None:
        if self.rule not in RULES or (self.rule == "matrix") != (self.matrix is not None):
            raise ValueError(
                f"align is {self.rule!r}. Set it to {', '.join(RULES[:-1])}, a matrix, or the "
                "name of a calibration file that ends in .yaml."
            )
        if self.interpolation not in tuple(MODES):
            raise ValueError(
                f"align.interpolation is {self.interpolation!r}. Set it to {' or '.join(MODES)}."
            )
        if self.matrix is not None:
            _check_matrix(self.matrix)

    def describe(self, stored: Size, size: Size) -> str:
        """What happens to an auxiliary image, as words; empty where nothing does."""
        if stored == size and self.matrix is None:
            return ""
        rule = "resize" if self.rule == "auto" else self.rule
        return "auxiliary {}x{} brought to {}x{} ({})".format(*stored, *size, rule)

    def mover(
        self, stored: Size, size: Size, *, names: tuple[Any, Any], is_nearest: bool = False
    ) -> Callable[[np.ndarray], np.ndarray] | None:
        """The move of float32 images (h, w, C) to (H, W, C); None where they lie right already.

        Args:
            stored: (h, w).
            size: (H, W).
            names: of the visible and the auxiliary file, for errors.
            is_nearest: takes the nearest pixel whatever the interpolation.
        """
        resizing, warping = MODES["nearest" if is_nearest else self.interpolation]
        if self.matrix is not None:
            matrix = _homography(self.matrix)
            if max(*stored, *size) > MAX_SIDE:
                raise ValueError(
                    f"{names[1]} or {names[0]} has a side of more than {MAX_SIDE} pixels, which no "
                    "matrix can be applied to. Cut both into tiles."
                )
            return lambda image: cv2.warpPerspective(image, matrix, size[::-1], flags=warping)
        if stored == size:
            return None
        self._check(stored, size, names)
        h, w = stored
        if self.rule == "crop":
            h = max(1, min(h, round(w * size[0] / size[1])))
            w = max(1, min(w, round(h * size[1] / size[0])))
        top, left = (stored[0] - h) // 2, (stored[1] - w) // 2
        inside = np.s_[top : top + h, left : left + w]
        return lambda image: cv2.resize(image[inside], size[::-1], interpolation=resizing)

    def _check(self, stored: Size, size: Size, names: tuple[Any, Any]) -> None:
        sizes = "{} is {}x{} but {} is {}x{} (height x width)".format(
            names[0], *size, names[1], *stored
        )
        if self.rule == "strict":
            raise ValueError(
                f"{sizes}. The files of a pair must have one size: exchange the wrong one, or "
                "resize it."
            )
        ratio = stored[1] * size[0] / (stored[0] * size[1])
        if self.rule == "auto" and max(ratio, 1 / ratio) > 1 + TOLERANCE:
            difference = 100 * (max(ratio, 1 / ratio) - 1)
            raise ValueError(
                f"{sizes}: their aspect ratios differ by {difference:.0f}%. {WAYS_OUT}"
            )


DEFAULT = Alignment()


def carry(
    stored: np.ndarray, invalid: np.ndarray, move: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Moves stored values, of which the invalid ones do not count.

    Args:
        stored: (h, w, C).
        invalid: (h, w, C), True where nothing was measured.
        move: of an `Alignment`.

    Returns:
        values (H, W, C), uint8 if they were, else float32; and where they are invalid: where less
        than half of what a pixel is interpolated from was measured.
    """
    values = move(np.where(invalid, 0, stored).astype(np.float32))
    share = move((~invalid).astype(np.float32)).reshape(*values.shape[:2], -1)  # (H, W, C)
    values = without_gaps(values.reshape(share.shape), share)
    values = np.rint(values).astype(np.uint8) if stored.dtype == np.uint8 else values
    return values, share < 0.5


def read_alignment(stated: Any, *, path: str | Path) -> Alignment:
    """What the key `align` of the dataset file at `path` states: a rule, a matrix, or the name of a
    calibration file, which holds a matrix, or `matrix` and `interpolation`."""
    source = f"{path}: align"
    if isinstance(stated, str) and stated.endswith((".yaml", ".yml")):
        source = Path(path).parent / stated
        stated = read_yaml(source)
        if not isinstance(stated, list | Mapping):
            raise ValueError(f"{source} holds {stated!r}. {_SHAPE}")
    facts = dict(stated) if isinstance(stated, Mapping) else {}
    if isinstance(stated, str):
        facts["rule"] = stated
    elif isinstance(stated, list):
        facts["matrix"] = stated
    if not facts or not facts.keys() <= {"rule", "matrix", "interpolation"}:
        raise ValueError(f"{source} is {stated!r}. {_SHAPE}")
    try:
        return Alignment(**{"rule": "matrix" if "matrix" in facts else "auto", **facts})
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


_SHAPE = (
    "Give a rule, or a matrix as 3 rows (homography) or 2 rows (affine) of 3 numbers that maps "
    "auxiliary pixels (x, y, 1) to visible ones; beside `matrix:` only `interpolation:` may stand."
)


def _check_matrix(matrix: Any) -> None:
    is_right = isinstance(matrix, list | tuple) and len(matrix) in (2, 3) and all(
        isinstance(row, list | tuple) and len(row) == 3 and all(map(_is_number, row))
        for row in matrix
    )  # fmt: skip
    if not is_right:
        raise ValueError(f"the matrix is {matrix!r}. {_SHAPE}")
    if np.linalg.matrix_rank(_homography(matrix)) < 3:
        raise ValueError(f"the matrix {matrix!r} maps areas to lines. Calibrate again.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)


def _homography(matrix: Sequence[Sequence[float]]) -> np.ndarray:
    """(3, 3) of a homography or an affine matrix."""
    rows = [*matrix, (0, 0, 1)][:3]
    return np.array(rows, dtype=np.float64)
