"""Sources: what they give, what is known of it before, and what can't be."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import TypeAdapter

from salver.core.signature import TensorSpec
from salver.core.tensor import DTYPES, Array, datatype_of
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
    "a.large": np.array([1e39, np.inf]),
    "a.half": np.array([-2, 1.5], ml_dtypes.bfloat16),
    "a.huge": np.array(2.0**63),
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
        ({"from": "a.none", "reshape": [-1, 4]}, []),
        ({"from": "a.large", "cast": "FP32", "select": [1]}, np.inf),
        ({"from": "a.half", "cast": "INT8"}, [-2, 1]),
        ({"from": "a.half", "cast": "FP64"}, [-2.0, 1.5]),
        ({"value": ["a\0", "b"]}, [b"a\0", b"b"]),
        ({"value": [], "datatype": "BYTES"}, []),
        ({"value": [[], []]}, [[], []]),
        ({"value": 2**53 + 1}, 2**53 + 1),
        ({"value": [0, 2**64 - 1]}, [0, 2**64 - 1]),
        ({"value": 1e300, "datatype": "FP64"}, 1e300),
        ({"value": [1.0, 2], "datatype": "INT8"}, [1, 2]),
        ({"value": [True, 2]}, [1, 2]),
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
        ({"from": "a.v", "transpose": [1, 0]}, "'transpose: [1, 0]' doesn't fit shape [3]"),
        ({"from": "a.m", "reshape": [5, -1]}, "'reshape: [5, -1]' doesn't fit shape [3, 4], of 12 elements"),
        ({"from": "a.v", "reshape": [0, 0]}, "'reshape: [0, 0]' keeps dimension 1, which shape [3] hasn't"),
        ({"from": "a.m", "reshape": [0, 5]}, "'reshape: [0, 5]' doesn't fit shape [3, 4], of 12 elements"),
        ({"from": "a.none", "reshape": [0, 5]}, "'reshape: [0, 5]' doesn't fit shape [0, 4], of 0 elements"),
        ({"from": "a.m", "select": [":", [0, 9]]}, "'select' doesn't fit shape [3, 4]"),
        ({"from": "a.large", "cast": "FP16"}, "numbers from 1e+39 to 1e+39 can't be cast to FP16"),
        ({"from": "a.large", "cast": "BF16"}, "numbers from 1e+39 to 1e+39 can't be cast to BF16"),
        ({"from": "a.half", "cast": "UINT8"}, "numbers from -2 to 1 can't be cast to UINT8"),
        ({"from": "a.huge", "cast": "INT64"}, "numbers from 9223372036854775808 to 9223372036854775808 can't be"),
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


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({"value": [1, "a"]}, "of texts or of numbers, not of both"),
        ({"value": [[1], [1, 2]]}, "differ in length"),
        ({"value": [["a"], ["b", "c"]]}, "differ in length"),
        ({"value": [[[]], [1]]}, "differ in length"),
        ({"value": 2**70}, "an integer that doesn't fit 64 bits"),
        ({"value": [2**63, -1]}, "an integer that doesn't fit 64 bits"),
        ({"value": [10**400, 1.5]}, "a number that is larger than any FP64"),
        ({"value": 1e300}, "numbers from 1e+300 to 1e+300 can't be cast to FP32; 'datatype: FP64' can hold it"),
        ({"value": 1.5, "datatype": "INT32"}, "1.5 is no integer, and INT32 is wanted"),
        ({"value": float("nan"), "datatype": "INT32"}, "numbers that aren't finite can't be cast to INT32"),
        ({"value": 300, "datatype": "UINT8"}, "numbers from 300 to 300 can't be cast to UINT8"),
        ({"value": "5", "datatype": "INT32"}, "BYTES can't be cast to INT32"),
        ({"value": 5, "datatype": "BYTES"}, "INT64 can't be cast to BYTES"),
        ({"value": "\ud800"}, "holds half a character"),
        ({"value": [None]}, "a constant is a number, a text, true or false, or lists of them"),
        ({"value": 3, "select": [0]}, "'select' doesn't fit shape []: it has 1 parts"),
        ({"from": "a.m", "select": ["::0"]}, "'select' has a range with step 0"),
        ({"from": "a.m", "select": [10**30]}, "an index that is larger than any dimension"),
        ({"from": "a.m", "select": [[0, 10**30]]}, "an index that is larger than any dimension"),
        ({"from": "a.m", "transpose": [0, 0]}, "'transpose: [0, 0]' doesn't name each dimension once"),
        ({"from": "a.m", "transpose": [10**30, 0]}, "doesn't name each dimension once"),
        ({"from": "a.none", "reshape": [0, 2**62, 2**62]}, "'reshape' has more elements than any tensor"),
    ],
)
def test_what_fits_no_tensor_is_refused_before_there_is_one(source: Any, problem: str) -> None:
    with pytest.raises(TransformError) as caught:
        compiled(source)
    assert problem in str(caught.value)


def test_lists_as_deep_as_a_document_can_be() -> None:
    constant: Any = "a"
    for _ in range(500):
        constant = [constant]
    with pytest.raises(TransformError, match="nested too deep"):
        compiled({"value": constant})


def test_a_long_text_among_many_short_ones_takes_no_more_than_itself() -> None:
    tracemalloc.start()
    array = value({"value": ["a" * 1_000_000, *("b" * 2000)]})
    assert array is not None
    assert array.shape == (2001,)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("source", "shape", "problem"),
    [
        ({"from": "a.x", "select": [[0] * 50_000, [0] * 50_000]}, (1, 1), "'select' would take 2500000000 bytes"),
        ({"from": "a.x", "cast": "FP64"}, (2, 100_000_000), "'cast: FP64' would take 1600000000 bytes"),
        ({"concat": ["a.x"] * 12}, (100_000_000,), "'concat' would take 1200000000 bytes, and 1073741824 are the most"),
        ({"stack": ["a.x"] * 12}, (100_000_000,), "'stack' would take 1200000000 bytes"),
    ],
)
def test_what_would_take_too_much_is_refused(source: Any, shape: tuple[int, ...], problem: str) -> None:
    array = np.broadcast_to(np.uint8(0), shape)  # which takes a byte itself
    with pytest.raises(TransformError) as caught:
        compiled(source).evaluate(lambda _: array, {})
    assert problem in str(caught.value)


@pytest.mark.parametrize("wanted", [datatype for datatype in DTYPES if datatype != "BYTES"])
@pytest.mark.parametrize("came", [datatype for datatype in DTYPES if datatype != "BYTES"])
def test_numbers_of_any_datatype_become_any_other(came: str, wanted: str) -> None:
    array = compiled({"from": "a.x", "cast": wanted}).evaluate(lambda _: np.array([[0, 1]], DTYPES[came]), {})
    assert array is not None
    assert (datatype_of(array), array.shape, array.astype(float).tolist()) == (wanted, (1, 2), [[0, 1]])


@given(array=arrays(st.sampled_from([np.float32, np.float64, np.int64, np.uint64, np.int8]), 3), data=st.data())
def test_a_cast_keeps_numbers_or_refuses(array: Array, data: st.DataObject) -> None:
    wanted = data.draw(st.sampled_from(["INT8", "UINT16", "INT32", "INT64", "UINT64", "FP16", "FP32", "FP64"]))
    try:
        made = compiled({"from": "a.x", "cast": wanted}).evaluate(lambda _: array, {})
    except TransformError as error:
        assert "can't be cast" in str(error)  # noqa: PT017
        return
    assert made is not None
    for before, after in zip(array.tolist(), made.tolist(), strict=True):
        if DTYPES[wanted].kind in "iu":
            assert after == math.trunc(before)
        else:
            assert math.isfinite(after) == math.isfinite(before)


SIZES = st.integers(0, 3)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "select": st.lists(
            st.one_of(
                st.integers(-3, 3),
                st.lists(st.integers(-2, 2), max_size=3),
                st.sampled_from([":", "0:2", "1:", ":-1", "::2", "::-1"]),
            ),
            max_size=3,
        ),
        "transpose": st.one_of(st.permutations([0, 1]), st.permutations([0, 1, 2]), st.just([0, -1])),
        "reshape": st.lists(st.integers(-1, 6), max_size=4).filter(lambda sizes: sizes.count(-1) <= 1),
        "cast": st.sampled_from(["INT64", "FP16", "BYTES"]),
    },
)


@given(shape=st.lists(SIZES, max_size=4), changes=CHANGES, hidden=st.sets(SIZES))
def test_what_is_told_before_holds(shape: list[int], changes: dict[str, Any], hidden: set[int]) -> None:
    array = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    try:
        source = compiled({"from": "a.x", **changes})
    except TransformError:
        return
    exactly = TensorType("FP32", tuple(shape))
    known = TensorType("FP32", tuple(-1 if axis in hidden else size for axis, size in enumerate(shape)))
    try:
        made = source.evaluate(lambda _: array, {})
    except TransformError:
        with pytest.raises(TransformError):
            source.result_type(lambda _: exactly)
        return
    assert made is not None
    assert source.result_type(lambda _: exactly) == TensorType(datatype_of(made), made.shape)
    partly = source.result_type(lambda _: known)
    assert partly.shape is not None
    assert len(partly.shape) == made.ndim
    assert all(size in (-1, real) for size, real in zip(partly.shape, made.shape, strict=True))
    nothing = source.result_type(lambda _: TensorType(None, None))
    assert nothing.shape is None or len(nothing.shape) == made.ndim


@given(shapes=st.lists(st.lists(SIZES, max_size=3), min_size=1, max_size=3), kind=st.sampled_from(["concat", "stack"]),
       axis=st.integers(-3, 3))  # fmt: skip
def test_what_is_told_of_joined_tensors_holds(shapes: list[list[int]], kind: str, axis: int) -> None:
    tensors = {f"a.x{number}": np.zeros(shape, np.float32) for number, shape in enumerate(shapes)}
    source = compiled({kind: list(tensors), "axis": axis})
    types = {name: TensorType("FP32", array.shape) for name, array in tensors.items()}
    try:
        made = source.evaluate(tensors.get, {})
    except TransformError:
        with pytest.raises(TransformError):
            source.result_type(types.get)
        return
    assert made is not None
    assert source.result_type(types.get) == TensorType("FP32", made.shape)


def test_a_batch_that_is_kept_tells_the_rest() -> None:
    def told(shape: tuple[int, ...], reshape: list[int]) -> Any:
        return compiled({"from": "a.x", "reshape": reshape}).result_type(lambda _: TensorType("FP32", shape)).shape

    assert told((-1, 28, 28), [0, -1]) == (-1, 784)
    assert told((-1, 784), [0, 28, -1]) == (-1, 28, 28)
    assert told((-1, 784), [-1, 28, 28]) == (-1, 28, 28)
    with pytest.raises(TransformError, match=r"'reshape: \[0, 5\]' doesn't fit shape \[-1, 4\]"):
        told((-1, 4), [0, 5])


def test_which_tensors_fit() -> None:
    wanted = TensorSpec("x", "FP32", (-1, 4))
    assert fits(TensorType("FP32", (3, 4)), wanted) == ""
    assert fits(TensorType(None, None), wanted) == ""
    assert fits(TensorType("FP32", (-1, -1)), wanted) == ""
    assert "datatype" in fits(TensorType("FP64", (3, 4)), wanted)
    assert "shape" in fits(TensorType("FP32", (3, 5)), wanted)
    assert "shape" in fits(TensorType("FP32", (4,)), wanted)
    assert fits(TensorType("INT32", (3, 4)), TensorSpec("x", "FP64", None, safe_cast=True)) == ""
    assert "'cast: FP32' changes it" in fits(TensorType("FP64", None), TensorSpec("x", "FP32", None, safe_cast=True))
    assert "BYTES" in fits(TensorType("BYTES", None), TensorSpec("x", "FP32", None, safe_cast=True))
    assert merged(TensorType("FP32", (1, 2)), TensorType("FP32", (3, 2))) == TensorType("FP32", (-1, 2))
    assert merged(TensorType("FP32", (1,)), TensorType("INT8", (1, 2), True)) == TensorType(None, None, True)
