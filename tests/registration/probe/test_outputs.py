"""What answers are held against."""

from __future__ import annotations

import numpy as np
import pytest

from salver.core.errors import InvalidArtifact
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import DTYPES, Array
from salver.registration.probe.outputs import OutputCheck

SIGNATURE = Signature((), (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("any", None, None)))
FINE = {"y": np.zeros((3, 2), np.float32), "any": np.zeros(1)}


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ({"any": np.zeros(1)}, r"its signature promises an output 'y', and it gave 'any'"),
        ({}, r"promises an output 'y', and it gave none"),
        (FINE | {"y": np.zeros((3, 2))}, r"its output 'y' is FP64, and its signature promises FP32"),
        (FINE | {"y": np.zeros((3, 3), np.float32)}, r"the shape \[3, 3\], and its signature promises \[-1, 2\]"),
        (FINE | {"y": np.zeros(2, np.float32)}, r"the shape \[2\]"),
        (
            FINE | {"y": np.zeros((1, 2), np.complex64)},
            r"its output 'y': arrays of dtype complex64 have no V2 datatype",
        ),
    ],
)
def test_what_was_not_promised(outputs: dict[str, Array], reason: str) -> None:
    with pytest.raises(InvalidArtifact, match=reason):
        OutputCheck(SIGNATURE).look_at(outputs, ["y", "any"])


def test_outputs_that_nobody_expects_may_be_missing() -> None:
    OutputCheck(SIGNATURE).look_at({"any": np.zeros(1)}, ["any"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, DTYPES["BF16"]])
def test_values_that_are_never_finite(dtype: np.dtype[np.generic]) -> None:
    check = OutputCheck(Signature((), ()))
    check.look_at({"a": np.array([[0, np.nan]], dtype), "b": np.array(np.inf, dtype)}, [])
    assert not check.is_finite
    check.look_at({"a": np.array([[0, 1]], dtype), "b": np.array(-np.inf, dtype)}, [])
    with pytest.raises(InvalidArtifact, match=r"its output 'b' isn't finite on any input that was tried: inf at \[\]"):
        check.check_finite()
    check.look_at({"a": np.array([[0, np.nan]], dtype), "b": np.array(0, dtype)}, [])
    check.check_finite()
    assert check.is_finite


def test_whole_numbers_and_texts_are_finite() -> None:
    check = OutputCheck(Signature((), ()))
    check.look_at({"a": np.array([b"nan"], object), "b": np.array([1 << 62]), "c": np.zeros((0, 3))}, [])
    assert check.is_finite
    check.check_finite()
