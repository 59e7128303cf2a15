"""Constants as tensors, and tensors in other datatypes: numbers that don't fit are an error, not another number."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from salver.core.tensor import DTYPES, Array, Shape, datatype_of

MAX_BYTES: Final = 1 << 30
"""No source makes a tensor that takes more."""

_LIMITS: Final = {
    datatype: (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    for datatype, dtype in DTYPES.items()
    if dtype.kind in "iu"
}


class TransformError(ValueError):
    """A tensor can't be made of what there is."""


def constant(value: Any, datatype: str | None) -> Array:
    """A constant as an array: INT64 (UINT64 where it has to be), FP32, BOOL or BYTES, or the datatype that is wanted.

    Args:
        value: a number, a text, true or false, or lists of them, all of one length on each level.
        datatype: of the array; None for the one that is natural.

    Raises:
        TransformError: no tensor can be so.
    """
    shape: Shape = ()
    leaves = [value]
    if isinstance(value, list | tuple):
        # By way of Python's own objects: NumPy would make room for the longest text at each place.
        try:
            nested = np.array(value, dtype=object)
        except ValueError:  # too many dimensions
            raise TransformError("the lists of a constant are nested too deep") from None
        shape, leaves = nested.shape, nested.reshape(-1).tolist()
    kinds = {type(leaf) for leaf in leaves}
    if list in kinds or tuple in kinds:
        raise TransformError("the lists of a constant differ in length, or are nested too deep")
    if kinds == {str}:
        array = _texts(leaves)
    elif str in kinds and kinds <= {str, bool, int, float}:
        raise TransformError("a constant is of texts or of numbers, not of both")
    elif not kinds:
        array = np.empty(0, DTYPES[datatype or "FP32"])
    elif kinds <= {bool, int, float}:
        array = _numbers(leaves, kinds, datatype)
    else:
        raise TransformError("a constant is a number, a text, true or false, or lists of them")
    array = array.reshape(shape)
    return array if datatype is None else cast(array, datatype)


def _texts(leaves: list[str]) -> Array:
    flat = np.empty(len(leaves), dtype=object)
    for position, leaf in enumerate(leaves):
        try:
            flat[position] = leaf.encode()
        except UnicodeEncodeError:
            raise TransformError(f"the text {leaf[:40]!r} holds half a character (a lone surrogate)") from None
    return flat


def _numbers(leaves: list[Any], kinds: set[type], datatype: str | None) -> Array:
    if kinds == {bool}:
        return np.array(leaves, dtype=np.bool_)
    if float in kinds:
        if datatype in _LIMITS:
            for leaf in leaves:
                if isinstance(leaf, float) and math.isfinite(leaf) and not leaf.is_integer():
                    raise TransformError(f"{leaf} is no integer, and {datatype} is wanted")
        try:
            array = np.array(leaves, dtype=np.float64)
        except OverflowError:
            raise TransformError("a constant has a number that is larger than any FP64") from None
        return array if datatype is not None else _natural(array)
    lowest, highest = min(leaves), max(leaves)
    for dtype in (np.int64, np.uint64):
        limits = np.iinfo(dtype)
        if limits.min <= lowest and highest <= limits.max:
            return np.array(leaves, dtype=dtype)
    raise TransformError("a constant has an integer that doesn't fit 64 bits")


def _natural(array: Array) -> Array:
    try:
        return cast(array, "FP32")
    except TransformError as error:
        raise TransformError(f"{error}; 'datatype: FP64' can hold it") from None


def check_cast(came: str | None, wanted: str) -> None:
    """Refuse a cast that is none.

    Raises:
        TransformError: texts to numbers, or numbers to texts.
    """
    if came is not None and came != wanted and "BYTES" in (came, wanted):
        raise TransformError(f"{came} can't be cast to {wanted}; a function can tell what a text stands for")


def cast(array: Array, datatype: str) -> Array:
    """The elements in another datatype; the array itself where it has it. Fractions are cut off for integers.

    Raises:
        TransformError: one of them is too large there, or isn't finite and can't be an integer.
    """
    wanted = DTYPES[datatype]
    if array.dtype == wanted:
        return array
    check_cast(datatype_of(array), datatype)
    if wanted.itemsize > array.itemsize and array.size * wanted.itemsize > MAX_BYTES:
        raise TransformError(
            f"'cast: {datatype}' would take {array.size * wanted.itemsize} bytes, and {MAX_BYTES} are the most"
        )
    if datatype == "BOOL" or not array.size or np.can_cast(array.dtype, wanted, "safe"):
        return array.astype(wanted)
    if datatype in _LIMITS:
        _check_integers(array, datatype)
        return array.astype(wanted)
    with np.errstate(over="ignore"):
        result = array.astype(wanted)
    if not np.isfinite(result).all():
        source = array if array.dtype.kind in "iuf" else array.astype(np.float32)
        if (np.isinf(result) & np.isfinite(source)).any():
            finite = source[np.isfinite(source)]
            raise TransformError(f"numbers from {finite.min():g} to {finite.max():g} can't be cast to {datatype}")
    return result


def _check_integers(array: Array, datatype: str) -> None:
    if array.dtype.kind in "iu":
        low, high = int(array.min()), int(array.max())
    else:
        source = array if array.dtype.kind == "f" else array.astype(np.float32)
        with np.errstate(invalid="ignore"):
            bounds = float(source.min()), float(source.max())  # either is NaN where any element is
        if not (math.isfinite(bounds[0]) and math.isfinite(bounds[1])):
            raise TransformError(f"numbers that aren't finite can't be cast to {datatype}")
        low, high = math.trunc(bounds[0]), math.trunc(bounds[1])
    lowest, highest = _LIMITS[datatype]
    if low < lowest or high > highest:
        raise TransformError(f"numbers from {low} to {high} can't be cast to {datatype}")
