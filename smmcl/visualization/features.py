"""How well features separate the classes and join the modalities, in numbers beside the pictures.

Shape shorthand in this module:
    M: cells, of which the features of both modalities and the class are known
    D: channels     K: classes
"""

import numpy as np


def normalize(features: np.ndarray) -> np.ndarray:
    """Brings each row of (M, D) to length 1, as the contrastive loss does; zeros stay."""
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)


def distances(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean distances of the rows of two matrices of normalized features, (M, M), in 0..2."""
    return np.sqrt((2 - 2 * features @ others.T).clip(0))


def describe_space(features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Measures one space of normalized features.

    Args:
        features: (M, D).
        labels: (M,) classes, of which at least two occur.

    Returns:
        "silhouette" in -1..1, of cells alone in their class 0; "neighbor accuracy", the share of
        cells whose nearest neighbor has their class; mean distances "within" and "between"
        classes; "uniformity", the logarithm of the mean of exp(-2 d^2) over pairs (Wang and
        Isola, ICML 2020), lower for features spread more evenly over the sphere.
    """
    classes, own = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"the labeled cells hold {len(classes)} class(es) but two or more are compared. Take "
            "more pairs, or a finer feature (MODEL.SMMCL.IN_FEATURES)."
        )
    between = distances(features, features)  # (M, M)
    np.fill_diagonal(between, 0)
    is_pair = ~np.eye(len(labels), dtype=bool)  # (M, M)
    is_same = labels[:, None] == labels
    members = np.eye(len(classes))[own]  # (M, K)
    sums, counts = between @ members, members.sum(axis=0)  # (M, K), (K,)
    cells = np.arange(len(labels))
    inner = sums[cells, own] / (counts[own] - 1).clip(1)  # (M,)
    means = sums / counts
    means[cells, own] = np.inf
    outer = means.min(axis=1)  # (M,)
    silhouettes = (outer - inner) / np.maximum(inner, outer).clip(1e-12)
    has_same = is_same & is_pair
    return {
        "silhouette": float(np.where(counts[own] > 1, silhouettes, 0).mean()),
        "neighbor accuracy": neighbor_accuracy(features, features, labels),
        "within": float(between[has_same].mean()) if has_same.any() else float("nan"),
        "between": float(between[~is_same].mean()),
        "uniformity": float(np.log(np.exp(-2 * between[is_pair] ** 2).mean())),
    }


def neighbor_accuracy(features: np.ndarray, keys: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose nearest key has their class; a row's own place is no key of it.

    Args:
        features, keys: (M, D), normalized, of the same cells; of two modalities or of one.
        labels: (M,).
    """
    between = distances(features, keys)
    np.fill_diagonal(between, np.inf)
    return float((labels[between.argmin(axis=1)] == labels).mean())


def describe_pair(
    visible: np.ndarray, auxiliary: np.ndarray, labels: np.ndarray
) -> dict[str, dict[str, float]]:
    """`describe_space` of each modality's normalized (M, D), and what holds "across" them:
    "neighbor accuracy", and "alignment", the mean squared distance of the two at a cell.
    """
    return {
        "visible": describe_space(visible, labels),
        "auxiliary": describe_space(auxiliary, labels),
        "across": {
            "neighbor accuracy": neighbor_accuracy(visible, auxiliary, labels),
            "alignment": float(((visible - auxiliary) ** 2).sum(axis=1).mean()),
        },
    }


def class_similarity(
    visible: np.ndarray, auxiliary: np.ndarray, labels: np.ndarray, *, num_classes: int
) -> np.ndarray:
    """Mean cosine of every visible cell of a class with every auxiliary one of another.

    Returns:
        (K, K), visible classes along rows; NaN where a class has no cells.
    """
    members = np.eye(num_classes)[labels]  # (M, K)
    counts = members.sum(axis=0)[:, None]  # (K, 1)
    means = [
        np.divide(
            members.T @ part,
            counts,
            where=counts > 0,
            out=np.full((num_classes, part.shape[1]), np.nan),
        )
        for part in (visible, auxiliary)
    ]  # (K, D) each
    return means[0] @ means[1].T
