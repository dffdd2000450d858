"""From a folder to a dataset file, its lists and a config: guesses, each with its sentence."""

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smmcl.data.datasets.new import labels as label_files
from smmcl.data.datasets.new.auxiliary import probe
from smmcl.data.datasets.new.pairs import (
    Group,
    Pairing,
    find_groups,
    guess_role,
    images_below,
    pair,
)
from smmcl.data.datasets.new.polygons import draw_labels, has_polygons
from smmcl.data.datasets.new.proposal import (
    Make,
    Proposal,
    propose_config,
    propose_dataset,
    propose_splits,
)
from smmcl.files.atomic import write_new_image, write_text
from smmcl.files.images import decode, read_size
from smmcl.files.pairing import NUM_NAMED


def propose(
    folder: Path,
    *,
    output: Path,
    visible: str = "",
    auxiliary: str = "",
    labels: str = "",
    classes: str = "",
) -> Proposal:
    """Looks at a folder; writes nothing.

    Args:
        output: folder of the files to write.
        visible, auxiliary, labels: folder or pattern below `folder`, where a guess is wrong.
        classes: names by commas, or a file of them.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder. Name the one that holds your images.")
    plan = Proposal()
    given = {"visible": visible, "auxiliary": auxiliary, "label": labels}
    jsons = _json_files(folder, labels, plan)
    groups = _choose(folder, {} if jsons else given, plan, given=given)
    named = label_files.read_names(classes) if classes else None
    kind = groups["auxiliary"].role if "auxiliary" in groups else ""
    paired = pair(groups)
    _four_channels(paired, plan)
    plan.sentences += paired.sentences
    facts: dict[str, Any] = {"root": os.path.relpath(folder, output)}
    facts |= _labels(paired, jsons, named, plan, folder=folder, output=output)
    pairs = [*paired.pairs.values()]
    if "auxiliary" in paired.patterns:
        is_known = kind in ("thermal", "depth", "hha")
        more, sentences = probe(pairs, kind=kind if is_known else "auxiliary")
        facts |= more
        plan.sentences += sentences
    else:
        plan.sentences.append("no auxiliary images: a set of visible images, for one stream.")
    splits = propose_splits(paired, plan)
    propose_dataset(facts, paired, splits, plan, folder=folder, output=output)
    propose_config(facts, paired, splits, plan, output=output)
    return plan


def write(plan: Proposal) -> None:
    """Writes all files of a proposal, or none if one of them exists."""
    taken = [str(path) for path in (*plan.texts, *plan.images) if path.exists()]
    if taken:
        raise FileExistsError(
            f"{taken[0]} exists{f' and {len(taken) - 1} more' if taken[1:] else ''}; nothing is "
            "overwritten. Remove what an earlier call wrote, or give --output another folder."
        )
    for path, make in plan.images.items():
        write_new_image(path, make())
    for path, text in plan.texts.items():
        write_text(path, text)


def _json_files(folder: Path, labels: str, plan: Proposal) -> list[Path]:
    """JSON files of polygons: those named, else all of the folder, which win over label images."""
    if labels:
        place = folder / labels
        found = [place] if place.is_file() else sorted(place.glob("*.json"))
        found = found or sorted(folder.glob(labels))
        return [path for path in found if path.suffix == ".json"]
    paths = sorted(path for path in folder.rglob("*.json") if path.is_file())
    found = [path for path in paths if has_polygons(path)]
    if others := [str(path) for path in paths if path not in found]:
        text = ", ".join(others[:NUM_NAMED]) + (", ..." if others[NUM_NAMED:] else "")
        plan.sentences.append(
            f"not used: JSON files that hold no polygons, or cannot be read: {text}."
        )
    return found


def _choose(
    folder: Path, named: Mapping[str, str], plan: Proposal, *, given: Mapping[str, str]
) -> dict[str, Group]:
    """The largest group of each part."""
    paths = images_below(folder)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no images, nor do folders in it. Check the path.")
    chosen: dict[str, Group] = {}
    for part, place in given.items():
        if place and (part in named or part != "label"):
            below = folder / place
            found = [p for p in paths if below in p.parents] or sorted(folder.glob(place))
            if not found:
                raise FileNotFoundError(f"{below} is no folder or pattern with images.")
            chosen[part] = max(find_groups(folder, found), key=lambda group: len(group.files))
            paths = [path for path in paths if path not in found]
    spare = []
    for group in sorted(find_groups(folder, paths), key=lambda one: -len(one.files)):
        by_name = group.role
        role = by_name or guess_role(group)
        part = role if role in ("visible", "label") else "auxiliary"
        group.role = role
        if part in chosen or (part == "label" and not named):
            spare.append(group)
            continue
        chosen[part] = group
        how = "their names say so" if by_name else "a guess by what the first one stores"
        plan.sentences.append(f"{part} images: {group}; {how}.")
    if "visible" not in chosen:
        found = "; ".join(map(str, [*chosen.values(), *spare]))
        raise ValueError(
            f"none of the images in {folder} look like visible ones: {found}. "
            "Give --visible a folder or a pattern, such as --visible 'cam0/*.png'."
        )
    if spare:
        plan.sentences.append(
            f"not used: {'; '.join(map(str, spare))}. Give --visible, --auxiliary or --labels a "
            "folder or a pattern to choose them."
        )
    return chosen


def _four_channels(paired: Pairing, plan: Proposal) -> None:
    first = next(iter(paired.pairs.values()))["visible"]
    if "auxiliary" in paired.patterns or decode(first, role="visible image").mode != "RGBA":
        return
    paired.patterns["auxiliary"] = paired.patterns["visible"]
    for files in paired.pairs.values():
        files["auxiliary"] = files["visible"]
    plan.sentences.append("the files have four channels: the last is taken as the auxiliary image.")


def _labels(
    paired: Pairing,
    jsons: Sequence[Path],
    named: label_files.Classes | None,
    plan: Proposal,
    *,
    folder: Path,
    output: Path,
) -> dict[str, Any]:
    """The keys of classes; plans label images where the stored ones are of another form."""
    makes: dict[Path, Make] = {}
    if jsons:
        found, drawn = draw_labels(jsons)
        paired.patterns["label"] = ""
        for (_, name), files in paired.pairs.items():
            files.pop("label", None)
            if draw := drawn.get(files["visible"].stem):
                # Drawn once before anything is written, for the faults of its outlines.
                _check_size(draw(), files["visible"])
                files["label"] = output / "labels" / f"{name}.png"
                makes[files["label"]] = draw
        if not makes:
            raise ValueError(
                f"the polygons of {jsons[0]} are of {', '.join([*drawn][:3])}, but no visible "
                f"image has such a name: {next(iter(paired.pairs))[1]}, ... Rename one of them."
            )
    elif not any("label" in files for files in paired.pairs.values()):
        plan.sentences.append("no labels: this set can be predicted, not trained on.")
        return {"classes": (named or label_files.Classes(["unknown"])).names}
    else:
        labeled = {files["label"]: key for key, files in paired.pairs.items() if "label" in files}
        found = label_files.survey([*labeled], named)
        for path, key in labeled.items() if found.table else ():
            new = output / "labels" / f"{key[0] and key[0] + '_'}{key[1]}.png"
            makes[new] = functools.partial(label_files.convert, path, found.table)
            paired.pairs[key]["label"] = new
    if makes:
        prefix = "{split}_" if next(iter(paired.pairs))[0] and not jsons else ""
        relative = Path(os.path.relpath(output / "labels", folder)).as_posix()
        paired.patterns["label"] = f"{relative}/{prefix}{{id}}.png"
        plan.images |= makes
    plan.sentences += found.sentences
    facts = {"classes": found.names, "colors": found.colors, "stored_ignore": found.stored_ignore}
    return {key: value for key, value in facts.items() if value not in (None, [])}


def _check_size(label: np.ndarray, path: Path) -> None:
    if read_size(path) != label.shape:
        raise ValueError(
            f"the polygons of {path} are of an image of {label.shape[0]}x{label.shape[1]}, but it "
            f"is {'x'.join(map(str, read_size(path)))} (height x width). Export them again."
        )
