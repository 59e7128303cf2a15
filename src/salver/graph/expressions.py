"""The language of conditions: small, typed as it runs, and safe: nothing in it can run code, loop or grow.

It is read with Python's own parser; only the nodes named here mean anything, and each becomes a closure.
"""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from salver.core.request import Parameter
from salver.core.tensor import Array
from salver.graph import expression_values as values
from salver.graph.expression_types import assured, check_types, integer_of, reference_of
from salver.graph.expression_values import ExpressionError, Value
from salver.graph.tensor_types import TensorType

__all__ = ["MAX_DEPTH", "MAX_LENGTH", "Expression", "ExpressionError"]

MAX_LENGTH: Final = 1000
MAX_DEPTH: Final = 30

TensorOf: TypeAlias = Callable[[str], Array | None]
_Run: TypeAlias = Callable[[TensorOf, Mapping[str, Parameter]], Value]

_TOKENS = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|\b(true|false)\b|([\r\n])|(\#)""", re.DOTALL)
"""Texts, which stay as they are, and what means something else to Python."""

_FUNCTIONS: Final[dict[str, tuple[int, Callable[..., Value]]]] = {
    **{name: (1, function) for name, function in {**values.WHOLE, **values.REDUCTIONS, **values.CALCULATIONS}.items()},
    **{name: (1 if name in ("lower", "upper") else 2, function) for name, function in values.TEXT_FUNCTIONS.items()},
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


class Expression:
    """A condition, ready to be told.

    A tensor of one element counts as that element, but for ``len``, ``shape``, indices and what stands after ``in``:
    what these give must not hang on how many elements happen to be there. BYTES are texts.

    Attributes:
        text: as it was written.
        references: the tensors that it reads, as STEP.OUTPUT; those that only ``has`` asks for are among them.
        asked_for: those of them that ``has`` asks for.
        parameters: the request's parameters that it reads.
    """

    def __init__(self, text: str, tree: ast.expr, source: str) -> None:
        self.text = text
        builder = _Builder(source)
        self._run = builder.build(tree, 0)
        self._tree = tree
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
            return cls(str(text).lower(), ast.Constant(text), "")
        if len(text) > MAX_LENGTH:
            raise ValueError(f"a condition has {MAX_LENGTH} characters at most, not {len(text)}")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError("a condition can't hold half a character (a lone surrogate)") from None
        if "\0" in text:
            raise ValueError("a condition can't hold a zero character")
        source = _TOKENS.sub(_as_python, text)
        indent = len(source) - len(source.lstrip())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # of what later Pythons refuse, such as "\d"
                tree = ast.parse(source.strip(), mode="eval").body
        except SyntaxError as error:
            where = (error.offset or 1) + indent
            raise ValueError(f"{_short(text)} is no condition: {error.msg} at character {where}") from None
        except (RecursionError, MemoryError):
            raise ValueError(f"{_short(text)} is no condition: it is nested too deep") from None
        except ValueError as error:
            raise ValueError(f"{_short(text)} is no condition: {error}") from None
        return cls(text, tree, source.strip())

    def evaluate(self, tensor: TensorOf, parameters: Mapping[str, Parameter]) -> bool:
        """Whether it is true.

        Raises:
            ExpressionError: there is no telling: a tensor is missing, or its operands don't go together.
        """
        try:
            result = self._run(tensor, parameters)
            return result if result is True or result is False else values.truth(result)
        except ExpressionError:
            raise
        except ZeroDivisionError:
            raise ExpressionError("a division by zero") from None
        except (TypeError, ValueError, OverflowError, IndexError) as error:
            raise ExpressionError(str(error)) from None

    def check(self, type_of: Callable[[str], TensorType | None]) -> str:
        """What is wrong with it, for tensors of these types; "" where nothing is known to be.

        Args:
            type_of: what is known of a tensor, or of ``parameters.NAME``; None for one that isn't there, or for a
                parameter that isn't declared.
        """
        return check_types(self._tree, type_of)

    def assures(self, value: bool) -> frozenset[str]:
        """The tensors that are there where it has this value: those that it has asked for with ``has``."""
        return assured(self._tree, value)


def _as_python(match: re.Match[str]) -> str:
    if match[4]:
        raise ValueError(f"a condition can't hold a comment: '#' at character {match.start() + 1}")
    if match[3]:
        return " "
    return match[1] or match[2].capitalize()


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:197] + "...")


class _Builder:
    """Turns a tree into closures, and notes what it reads."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.references: set[str] = set()
        self.asked_for: set[str] = set()
        self.parameters: set[str] = set()

    def build(self, node: ast.expr, depth: int, *, whole: bool = False) -> _Run:
        """The closure of a node; ``whole``: of a tensor of one element, too, it gives the tensor."""
        if depth > MAX_DEPTH:
            raise ValueError("a condition can't be nested so deep")
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return _constant(value)
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return self._list(elements, depth + 1)
            case ast.BoolOp(op=op, values=parts):
                return _bool_op(isinstance(op, ast.And), [self.build(each, depth + 1) for each in parts])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return _not(self.build(operand, depth + 1))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return _negative(self.build(operand, depth + 1))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _bin_op(_OPERATORS[type(op)], self.build(left, depth + 1), self.build(right, depth + 1))
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                return self._compare(left, ops, comparators, depth + 1)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(name, arguments, depth + 1)
            case ast.Subscript(value=value, slice=index) if reference_of(node) is None:
                return _element(self.build(value, depth + 1, whole=True), self._indices(index), whole=whole)
            case ast.Attribute() | ast.Subscript() if (reference := reference_of(node)) is not None:
                return self._reference(*reference, whole=whole)
            case ast.Name(id=name):
                raise ValueError(f"{name!r} stands alone; a tensor is STEP.OUTPUT or inputs.NAME, a text has quotes")
            case ast.Attribute(value=ast.Attribute(value=ast.Name(id=origin), attr=first), attr=second):
                raise ValueError(
                    f"'{origin}.{first}.{second}' has two dots; an output whose name isn't a word is written "
                    f'{origin}["{first}.{second}"]'
                )
        raise ValueError(f"{self._told(node)} means nothing in a condition")

    def _told(self, node: ast.AST) -> str:
        return repr((ast.get_source_segment(self._source, node) or self._source)[:80])

    def _list(self, elements: Sequence[ast.expr], depth: int) -> _Run:
        for each in elements:
            if isinstance(each, ast.List | ast.Tuple):
                raise ValueError(f"{self._told(each)}: a list can't hold another")
        runs = [self.build(each, depth) for each in elements]
        if all(isinstance(each, ast.Constant) for each in elements):
            return _constant([each.value for each in elements if isinstance(each, ast.Constant)])

        def run(tensor: TensorOf, parameters: Mapping[str, Parameter]) -> Value:
            found = [each(tensor, parameters) for each in runs]
            for value in found:
                if not isinstance(value, str | bool | int | float):
                    raise ExpressionError(f"a list holds single numbers and texts, not {values.kind_of(value)}")
            return found

        return run

    def _reference(self, origin: str, name: str, *, whole: bool) -> _Run:
        if origin == "parameters":
            self.parameters.add(name)
            return _parameter(name)
        self.references.add(f"{origin}.{name}")
        return _tensor(f"{origin}.{name}", whole=whole)

    def _indices(self, index: ast.expr) -> tuple[int, ...]:
        return tuple(self._integer(part) for part in (index.elts if isinstance(index, ast.Tuple) else [index]))

    def _integer(self, node: ast.expr) -> int:
        if (number := integer_of(node)) is not None and abs(number) < 2**31:
            return number
        raise ValueError(f"{self._told(node)} can't be an index; indices are integers, such as x[0] or x[0, -1]")

    def _call(self, name: str, arguments: Sequence[ast.expr], depth: int) -> _Run:
        if name == "has":
            return self._has(arguments)
        if name not in _FUNCTIONS:
            raise ValueError(f"there is no function {name!r}; there are has, {', '.join(_FUNCTIONS)}")
        count, function = _FUNCTIONS[name]
        if len(arguments) != count:
            raise ValueError(f"{name} takes {count} argument{'s' if count > 1 else ''}, not {len(arguments)}")
        parts = [self.build(each, depth, whole=name in values.WHOLE) for each in arguments]
        if count == 1:
            (only,) = parts
            return lambda tensor, parameters: function(only(tensor, parameters))
        first, second = parts
        return lambda tensor, parameters: function(first(tensor, parameters), second(tensor, parameters))

    def _has(self, arguments: Sequence[ast.expr]) -> _Run:
        reference = reference_of(arguments[0]) if len(arguments) == 1 else None
        if reference is None:
            raise ValueError("has takes a tensor, such as has(step.output), or a parameter")
        origin, name = reference
        if origin == "parameters":
            self.parameters.add(name)
            return lambda tensor, parameters: name in parameters
        key = f"{origin}.{name}"
        self.references.add(key)
        self.asked_for.add(key)
        return lambda tensor, parameters: tensor(key) is not None

    def _compare(self, left: ast.expr, ops: Sequence[ast.cmpop], others: Sequence[ast.expr], depth: int) -> _Run:
        rest = []
        for op, other in zip(ops, others, strict=True):
            is_in = isinstance(op, ast.In | ast.NotIn)
            if not is_in and type(op) not in _COMPARISONS:
                raise ValueError("'is' means nothing in a condition; use ==")
            if is_in and len(ops) > 1:
                raise ValueError("'in' can't stand in a chain of comparisons; use 'and'")
            rest.append((_comparison(op), self.build(other, depth, whole=is_in)))
        first = self.build(left, depth)
        if len(rest) == 1:
            ((compare, second),) = rest
            return lambda tensor, parameters: compare(first(tensor, parameters), second(tensor, parameters))

        def chained(tensor: TensorOf, parameters: Mapping[str, Parameter]) -> Value:
            value = first(tensor, parameters)
            for compare, other in rest:
                after = other(tensor, parameters)
                if not values.truth(compare(value, after)):
                    return False
                value = after
            return True

        return chained


def _constant(value: Value) -> _Run:
    return lambda tensor, parameters: value


def _tensor(reference: str, *, whole: bool) -> _Run:
    def run(tensor: TensorOf, parameters: Mapping[str, Parameter]) -> Value:
        array = tensor(reference)
        if array is None:
            raise ExpressionError(f"{reference!r} is missing; ask 'has({reference})' first")
        if whole:
            return array
        try:
            return values.single(array)
        except ExpressionError as error:
            raise ExpressionError(f"{reference!r}: {error}") from None

    return run


def _element(value: _Run, index: tuple[int, ...], *, whole: bool) -> _Run:
    def run(tensor: TensorOf, parameters: Mapping[str, Parameter]) -> Value:
        part = values.element(value(tensor, parameters), index)
        return part if whole or not isinstance(part, np.ndarray) else values.single(part)

    return run


def _parameter(name: str) -> _Run:
    def run(tensor: TensorOf, parameters: Mapping[str, Parameter]) -> Value:
        if name not in parameters:
            raise ExpressionError(f"the request has no parameter {name!r}")
        return parameters[name]

    return run


def _bool_op(is_and: bool, parts: Sequence[_Run]) -> _Run:
    def run(tensor: TensorOf, parameters: Mapping[str, Parameter]) -> Value:
        for part in parts:
            value = part(tensor, parameters)
            if (value if value is True or value is False else values.truth(value)) is not is_and:
                return not is_and
        return is_and

    return run


def _not(operand: _Run) -> _Run:
    return lambda tensor, parameters: not values.truth(operand(tensor, parameters))


def _negative(operand: _Run) -> _Run:
    return lambda tensor, parameters: -values.number(operand(tensor, parameters))


def _bin_op(operate: Callable[[Any, Any], Any], left: _Run, right: _Run) -> _Run:
    return lambda tensor, parameters: values.calculate(operate, left(tensor, parameters), right(tensor, parameters))


def _comparison(op: ast.cmpop) -> Callable[[Value, Value], Value]:
    if isinstance(op, ast.In):
        return values.is_in
    if isinstance(op, ast.NotIn):
        return lambda value, among: not values.is_in(value, among)
    operate = _COMPARISONS[type(op)]

    def compare(one: Value, other: Value) -> Value:
        if type(one) is float and type(other) is float:  # most often
            return operate(one, other)
        return values.compare(operate, one, other)

    return compare
