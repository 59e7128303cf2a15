"""How an ensemble's answers become one: every kind of datatype and shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from salver.core.errors import ModelFailed
from salver.core.tensor import DTYPES, Array
from salver.graph.steps.combine import mean, stacked, vote

NUMBERS = [name for name in DTYPES if name != "BYTES"]
FLOATS = ["FP16", "BF16", "FP32", "FP64"]


def array(values: Any, datatype: str) -> Array:
    return np.array(values, DTYPES[datatype])


@pytest.mark.parametrize("datatype", NUMBERS)
def test_the_mean_of_any_number(datatype: str) -> None:
    result = mean("y", [array([0, 1], datatype), array([1, 1], datatype)])
    assert result.astype(np.float64).tolist() == [0.5, 1.0]
    assert result.dtype == DTYPES[datatype if datatype in FLOATS else "FP64"]


@pytest.mark.parametrize("datatype", FLOATS)
def test_a_mean_is_in_range_though_the_sum_is_not(datatype: str) -> None:
    most = DTYPES[datatype].type(60000.0 if datatype == "FP16" else 3e38)
    result = mean("y", [array([most], datatype)] * 3)
    assert result.astype(np.float64).tolist() == [pytest.approx(float(most), rel=1e-12)]


def test_weights() -> None:
    members = [array([[1.0, 2.0]], "FP32"), array([[5.0, 4.0]], "FP32")]
    result = mean("y", members, [3, 1])
    assert (result.tolist(), result.dtype) == ([[2.0, 2.5]], np.float32)
    assert mean("y", members, [0, 0.5]).tolist() == [[5.0, 4.0]]
    with pytest.raises(ModelFailed, match="all have the weight 0"):
        mean("y", members[:1], [0])


@pytest.mark.parametrize("datatype", NUMBERS)
def test_a_vote_on_any_number(datatype: str) -> None:
    result = vote("y", [array([0, 1, 1], datatype), array([1, 1, 0], datatype), array([1, 0, 0], datatype)])
    assert result.astype(np.int64).tolist() == [1, 1, 0]
    assert result.dtype == DTYPES[datatype]


def test_a_vote_on_texts() -> None:
    members = [array([b"cat", b"\xc3\xa4"], "BYTES"), array([b"dog", b"b"], "BYTES"), array([b"dog", b"c"], "BYTES")]
    result = vote("label", members)
    assert (result.tolist(), result.dtype) == ([b"dog", b"b"], object)


def test_of_equals_the_smallest_wins_and_nan_never_does() -> None:
    members = [array([3.0, np.nan], "FP32"), array([2.0, np.nan], "FP32"), array([5.0, 7.0], "FP32")]
    assert vote("y", members).tolist() == [2.0, 7.0]


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,), (2, 3)])
@pytest.mark.parametrize("datatype", ["INT64", "FP32", "BF16", "BOOL", "BYTES"])
def test_any_shape(shape: tuple[int, ...], datatype: str) -> None:
    one = np.full(shape, b"a" if datatype == "BYTES" else 1, DTYPES[datatype])
    assert vote("y", [one, one]).shape == shape
    assert vote("y", [one]).tolist() == one.tolist()
    if datatype != "BYTES":
        result = mean("y", [one, one])
        assert isinstance(result, np.ndarray)
        assert result.shape == shape


def test_datatypes_that_differ_become_one_that_holds_both() -> None:
    assert mean("y", [array([1], "INT64"), array([2], "FP32")]).tolist() == [1.5]
    assert vote("y", [array([True], "BOOL"), array([2], "INT8"), array([2], "INT64")]).tolist() == [2]
    result = mean("y", [array([1], "BF16"), array([2], "FP32")])
    assert (result.tolist(), result.dtype) == ([1.5], np.float32)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([np.zeros((1, 2)), np.zeros(2)], r"different shapes, \[1, 2\] and \[2\]"),
        ([np.zeros(1), np.array([b"a"], object)], "different datatypes, texts and numbers"),
        ([array([1], "BF16"), array([1], "FP16")], "in datatypes that no other holds: BF16 and FP16"),
    ],
)
def test_what_does_not_fit_together(members: list[Array], text: str) -> None:
    for combine in (stacked, mean, vote):
        with pytest.raises(ModelFailed, match=f"output 'y' in {text}" if "no other" not in text else text):
            combine("y", members)


def test_texts_have_no_mean() -> None:
    with pytest.raises(ModelFailed, match="is text, which has no mean; use 'combine: vote'"):
        mean("y", [np.array([b"a"], object)] * 2)
