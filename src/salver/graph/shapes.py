"""What select, transpose, reshape, concat and stack make of shapes, for tensors that are there and for those to come.

In a shape, -1 is a dimension that isn't known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from salver.core.tensor import Array, Shape
from salver.graph.casting import MAX_BYTES, TransformError

Index: TypeAlias = tuple[int | slice | list[int], ...]

_MAX_INDEX: Final = 2**62
_MAX_COUNT: Final = 2**48
"""Elements of no tensor that anybody has; NumPy can't count the bytes of many more."""


def check_index(index: Index) -> None:
    """Refuse a ``select`` that fits no tensor.

    Raises:
        TransformError: a range has no step, or an index is larger than any dimension.
    """
    for part in index:
        if isinstance(part, slice):
            if part.step == 0:
                raise TransformError("'select' has a range with step 0")
        elif any(abs(each) > _MAX_INDEX for each in ([part] if isinstance(part, int) else part)):
            raise TransformError("'select' has an index that is larger than any dimension")


def check_order(order: Shape) -> None:
    """Refuse a ``transpose`` that fits no tensor.

    Raises:
        TransformError: it doesn't name each dimension once.
    """
    rank = len(order)
    named = sorted(dimension + rank if dimension < 0 else dimension for dimension in order)
    if named != list(range(rank)):
        raise TransformError(f"'transpose: {list(order)}' doesn't name each dimension once")


def check_sizes(wanted: Shape) -> None:
    """Refuse a ``reshape`` that fits no tensor.

    Raises:
        TransformError: it has more elements than any tensor.
    """
    if math.prod(size for size in wanted if size > 0) > _MAX_COUNT:
        raise TransformError("'reshape' has more elements than any tensor")


def selection(array: Array, index: Index) -> Array:
    """The selected part. Each dimension is chosen by itself: two lists are a grid, not pairs.

    Raises:
        TransformError: it has no such part, or would take too much.
    """
    if len(index) > array.ndim:
        raise _too_many(index, array.shape)
    shape, dimension = array.shape, 0
    for part in index:
        at: tuple[Any, ...] = (slice(None),) * dimension
        try:
            if isinstance(part, list):
                _check_growth(array, array.shape[dimension], len(part))
                array = array[(*at, np.asarray(part, dtype=np.intp))]
            else:
                found = array[(*at, part)]
                array = found if isinstance(found, np.ndarray) else _wrapped(found, array.dtype)
        except IndexError as error:
            raise TransformError(f"'select' doesn't fit shape {list(shape)}: {error}") from None
        dimension += not isinstance(part, int)
    return array


def _check_growth(array: Array, size: int, wanted: int) -> None:
    count = array.nbytes // max(size, 1) * wanted
    if wanted > size and count > MAX_BYTES:
        raise TransformError(f"'select' would take {count} bytes, and {MAX_BYTES} are the most")


def _wrapped(element: object, dtype: np.dtype[Any]) -> Array:
    array = np.empty((), dtype=dtype)
    array[()] = element
    return array


def selected(index: Index, shape: Shape) -> Shape:
    """The shape of a selected part.

    Raises:
        TransformError: there is no such part.
    """
    if len(index) > len(shape):
        raise _too_many(index, shape)
    result: list[int] = []
    for dimension, (part, size) in enumerate(zip(index, shape, strict=False)):
        if isinstance(part, slice):
            result.append(size if size == -1 else len(range(*part.indices(size))))
            continue
        for each in [part] if isinstance(part, int) else part:
            if size != -1 and not -size <= each < size:
                raise TransformError(
                    f"'select' doesn't fit shape {list(shape)}: there is no {each} in dimension {dimension}"
                )
        if not isinstance(part, int):
            result.append(len(part))
    return (*result, *shape[len(index) :])


def _too_many(index: Index, shape: Shape) -> TransformError:
    return TransformError(f"'select' doesn't fit shape {list(shape)}: it has {len(index)} parts")


def transposed(order: Shape, shape: Shape) -> Shape:
    """A shape with its dimensions in another order.

    Raises:
        TransformError: there are more of them, or fewer.
    """
    if len(order) != len(shape):
        raise TransformError(f"'transpose: {list(order)}' doesn't fit shape {list(shape)}")
    return tuple(shape[dimension] for dimension in order)


def reshaped(wanted: Shape, shape: Shape) -> Shape:
    """The shape that ``reshape`` gives: -1 is what is left, 0 the dimension as it was.

    What is left is told from the dimensions that aren't kept, so that a list of no items keeps the shape of its items.

    Raises:
        TransformError: the elements differ in number.
    """
    result = list(wanted)
    others = list(shape)  # the dimensions that aren't kept
    for dimension, size in enumerate(wanted):
        if size == 0:
            if dimension >= len(shape):
                raise TransformError(
                    f"'reshape: {list(wanted)}' keeps dimension {dimension}, which shape {list(shape)} hasn't"
                )
            result[dimension], others[dimension] = shape[dimension], 1
    if -1 in others:
        return tuple(result)
    given = math.prod(others)
    rest = math.prod(size for size in wanted if size > 0)
    if given % rest if -1 in wanted else given != rest:
        count = "" if -1 in shape else f", of {math.prod(shape)} elements"
        raise TransformError(f"'reshape: {list(wanted)}' doesn't fit shape {list(shape)}{count}")
    if -1 in wanted:
        result[wanted.index(-1)] = given // rest
    return tuple(result)


def joined(kind: str, axis: int, shapes: Sequence[Shape]) -> Shape:
    """The shape of tensors that are joined by ``concat`` or ``stack``.

    Raises:
        TransformError: they can't be.
    """
    rank = len(shapes[0])
    after = rank + (kind == "stack")
    if any(len(shape) != rank for shape in shapes) or not -after <= axis < after:
        raise not_joined(kind, axis, shapes)
    axis %= after
    result: list[int] = []
    for dimension in range(rank):
        sizes = {shape[dimension] for shape in shapes}
        if kind == "concat" and dimension == axis:
            result.append(-1 if -1 in sizes else sum(shape[dimension] for shape in shapes))
            continue
        known = sizes - {-1}
        if len(known) > 1:
            raise not_joined(kind, axis, shapes)
        result.append(known.pop() if known else -1)
    if kind == "stack":
        result.insert(axis, len(shapes))
    return tuple(result)


def not_joined(kind: str, axis: int, shapes: Sequence[Shape]) -> TransformError:
    """The error for shapes that can't be joined."""
    told = " and ".join(str(list(shape)) for shape in shapes[:4]) + (" and ..." if len(shapes) > 4 else "")
    return TransformError(f"shapes {told} can't be joined by '{kind}' with 'axis: {axis}'")
