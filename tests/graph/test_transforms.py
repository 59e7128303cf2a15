"""Sources: what they give, what is known of it before, and what can't be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from salver.core.tensor import Array, datatype_of
from salver.graph.spec import Source
from salver.graph.tensor_types import TensorType, fits, merged
from salver.graph.transforms import CompiledSource, TransformError, compile_source

ADAPTER: TypeAdapter[Any] = TypeAdapter(Source)

TENSORS: dict[str, Array] = {
    "a.m": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.v": np.arange(3),
    "a.s": np.array(5),
    "a.text": np.array([b"x", b"y"], object),
    "a.none": np.empty((0, 4), np.float32),
    "a.big": np.array([300, -1]),
    "a.nan": np.array([np.nan, 1.0]),
    "a.flag": np.array([True, False]),
}


def compiled(source: Any) -> CompiledSource:
    return compile_source(ADAPTER.validate_python(source))


def value(source: Any, parameters: Any = None) -> Array | None:
    return compiled(source).evaluate(TENSORS.get, parameters or {})


def type_of(reference: str) -> TensorType | None:
    array = TENSORS.get(reference)
    return None if array is None else TensorType(datatype_of(array), array.shape)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a.v", [0, 1, 2]),
        (3, 3),
        ([1.5, 2], [1.5, 2]),
        ({"value": "hello"}, b"hello"),
        ({"value": [["a"], ["b"]]}, [[b"a"], [b"b"]]),
        ({"value": 3, "datatype": "FP64"}, 3.0),
        ({"value": True}, True),
        ({"from": "a.m", "select": [0]}, [0, 1, 2, 3]),
        ({"from": "a.m", "select": [":", -1]}, [3, 7, 11]),
        ({"from": "a.m", "select": ["1:", "::2"]}, [[4, 6], [8, 10]]),
        ({"from": "a.m", "select": [[2, 0], [1, 1]]}, [[9, 9], [1, 1]]),
        ({"from": "a.v", "select": [1]}, 1),
        ({"from": "a.text", "select": [1]}, b"y"),
        ({"from": "a.m", "transpose": [1, 0], "select": ["0:2"]}, [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ({"from": "a.m", "reshape": [2, -1]}, [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]),
        ({"from": "a.m", "reshape": [0, 2, 2]}, [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]]]),
        ({"from": "a.none", "reshape": [0, -1]}, []),
        ({"from": "a.m", "select": [0], "cast": "INT8"}, [0, 1, 2, 3]),
        ({"from": "a.flag", "cast": "FP32"}, [1.0, 0.0]),
        ({"concat": ["a.v", "a.v"]}, [0, 1, 2, 0, 1, 2]),
        ({"stack": ["a.v", [7, 8, 9]], "axis": 1}, [[0, 7], [1, 8], [2, 9]]),
        ({"first": ["b.x", "a.v"]}, [0, 1, 2]),
        ({"first": ["b.x", {"value": 9}]}, 9),
    ],
)
def test_what_a_source_gives(source: Any, expected: Any) -> None:
    array = value(source)
    assert array is not None
    assert array.tolist() == expected
    known = compiled(source)
    if known.references <= set(TENSORS):
        found = known.result_type(type_of)
        assert (found.datatype, found.optional) == (datatype_of(array), False)
        assert found.shape is not None
        assert len(found.shape) == array.ndim
        assert all(size in (-1, real) for size, real in zip(found.shape, array.shape, strict=True))


def test_natural_datatypes_of_constants() -> None:
    for constant, datatype in ((1, "INT64"), (1.0, "FP32"), (True, "BOOL"), ([1, 2.5], "FP32")):
        array = value(constant)
        assert array is not None
        assert datatype_of(array) == datatype
        assert not array.flags.writeable


def test_what_is_missing() -> None:
    assert value("b.x") is None
    assert value({"concat": ["a.v", "b.x"]}) is None
    assert value({"first": ["b.x", "b.y"]}) is None
    assert value({"parameter": "k"}) is None
    assert value({"parameter": "k", "datatype": "INT32", "reshape": [1]}, {"k": 3}) == np.array([3], np.int32)


def test_views_are_no_copies() -> None:
    array = value({"from": "a.m", "select": ["0:2"], "transpose": [1, 0]})
    assert array is not None
    assert np.shares_memory(array, TENSORS["a.m"])
    assert compiled("a.m").plain == "a.m"
    assert compiled({"from": "a.m", "reshape": [12]}).plain is None


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({"from": "a.m", "select": [5]}, "'select' doesn't fit shape [3, 4]"),
        ({"from": "a.v", "select": [0, 0]}, "'select' doesn't fit shape [3]"),
        ({"from": "a.m", "transpose": [0, 0]}, "'transpose: [0, 0]' doesn't fit shape [3, 4]"),
        ({"from": "a.m", "reshape": [5, -1]}, "'reshape: [5, -1]' doesn't fit shape [3, 4], of 12 elements"),
        ({"from": "a.v", "reshape": [0, 0]}, "'reshape: [0, 0]' keeps dimension 1, which [3] has not"),
        ({"from": "a.big", "cast": "UINT8"}, "numbers from -1 to 300 can't be cast to UINT8"),
        ({"from": "a.nan", "cast": "INT32"}, "numbers that aren't finite can't be cast to INT32"),
        ({"from": "a.text", "cast": "INT32"}, "BYTES can't be cast to INT32"),
        ({"concat": ["a.v", "a.m"]}, "'concat' of different datatypes, FP32 and INT64; 'cast' makes them one"),
        ({"concat": ["a.v", "a.s"]}, "shapes [3] and [] can't be joined by 'concat' with 'axis: 0'"),
        ({"stack": ["a.v", "a.big"]}, "shapes [3] and [2] can't be joined by 'stack' with 'axis: 0'"),
    ],
)
def test_what_can_not_be(source: Any, problem: str) -> None:
    with pytest.raises(TransformError) as caught:
        value(source)
    assert problem in str(caught.value)
    # Values aren't known before, all else is.
    if "numbers" not in problem:
        with pytest.raises(TransformError):
            compiled(source).result_type(type_of)


@pytest.mark.parametrize("constant", [[1, "a"], [[1], [1, 2]], 2**70, [[[]], [1]]])
def test_constants_that_no_tensor_can_be(constant: Any) -> None:
    with pytest.raises(TransformError):
        compiled({"value": constant})


@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    reshape=st.lists(st.integers(-1, 6), max_size=4).filter(lambda sizes: sizes.count(-1) <= 1),
)
def test_a_reshape_that_is_known_to_fit_fits(shape: list[int], reshape: list[int]) -> None:
    array = np.zeros(shape)
    source = compiled({"from": "a.x", "reshape": reshape})
    try:
        known = source.result_type(lambda _: TensorType("FP64", tuple(shape)))
    except TransformError:
        with pytest.raises(TransformError):
            source.evaluate(lambda _: array, {})
        return
    made = source.evaluate(lambda _: array, {})
    assert made is not None
    assert known.shape == made.shape


def test_which_tensors_fit() -> None:
    from salver.core.signature import TensorSpec

    wanted = TensorSpec("x", "FP32", (-1, 4))
    assert fits(TensorType("FP32", (3, 4)), wanted) == ""
    assert fits(TensorType(None, None), wanted) == ""
    assert fits(TensorType("FP32", (-1, -1)), wanted) == ""
    assert "datatype" in fits(TensorType("FP64", (3, 4)), wanted)
    assert "shape" in fits(TensorType("FP32", (3, 5)), wanted)
    assert "shape" in fits(TensorType("FP32", (4,)), wanted)
    assert fits(TensorType("INT32", (3, 4)), TensorSpec("x", "FP64", None, safe_cast=True)) == ""
    assert merged(TensorType("FP32", (1, 2)), TensorType("FP32", (3, 2))) == TensorType("FP32", (-1, 2))
    assert merged(TensorType("FP32", (1,)), TensorType("INT8", (1, 2), True)) == TensorType(None, None, True)
