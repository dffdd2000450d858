"""The benchmark of enhancers: its scenes, and its rows."""

import numpy as np
import pytest


@pytest.fixture
def benchmark():
    import benchmark_enhancer

    return benchmark_enhancer


def test_night_and_truth_show_one_scene(benchmark) -> None:
    for kind in ("camera", "lit", "unlit"):
        for image, truth, auxiliary, label in benchmark.pictures(kind, 2, (64, 96)):
            assert image.shape == truth.shape
            assert auxiliary.shape == label.shape == (64, 96)
            assert image.mean() < 0.7 * truth.mean()
            if kind == "camera":
                gray = [x.mean(axis=2).ravel() for x in (image, truth)]
                assert np.corrcoef(*gray)[0, 1] > 0.5
    first, second = benchmark.pictures("lit", 2, (64, 96))
    assert not np.array_equal(first.truth, second.truth)
    night, day = (
        benchmark.night.render((64, 96), is_lit=True, rng=np.random.default_rng(5), daylight=light)
        for light in (None, benchmark.DAYLIGHT)
    )
    assert np.array_equal(night["label"], day["label"])


def test_rows(call_tool, capsys) -> None:
    call_tool("benchmark_enhancer", "--scenes", 1, "--size", 40, 48)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 3 * 3
    assert lines[2].startswith("| camera")
