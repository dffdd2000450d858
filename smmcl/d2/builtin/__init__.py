"""The embedded engine: the names of the door on fvcore, iopath, yacs and torch alone."""

__version__ = "0.6 of 02b5c4e2"  # the Detectron2 whose recorded behaviour it is tested against
