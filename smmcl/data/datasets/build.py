"""Registers a dataset of pairs by its name, when a run first names it."""

from collections.abc import Sequence
from typing import Any

from smmcl.d2 import DatasetCatalog, MetadataCatalog
from smmcl.data.datasets.synthetic import register_synthetic_by_name

# What a set's metadata must agree in with the other sets of one training run.
SHARED_FACTS = ("stuff_classes", "label_offset", "stored_ignore", "ignore_label", "auxiliary")


def ensure_registered(names: Sequence[str]) -> None:
    """Registers each named dataset that the catalog does not have yet.

    Args:
        names: of the catalog, or of a generated set ("synthetic_night_val@128x160").
    """
    for name in names:
        if name in DatasetCatalog.list():
            continue
        if name.startswith("synthetic_"):
            register_synthetic_by_name(name)
        else:
            raise ValueError(
                f"dataset {name!r} is not registered with this run's engine. Known are: "
                f"{', '.join(sorted(DatasetCatalog.list())) or 'none'}. Register yours through "
                "smmcl.d2.DatasetCatalog: a set in the other engine's catalog is not seen here."
            )


def agreed_metadata(names: Sequence[str]) -> Any:
    """Returns the metadata of sets that must agree in classes, labels and auxiliary image."""
    if not names:
        raise ValueError("no dataset is named. Set DATASETS.TRAIN and DATASETS.TEST.")
    ensure_registered(names)
    first = MetadataCatalog.get(names[0])
    for name in names[1:]:
        other = MetadataCatalog.get(name)
        for fact in SHARED_FACTS:
            if getattr(first, fact) != getattr(other, fact):
                raise ValueError(
                    f"{names[0]} and {name} differ in {fact}: {getattr(first, fact)} and "
                    f"{getattr(other, fact)}. Train on sets that agree, or make their files agree."
                )
    return first
