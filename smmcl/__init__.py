"""Semantic segmentation of dark scenes from pairs of visible and auxiliary images."""

__version__ = "0.1.0"
