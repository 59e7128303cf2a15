"""Being written: reads nothing yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from salver.store.layouts.foreign import ForeignModel


def read_model(folder: Path) -> ForeignModel | None:
    """Nothing."""
    return None


def read_root(folder: Path) -> Mapping[str, ForeignModel] | None:
    """Nothing."""
    return None
