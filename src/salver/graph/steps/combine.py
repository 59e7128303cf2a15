"""How an ensemble's answers become one: pure functions over arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from salver.core.errors import ModelFailed
from salver.core.tensor import Array, datatype_of


def stacked(name: str, arrays: Sequence[Array]) -> Array:
    """The members' arrays of one output, along a new first dimension.

    Raises:
        ModelFailed: their shapes or kinds of datatype differ.
    """
    first = arrays[0]
    for array in arrays[1:]:
        if array.shape != first.shape:
            raise ModelFailed(
                f"its members give output {name!r} in different shapes, {list(first.shape)} and {list(array.shape)}"
            )
        if (array.dtype == object) != (first.dtype == object):
            raise ModelFailed(f"its members give output {name!r} in different datatypes, texts and numbers")
    try:
        return np.stack(arrays)
    except TypeError:  # as of BF16 and FP16, neither of which holds the other
        given = " and ".join(dict.fromkeys(datatype_of(array) for array in arrays))
        raise ModelFailed(f"its members give output {name!r} in datatypes that no other holds: {given}") from None


def mean(name: str, arrays: Sequence[Array], weights: Sequence[float] | None = None) -> Array:
    """The mean of arrays of shape [...], weighted where there are weights; of integers and booleans in FP64.

    Raises:
        ModelFailed: there is no mean of them.
    """
    stack = stacked(name, arrays)
    if stack.dtype == object:
        raise ModelFailed(f"output {name!r} is text, which has no mean; use 'combine: vote'")
    if weights is not None and not sum(weights) > 0:
        raise ModelFailed("the members that have answered all have the weight 0")
    is_float = stack.dtype.kind not in "biu"  # bfloat16 is of a kind of its own
    # The sum of the members may be too large, or too fine, for their own datatype.
    wide = stack.astype(np.float64, copy=False)
    if weights is None:
        averaged = wide.mean(axis=0)
    else:
        averaged = np.tensordot(np.asarray(weights) / sum(weights), wide, axes=1)
    return np.asarray(averaged, dtype=stack.dtype if is_float else np.float64)


def vote(name: str, arrays: Sequence[Array]) -> Array:
    """Element by element the most frequent value, the smallest of those that are equally frequent.

    Raises:
        ModelFailed: the arrays don't fit together.
    """
    stack = np.sort(stacked(name, arrays), axis=0)
    counts = np.stack([np.asarray(stack == each).sum(axis=0) for each in stack])
    winners = counts.argmax(axis=0)
    return np.asarray(np.take_along_axis(stack, winners[np.newaxis], axis=0)[0], dtype=stack.dtype)
