"""What conditions compute with: numbers, texts, tensors and lists, and what can be done with them.

No operation gives more than it was given, and none is done on more than an event loop can bear.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np

from salver.core.tensor import Array

MAX_ELEMENTS: Final = 1_000_000
"""Of a tensor of numbers: a condition is looked at on the event loop."""

MAX_TEXTS: Final = 100_000
"""Of a tensor of texts, each of which is decoded."""

MAX_TEXT_BYTES: Final = 4 << 20
"""Of a text, or of a tensor's texts together."""

Value: TypeAlias = Any
"""A bool, an int, a float, a text, an array of numbers or of bytes, or a list of numbers and texts."""

NUMBERS: Final = "biuf"
"""The kinds of NumPy's own numbers; BF16 isn't among them."""

_ORDERS = (operator.lt, operator.le, operator.gt, operator.ge)


class ExpressionError(ValueError):
    """A condition can't be told: a tensor is missing, or its operands don't go together."""


def kind_of(value: Value) -> str:
    """What a value is, for messages."""
    if isinstance(value, np.ndarray):
        return f"{'texts' if value.dtype == object else 'numbers'} of shape {list(value.shape)}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, bool):
        return str(value).lower()
    return "a list" if isinstance(value, list) else str(value)


def single(array: Array) -> Value:
    """The element of a tensor of one, as Python has it; of more, or of none, the tensor itself.

    Raises:
        ExpressionError: there is too much of it.
    """
    if array.size != 1:
        return bounded(array)
    value = array.item()
    if isinstance(value, bytes):
        return _decoded(value, len(value))
    return value if isinstance(value, str | bool | int | float) else float(value)


def bounded(array: Array) -> Array:
    """A tensor that can be computed with.

    Raises:
        ExpressionError: there is too much of it.
    """
    most = MAX_TEXTS if array.dtype == object else MAX_ELEMENTS
    if array.size > most:
        raise ExpressionError(f"{kind_of(array)}: {array.size} elements, and a condition takes {most}")
    return array if array.dtype.kind in "biufO" else array.astype(np.float32)


def truth(value: Value) -> bool:
    """Whether a value is true.

    Raises:
        ExpressionError: it is neither true nor false.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value != 0
    raise ExpressionError(f"expected true or false, got {kind_of(value)}; 'any(...)' or 'all(...)' makes one of many")


def number(value: Value) -> Value:
    """A value to calculate with. Single numbers are exact; tensors become FP64, where nothing wraps around.

    Raises:
        ExpressionError: it is no number.
    """
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float):
        return value
    if isinstance(value, list):
        raise ExpressionError("expected numbers, got a list")
    return numbers(value).astype(np.float64, copy=False)


def numbers(value: Value) -> Array:
    """A value as an array of numbers.

    Raises:
        ExpressionError: it holds something else.
    """
    array = np.asarray(value)
    if array.dtype.kind not in NUMBERS or (isinstance(value, list) and is_text(value)):
        raise ExpressionError(f"expected numbers, got {kind_of(value)}")
    return array


def text(value: Value) -> str:
    """A value that is a text.

    Raises:
        ExpressionError: it isn't.
    """
    if isinstance(value, str):
        return value
    raise ExpressionError(f"expected a text, got {kind_of(value)}")


def is_text(value: Value) -> bool:
    """Whether it is a text, or holds some."""
    if isinstance(value, list):
        return any(isinstance(each, str) for each in value)
    return isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype == object)


def calculate(operate: Callable[[Any, Any], Any], one: Value, other: Value) -> Value:
    """One of + - * / // %.

    Raises:
        ExpressionError: an operand is no number, or two tensors differ in shape.
    """
    left, right = number(one), number(other)
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        _check_shapes(np.shape(left), np.shape(right))
        with np.errstate(all="ignore"):
            return operate(left, right)
    return operate(left, right)


def compare(operate: Callable[[Any, Any], Any], one: Value, other: Value) -> Value:
    """One of == != < <= > >=; of tensors element by element.

    Raises:
        ExpressionError: they can't be compared.
    """
    simple = (bool, int, float)
    if isinstance(one, simple) and isinstance(other, simple):
        return operate(one, other)
    if isinstance(one, str) and isinstance(other, str):
        return operate(one, other)
    if isinstance(one, list) and isinstance(other, list):
        if operate in _ORDERS:
            raise ExpressionError("lists have no order")
        return operate(one, other)
    has_texts = is_text(one)
    if has_texts != is_text(other):
        raise ExpressionError(f"{kind_of(one)} and {kind_of(other)} can't be compared")
    if has_texts and operate in _ORDERS:
        raise ExpressionError("only single texts have an order")
    left, right = (_texts(one), _texts(other)) if has_texts else (_wide(one), _wide(other))
    if left.ndim and right.ndim:
        _check_shapes(left.shape, right.shape)
    return single(np.asarray(operate(left, right)))


def is_in(value: Value, values: Value) -> bool:
    """Whether a number or a text is an element of a list or a tensor, or a text is a part of another.

    Raises:
        ExpressionError: there is nothing to look for, or to look in.
    """
    if isinstance(values, np.ndarray) and not values.ndim:
        values = single(values)
    if isinstance(values, str):
        return text(value) in values
    if not isinstance(value, str | bool | int | float):
        raise ExpressionError(f"'in' looks for one number or text, not for {kind_of(value)}")
    if isinstance(values, list):
        return value in values
    if not isinstance(values, np.ndarray):
        raise ExpressionError(f"'in' looks in a list, a text or a tensor, not in {kind_of(values)}")
    array = bounded(values)
    if is_text(array) != isinstance(value, str):
        raise ExpressionError(f"'in' can't find {kind_of(value)} among {kind_of(values)}")
    if isinstance(value, str):
        elements = array.reshape(-1).tolist()
        return value.encode() in elements or value in elements
    return bool((_wide(array) == value).any())


def element(value: Value, index: tuple[int, ...]) -> Value:
    """An element of a tensor or a list, or a tensor's part.

    Raises:
        ExpressionError: there is no such.
    """
    if isinstance(value, list) and len(index) == 1 and -len(value) <= index[0] < len(value):
        return value[index[0]]
    if not isinstance(value, np.ndarray):
        raise ExpressionError(f"{kind_of(value)} has no element {list(index)}")
    try:
        part = value[index]
    except IndexError:
        raise ExpressionError(f"there is no element {list(index)} in shape {list(value.shape)}") from None
    if isinstance(part, np.ndarray):
        return part
    if isinstance(part, bytes):
        return _decoded(part, len(part))
    return part if isinstance(part, str) else (part.item() if part.dtype.kind in NUMBERS else float(part))


def length(value: Value) -> int:
    """The characters of a text, the elements of a list, a tensor's first dimension.

    Raises:
        ExpressionError: it has none.
    """
    if isinstance(value, np.ndarray) and value.ndim:
        return int(value.shape[0])
    if isinstance(value, np.ndarray):
        value = single(value)
    if isinstance(value, str | list):
        return len(value)
    raise ExpressionError(f"{kind_of(value)} has no length")


def _decoded(value: bytes, total: int) -> str:
    if total > MAX_TEXT_BYTES:
        raise ExpressionError(f"a text of {total} bytes, and a condition takes {MAX_TEXT_BYTES}")
    return value.decode(errors="replace")


def _texts(value: Value) -> Array:
    array = bounded(np.asarray(value, dtype=object))
    flat = np.empty(array.size, dtype=object)
    total = 0
    for position, each in enumerate(array.reshape(-1)):
        total += len(each)
        flat[position] = _decoded(each, total) if isinstance(each, bytes) else each
    return flat.reshape(array.shape)


def _wide(value: Value) -> Array:
    """Numbers that compare as single ones do."""
    array = numbers(value)
    return array.astype(np.float64, copy=False) if array.dtype.kind == "f" else array


def _check_shapes(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    if one and other and one != other:
        raise ExpressionError(f"shapes {list(one)} and {list(other)} don't go together")


def _sum(array: Array) -> Value:
    with np.errstate(over="ignore", invalid="ignore"):
        rough = array.sum(dtype=np.float64).item()
    if array.dtype.kind == "f":
        return rough
    return array.sum().item() if abs(rough) < 2**62 else rough  # sums of integers wrap around


def _mean(array: Array) -> Value:
    with np.errstate(over="ignore", invalid="ignore"):
        return array.mean(dtype=np.float64).item()


def _reduction(name: str, function: Callable[[Array], Value], of_nothing: Value = None) -> Callable[[Value], Value]:
    def reduce(value: Value) -> Value:
        array = numbers(value)
        if not array.size:
            if of_nothing is None:
                raise ExpressionError(f"{name} of nothing")
            return of_nothing
        return function(array)

    return reduce


REDUCTIONS: Final[dict[str, Callable[[Value], Value]]] = {
    "sum": _reduction("sum", _sum, 0),
    "mean": _reduction("mean", _mean),
    "min": _reduction("min", lambda array: array.min().item()),
    "max": _reduction("max", lambda array: array.max().item()),
    "any": _reduction("any", lambda array: bool(array.any()), False),
    "all": _reduction("all", lambda array: bool(array.all()), True),
    "argmax": _reduction("argmax", lambda array: array.argmax().item()),
}
"""Functions that make one number of many."""

CALCULATIONS: Final[dict[str, Callable[[Value], Value]]] = {
    "abs": lambda value: abs(number(value)),
    "round": lambda value: np.round(number(value)) if isinstance(value, np.ndarray) else _round(number(value)),
}
"""Functions of each number."""

TEXT_FUNCTIONS: Final[dict[str, Callable[..., Value]]] = {
    "lower": lambda value: text(value).lower(),
    "upper": lambda value: text(value).upper(),
    "contains": lambda value, part: text(part) in text(value),
    "startswith": lambda value, part: text(value).startswith(text(part)),
    "endswith": lambda value, part: text(value).endswith(text(part)),
}
"""Functions of texts."""

WHOLE: Final[dict[str, Callable[[Value], Value]]] = {
    "len": length,
    "shape": lambda value: list(np.shape(value)),
}
"""Functions of tensors as they are: one of a single element doesn't count as that element."""


def _round(value: float) -> float:
    # Python rounds floats to integers, and there is none for those that aren't finite.
    return value if isinstance(value, int) else float(np.round(value))
