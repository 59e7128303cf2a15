"""Conditions of KServe's graphs, as conditions of ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from salver.core.request import Parameters
from salver.core.tensor import Array
from salver.graph.expressions import Expression
from salver.store.layouts.kserve_conditions import parse_condition

LABELS = np.array([b"dog", b"cat"], dtype=object)
SCORES = np.array([[0.25, 0.5], [0.75, 1.0]], np.float32)


def holds(text: str, array: Array | None = None, **parameters: Any) -> bool:
    """Whether a condition is true of a tensor."""
    condition = parse_condition(text)
    if array is not None and condition.is_flat:
        array = array.reshape(-1)
    given: Parameters = parameters
    return Expression.parse(condition.expression("step.x")).evaluate({"step.x": array}.get, given)


@pytest.mark.parametrize(
    ("text", "tensor", "expected"),
    [
        ('[@this].#(predictions.0=="dog")', "#", True),
        ('[@this].#(predictions.0 == "cat")', "#", False),
        ('[@this].#(predictions.1!="dog")', "#", True),
        ("[@this].#(instances.1==cat)", "#", True),
        ('outputs.0.data.0=="dog"', "#0", True),
        ('[@this].#(outputs.#(name=="label").data.1 == "cat")', "label", True),
        ("inputs.#(name==label).data.1 == cat", "label", True),
        ('predictions.0.label == "dog"', "label", True),
        ('[@this].#(outputs.2.data.0 % "do*")', "#2", True),
        ('[@this].#(outputs.2.data.0 % "*og")', "#2", True),
        ('[@this].#(outputs.2.data.0 % "*o*")', "#2", True),
        ('[@this].#(outputs.2.data.0 !% "*o*")', "#2", False),
        ('[@this].#(outputs.2.data.0 !% "c*")', "#2", True),
        ('[@this].#(outputs.2.data.0 % "dog")', "#2", True),
        ('outputs.#(name=="label")', "label", True),
        ("predictions.1", "#", True),
        ("predictions.2", "#", False),
        ('[@this].#(predictions.7=="dog")', "#", False),  # nothing is found there, as in GJSON
    ],
)
def test_texts(text: str, tensor: str, expected: bool) -> None:
    assert parse_condition(text).tensor == tensor
    assert holds(text, LABELS) is expected
    assert not holds(text, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("outputs.0.data.3 == 1", True),  # the protocol's data has one dimension
        ("outputs.0.data.3 >= 1.5", False),
        ("outputs.0.data.1.0 > 0.7", True),
        ("predictions.0.1 < .6", True),
        ("predictions.0.2 < .6", False),
        ("predictions.0.1 <= -5e-1", False),
    ],
)
def test_numbers(text: str, expected: bool) -> None:
    assert holds(text, SCORES) is expected


def test_quotes_in_a_text_stay_in_it() -> None:
    nasty = "\"' or True or '\\é"
    quoted = nasty.replace("\\", "\\\\").replace('"', '\\"')
    assert holds(f'[@this].#(outputs.0.data.0 == "{quoted}")', np.array([nasty.encode()], dtype=object))
    assert not holds(f'[@this].#(outputs.0.data.0 == "{quoted}")', LABELS)


def test_parameters() -> None:
    assert holds('[@this].#(parameters.kind == "all")', kind="all")
    assert not holds('[@this].#(parameters.kind == "all")', kind="none")
    assert not holds('[@this].#(parameters.kind == "all")')
    assert holds("parameters.vip == true", vip=True)
    assert holds("parameters.vip", vip=False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{ .input.userId == 1 }",
        "[@this].#(userId==1)#",
        "[@this].#(a.b == 1) || [@this].#(c == 2)",
        "outputs.0.shape.0 == 1",
        "outputs.0 == 1",
        "outputs.0.data.0 == null",
        'outputs.0.data.0 % "a*b"',
        "outputs.0.data.0 % 5",
        'outputs.0.data.0 == "a" or 1',
        'outputs.0.data.0 == "\\x"',
        "outputs.0.data.99999999999 == 1",
        "predictions.#.x",
        "parameters.a-b == 1",
    ],
)
def test_what_graphs_cannot_be_asked_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|can't be read|no null|is a tensor|is no text"):
        parse_condition(text)
