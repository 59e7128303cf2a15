"""The decorator ``timed``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


def timed(function: F) -> F:
    """The function itself: Salver measures whole requests."""
    return function
