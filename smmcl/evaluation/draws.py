"""Evaluation with several draws of the Hamburger's bases: the mean of every score, its spread."""

import logging
import statistics
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from smmcl.modeling.head.hamburger import MatrixFactorization

logger = logging.getLogger(__name__)


def evaluate_draws(
    evaluate: Callable[[], Mapping[str, Any]], model: nn.Module, *, num_draws: int
) -> OrderedDict[str, Any]:
    """Evaluates a model once for each draw; the files that an evaluation writes are of draw 0.

    Returns:
        the means by task, and under "<task>_spread" the standard deviations of the sample; a score
        that one of the draws is without (a class neither there nor predicted) is left out.
    """
    parts = [module for module in model.modules() if isinstance(module, MatrixFactorization)]
    if not parts:
        raise ValueError(
            f"TEST.BASES_DRAWS is {num_draws}, but the model has no Hamburger that would draw. "
            "Set it to 1."
        )
    runs = []
    for seed in reversed(range(num_draws)):  # the last one leaves the model as it was
        for part in parts:
            part.choose_start(seed)
        runs.append(evaluate())
    results = OrderedDict()
    for task in runs[0]:
        values = [run[task] for run in runs]
        results[task] = _combine(statistics.fmean, values)
        results[f"{task}_spread"] = _combine(statistics.stdev, values)
    for task, values in results.items():
        logger.info(f"{num_draws} draws of bases, {task}: {dict(values)}")
    return results


def _combine(function: Callable[[list[float]], float], values: list[Any]) -> Any:
    if isinstance(values[0], Mapping):  # several datasets nest their tasks
        names = [name for name in values[0] if all(name in value for value in values)]
        return {name: _combine(function, [value[name] for value in values]) for name in names}
    return function(values)
