"""Predicts pair after pair, draws what is wanted, and leaves out what is done already."""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smmcl.inference.index import take_up
from smmcl.inference.prediction import UNSURE, ImageClass, Prediction
from smmcl.inference.predictor import Predictor
from smmcl.inference.results import OF_CLASSES, PICTURES, Results
from smmcl.visualization.panels import class_shares, color, enlarge, fit, overlay, pictures


@dataclasses.dataclass(frozen=True)
class FilePredictor:
    """Predicts the records of a `Source` into a `Results`.

    Args:
        predictor: the model.
        results: what is written, and where.
        short_side: as in `Predictor.prepare`.
        confidence: pixels whose most probable class is less probable get no class.
        keep_going: a pair that cannot be read becomes an entry with its "error".
    """

    predictor: Predictor
    results: Results
    short_side: int | None = None
    confidence: float = 0.0
    keep_going: bool = False

    def __call__(self, records: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], bool]]:
        """Yields the entry of each pair, and whether it was done before."""
        return take_up(records, self.results.find, self._predict, keep_going=self.keep_going)

    def _predict(self, record: dict[str, Any]) -> dict[str, Any]:
        pair = (record["file_name"], record.get("auxiliary_file_name"))
        inputs = self.predictor.prepare(*pair, short_side=self.short_side)
        start = time.perf_counter()
        prediction = self.predictor.predict([inputs])[0]
        seconds = time.perf_counter() - start
        paths = [str(file) if isinstance(file, str | Path) else None for file in pair]
        entry = {**dict(zip(("visible", "auxiliary"), paths, strict=True)), "seconds": seconds}
        if isinstance(prediction, ImageClass):
            entry |= {"label": prediction.label, "scores": prediction.by_name()}
            drawn = self._draw_class(record, inputs, prediction)
            return self.results.write(record, entry, prediction, drawn)
        if self.confidence:
            prediction = prediction.above(self.confidence)
        entry |= {
            "confidence": float(prediction.probabilities.max(axis=0).mean()),
            "shares": class_shares(prediction.labels, metadata=self.predictor.metadata),
        }
        drawn = self._draw(record, inputs, prediction)
        return self.results.write(record, entry, prediction, drawn)

    def _draw_class(
        self, record: dict[str, Any], inputs: dict[str, Any], prediction: ImageClass
    ) -> dict[str, np.ndarray]:
        """The panel of one image, under its class."""
        if "panels" not in self.results.parts:
            return {}
        heading = f"{record['name']}    {prediction}"
        if "class_id" in record:
            truth = self.predictor.metadata.stuff_classes[record["class_id"]]
            heading += f", truth {truth}"
        return {"panels": self.predictor.draw(inputs, maps={}, heading=heading)}

    def _draw(
        self, record: dict[str, Any], inputs: dict[str, Any], prediction: Prediction
    ) -> dict[str, np.ndarray]:
        """The wanted pictures of one pair, (height, width, 3) uint8."""
        wanted = [part for part in PICTURES if part in self.results.parts]
        if not wanted:
            return {}
        fmt = self.predictor.mapper.reader.channel_order
        visible, _ = pictures(inputs, fmt=fmt)
        size, drawn = visible.shape[:2], {}
        if "overlays" in wanted:
            labels, ground = enlarge(fit(prediction.labels, size)), enlarge(visible)
            drawn["overlays"] = overlay(ground, labels, metadata=self.predictor.metadata)
        if "panels" in wanted:
            maps, heading = {"prediction": prediction.labels}, record["name"]
            if "sem_seg_file_name" in record:
                maps["truth"] = truth = self.predictor.mapper.reader.label(record)
                is_right = (prediction.labels == truth)[truth != UNSURE]
                share = 100 * is_right.mean() if is_right.size else None
                heading += "" if share is None else f"    {share:.1f}% of pixels right"
            extras = {}
            if "probabilities" in self.results.parts:
                certainty = fit(prediction.probabilities.max(axis=0), size)
                extras = {"probability, 0 to 1": color(certainty)}
            drawn["panels"] = self.predictor.draw(
                inputs,
                maps={title: fit(labels, size) for title, labels in maps.items()},
                heading=heading,
                extras=extras,
                is_steady=bool(self.results.source.video),
            )
        return drawn


def check_of_classes(parts: set[str], *, confidence: float, truth: Sequence[str]) -> None:
    """Raises where a classifier's predictions are asked for what has pixels."""
    if lacking := sorted(parts - {*OF_CLASSES, "json"}):
        raise ValueError(
            f"--write names {', '.join(lacking)}, but the model gives one class an image. Choose "
            f"{', '.join(OF_CLASSES)} or json; the classes are in predictions.jsonl always."
        )
    if confidence or truth:
        raise ValueError(
            "--confidence and --truth are of labels of pixels, but the model gives one class an "
            "image. Leave them out: the scores and classes are in predictions.jsonl."
        )
