"""HTTP headers of the V2 protocol that Salver adds."""

from __future__ import annotations

from typing import Final

FORWARDED: Final = b"x-salver-forwarded"
"""Marks requests that another server has passed on: they aren't passed on again."""
