"""The config: its keys, and how files and overrides are read over their defaults."""

from smmcl.config.build import build_config, find_config, shipped_configs
from smmcl.config.keys import add_smmcl_config, extends_config

__all__ = [
    "add_smmcl_config",
    "build_config",
    "extends_config",
    "find_config",
    "shipped_configs",
]
