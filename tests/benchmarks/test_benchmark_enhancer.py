"""The benchmark of enhancers: its scenes, and its rows."""

import numpy as np
import pytest


@pytest.fixture
def benchmark():
    import benchmark_enhancer

    return benchmark_enhancer


def test_night_and_truth_show_one_scene(benchmark) -> None:
    for kind in ("camera", "lit", "unlit"):
        for image, truth in benchmark.pictures(kind, 2, (64, 96)):
            assert image.shape == truth.shape
            assert image.mean() < 0.7 * truth.mean()
            if kind != "unlit":  # which is nearly black
                gray = [x.mean(axis=2).ravel() for x in (image, truth)]
                assert np.corrcoef(*gray)[0, 1] > 0.2
    first, second = benchmark.pictures("camera", 2, (64, 96))
    assert not np.array_equal(first[1], second[1])


def test_rows(call_tool, capsys) -> None:
    call_tool("benchmark_enhancer", "--scenes", 1, "--size", 40, 48)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 3 * 3
    assert lines[2].startswith("| camera")
