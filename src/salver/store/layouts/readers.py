"""Which reader takes a folder: the table of other systems' layouts."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from salver.store.layouts.foreign import ForeignModel

_MODULES = ("triton", "mlserver", "mlflow", "torchserve", "tensorflow_serving", "huggingface", "kserve_graph")
"""Modules of this package in the order in which they are asked. Each has two functions:

``read_model(folder) -> ForeignModel | None``: a model folder, or a single file; None where it isn't of this system.
``read_root(folder) -> Mapping[str, ForeignModel] | None``: a folder of models that only this system can tell apart,
such as one with a list of them; None where it has none.

Both look at names first and read little: they are asked for every folder, again and again. They raise LoadError where
the folder is of their system, and something in it is wrong.
"""


def read_model(folder: Path) -> ForeignModel | None:
    """A model folder of another system; None where it is of none that is known here.

    Raises:
        LoadError: it is, and something in it is wrong.
    """
    for module in _MODULES:
        found: ForeignModel | None = import_module(f"salver.store.layouts.{module}").read_model(folder)
        if found is not None:
            return found
    return None


def read_root(folder: Path) -> Mapping[str, ForeignModel] | None:
    """The models of a folder that another system's configuration lists; None where there is no such list.

    Raises:
        LoadError: there is, and something in it is wrong.
    """
    for module in _MODULES:
        found: Mapping[str, ForeignModel] | None = import_module(f"salver.store.layouts.{module}").read_root(folder)
        if found is not None:
            return found
    return None
