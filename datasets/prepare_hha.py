#!/usr/bin/env python3
"""Turns a folder of depth images into HHA images, beside each other and by several processes.

Files that are there already are kept, so a stopped run goes on where it was. Example, for NYUDv2
with 16-bit depth in millimeters:

    python datasets/prepare_hha.py datasets/nyudv2/Depth datasets/nyudv2/HHA --unit 0.001
"""

import argparse
import functools
import multiprocessing
from pathlib import Path

from tqdm import tqdm

from smmcl.cli import run
from smmcl.data.hha import NYU_CAMERA, Camera, compute_hha
from smmcl.files.atomic import write_new_image
from smmcl.files.images import decode


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("depth", type=Path, help="folder of depth images")
    parser.add_argument("output", type=Path, help="folder of HHA images, made if absent")
    parser.add_argument("--unit", type=float, required=True,
                        help="meters per stored step: 0.001 for millimeters")  # fmt: skip
    parser.add_argument("--camera", type=float, nargs=4, metavar=("FX", "FY", "CX", "CY"),
                        help="in pixels; by default the color camera of NYUDv2")  # fmt: skip
    parser.add_argument("--mirrored", action="store_true", help="the images are flipped")
    parser.add_argument("--raw", type=Path, metavar="FOLDER",
                        help="depth before it was filled in: 0 there shapes no normal")  # fmt: skip
    parser.add_argument("--processes", type=int, default=1)
    return parser.parse_args()


def convert(path: Path, *, args: argparse.Namespace) -> bool:
    """Converts one file; says whether there was anything to do."""
    target = args.output / path.relative_to(args.depth).with_suffix(".png")
    if target.exists():
        return False
    stored = decode(path, role="depth image").values
    if stored.ndim != 2:
        raise ValueError(f"depth image {path} has {stored.ndim} axes; one channel is wanted.")
    camera = Camera(*args.camera) if args.camera else NYU_CAMERA
    camera = camera.mirrored(stored.shape[1]) if args.mirrored else camera
    missing = None
    if args.raw:
        missing = (
            decode(args.raw / path.relative_to(args.depth), role="raw depth image").values == 0
        )
    hha = compute_hha(stored * args.unit, camera=camera, missing=missing)
    return write_new_image(target, hha.image())


def main() -> None:
    args = parse_arguments()
    paths = sorted(path for path in args.depth.rglob("*.*") if path.suffix in (".png", ".tiff"))
    if not paths:
        raise ValueError(f"{args.depth} holds no .png or .tiff. Give the folder of depth images.")
    work = functools.partial(convert, args=args)
    with multiprocessing.Pool(args.processes) as pool:
        written = sum(tqdm(pool.imap_unordered(work, paths, 8), total=len(paths), unit="image"))
    print(f"{written} HHA images written into {args.output}, {len(paths) - written} were there")


if __name__ == "__main__":
    run(main)
