"""The language of conditions: small, typed as it runs, and safe: nothing in it can run code, loop or grow.

It is read with Python's own parser; only the nodes named here mean anything, and each becomes a closure.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from salver.core.request import Parameter
from salver.core.tensor import Array
from salver.graph.tensor_types import TensorType

MAX_LENGTH: Final = 1000
MAX_DEPTH: Final = 30
MAX_ELEMENTS: Final = 1_000_000
"""Larger tensors are refused: a condition is looked at on the event loop."""

TensorOf: TypeAlias = Callable[[str], Array | None]
_Value: TypeAlias = Any  # a scalar, a text, an array or a list of such
_Run: TypeAlias = Callable[[TensorOf, Mapping[str, Parameter]], _Value]

_WORDS = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|\b(true|false)\b""")


class ExpressionError(ValueError):
    """A condition can't be told: a tensor is missing, or its operands don't go together."""


def _text_of(value: _Value) -> str:
    if isinstance(value, str):
        return value
    raise ExpressionError(f"expected a text, got {_kind(value)}")


def _array_of(value: _Value) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ExpressionError(f"expected numbers, got {_kind(value)}")
    return array


def _shape(value: _Value) -> list[int]:
    return list(np.shape(value))


def _len(value: _Value) -> int:
    if isinstance(value, str):
        return len(value)
    shape = np.shape(value)
    if not shape:
        raise ExpressionError(f"{_kind(value)} has no length")
    return int(shape[0])


def _reduce(name: str, function: Callable[[Array], Any], *, of_nothing: object = None) -> Callable[[_Value], _Value]:
    def reduce(value: _Value) -> _Value:
        array = _array_of(value)
        if not array.size:
            if of_nothing is None:
                raise ExpressionError(f"{name} of nothing")
            return of_nothing
        return function(array).item()

    return reduce


_FUNCTIONS: Final[dict[str, tuple[int, Callable[..., _Value]]]] = {
    "len": (1, _len),
    "shape": (1, _shape),
    "sum": (1, _reduce("sum", lambda array: array.sum(), of_nothing=0)),
    "mean": (1, _reduce("mean", lambda array: array.mean(dtype=np.float64))),
    "min": (1, _reduce("min", lambda array: array.min())),
    "max": (1, _reduce("max", lambda array: array.max())),
    "any": (1, _reduce("any", lambda array: array.any(), of_nothing=False)),
    "all": (1, _reduce("all", lambda array: array.all(), of_nothing=True)),
    "argmax": (1, _reduce("argmax", lambda array: array.argmax())),
    "abs": (1, lambda value: _plain(np.abs(_array_of(value)))),
    "round": (1, lambda value: _plain(np.round(_array_of(value)))),
    "lower": (1, lambda value: _text_of(value).lower()),
    "upper": (1, lambda value: _text_of(value).upper()),
    "contains": (2, lambda text, part: _text_of(part) in _text_of(text)),
    "startswith": (2, lambda text, part: _text_of(text).startswith(_text_of(part))),
    "endswith": (2, lambda text, part: _text_of(text).endswith(_text_of(part))),
}

_OPERATORS: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: Final[dict[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


class Expression:
    """A condition, ready to be told.

    Attributes:
        text: as it was written.
        references: the tensors that it reads, as STEP.OUTPUT; those that only ``has`` asks for are among them.
        asked_for: those of them that ``has`` asks for.
        parameters: the request's parameters that it reads.
    """

    def __init__(self, text: str, tree: ast.expr) -> None:
        self.text = text
        builder = _Builder()
        self._run = builder.build(tree, 0)
        self.references = frozenset(builder.references)
        self.asked_for = frozenset(builder.asked_for)
        self.parameters = frozenset(builder.parameters)

    @classmethod
    def parse(cls, text: str | bool) -> Expression:
        """Read a condition.

        Raises:
            ValueError: it isn't one; the message says what is wrong where.
        """
        if isinstance(text, bool):
            return cls(str(text).lower(), ast.Constant(text))
        if len(text) > MAX_LENGTH:
            raise ValueError(f"a condition has {MAX_LENGTH} characters at most, not {len(text)}")
        if "\0" in text:
            raise ValueError("a condition can't hold a zero character")
        python = _WORDS.sub(lambda match: match[1] or match[2].capitalize(), text.strip())
        try:
            tree = ast.parse(python, mode="eval").body
        except SyntaxError as error:
            raise ValueError(f"{text!r} is no condition: {error.msg} at character {error.offset or 1}") from None
        except (RecursionError, MemoryError, ValueError):
            raise ValueError(f"{text[:80]!r} is no condition: it is nested too deep") from None
        return cls(text, tree)

    def evaluate(self, tensor: TensorOf, parameters: Mapping[str, Parameter]) -> bool:
        """Whether it is true.

        Raises:
            ExpressionError: there is no telling: a tensor is missing, or its operands don't go together.
        """
        try:
            return _truth(self._run(tensor, parameters))
        except ExpressionError:
            raise
        except ZeroDivisionError:
            raise ExpressionError("a division by zero") from None
        except (TypeError, ValueError, OverflowError, IndexError) as error:
            raise ExpressionError(str(error)) from None

    def check(self, type_of: Callable[[str], TensorType | None]) -> str:
        """What is wrong with it, for tensors of these types; "" where nothing is known to be."""
        for reference in sorted(self.references):
            found = type_of(reference)
            if found is None:
                return f"there is no tensor {reference!r}"
            if found.optional and reference not in self.asked_for:
                return f"{reference!r} may be missing; ask 'has({reference}) and ...' first"
        return ""


class _Builder:
    """Turns a tree into closures, and notes what it reads."""

    def __init__(self) -> None:
        self.references: set[str] = set()
        self.asked_for: set[str] = set()
        self.parameters: set[str] = set()

    def build(self, node: ast.expr, depth: int) -> _Run:
        """The closure of a node."""
        if depth > MAX_DEPTH:
            raise ValueError("a condition can't be nested so deep")
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return _constant(value)
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return self._list([self.build(each, depth + 1) for each in elements])
            case ast.BoolOp(op=op, values=values):
                return _bool_op(isinstance(op, ast.And), [self.build(each, depth + 1) for each in values])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self.build(operand, depth + 1)
                return lambda tensor, parameters: not _truth(inner(tensor, parameters))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self.build(operand, depth + 1)
                return lambda tensor, parameters: _negative(inner(tensor, parameters))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _bin_op(_OPERATORS[type(op)], self.build(left, depth + 1), self.build(right, depth + 1))
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                return self._compare(left, ops, comparators, depth + 1)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(name, arguments, depth + 1)
            case ast.Attribute(value=ast.Name(id=origin), attr=name):
                return self._reference(origin, name)
            case ast.Subscript(value=ast.Name(id=origin), slice=ast.Constant(value=str() as name)):
                return self._reference(origin, name)
            case ast.Subscript(value=value, slice=index):
                return self._index(self.build(value, depth + 1), index)
            case ast.Name(id=name):
                raise ValueError(f"{name!r} stands alone; a tensor is STEP.OUTPUT or inputs.NAME, a text has quotes")
        raise ValueError(f"{ast.unparse(node)[:80]!r} means nothing in a condition")

    def _list(self, elements: Sequence[_Run]) -> _Run:
        return lambda tensor, parameters: [each(tensor, parameters) for each in elements]

    def _reference(self, origin: str, name: str) -> _Run:
        if origin == "parameters":
            self.parameters.add(name)
            return _parameter(name)
        reference = f"{origin}.{name}"
        self.references.add(reference)
        return _tensor(reference)

    def _index(self, value: _Run, index: ast.expr) -> _Run:
        parts = index.elts if isinstance(index, ast.Tuple) else [index]
        numbers = tuple(_integer(part) for part in parts)

        def run(tensor: TensorOf, parameters: Mapping[str, Parameter]) -> _Value:
            found = value(tensor, parameters)
            if isinstance(found, str | bool | int | float):
                # A tensor of one element counts as that element, and may still be asked for it.
                if all(number in (0, -1) for number in numbers) and not isinstance(found, str):
                    return found
                raise ExpressionError(f"{_kind(found)} has no element {list(numbers)}")
            array = found if isinstance(found, np.ndarray) else np.array(found, dtype=object)
            try:
                return _plain(array[numbers if array.ndim > 1 or len(numbers) > 1 else numbers[0]])
            except IndexError:
                raise ExpressionError(f"there is no element {list(numbers)} in shape {list(array.shape)}") from None

        return run

    def _call(self, name: str, arguments: Sequence[ast.expr], depth: int) -> _Run:
        if name == "has":
            return self._has(arguments)
        if name not in _FUNCTIONS:
            raise ValueError(f"there is no function {name!r}; there are has, {', '.join(_FUNCTIONS)}")
        count, function = _FUNCTIONS[name]
        if len(arguments) != count:
            raise ValueError(f"{name} takes {count} argument{'s' if count > 1 else ''}, not {len(arguments)}")
        parts = [self.build(each, depth) for each in arguments]
        if count == 1:
            (only,) = parts
            return lambda tensor, parameters: function(only(tensor, parameters))
        return lambda tensor, parameters: function(*(part(tensor, parameters) for part in parts))

    def _has(self, arguments: Sequence[ast.expr]) -> _Run:
        match arguments:
            case [ast.Attribute(value=ast.Name(id="parameters"), attr=name)]:
                self.parameters.add(name)
                return lambda tensor, parameters: name in parameters
            case [ast.Attribute(value=ast.Name(id=origin), attr=name)]:
                reference = f"{origin}.{name}"
            case [ast.Subscript(value=ast.Name(id=origin), slice=ast.Constant(value=str() as name))]:
                reference = f"{origin}.{name}"
            case _:
                raise ValueError("has takes a tensor, such as has(step.output)")
        self.references.add(reference)
        self.asked_for.add(reference)
        return lambda tensor, parameters: tensor(reference) is not None

    def _compare(self, left: ast.expr, ops: Sequence[ast.cmpop], others: Sequence[ast.expr], depth: int) -> _Run:
        for op in ops:
            if not isinstance(op, ast.In | ast.NotIn) and type(op) not in _COMPARISONS:
                raise ValueError("'is' means nothing in a condition; use ==")
        first = self.build(left, depth)
        rest = [(_comparison(op), self.build(other, depth)) for op, other in zip(ops, others, strict=True)]
        if len(rest) == 1:
            ((compare, second),) = rest
            return lambda tensor, parameters: compare(first(tensor, parameters), second(tensor, parameters))

        def chained(tensor: TensorOf, parameters: Mapping[str, Parameter]) -> _Value:
            value = first(tensor, parameters)
            for compare, other in rest:
                after = other(tensor, parameters)
                if not _truth(compare(value, after)):
                    return False
                value = after
            return True

        return chained


def _constant(value: _Value) -> _Run:
    return lambda tensor, parameters: value


def _tensor(reference: str) -> _Run:
    def run(tensor: TensorOf, parameters: Mapping[str, Parameter]) -> _Value:
        array = tensor(reference)
        if array is None:
            raise ExpressionError(f"{reference!r} is missing; ask 'has({reference})' first")
        if array.size == 1:
            return _plain(array.reshape(-1)[0])
        if array.size > MAX_ELEMENTS:
            raise ExpressionError(f"{reference!r} has {array.size} elements, and a condition takes {MAX_ELEMENTS}")
        return array if array.dtype.kind in "biufO" else array.astype(np.float32)

    return run


def _parameter(name: str) -> _Run:
    def run(tensor: TensorOf, parameters: Mapping[str, Parameter]) -> _Value:
        if name not in parameters:
            raise ExpressionError(f"the request has no parameter {name!r}")
        return parameters[name]

    return run


def _bool_op(is_and: bool, parts: Sequence[_Run]) -> _Run:
    if is_and:
        return lambda tensor, parameters: all(_truth(part(tensor, parameters)) for part in parts)
    return lambda tensor, parameters: any(_truth(part(tensor, parameters)) for part in parts)


def _bin_op(operate: Callable[[Any, Any], Any], left: _Run, right: _Run) -> _Run:
    def run(tensor: TensorOf, parameters: Mapping[str, Parameter]) -> _Value:
        one, other = _number(left(tensor, parameters)), _number(right(tensor, parameters))
        if isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and one.shape != other.shape:
            raise ExpressionError(f"shapes {list(one.shape)} and {list(other.shape)} don't go together")
        with np.errstate(all="ignore"):
            return operate(one, other)

    return run


def _comparison(op: ast.cmpop) -> Callable[[_Value, _Value], _Value]:
    if isinstance(op, ast.In):
        return _is_in
    if isinstance(op, ast.NotIn):
        return lambda value, values: not _is_in(value, values)
    operate = _COMPARISONS[type(op)]
    ordered = isinstance(op, _ORDER)

    def compare(one: _Value, other: _Value) -> _Value:
        simple = (bool, int, float)
        if isinstance(one, simple) and isinstance(other, simple):
            return operate(one, other)
        if isinstance(one, str) and isinstance(other, str):
            return operate(one, other)
        if isinstance(one, list) and isinstance(other, list):
            if ordered:
                raise ExpressionError("lists have no order")
            return operate(one, other)
        return _compare_arrays(operate, one, other, ordered=ordered)

    return compare


def _compare_arrays(operate: Callable[[Any, Any], Any], one: _Value, other: _Value, *, ordered: bool) -> _Value:
    texts = _is_text(one), _is_text(other)
    if texts[0] != texts[1]:
        raise ExpressionError(f"{_kind(one)} and {_kind(other)} can't be compared")
    if texts[0] and ordered:
        raise ExpressionError("only single texts have an order")
    left, right = _texts(one) if texts[0] else _array_of(one), _texts(other) if texts[1] else _array_of(other)
    if left.ndim and right.ndim and left.shape != right.shape:
        raise ExpressionError(f"shapes {list(left.shape)} and {list(right.shape)} can't be compared")
    return _plain(np.asarray(operate(left, right)))


def _is_in(value: _Value, values: _Value) -> bool:
    if isinstance(values, str):
        return _text_of(value) in values
    if not isinstance(value, str | bool | int | float):
        raise ExpressionError(f"'in' looks for one number or text, not for {_kind(value)}")
    if isinstance(values, list):
        return any((type(each) is not bool and each == value) or each is value for each in values)
    if not isinstance(values, np.ndarray):
        raise ExpressionError(f"'in' looks in a list, a text or a tensor, not in {_kind(values)}")
    if _is_text(values) != isinstance(value, str):
        return False
    return bool((_texts(values) == value).any() if isinstance(value, str) else (values == value).any())


def _truth(value: _Value) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value != 0
    raise ExpressionError(f"expected true or false, got {_kind(value)}; 'any(...)' or 'all(...)' makes one of many")


def _negative(value: _Value) -> _Value:
    return -_number(value)


def _number(value: _Value) -> _Value:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        # Integers and booleans of few bits would wrap around.
        return value if value.dtype.kind == "f" else value.astype(np.float64)
    raise ExpressionError(f"expected numbers, got {_kind(value)}")


def _plain(value: _Value) -> _Value:
    """A single element as Python has it; texts are text."""
    if isinstance(value, np.ndarray):
        if value.ndim:
            return value
        value = value[()]
    if isinstance(value, np.generic):
        value = value.item() if value.dtype.kind in "biuf" else float(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value


def _is_text(value: _Value) -> bool:
    if isinstance(value, list):
        return any(isinstance(each, str) for each in value)
    return isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype == object)


def _texts(value: _Value) -> Array:
    array = np.asarray(value, dtype=object)
    flat = np.empty(array.size, dtype=object)
    flat[:] = [_plain(each) for each in array.reshape(-1)]
    return flat.reshape(array.shape)


def _kind(value: _Value) -> str:
    if isinstance(value, np.ndarray):
        what = "texts" if value.dtype == object else "numbers"
        return f"{what} of shape {list(value.shape)}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return "a list" if isinstance(value, list) else f"{value}"


def _integer(node: ast.expr) -> int:
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        sign, node = -1, node.operand
    if isinstance(node, ast.Constant) and type(node.value) is int and abs(node.value) < 2**31:
        return sign * node.value
    raise ValueError(f"{ast.unparse(node)[:40]!r} can't be an index; indices are integers, such as x[0] or x[0, -1]")
