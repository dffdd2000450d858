"""Pictures of users that are changed and written again as they were: depth, alpha, kind of file.

Shape shorthand in this module:
    H, W: height and width of the picture
"""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from smmcl.files.atomic import atomic
from smmcl.files.images import decode

LOSSLESS_16 = (".png", ".tif", ".tiff")


@dataclasses.dataclass(frozen=True)
class Colors:
    """A picture's colors, and what is needed to store others in their place.

    values: (H, W, 3) float32 RGB in 0..1; of a gray picture three equal channels.
    alpha: (H, W) as stored, or None.
    dtype: uint8 or uint16, as stored.
    is_gray: stored in one channel.
    """

    values: np.ndarray
    alpha: np.ndarray | None
    dtype: np.dtype
    is_gray: bool

    def save(self, path: Path) -> None:
        """Writes the picture in the kind of file that the path ends in."""
        top = np.iinfo(self.dtype).max
        stored = np.rint(self.values.clip(0, 1) * top).astype(self.dtype)
        if self.is_gray:
            stored = stored[:, :, 0]
        elif self.alpha is not None:
            stored = np.dstack([stored, self.alpha])
        with atomic(path) as partial:
            if self.dtype == np.uint16 and not self.is_gray:
                import cv2  # Pillow cannot write such files

                order = [2, 1, 0, 3][: stored.shape[2]]
                partial.write_bytes(cv2.imencode(path.suffix, stored[:, :, order])[1].tobytes())
            elif path.suffix.lower() in (".jpg", ".jpeg"):
                Image.fromarray(stored).save(partial, quality=95, subsampling=0)
            else:
                is_webp = path.suffix.lower() == ".webp"
                Image.fromarray(stored).save(partial, **({"lossless": True} if is_webp else {}))


def read_colors(path: str | Path, *, role: str) -> Colors:
    """Reads a picture of 8 or 16 bits, gray or in color, with or without alpha."""
    stored, mode, _ = decode(path, role=role, keeps_depth=True)
    if mode not in ("RGB", "RGBA", "L", "I;16", "I;16B", "I;16L"):
        raise ValueError(
            f"{role} {path} has mode {mode!r} but 8 or 16 bits of gray or RGB are wanted. Convert "
            "it: what white is would be a guess."
        )
    is_gray = stored.ndim == 2
    stored = stored.astype(stored.dtype.newbyteorder("="))
    colors = np.repeat(stored[:, :, None], 3, axis=2) if is_gray else stored[:, :, :3]
    alpha = stored[:, :, 3] if mode == "RGBA" else None
    values = colors.astype(np.float32) / np.iinfo(stored.dtype).max
    return Colors(values, alpha, stored.dtype, is_gray)
