"""The keys of the companions: each has a rule, and a value that does not fit is refused by key."""

import pytest
import yaml

from smmcl.config import build_config
from smmcl.config.checks import RULES
from smmcl.lowlight import register  # noqa: F401

GROUPS = ("MODEL.DARKENER.", "MODEL.ENHANCER.", "MODEL.LIGHT_ADAPTER.", "INPUT.LOW_LIGHT.CH")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INPUT.LOW_LIGHT.CHECKPOINT", "3"),
        ("MODEL.DARKENER.EXPOSURE", "[0.5, 0.1]"),
        ("MODEL.DARKENER.EXPOSURE", "[0.0, 2.0]"),
        ("MODEL.DARKENER.WIDTH", "0"),
        ("MODEL.DARKENER.WEIGHTS.COLOR", "-1.0"),
        ("MODEL.ENHANCER.SHRINK", "0"),
        ("MODEL.ENHANCER.WELL_EXPOSED", "[0.4, 0.6]"),
        ("MODEL.ENHANCER.WEIGHTS.STYLE", ".nan"),
        ("MODEL.LIGHT_ADAPTER.VIEW.GAMMA", "[0.0, 6.0]"),
        ("MODEL.LIGHT_ADAPTER.VIEW.STOPS", "[-5.0]"),
        ("MODEL.LIGHT_ADAPTER.VIEW.PHOTONS", "0.0"),
        ("MODEL.LIGHT_ADAPTER.ONE_BATCH", "2"),
        ("MODEL.LIGHT_ADAPTER.MOMENTUM.DIRECTION", "up"),
        ("MODEL.LIGHT_ADAPTER.MOMENTUM.DECAY", "1.5"),
        ("MODEL.LIGHT_ADAPTER.MASK.QUANTILE", "1.0"),
        ("MODEL.LIGHT_ADAPTER.MASK.CLASSES", "[-1]"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"{key}.*Set it to "):
        build_config("", [key, yaml.safe_load(value)])


def test_every_key_has_a_rule_that_its_default_fits() -> None:
    leaves = {"": build_config("")}
    for _ in range(4):
        leaves = {
            f"{name}.{key}".lstrip("."): value
            for name, node in leaves.items()
            for key, value in (node.items() if isinstance(node, dict) else [("", node)])
        }
    own = {name.rstrip("."): value for name, value in leaves.items() if name.startswith(GROUPS)}
    assert len(own) > 40
    for key, value in own.items():
        assert RULES[key].fits(value), key
