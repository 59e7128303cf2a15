"""What is known of a graph's tensors before it runs: datatype, shape, and whether they may be missing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from salver.core.signature import TensorSpec
from salver.core.tensor import DTYPES, Shape


@dataclass(frozen=True, slots=True)
class TensorType:
    """What is known of a tensor.

    Attributes:
        datatype: a V2 datatype, None where it isn't known.
        shape: -1 for an unknown dimension, None where not even their number is known.
        optional: it may be missing.
    """

    datatype: str | None
    shape: Shape | None
    optional: bool = False


UNKNOWN = TensorType(None, None)


def of_spec(spec: TensorSpec) -> TensorType:
    """What a signature tells of a tensor."""
    return TensorType(spec.datatype, spec.shape, spec.optional)


def fits(given: TensorType, wanted: TensorSpec) -> str:
    """Why a tensor can't be given where ``wanted`` is; "" where it may fit."""
    if problem := _datatype_problem(given.datatype, wanted):
        return problem
    if given.shape is None or wanted.shape is None:
        return ""
    apart = len(given.shape) != len(wanted.shape) or any(
        -1 not in (one, other) and one != other for one, other in zip(given.shape, wanted.shape, strict=True)
    )
    if apart:
        return f"expected shape {list(wanted.shape)} (-1 is any size), got {list(given.shape)}"
    return ""


def _datatype_problem(came: str | None, wanted: TensorSpec) -> str:
    if came is None or wanted.datatype is None or came == wanted.datatype:
        return ""
    is_numeric = "BYTES" not in (came, wanted.datatype)
    if wanted.safe_cast and is_numeric and np.can_cast(DTYPES[came], DTYPES[wanted.datatype], "safe"):
        return ""
    hint = f"; 'cast: {wanted.datatype}' changes it" if is_numeric else ""
    return f"expected datatype {wanted.datatype}, got {came}{hint}"


def merged(one: TensorType, other: TensorType) -> TensorType:
    """What is known of a tensor that is one or the other."""
    datatype = one.datatype if one.datatype == other.datatype else None
    shape: Shape | None = None
    if one.shape is not None and other.shape is not None and len(one.shape) == len(other.shape):
        shape = tuple(a if a == b else -1 for a, b in zip(one.shape, other.shape, strict=True))
    return TensorType(datatype, shape, one.optional or other.optional)
