"""Conditions: what they mean, and what is refused before or while they are told."""

from __future__ import annotations

from contextlib import suppress

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core.tensor import Array
from salver.graph.expressions import MAX_LENGTH, Expression, ExpressionError
from salver.graph.tensor_types import TensorType

TENSORS: dict[str, Array] = {
    "a.s": np.array([0.75], np.float32),
    "a.flag": np.array(True),
    "a.text": np.array([b"Guten Tag"], object),
    "a.words": np.array([b"de", "en"], object),
    "a.v": np.arange(5),
    "a.m": np.arange(6).reshape(2, 3),
    "a.small": np.array([200, 100], np.uint8),
    "a.none": np.empty((0, 4), np.float32),
    "a.half": np.array([0.5, 1.5], ml_dtypes.bfloat16),
    "a.nan": np.array([np.nan], np.float32),
    "a.out:0": np.array([7]),
    "a.broken": np.array([b"\xff\xfe"], object),
}
PARAMETERS = {"level": 3, "user": "me", "fast": True}


def told(text: str | bool) -> bool:
    return Expression.parse(text).evaluate(TENSORS.get, PARAMETERS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (True, True),
        ("false", False),
        ("True and not False", True),
        ("a.s > 0.5", True),
        ("0.5 < a.s <= 0.75", True),
        ("a.s == 0.75 or b.missing > 1", True),
        ("a.flag", True),
        ("not a.flag", False),
        ("lower(a.text) == 'guten tag'", True),
        ("'Tag' in a.text", True),
        ("startswith(a.text, 'Guten') and endswith(a.text, 'g') and contains(a.text, 'ten')", True),
        ("'de' in a.words and 'fr' not in a.words", True),
        ("a.words[1] == 'en'", True),
        ("any(a.words == 'en') and not all(a.words == 'en')", True),
        ("a.v[-1] == 4 and a.m[1, 2] == 5", True),
        ("sum(a.m[1]) == 12", True),
        ("len(a.m) == 2 and shape(a.m) == [2, 3]", True),
        ("mean(a.v) == 2 and min(a.v) == 0 and max(a.v) == 4 and argmax(a.v) == 4", True),
        ("max(a.small + a.small) == 400", True),
        ("a.s * 2 - 1 == 0.5 and 7 // 2 == 3 and 7 % 4 == 3 and -7 / 2 == -3.5", True),
        ("abs(-3) == 3 and round(2.6) == 3", True),
        ("3 in [1, 2, 3] and 'x' not in ['a', 'b'] and 3 in a.v", True),
        ("has(a.s) and not has(b.x)", True),
        ("len(a.none) == 0 and sum(a.none) == 0 and not any(a.none > 1)", True),
        ("max(a.half) > 1", True),
        ("a.nan == a.nan", False),
        ('a["out:0"] == 7 and has(a["out:0"])', True),
        ("parameters.level > 2 and parameters.user == 'me' and parameters.fast", True),
        ("has(parameters.level) and not has(parameters.other)", True),
        ("a.s[0] == a.s", True),
        ("len(a.broken) == 2", True),
        ("'true' == 'true' and \"false\" != 'true'", True),
    ],
)
def test_what_conditions_mean(text: str | bool, expected: bool) -> None:
    assert told(text) is expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("b.x > 1", "'b.x' is missing; ask 'has(b.x)' first"),
        ("a.v > 1", "expected true or false, got numbers of shape [5]; 'any(...)' or 'all(...)' makes one of many"),
        ("a.text > 1", "the text 'Guten Tag' and 1 can't be compared"),
        ("a.text + 'x' == 'y'", "expected numbers, got the text 'Guten Tag'"),
        ("a.v + a.m > 1", "shapes [5] and [2, 3] don't go together"),
        ("all(a.v == a.m)", "shapes [5] and [2, 3] can't be compared"),
        ("a.v[9] == 1", "there is no element [9] in shape [5]"),
        ("max(a.none) > 1", "max of nothing"),
        ("1 / (a.v[0]) > 1", "a division by zero"),
        ("parameters.other == 1", "the request has no parameter 'other'"),
        ("upper(a.s) == 'X'", "expected a text, got 0.75"),
        ("a.text", "expected true or false, got the text 'Guten Tag'"),
        ("len(3) == 1", "3 has no length"),
        ("[1] < [2]", "lists have no order"),
        ("1 in 3", "'in' looks in a list, a text or a tensor, not in 3"),
    ],
)
def test_what_can_not_be_told(text: str, problem: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        told(text)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "a.b.c",
        "a.s >",
        "a.s = 1",
        "a.s := 1",
        "a.s is 1",
        "2 ** 99",
        "1 << 99",
        "a.s[0:2]",
        "a.s[True]",
        "a.s[99999999999]",
        "a.v[a.s]",
        "f'{a.s}'",
        "b'x' == a.s",
        "lambda: 1",
        "(lambda: 1)()",
        "[x for x in a.v]",
        "{1: 2}",
        "a.s if a.s else 1",
        "__import__('os')",
        "a.__class__.__bases__",
        "open('x')",
        "len(a.s, a.s)",
        "len()",
        "len(x=1)",
        "has(1)",
        "has(a)",
        "1j > 0",
        "...",
        "not " * 40 + "a.s",
        "(" * 300 + "1" + ")" * 300,
        "-" * 500 + "1",
        "a.s\0",
        "1" * 5000,
        "await a.s",
        "a.s; a.s",
        "a.s\nimport os",
    ],
)
def test_what_is_no_condition_is_refused_when_it_is_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Expression.parse(text)


def test_what_a_condition_reads() -> None:
    expression = Expression.parse("has(a.x) and b['y:0'] > parameters.level and item.z == 1")
    assert expression.references == {"a.x", "b.y:0", "item.z"}
    assert expression.asked_for == {"a.x"}
    assert expression.parameters == {"level"}


def test_large_tensors_are_refused() -> None:
    expression = Expression.parse("max(a.x) > 1")
    with pytest.raises(ExpressionError, match="has 2000000 elements, and a condition takes 1000000"):
        expression.evaluate(lambda _: np.zeros(2_000_000), {})


def test_the_check_finds_what_may_be_missing() -> None:
    types = {"a.x": TensorType("FP32", (1,), optional=True), "a.y": TensorType(None, None)}
    assert Expression.parse("a.y > 1").check(types.get) == ""
    assert Expression.parse("has(a.x) and a.x > 1").check(types.get) == ""
    assert "may be missing" in Expression.parse("a.x > 1").check(types.get)
    assert "there is no tensor 'b.z'" in Expression.parse("b.z > 1").check(types.get)


@given(st.text(alphabet="abs.xy()[]<>=!+-*/%0123456789 '\"_andortihas,", max_size=60))
def test_nothing_but_its_own_errors_comes_of_any_text(text: str) -> None:
    with suppress(ValueError):
        Expression.parse(text).evaluate(TENSORS.get, PARAMETERS)


def test_the_bound_of_its_length() -> None:
    assert told("true " + " " * (MAX_LENGTH - 6))
    with pytest.raises(ValueError, match="1000 characters at most"):
        Expression.parse(" " * MAX_LENGTH + "true")
