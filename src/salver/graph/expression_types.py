"""What can be told of a condition before it runs: tensors that may be missing, and operands that don't go together.

Only what is sure to go wrong is a problem: a dimension that isn't known may be one.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from salver.core.tensor import Shape
from salver.graph.expression_values import CALCULATIONS, REDUCTIONS, TEXT_FUNCTIONS
from salver.graph.tensor_types import TensorType

TypeOf: TypeAlias = Callable[[str], TensorType | None]
_Kind: TypeAlias = Literal["number", "text"] | None
_ORDERS: Final = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_NOTHING: Final[frozenset[str]] = frozenset()


def check_types(tree: ast.expr, type_of: TypeOf) -> str:
    """What is wrong with a condition; "" where nothing is known to be.

    Args:
        tree: a condition that :class:`~salver.graph.expressions.Expression` takes.
        type_of: what is known of a tensor, or of ``parameters.NAME``; None for one that isn't there, or for a
            parameter that isn't declared.
    """
    check = _Check(type_of)
    try:
        check.truth(tree, _NOTHING)
    except _Problem as problem:
        return str(problem)
    return ""


def reference_of(node: ast.expr) -> tuple[str, str] | None:
    """The origin and the name in ``step.output`` or ``step["output"]``; None for what is no reference."""
    match node:
        case ast.Attribute(value=ast.Name(id=origin), attr=name):
            return origin, name
        case ast.Subscript(value=ast.Name(id=origin), slice=ast.Constant(value=str() as name)):
            return origin, name
    return None


def integer_of(node: ast.expr) -> int | None:
    """The number that an index is; None where it is something else."""
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        sign, node = -1, node.operand
    return sign * node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


class _Problem(Exception):
    """Something is sure to go wrong."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a value: what it holds, and its shape: () for one alone, None where it isn't known."""

    kind: _Kind
    shape: Shape | None
    is_list: bool = False

    @property
    def may_be_one(self) -> bool:
        """Whether it may be a single number or text."""
        return not self.is_list and (self.shape is None or all(size in (1, -1) for size in self.shape))

    def __str__(self) -> str:
        if self.is_list:
            return "a list"
        what = "a value" if self.kind is None else f"a {self.kind}"
        return what if not self.shape else f"{self.kind or 'value'}s of shape {list(self.shape)}"


_ONE_NUMBER: Final = _Known("number", ())


class _Check:
    def __init__(self, type_of: TypeOf) -> None:
        self._type_of = type_of
        self._guards = 0

    def truth(self, node: ast.expr, present: frozenset[str]) -> None:
        """Look at what has to be true or false; ``present``: what is known to be there when it is asked."""
        match node:
            case ast.BoolOp(op=op, values=parts):
                is_and = isinstance(op, ast.And)
                for number, part in enumerate(parts):
                    self._guards += number > 0
                    self.truth(part, present)
                    self._guards -= number > 0
                    present |= assured(part, is_and)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self.truth(operand, present)
            case _:
                found = self.value(node, present)
                if found.kind == "text" or not found.may_be_one:
                    hint = "" if found.kind == "text" else "; 'any(...)' or 'all(...)' makes one of many"
                    raise _Problem(f"expected true or false, and {ast.unparse(node)} is {found}{hint}")

    def value(self, node: ast.expr, present: frozenset[str], *, whole: bool = False) -> _Known:
        """What is known of a value; ``whole``: a tensor of one element doesn't count as that element."""
        match node:
            case ast.Constant(value=value):
                return _Known("text" if isinstance(value, str) else "number", ())
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return self._list(elements, present)
            case ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                self.truth(node, present)
                return _ONE_NUMBER
            case ast.UnaryOp(operand=operand):
                return self._numbers(operand, present)
            case ast.BinOp(left=left, right=right):
                return self._together(node, self._numbers(left, present), self._numbers(right, present))
            case ast.Compare(left=left, ops=ops, comparators=others):
                return self._compare(node, left, ops, others, present)
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return self._call(name, arguments, present)
        if (reference := reference_of(node)) is not None:
            found = self._reference(*reference, present)
        else:
            assert isinstance(node, ast.Subscript)
            found = self._element(node, self.value(node.value, present, whole=True))
        is_one = not whole and found.shape is not None and all(size == 1 for size in found.shape)
        return _Known(found.kind, ()) if is_one else found

    def _reference(self, origin: str, name: str, present: frozenset[str]) -> _Known:
        key = f"{origin}.{name}"
        found = self._type_of(key)
        if origin == "parameters":
            if found is None and key not in present:
                raise _Problem(
                    f"parameter {name!r} isn't declared, and a request without it would fail; give it a default under "
                    f"'parameters', or ask 'has({key}) and ...' first"
                )
            return _Known(None, ()) if found is None else _Known(_kind(found.datatype), ())
        if found is None:
            raise _Problem(f"there is no tensor {key!r}")
        if found.optional and key not in present:
            raise _Problem(f"{key!r} may be missing; ask 'has({key}) and ...' first")
        return _Known(_kind(found.datatype), found.shape)

    def _list(self, elements: Sequence[ast.expr], present: frozenset[str]) -> _Known:
        found = [self.value(each, present) for each in elements]
        for node, each in zip(elements, found, strict=True):
            if not each.may_be_one:
                raise _Problem(f"a list holds single numbers and texts, and {ast.unparse(node)} is {each}")
        kinds = {each.kind for each in found}
        kind: _Kind = kinds.pop() if len(kinds) == 1 else None
        return _Known(kind, (len(elements),), is_list=True)

    def _element(self, node: ast.Subscript, found: _Known) -> _Known:
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        index = [integer_of(part) for part in parts]
        if found.shape is None:
            return _Known(found.kind, None)
        fits = len(index) <= len(found.shape) and all(
            size == -1 or (at is not None and -size <= at < size) for at, size in zip(index, found.shape, strict=False)
        )
        if not fits and self._guards:  # 'len(x) > 4 and x[4]' never gets there
            return _Known(found.kind, None)
        if not fits:
            raise _Problem(f"there is no element {index} in shape {list(found.shape)}: {ast.unparse(node)}")
        return _Known(found.kind, found.shape[len(index) :])

    def _numbers(self, node: ast.expr, present: frozenset[str]) -> _Known:
        found = self.value(node, present)
        if found.kind == "text" or found.is_list:
            raise _Problem(f"expected numbers, and {ast.unparse(node)} is {found}")
        return _Known("number", found.shape)

    def _text(self, node: ast.expr, present: frozenset[str]) -> None:
        found = self.value(node, present)
        if found.kind == "number" or not found.may_be_one:
            raise _Problem(f"expected a text, and {ast.unparse(node)} is {found}")

    def _together(self, node: ast.expr, one: _Known, other: _Known) -> _Known:
        if one.shape is None or other.shape is None:
            return _Known("number", None)
        if one.may_be_one or other.may_be_one:
            sure = [each for each in (one, other) if not each.may_be_one] or [one if one.shape else other]
            return _Known("number", sure[0].shape)
        pairs = zip(one.shape, other.shape, strict=False)
        if len(one.shape) != len(other.shape) or any(-1 not in pair and pair[0] != pair[1] for pair in pairs):
            shapes = f"{list(one.shape)} and {list(other.shape)}"
            raise _Problem(f"shapes {shapes} don't go together: {ast.unparse(node)}")
        return _Known("number", one.shape)

    def _compare(
        self,
        node: ast.Compare,
        left: ast.expr,
        ops: Sequence[ast.cmpop],
        others: Sequence[ast.expr],
        present: frozenset[str],
    ) -> _Known:
        one = self.value(left, present)
        result = _ONE_NUMBER
        for op, other_node in zip(ops, others, strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                self._is_in(node, one, self.value(other_node, present, whole=True))
                return _ONE_NUMBER
            other = self.value(other_node, present)
            if None not in (one.kind, other.kind) and one.kind != other.kind:
                raise _Problem(f"{one} and {other} can't be compared: {ast.unparse(node)}")
            many = not (one.may_be_one and other.may_be_one)
            if isinstance(op, _ORDERS) and (
                (one.is_list and other.is_list) or ("text" in (one.kind, other.kind) and many)
            ):
                raise _Problem(f"only numbers and single texts have an order: {ast.unparse(node)}")
            if not (one.is_list and other.is_list):
                result = self._together(node, one, other)
            one = other
        return result if len(ops) == 1 else _ONE_NUMBER

    def _is_in(self, node: ast.Compare, one: _Known, among: _Known) -> None:
        if not one.may_be_one:
            raise _Problem(f"'in' looks for one number or text, not for {one}: {ast.unparse(node)}")
        if among.shape == () and among.kind == "number":
            raise _Problem(f"'in' looks in a list, a text or a tensor, not in {among}: {ast.unparse(node)}")
        if None not in (one.kind, among.kind) and one.kind != among.kind and not among.is_list:
            raise _Problem(f"'in' can't find {one} among {among}: {ast.unparse(node)}")

    def _call(self, name: str, arguments: Sequence[ast.expr], present: frozenset[str]) -> _Known:
        if name == "has":
            reference = reference_of(arguments[0])
            if reference and reference[0] != "parameters" and self._type_of(".".join(reference)) is None:
                raise _Problem(f"there is no tensor {'.'.join(reference)!r}")
            return _ONE_NUMBER
        if name in TEXT_FUNCTIONS:
            for each in arguments:
                self._text(each, present)
            return _Known("text", ()) if name in ("lower", "upper") else _ONE_NUMBER
        if name in CALCULATIONS:
            return self._numbers(arguments[0], present)
        found = self.value(arguments[0], present, whole=name not in REDUCTIONS)
        if name in REDUCTIONS:
            if found.kind == "text":
                raise _Problem(f"expected numbers, and {ast.unparse(arguments[0])} is {found}")
        elif name == "len":
            if found.shape == () and found.kind == "number":
                raise _Problem(f"{ast.unparse(arguments[0])} is a single number, and has no length")
        else:
            return _Known("number", None if found.shape is None else (len(found.shape),), is_list=True)
        return _ONE_NUMBER


def _kind(datatype: str | None) -> _Kind:
    return None if datatype is None else "text" if datatype == "BYTES" else "number"


def assured(node: ast.expr, value: bool) -> frozenset[str]:
    """The tensors that are there where a condition is true, or is false: those that it has asked for with ``has``."""
    match node:
        case ast.BoolOp(op=op, values=parts):
            each = [assured(part, value) for part in parts]
            # All parts of an 'and' that is true are true; of one that is false, some part is false.
            return frozenset().union(*each) if isinstance(op, ast.And) == value else each[0].intersection(*each[1:])
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return assured(operand, not value)
        case ast.Call(func=ast.Name(id="has"), args=[argument]) if value:
            reference = reference_of(argument)
            return _NOTHING if reference is None else frozenset([".".join(reference)])
    return _NOTHING
