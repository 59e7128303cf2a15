"""Conditions: what they mean, and what is refused before or while they are told."""

from __future__ import annotations

import re
from contextlib import suppress

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core.tensor import Array, datatype_of
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
    "a.alone": np.array(b"Guten Tag", object),
    "a.one": np.array([[[3]]]),
    "a.high": np.full(10, 60000, np.float16),
    "a.lowest": np.array([-128], np.int8),
    "a.lows": np.array([-128, 1], np.int8),
    "a.huge": np.array([2**64 - 1, 2**64 - 1], np.uint64),
    "a.thirds": np.array([0.1, 0.3], np.float32),
    "a.large": np.array([2**53 + 1]),
    "a.infinite": np.array([np.inf]),
    "a.broken": np.array([b"\xff\xfe"], object),
}
PARAMETERS = {"level": 3, "user": "me", "fast": True, "word": "cat"}


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
        ("'Guten Tag' in a.text and not 'Tag' in a.text and 'Tag' in a.text[0] and 'Tag' in a.alone", True),
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
        ("len(a.broken) == 1 and len(a.broken[0]) == 2 and len(a.alone) == 9", True),
        ("len(a.s) == 1 and shape(a.s) == [1] and shape(a.flag) == [] and shape(a.m[0]) == [3]", True),
        ("a.s in [0.75] and a.s in a.s and 4 not in a.m[0] and 2 in a.m[0]", True),
        ("a.s == [0.75] and a.m[0, 1] == 1 and a.m[0][1] == 1 and a.one[0] == 3 and a.one[0, 0, 0] == 3", True),
        ("'a' in 'cat' and 'a' in parameters.word and parameters['word'] == 'cat' and has(parameters['word'])", True),
        ("sum(a.high) == 600000 and mean(a.high) == 60000 and max(a.high * 2) == 120000", True),
        ("abs(a.lowest) == 128 and max(abs(a.lows)) == 128 and max(-a.lows) == 128", True),
        ("sum(a.huge) > 2e19 and max(a.huge) == 18446744073709551615 and all(a.huge > -1)", True),
        ("any(a.thirds == 0.1) or 0.1 in a.thirds or a.thirds[0] == 0.1", False),
        ("a.large - 1 == 9007199254740992", True),
        ("['a', 'b'][1] == 'b' and [1, 2] == [1, 2] and max([1, 2.5]) == 2.5 and len([1, 2]) == 2", True),
        ("round(a.infinite) == a.infinite and round(2) == 2 and max(round(a.thirds)) == 0", True),
        ("any(a.v // 0 > 1) or any(a.v % 0 > 1)", True),
        ("'# no comment\t' == \"# no comment\t\"", True),
        ("a.v[0] == 0\n  and a.v[1] == 1", True),
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
        ("all(a.v == a.m)", "shapes [5] and [2, 3] don't go together"),
        ("sum(a.words) > 1", "expected numbers, got texts of shape [2]"),
        ("any(a.words > 'a')", "only single texts have an order"),
        ("a.v in [1]", "'in' looks for one number or text, not for numbers of shape [5]"),
        ("1 in a.words", "'in' can't find 1 among texts of shape [2]"),
        ("a.v[0] in [a.v, 1]", "a list holds single numbers and texts, not numbers of shape [5]"),
        ("a.v + [1] == 1", "expected numbers, got a list"),
        ("'abc'[0] == 'a'", "the text 'abc' has no element [0]"),
        ("[1, 2][2] == 1", "a list has no element [2]"),
        ("a.m == []", "shapes [2, 3] and [0] don't go together"),
        ("max([1, 'a']) == 1", "expected numbers, got a list"),
        ("1e308 * 10 > 1 and 1" + "0" * 400 + " / 3 > 1", "too large"),
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
        "a.s > 1 # a comment",
        "a.s == '\\d'",
        "a.s == '\ud800'",
        "1 < a.s in [1]",
        "[[1], 2] == 1",
        "(lambda: " + "not " * 240 + "1)",
        "a.s if " + "-" * 900 + "1 else 2",
        "a.class == 1",
        "a.s) or (a.s",
        "1 is 1",
        "has(parameters)",
        "a.s[0][1:]",
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
    with pytest.raises(
        ExpressionError, match=r"'a\.x': numbers of shape .*: 2000000 elements, and a condition takes 1000000"
    ):
        expression.evaluate(lambda _: np.zeros(2_000_000), {})
    assert told_of("len(a.x) == 2000000", np.zeros(2_000_000))
    assert told_of("a.x[5] == 0", np.zeros(2_000_000))
    with pytest.raises(ExpressionError, match="200000 elements, and a condition takes 100000"):
        told_of("any(a.x == 'a')", np.full(200_000, b"a", object))
    with pytest.raises(ExpressionError, match=r"'a\.x': a text of 5000000 bytes, and a condition takes 4194304"):
        told_of("'a' in lower(a.x)", np.array([b"a" * 5_000_000], object))
    with pytest.raises(ExpressionError, match="bytes, and a condition takes 4194304"):
        told_of("any(a.x == 'a')", np.full(2_000, b"a" * 5_000, object))


def told_of(text: str, array: Array) -> bool:
    return Expression.parse(text).evaluate(lambda _: array, {})


TYPES = {
    "a.x": TensorType("FP32", (1,), optional=True),
    "a.any": TensorType(None, None),
    "a.one": TensorType("FP32", (1,)),
    "a.rows": TensorType("FP32", (-1, 3)),
    "a.some": TensorType("INT64", (-1,)),
    "a.words": TensorType("BYTES", (-1,)),
    "a.pair": TensorType("BYTES", (2,)),
    "a.five": TensorType("FP32", (5,)),
    "a.flag": TensorType("BOOL", ()),
    "parameters.level": TensorType("INT64", ()),
    "parameters.user": TensorType("BYTES", ()),
}


@pytest.mark.parametrize(
    "text",
    [
        "a.any > 1",
        "a.any",
        "has(a.x) and a.x > 1",
        "not has(a.x) or a.x > 1",
        "not (not has(a.x) or not a.flag) and a.x > 1",
        "(has(a.x) and a.flag or has(a.x)) and a.x > 1",
        "a.some > 1",
        "a.flag and not a.one",
        "any(a.rows > 0.5) or max(a.rows[0]) > parameters.level",
        "a.rows[4, 2] > 1",
        "'x' in a.words and len(a.words) > 1 and parameters.user == a.words[0]",
        "a.words == 'x'",
        "has(parameters.other) and parameters.other == 1",
        "shape(a.rows) == [2, 3] and all(a.rows[0] + a.rows[1] > a.one)",
        "a.five[0] in [1, 2, a.some]",
        "lower(a.words) < 'b' and a.any in a.any",
        "len(a.five) > 7 and a.five[7] > 1 or len(shape(a.five)) > 1 and a.five[0, 7] > 1",
    ],
)
def test_the_check_lets_pass_what_may_go_well(text: str) -> None:
    assert Expression.parse(text).check(TYPES.get) == ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a.x > 1", "'a.x' may be missing; ask 'has(a.x) and ...' first"),
        ("a.x > 1 and has(a.x)", "'a.x' may be missing"),
        ("has(a.x) or a.x > 1", "'a.x' may be missing"),
        ("not has(a.x) and a.x > 1", "'a.x' may be missing"),
        ("(has(a.x) or a.flag) and a.x > 1", "'a.x' may be missing"),
        ("b.z > 1", "there is no tensor 'b.z'"),
        ("has(b.z)", "there is no tensor 'b.z'"),
        ("parameters.other == 1", "parameter 'other' isn't declared, and a request without it would fail"),
        ("a.words == 1", "texts of shape [-1] and a number can't be compared: a.words == 1"),
        ("parameters.user > 1", "a text and a number can't be compared"),
        ("parameters.user", "expected true or false, and parameters.user is a text"),
        ("a.rows > 1", "expected true or false, and a.rows > 1 is numbers of shape [-1, 3]; 'any(...)' or"),
        ("a.flag and not a.five", "expected true or false, and a.five is numbers of shape [5]"),
        ("a.pair > 'x'", "only numbers and single texts have an order"),
        ("a.one[1] > 0", "there is no element [1] in shape [1]: a.one[1]"),
        ("a.some[0, 0] > 0", "there is no element [0, 0] in shape [-1]"),
        ("all(a.five == a.rows)", "shapes [5] and [-1, 3] don't go together"),
        ("a.words + 1 > 2", "expected numbers, and a.words is texts of shape [-1]"),
        ("sum(a.words) > 2", "expected numbers, and a.words is texts of shape [-1]"),
        ("lower(a.flag) == 'x'", "expected a text, and a.flag is a number"),
        ("contains(a.pair, 'x')", "expected a text, and a.pair is texts of shape [2]"),
        ("'x' in a.rows", "'in' can't find a text among numbers of shape [-1, 3]"),
        ("a.five in [1]", "'in' looks for one number or text, not for numbers of shape [5]"),
        ("1 in a.flag", "'in' looks in a list, a text or a tensor, not in a number"),
        ("[a.five] == [1]", "a list holds single numbers and texts, and a.five is numbers of shape [5]"),
        ("len(a.flag) > 1", "a.flag is a single number, and has no length"),
        ("[1] < [2]", "only numbers and single texts have an order"),
        ("[1, 2]", "expected true or false, and [1, 2] is a list"),
    ],
)
def test_the_check_finds_what_is_sure_to_go_wrong(text: str, problem: str) -> None:
    assert problem in Expression.parse(text).check(TYPES.get)


OPERANDS = st.recursive(
    st.sampled_from([*(name for name in TENSORS if ":" not in name), "0", "2.5", "'de'", "parameters.level", "true"]),
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner),
        st.builds("({} {} {})".format, inner, st.sampled_from(["==", "!=", "<", "<=", "in", "not in"]), inner),
        st.builds(
            "{}({})".format, st.sampled_from(["len", "shape", "sum", "max", "any", "round", "abs", "lower"]), inner
        ),
        st.builds("{}[{}]".format, inner, st.sampled_from(["0", "-1", "1, 0"])),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds("(-{})".format, inner),
        st.builds("contains({}, {})".format, inner, inner),
    ),
    max_leaves=5,
)


@given(OPERANDS)
def test_what_the_check_refuses_would_have_failed(text: str) -> None:
    try:
        expression = Expression.parse(text)
    except ValueError:
        return  # such as a list in a list
    types = {name: TensorType(datatype_of(array), array.shape) for name, array in TENSORS.items()}
    problem = expression.check({**types, "parameters.level": TensorType("INT64", ())}.get)
    try:
        expression.evaluate(TENSORS.get, PARAMETERS)
    except ExpressionError:
        return
    assert problem == ""


def test_where_a_condition_is_wrong() -> None:
    for text, problem in (
        ("  a.s > > 1", "invalid syntax at character 9"),
        ("a.b.c > 1", "'a.b.c' has two dots; an output whose name isn't a word is written a[\"b.c\"]"),
        ("a.s > 1 and (lambda: 1)", "'lambda: 1' means nothing in a condition"),
        ("a.s > 1 # x", "'#' at character 9"),
    ):
        with pytest.raises(ValueError, match=re.escape(problem)):
            Expression.parse(text)


@given(st.text(alphabet="abs.xy()[]<>=!+-*/%0123456789 '\"_andortihas,", max_size=60))
def test_nothing_but_its_own_errors_comes_of_any_text(text: str) -> None:
    with suppress(ValueError):
        Expression.parse(text).evaluate(TENSORS.get, PARAMETERS)


def test_the_bound_of_its_length() -> None:
    assert told("true " + " " * (MAX_LENGTH - 6))
    with pytest.raises(ValueError, match="1000 characters at most"):
        Expression.parse(" " * MAX_LENGTH + "true")
