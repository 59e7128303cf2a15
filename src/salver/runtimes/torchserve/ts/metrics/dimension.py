"""Dimensions of metrics."""

from __future__ import annotations


class Dimension:
    """A name and a value that a metric is told apart by."""

    def __init__(self, name: str, value: str) -> None:
        self.name = name
        self.value = value
