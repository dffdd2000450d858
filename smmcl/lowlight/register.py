"""Importing this file, by `IMPORTS: [smmcl.lowlight.register]`, makes the companions known."""

from smmcl.lowlight import adapter, config, darkener, enhancer, exposed

PARTS = (adapter, config, darkener, enhancer, exposed)
