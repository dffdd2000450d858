"""The catalogs of datasets: how to list one, by name, and what is known about it."""

import copy
import types
from collections import UserDict
from collections.abc import Callable
from typing import Any


class _DatasetCatalog(UserDict):
    """Maps a dataset's name to a function that lists its samples as dicts."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Adds a dataset.

        Args:
            name: its name in configs.
            func: takes nothing and returns the same list of dicts at every call.
        """
        assert callable(func), "You must register a function with `DatasetCatalog.register`!"
        assert name not in self, f"Dataset '{name}' is already registered!"
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """Calls the dataset's function."""
        if name not in self:
            raise KeyError(
                f"Dataset '{name}' is not registered! Available datasets are: {', '.join(self)}"
            )
        return self[name]()

    def list(self) -> list[str]:
        """Returns the names of all datasets."""
        return [*self.keys()]

    def remove(self, name: str) -> None:
        """Removes a dataset."""
        self.pop(name)

    def __repr__(self) -> str:
        return f"DatasetCatalog(registered datasets: {', '.join(self)})"

    __str__ = __repr__


class Metadata(types.SimpleNamespace):
    """Facts about one dataset, as attributes; a fact once set does not change."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        if len(self.__dict__) > 1:
            raise AttributeError(
                f"Attribute '{key}' does not exist in the metadata of dataset '{self.name}'. "
                f"Available keys are {self.__dict__.keys()}."
            )
        raise AttributeError(
            f"Attribute '{key}' does not exist in the metadata of dataset '{self.name}': "
            "metadata is empty."
        )

    def __setattr__(self, key: str, val: Any) -> None:
        previous = self.__dict__.get(key, val)
        assert previous == val, (
            f"Attribute '{key}' in the metadata of '{self.name}' cannot be set to a different "
            f"value!\n{previous} != {val}"
        )
        super().__setattr__(key, previous)

    def as_dict(self) -> dict[str, Any]:
        """Returns the facts as a new dict."""
        return copy.copy(self.__dict__)

    def set(self, **kwargs: Any) -> "Metadata":
        """Sets several facts and returns this object."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """Returns a fact, or `default` where it is not known."""
        return getattr(self, key, default)


class _MetadataCatalog(UserDict):
    """Maps a dataset's name to its `Metadata`, made empty at the first request."""

    def get(self, name: str) -> Metadata:
        """Returns the metadata of a dataset, always the same object."""
        assert len(name)
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]

    def list(self) -> list[str]:
        """Returns the names that have metadata."""
        return [*self.keys()]

    def remove(self, name: str) -> None:
        """Removes the metadata of a dataset."""
        self.pop(name)

    def __repr__(self) -> str:
        return f"MetadataCatalog(registered metadata: {', '.join(self)})"

    __str__ = __repr__


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
