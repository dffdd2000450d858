"""Pictures of pairs: colors by hand, places of the parts, and what must not be painted."""

import types

import matplotlib
import numpy as np
import pytest
import torch

from smmcl.visualization.panels import (
    BACKGROUND,
    FAINT,
    LINE,
    NO_MEASUREMENT,
    PADDING,
    brighten,
    class_shares,
    color_auxiliary,
    draw_pair,
    enlarge,
    legend,
    overlay,
    panel,
    pictures,
)

RED, GREEN = (200, 0, 0), (0, 200, 0)


@pytest.fixture
def metadata() -> types.SimpleNamespace:
    facts = types.SimpleNamespace(
        stuff_classes=["floor", "wall", "lamp"], stuff_colors=[RED, GREEN, (0, 0, 200)]
    )
    facts.get = lambda name, default=None: getattr(facts, name, default)
    return facts


def color_map(name: str, value: float) -> list[int]:
    return [round(255 * part) for part in matplotlib.colormaps[name](value)[:3]]


def test_brighten_brings_the_median_to_035() -> None:
    dark = np.full((4, 4, 3), 10, np.uint8)
    # gamma = log(0.35) / log(10 / 255) = 0.324, so (10 / 255) ^ gamma = 0.35 of 255.
    assert (brighten(dark) == int(0.35 * 255)).all()


def test_brighten_keeps_hues_and_lit_images() -> None:
    tinted = np.full((4, 4, 3), (20, 10, 5), np.uint8)
    red, green, blue = brighten(tinted)[0, 0].astype(int)
    assert abs(red - 2 * green) <= 2
    assert abs(green - 2 * blue) <= 2
    lit = np.random.default_rng(0).integers(90, 256, (8, 8, 3)).astype(np.uint8)
    assert (brighten(lit) == lit).all()
    assert (brighten(np.zeros((2, 2, 3), np.uint8)) == 0).all()
    assert (brighten(np.full((2, 2, 3), 255, np.uint8)) == 255).all()


def test_a_lamp_does_not_keep_the_rest_dark() -> None:
    dark = np.full((10, 10, 3), 10, np.uint8)
    dark[0, :3] = 255
    assert brighten(dark)[5, 5, 0] > 80


def test_thermal_colors_span_the_map() -> None:
    values = np.repeat([[10.0, 20.0]], 50, axis=0)  # (50, 2)
    colors = color_auxiliary(values, kind="thermal")
    assert colors.dtype == np.uint8
    assert colors[0, 0].tolist() == color_map("inferno", 0.0)
    assert colors[0, 1].tolist() == color_map("inferno", 1.0)
    assert (color_auxiliary(values[:, :, None], kind="thermal") == colors).all()


def test_depth_is_bright_when_near_and_gray_where_unmeasured() -> None:
    values = np.repeat([[0, 40, 200]], 50, axis=0).astype(np.uint8)  # (50, 3)
    colors = color_auxiliary(values, kind="depth")
    assert tuple(colors[0, 0]) == NO_MEASUREMENT
    assert colors[0, 1].sum() > colors[0, 2].sum()
    nothing = color_auxiliary(np.zeros((2, 2, 1)), kind="depth")
    assert (nothing == NO_MEASUREMENT).all()


def test_other_auxiliary_images() -> None:
    hha = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    assert (color_auxiliary(hha, kind="hha") == hha).all()
    gray = np.repeat(hha[:, :, :1], 3, axis=2)
    one = color_auxiliary(gray[:, :, 0], kind="sonar")
    assert (color_auxiliary(gray, kind="sonar") == one).all()
    assert (color_auxiliary(np.full((3, 3), 7.0), kind="thermal") == color_map("inferno", 0)).all()


def test_overlay_mixes_colors_and_spares_ignored_pixels(metadata) -> None:
    visible = np.full((40, 60, 3), 100, np.uint8)
    labels = np.full((40, 60), 255, np.uint8)
    labels[:, :20] = 0
    painted = overlay(visible, labels, metadata=metadata, alpha=0.5)
    assert painted.shape == visible.shape
    assert np.abs(painted[20, 10].astype(int) - (150, 50, 50)).max() <= 2
    assert (painted[:, 25:] == 100).all()


def test_enlarge_repeats_pixels_of_small_images() -> None:
    small = np.arange(200, dtype=np.uint8).reshape(2, 100)
    large = enlarge(small)
    assert large.shape == (8, 400)
    assert (large[::4, ::4] == small).all()
    assert enlarge(np.zeros((3, 640, 3))).shape == (3, 640, 3)


def test_shares_leave_ignored_pixels_out(metadata) -> None:
    labels = np.array([[0, 0, 1, 255]])
    assert class_shares(labels, metadata=metadata) == {"floor": 2 / 3, "wall": 1 / 3, "lamp": 0.0}
    nothing = class_shares(np.full((2, 2), 255), metadata=metadata)
    assert set(nothing.values()) == {0.0}


def has_color(image: np.ndarray, color: tuple) -> bool:
    return bool((image == color).all(axis=2).any())


def test_legend_names_what_occurs(metadata) -> None:
    labels = np.array([[1, 1, 1, 255]])
    picture = legend({"prediction": labels}, metadata=metadata, width=900)
    assert picture.shape[1] == 900
    assert has_color(picture, GREEN)
    assert not has_color(picture, RED)
    maps = {"prediction": labels, "truth": np.array([[0, 1, 1, 1]])}
    with_truth = legend(maps, metadata=metadata, width=900)
    assert has_color(with_truth, RED)
    assert not has_color(with_truth, (0, 0, 200))
    narrow = legend(maps, metadata=metadata, width=100)
    assert narrow.shape[0] > with_truth.shape[0]  # one column
    assert legend({"truth": np.full((2, 2), 255)}, metadata=metadata, width=100).shape[1] == 100


def test_a_legend_has_a_frame_and_its_swatches_an_outline(metadata) -> None:
    metadata.stuff_colors = [BACKGROUND, GREEN, RED]  # one that would not be seen without
    picture = legend({"truth": np.zeros((2, 2), np.uint8)}, metadata=metadata, width=300)
    edges = [picture[0], picture[-1], picture[:, 0], picture[:, -1]]
    assert all((edge == LINE).all() for edge in edges)
    assert has_color(picture[3:-3, 3:40], FAINT)


def test_panel_holds_every_picture_whole() -> None:
    images = {"one": np.full((30, 50, 3), RED, np.uint8), "two": np.full((30, 50, 3), 7, np.uint8)}
    picture = panel(images)
    assert (picture == RED).all(axis=2).sum() == 30 * 50
    assert (picture == 7).all(axis=2).sum() == 30 * 50
    assert (picture[0] == BACKGROUND).all()
    headed = panel(images, heading="a pair", legend=np.full((20, 60, 3), GREEN, np.uint8))
    assert (headed == GREEN).all(axis=2).sum() == 20 * 60
    assert headed.shape[0] > picture.shape[0] + 20


def test_pictures_undo_what_the_mapper_did() -> None:
    image = torch.arange(24, dtype=torch.uint8).view(3, 2, 4)
    inputs = {"image": image, "auxiliary": torch.ones(1, 2, 4)}
    visible, auxiliary = pictures(inputs, fmt="RGB")
    assert visible[1, 2].tolist() == [6, 14, 22]
    assert auxiliary.shape == (2, 4, 1)
    assert pictures(inputs, fmt="BGR")[0][1, 2].tolist() == [22, 14, 6]


def test_a_pair_with_and_without_truth(metadata) -> None:
    rng = np.random.default_rng(0)
    visible = rng.integers(0, 60, (32, 40, 3)).astype(np.uint8)
    labels = np.zeros((32, 40), np.uint8)
    labels[:, 20:] = 1
    facts = {"kind": "depth", "metadata": metadata}
    maps = {"prediction": labels}
    without = draw_pair(visible, visible[:, :, :1], maps=maps, **facts)
    maps["truth"] = labels
    picture = draw_pair(visible, visible[:, :, :1], maps=maps, heading="00001", **facts)
    assert picture.shape[1] - without.shape[1] > 320
    assert picture.dtype == np.uint8


def test_padding_is_gray_and_does_not_change_the_rest(metadata) -> None:
    rng = np.random.default_rng(0)
    real = rng.integers(40, 200, (40, 80, 3)).astype(np.uint8)
    padded = np.zeros((60, 80, 3), np.uint8)
    padded[10:50] = real
    facts = {"kind": "thermal", "metadata": metadata}
    labels = np.zeros((60, 80), np.uint8)
    alone = draw_pair(real, real[:, :, :1], maps={"labels": labels[:40]}, **facts)
    boxed = draw_pair(
        padded, padded[:, :, :1], maps={"labels": labels}, valid_box=(10, 0, 50, 80), **facts
    )
    assert (boxed == PADDING).all(axis=2).sum() == 4 * 20 * 80 * 16  # pictures, pixels, enlarged
    rows = slice(28 + 27, 28 + 27 + 160)  # below the titles
    assert np.array_equal(alone[rows], boxed[rows.start + 40 : rows.stop + 40])
