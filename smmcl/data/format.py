"""What stored auxiliary values mean: their unit and scale, and how files in another unit are read.

Shape shorthand in this module:
    h, w: height and width as stored      H, W: of the result, the same unless it is carried
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from smmcl.data.hha import Camera, compute_hha

FILE_BITS = {np.dtype(np.uint8): 8, np.dtype(np.uint16): 16}
Carry = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
METERS = {"m": 1.0, "cm": 0.01, "mm": 0.001}


@dataclasses.dataclass(frozen=True)
class AuxiliaryFormat:
    """What the stored values of an auxiliary image mean, and how they reach the scale 0..255.

    Args:
        kind: "depth", "thermal", "hha", or another word for the sensor.
        channels: of the stored image, 1 or 3.
        unit: of the stored values: a length ("mm", or "39.2 mm" for steps of that length), or a
            word such as "8-bit" for plain steps; a prediction must name it.
        low, high: stored values that become 0 and 255; what lies outside is clipped. They also
            tell the files: 8-bit ones have a high of at most 255, 16-bit ones of more, so that
            millimeters are never taken for 8-bit steps, nor steps for millimeters.
        invalid: stored value without a measurement, which becomes 0; None when there is none.
        camera: of an "hha" whose files hold depth: fx, fy, cx, cy in pixels. HHA, three channels,
            is then made when a file is read, of depth that was aligned before, so this is the
            camera of the visible image; of low and high only the check above is left.
    """

    kind: str
    channels: int = 1
    unit: str = "8-bit"
    low: float = 0.0
    high: float = 255.0
    invalid: float | None = None
    camera: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"auxiliary.channels is {self.channels}. Set it to 1 or 3.")
        if not self.high > self.low:
            raise ValueError(
                f"auxiliary.low is {self.low} and auxiliary.high is {self.high}. "
                "Set high to the stored value that becomes 255, above low."
            )
        is_hha = self.kind == "hha" and self.channels == 1 and length_of_step(self.unit)
        if self.camera is not None and not (is_hha and len(self.camera) == 4):
            raise ValueError(
                f"auxiliary.camera is {self.camera}, of kind {self.kind!r} with {self.channels} "
                f"channel(s) in the unit {self.unit!r}. Give fx, fy, cx and cy, the kind 'hha', 1 "
                "channel, and a length as the unit, such as 'mm'."
            )

    @property
    def scaled_channels(self) -> int:
        """Channels of the image on the scale 0..255."""
        return self.channels if self.camera is None else 3

    def in_unit(self, unit: str) -> "AuxiliaryFormat":
        """The format by which files in another unit reach the same scale.

        Only lengths follow from each other; anything else raises.
        """
        if unit == self.unit:
            return self
        own, other = length_of_step(self.unit), length_of_step(unit)
        if own is None or other is None:
            raise ValueError(
                f"the {self.kind} images are in the unit {unit!r}, but the model was trained on "
                f"{self.unit!r}, which does not follow from it. Give images in {self.unit!r}, or "
                "train on a dataset file whose auxiliary.unit is a length, such as 'mm' or "
                "'39.2 mm' for steps of 39.2 mm."
            )
        invalid = None if self.invalid is None else self.invalid * own / other
        low, high = self.low * own / other, self.high * own / other
        return dataclasses.replace(self, unit=unit, low=low, high=high, invalid=invalid)

    def check_alike(self, given: "AuxiliaryFormat", *, source: str) -> None:
        """Raises unless a measurement has one value by this format and by that of `source`.

        What marks a missing measurement may differ, and HHA is HHA, whoever made it.
        """
        here = self.in_unit(given.unit) if self.kind != "hha" else given
        is_alike = math.isclose(here.low, given.low) and math.isclose(here.high, given.high)
        if not is_alike or self.kind != given.kind or self.scaled_channels != given.scaled_channels:
            raise ValueError(
                f"the model was trained on {self.kind}, {here.low:g}..{here.high:g} in the unit "
                f"{here.unit!r}, but {source} has {given.kind}, {given.low:g}..{given.high:g}. "
                "Name a dataset file with the model's auxiliary.kind, low and high."
            )

    def of_files(self, unit: str | None) -> "AuxiliaryFormat":
        """The format by which files that belong to no dataset are read.

        None as their unit is enough for 8-bit steps alone, which no other file passes for.
        """
        if unit is None and self.unit != "8-bit":
            raise ValueError(
                f"the model was trained on {self.kind} images in the unit {self.unit!r}, and files "
                f"do not say theirs. Name it: {self.unit!r}, or another length to be converted."
            )
        return self.in_unit(unit or self.unit)

    def check_type(self, stored: np.ndarray, *, source: str) -> None:
        """Raises if a file stores values of a type that this format does not have."""
        bits = FILE_BITS.get(stored.dtype.newbyteorder("="))
        is_wrong = self.unit == "8-bit" if bits is None else (self.high > 255) != (bits > 8)
        if is_wrong:
            raise ValueError(
                f"auxiliary image {source} stores {stored.dtype} values but its dataset declares "
                f"{self.low:g}..{self.high:g} in the unit {self.unit!r}. Give files in that unit, "
                "or correct auxiliary.unit, low and high (above 255 for 16-bit files only)."
            )

    def scale(self, stored: np.ndarray, *, source: str, carry: Carry | None = None) -> np.ndarray:
        """Brings stored values to 0..255.

        Args:
            stored: (h, w, channels), of the file's own type. Non-finite values count as invalid.
            source: name of the file, for the error.
            carry: moves stored values and their invalid places to another size before.

        Returns:
            (H, W, scaled_channels) float32; uint8 where an 8-bit file already has the scale
            0..255, and of HHA.
        """
        self.check_type(stored, source=source)
        invalid = ~np.isfinite(stored) if stored.dtype.kind == "f" else False
        if self.invalid is not None:
            invalid = invalid | (stored == self.invalid)
        if carry is not None:
            stored, invalid = carry(stored, np.broadcast_to(invalid, stored.shape))
        if self.camera is not None:
            depth = np.where(invalid, 0, stored * length_of_step(self.unit))[:, :, 0]
            return compute_hha(depth, camera=Camera(*self.camera)).image()  # (H, W, 3)
        if stored.dtype == np.uint8 and (self.low, self.high) == (0, 255):
            scaled = stored
        else:
            factor = 255.0 / (self.high - self.low)
            scaled = np.clip((stored.astype(np.float32) - self.low) * factor, 0, 255)
            scaled = scaled.astype(np.float32)
        return np.where(invalid, scaled.dtype.type(0), scaled)


def length_of_step(unit: str) -> float | None:
    """Meters of one stored step, None for a unit that is no length: 0.0392 of "39.2 mm"."""
    number, _, name = unit.rpartition(" ")
    try:
        return float(number or 1) * METERS[name]
    except (KeyError, ValueError):
        return None


class ModelInputs:
    """What a model's images hold, kept in its checkpoints under "inputs".

    Loading a checkpoint that was trained on other inputs raises: its pictures would look like
    results. It has the two methods of a checkpointable object.

    Args:
        facts: plain dicts, one a dataset, as `build.describe_inputs` makes them; all must agree.
    """

    def __init__(self, facts: Sequence[Mapping[str, Any]]) -> None:
        self.facts = list(facts)
        self.load_state_dict(self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        return dict(self.facts[0]) if self.facts else {}

    def load_state_dict(self, stored: Mapping[str, Any]) -> None:
        """Compares; the facts stay those of this run."""
        for facts in self.facts if stored else ():
            if stored["format"] != facts["format"]:
                raise ValueError(
                    f"the model was trained on {stored['format']} colors but INPUT.FORMAT is "
                    f"{facts['format']!r}. Set it to {stored['format']!r}."
                )
            if stored["stuff_classes"] != facts["stuff_classes"]:
                raise ValueError(
                    f"{facts['name']} has other classes, or another order of them, than "
                    f"{stored['name']}, which the model was trained on. Name a dataset with "
                    f"{', '.join(stored['stuff_classes'][:5])}, ..."
                )
            if stored["uses_auxiliary"] and facts["uses_auxiliary"]:
                trained, given = (AuxiliaryFormat(**f["auxiliary"]) for f in (stored, facts))
                trained.check_alike(given, source=facts["name"])
