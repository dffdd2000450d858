"""Shows images in other light, file by file or frame by frame, by any model with `relight`.

Names, folders, bit depth and alpha stay, so that a folder can stand in for the one it was made of.

Shape shorthand in this module:
    H, W: height and width
"""

import argparse
import contextlib
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn
from tqdm import tqdm

from smmcl.d2 import DatasetCatalog
from smmcl.data.datasets.build import ensure_registered
from smmcl.evaluation import image_quality
from smmcl.files.atomic import atomic
from smmcl.files.pictures import Colors, read_colors
from smmcl.files.video import VideoWriter, is_video
from smmcl.inference.index import Index, identity, take_up
from smmcl.inference.named_model import load_relighter
from smmcl.inference.relight import relight_image
from smmcl.inference.sources import Source, state_of
from smmcl.visualization.panels import enlarge, panel
from smmcl.weights.files import local_file

INDEX = ".relit.jsonl"
Entries = Iterator[tuple[dict[str, Any], bool]]


def named_source(place: str, output: Path, *, truth: str = "", limit: int | None = None) -> Source:
    """The images of a place, or the visible ones of a registered dataset."""
    places = [place]
    if not (Path(place).exists() or is_video(place) or any(c in place for c in "*?[")):
        ensure_registered([place])
        places = [str(record["file_name"]) for record in DatasetCatalog.get(place)]
    folder = Path(place) if Path(place).is_dir() else Path(places[0]).parent
    if folder.resolve() == output.resolve():
        raise ValueError(
            f"{output} is where the images come from, and they would be replaced. Give another "
            "folder to write to."
        )
    truths = [truth] if truth else []
    return Source(visible=places, truth=truths, limit=limit, results=[output])


class FileRelighter:
    """Writes what a model makes of a `Source` into a folder, and an index of what is done."""

    def __init__(
        self,
        model: nn.Module,
        source: Source,
        output: Path,
        *,
        made_by: str,
        options: Mapping[str, Any] | None = None,
        panels: Path | None = None,
        keep_going: bool = False,
    ) -> None:
        """
        Args:
            model: with `relight`.
            output: folder to write to.
            made_by: identifies the model and its options.
            options: of `relight`.
            panels: folder of pictures before and after, if wanted.
            keep_going: images that cannot be read become entries with an "error".
        """
        self.model, self.source, self.output, self.panels = model, source, output, panels
        self.options, self.keep_going = dict(options or {}), keep_going
        self.index = Index(output / INDEX, made_by=made_by)

    def __call__(self) -> Entries:
        """Yields what is known of each image, or of a video, and whether it was done before."""
        if self.source.video:
            made_of = f"{state_of(self.source.places)} {self.source.limit}"
            records = [{"name": self.source.name, "made_of": made_of}]
            make: Callable = self._make_video
        else:
            records, make = self.source.records(), self._make
        try:
            yield from take_up(records, self._find, make, keep_going=self.keep_going)
        finally:
            self.index.close()

    def _relight(self, image: np.ndarray, name: str) -> np.ndarray:
        seed = zlib.crc32(name.encode())
        return relight_image(self.model, image, seed=seed, options=self.options)

    def _file(self, record: Mapping[str, Any]) -> str:
        suffix = ".mp4" if self.source.video else Path(record["file_name"]).suffix
        return f"{record['name']}{suffix}"

    def _find(self, record: Mapping[str, Any]) -> dict[str, Any] | None:
        found = self.index.find(record, [self._file(record)])
        is_drawn = self.panels is None or self._panel(record).is_file()
        return found if is_drawn else None

    def _panel(self, record: Mapping[str, Any]) -> Path:
        suffix = ".mp4" if self.source.video else ".png"
        return self.panels / f"{record['name']}{suffix}"

    def _make(self, record: Mapping[str, Any]) -> dict[str, Any]:
        before = read_colors(record["file_name"], role="image")
        after = self._relight(before.values, record["name"])
        if before.is_gray:
            after = np.repeat(after.mean(axis=2, keepdims=True), 3, axis=2)
        file = self.output / self._file(record)
        Colors(after, before.alpha, before.dtype, before.is_gray).save(file)
        shown = {"before": before.values, "after": after}
        scores = {}
        if path := record.get("sem_seg_file_name"):  # the truth that goes with it
            shown["truth"] = read_colors(path, role="truth").values
            scores = score(after, shown["truth"], names=(record["file_name"], path))
        if self.panels:
            with atomic(self._panel(record)) as partial:
                Image.fromarray(_drawn(shown, heading=record["name"])).save(partial)
        means = {f"brightness_{k}": float(shown[k].mean()) for k in ("before", "after")}
        entry = {"name": record["name"], "made_of": record["made_of"], **means, **scores}
        return self.index.add(entry, [file])

    def _make_video(self, record: Mapping[str, Any]) -> dict[str, Any]:
        file, name, means = self.output / self._file(record), record["name"], []
        rate = self.source.rate()
        video = VideoWriter(file, rate=rate)
        drawn = VideoWriter(self._panel(record), rate=rate) if self.panels else None
        with (
            contextlib.closing(video),
            contextlib.closing(drawn) if drawn else contextlib.nullcontext(),
        ):
            for frame in self.source.records():
                before = frame["file_name"].astype(np.float32) / 255
                after = self._relight(before, name)  # one draw for the whole clip
                video.write(_bytes(after))
                if drawn:
                    shown = {"before": before, "after": after}
                    drawn.write(_drawn(shown, heading=f"{name}, frame {len(means)}"))
                means.append((before.mean(), after.mean()))
        before, after = np.mean(means, axis=0)
        means = {"brightness_before": float(before), "brightness_after": float(after)}
        return self.index.add({**record, **means, "frames": len(means)}, [file])


def score(image: np.ndarray, truth: np.ndarray, *, names: tuple[Any, Any]) -> dict[str, float]:
    """PSNR, SSIM and LOE of images (H, W, 3) in 0..1."""
    if image.shape != truth.shape:
        sizes = [f"{x.shape[0]}x{x.shape[1]}" for x in (image, truth)]
        raise ValueError(
            f"{names[0]} is {sizes[0]} but its truth {names[1]} is {sizes[1]} (height x width). "
            "Both must have one size."
        )
    return {
        "psnr": image_quality.psnr(image, truth),
        "ssim": image_quality.ssim(image, truth),
        "loe": image_quality.lightness_order_error(image, truth),
    }


def _bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(255 * image).astype(np.uint8)


def _drawn(images: Mapping[str, np.ndarray], *, heading: str) -> np.ndarray:
    return panel({name: enlarge(_bytes(x)) for name, x in images.items()}, heading=heading)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that every tool of this kind has."""
    parser.add_argument("input", metavar="IN", help="image, folder with all below it, 'pattern', "
                        "video, or name of a dataset")  # fmt: skip
    parser.add_argument("output", metavar="OUT", type=Path, help="folder to write to")
    parser.add_argument("--checkpoint", metavar="FILE", required=True, help="the trained model")
    parser.add_argument("--limit", type=int, help="number of images")
    parser.add_argument("--panels", type=Path, metavar="FOLDER", help="pictures before and after")
    parser.add_argument("--keep-going", action="store_true", help="skips images it cannot read")


def relight_all(
    args: argparse.Namespace,
    *,
    options: Mapping[str, Any],
    truth: str = "",
    wanted: float | None = None,
) -> dict[str, float]:
    """What a tool does with those arguments.

    Args:
        options: of the model's `relight`.
        truth: place of images that the results are compared with.
        wanted: mean brightness, if there is one.

    Returns:
        Means over the images of what each entry says in numbers, and of "off", how far from the
        wanted brightness it is; "images", "done" and "skipped" as counts.
    """
    model = load_relighter(args.checkpoint, source="--checkpoint", options=options)
    source = named_source(args.input, args.output, truth=truth, limit=args.limit)
    work = FileRelighter(
        model,
        source,
        args.output,
        made_by=identity(local_file(args.checkpoint), sorted(options.items()), truth),
        options=options,
        panels=args.panels,
        keep_going=args.keep_going,
    )
    entries, done, skipped = [], 0, 0
    with tqdm(unit="video" if source.video else "image") as bar:
        for entry, was_done in work():
            bar.update()
            done += was_done
            if "error" in entry:
                skipped += 1
                bar.write(f"skipped: {entry['error']}", file=sys.stderr)
            else:
                entries.append(entry)
    if not entries:
        raise SystemExit(f"error: none of {skipped} images could be read")
    keys = [key for key, value in entries[0].items() if isinstance(value, float)]
    means = {key: float(np.mean([entry[key] for entry in entries])) for key in keys}
    if wanted is not None:
        means["off"] = float(np.mean([abs(e["brightness_after"] - wanted) for e in entries]))
    return {**means, "images": len(entries), "done": done, "skipped": skipped}


def describe(result: Mapping[str, float], *, verb: str, output: Path) -> str:
    """The lines that a tool ends with."""
    text = (
        f"{result['images']:g} {verb} into {output}, {result['done']:g} of them before, "
        f"{result['skipped']:g} skipped\nmean brightness {result['brightness_before']:.3f} before, "
        f"{result['brightness_after']:.3f} after"
    )
    if "off" in result:
        text += f", {result['off']:.3f} from the wanted one on average"
    if "psnr" in result:
        scores = "PSNR {psnr:.2f} dB, SSIM {ssim:.3f}, LOE {loe:.0f}".format(**result)
        text += f"\nagainst the truth: {scores}"
    return text
