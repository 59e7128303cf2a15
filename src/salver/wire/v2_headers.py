"""HTTP headers of the V2 protocol that Salver adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote, unquote

FORWARDED: Final = b"x-salver-forwarded"
"""Marks requests that another server has passed on: they aren't passed on again."""

WITHIN: Final = b"x-salver-within"
"""The graphs whose step a request is that another server has passed on, see :func:`encode_within`."""

_MOST = 64


def encode_within(graphs: Sequence[tuple[str, str]]) -> str:
    """Graphs' names and versions, the outermost first, as a header's value: ``loan/3,facts/1``."""
    return ",".join(f"{quote(name, safe='')}/{quote(version, safe='')}" for name, version in graphs)


def decode_within(value: bytes) -> tuple[tuple[str, str], ...]:
    """What :func:`encode_within` was given; of anything else, as much as can be read."""
    graphs = []
    for each in value.decode("latin-1").split(",", _MOST)[:_MOST]:
        name, _, version = each.partition("/")
        if name:
            graphs.append((unquote(name.strip()), unquote(version.strip())))
    return tuple(graphs)
