"""The embedded engine: the names of the door on fvcore, iopath, yacs and torch alone."""

__version__ = "0.6 of 02b5c4e2"  # the Detectron2 whose recorded behavior it is tested against


def missing(name: str) -> AttributeError:
    """The answer to a name of Detectron2 that the door does not have."""
    return AttributeError(
        f"smmcl.d2 has no '{name}': this project uses a small part of Detectron2, imported in "
        "smmcl/d2/__init__.py. Where Detectron2 is installed, import it from detectron2 itself.",
        name=name,
    )
