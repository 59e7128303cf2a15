"""Sizes and durations as people write them: ``256MiB``, ``30s``."""

from __future__ import annotations

import math
import re
from typing import Annotated, LiteralString, TypeAlias

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

_QUANTITY = re.compile(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([A-Za-z]*)\s*")
_BYTES = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", start=1)},
    **{f"{letter}i": 1024**power for power, letter in enumerate("kmgt", start=1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)},
}
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}

SIZE_EXPECTED: LiteralString = "a size in bytes, such as 1048576, 64MB or 256MiB"
PART_EXPECTED: LiteralString = "a part such as 80%, or a size in bytes such as 8GiB"
SECONDS_EXPECTED: LiteralString = "a duration in seconds, such as 30, 2.5, 500ms, 30s or 2m"


def parse_size(value: object) -> int:
    """Bytes from an integer or text such as ``256MiB`` (1024s) or ``64MB`` (1000s).

    Raises:
        ValueError: it is neither, or not positive.
    """
    size = _parse(value, _BYTES)
    if size is None or size != int(size) or size < 1:
        raise PydanticCustomError("quantity", SIZE_EXPECTED)
    return int(size)


def parse_seconds(value: object) -> float:
    """Seconds from a number or text such as ``500ms``, ``30s``, ``2m``, ``1h``.

    Raises:
        ValueError: it is neither, or negative.
    """
    seconds = _parse(value, _SECONDS)
    if seconds is None:
        raise PydanticCustomError("quantity", SECONDS_EXPECTED)
    return float(seconds)


def parse_part_or_size(value: object) -> int | float:
    """A part of a whole, from text such as ``80%`` (0.8, a float), or a size in bytes (an integer).

    Raises:
        ValueError: it is neither, or not positive, or more than the whole.
    """
    if isinstance(value, str) and value.strip().endswith("%"):
        part = _parse(value.strip()[:-1], {"": 1.0})
        if part is None or not 0 < part <= 100:
            raise PydanticCustomError("quantity", PART_EXPECTED)
        return float(part) / 100
    if isinstance(value, float) and 0 < value < 1:
        return value
    try:
        return parse_size(value)
    except PydanticCustomError:
        raise PydanticCustomError("quantity", PART_EXPECTED) from None


def _parse(value: object, units: dict[str, int] | dict[str, float]) -> float | int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value if math.isfinite(value) and 0 <= value < 2**63 else None
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2].lower() not in units:
        return None
    number = float(match[1]) if "." in match[1] else int(match[1])
    quantity = number * units[match[2].lower()]
    return quantity if quantity < 2**63 else None


Size: TypeAlias = Annotated[int, BeforeValidator(parse_size), WithJsonSchema({"expected": SIZE_EXPECTED})]
"""A pydantic field of bytes."""

Seconds: TypeAlias = Annotated[float, BeforeValidator(parse_seconds), WithJsonSchema({"expected": SECONDS_EXPECTED})]
"""A pydantic field of seconds."""

PartOrSize: TypeAlias = Annotated[
    int | float, BeforeValidator(parse_part_or_size), WithJsonSchema({"expected": PART_EXPECTED})
]
"""A pydantic field of bytes (an integer), or of a part of what there is (a float of at most 1)."""
