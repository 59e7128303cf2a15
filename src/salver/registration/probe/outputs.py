"""Holds what a model answers against what its signature promises."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from salver.core.errors import InvalidArtifact, SalverError
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import DTYPES, Array, Shape, datatype_of
from salver.runtimes.base import Outputs


class OutputCheck:
    """Looks at the answers to one input after another.

    Values that aren't finite are no fault by themselves: made-up inputs may make no sense to a model. Only an output
    that is never finite is one.
    """

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._finite: set[str] = set()
        self._strange: dict[str, str] = {}

    @property
    def is_finite(self) -> bool:
        """No output that was looked at was strange each time."""
        return self._strange.keys() <= self._finite

    def look_at(self, outputs: Outputs, expected: Collection[str]) -> None:
        """Check one answer.

        Args:
            outputs: the answer.
            expected: names of outputs that it has to have.

        Raises:
            InvalidArtifact: an output is missing, or isn't of the datatype and shape that the signature promises.
        """
        for spec in self._signature.outputs:
            if spec.name in outputs:
                _check_promise(spec, outputs[spec.name])
            elif spec.name in expected:
                given = ", ".join(map(repr, outputs)) or "none"
                raise InvalidArtifact(f"its signature promises an output {spec.name!r}, and it gave {given}")
        for name, array in outputs.items():
            where = _not_finite(array)
            if where is None:
                self._finite.add(name)
            else:
                self._strange.setdefault(name, where)

    def check_finite(self) -> None:
        """Judge all answers that were looked at.

        Raises:
            InvalidArtifact: an output held NaN or infinity each time.
        """
        for name, where in self._strange.items():
            if name not in self._finite:
                raise InvalidArtifact(f"its output {name!r} isn't finite on any input that was tried: {where}")


def _check_promise(spec: TensorSpec, array: Array) -> None:
    try:
        datatype = datatype_of(array)
    except SalverError as error:
        raise InvalidArtifact(f"its output {spec.name!r}: {error}") from error
    if spec.datatype is not None and datatype != spec.datatype:
        raise InvalidArtifact(f"its output {spec.name!r} is {datatype}, and its signature promises {spec.datatype}")
    if spec.shape is not None and not _fits(array.shape, spec.shape):
        free = " (-1 is any size)" if -1 in spec.shape else ""
        raise InvalidArtifact(
            f"its output {spec.name!r} has the shape {list(array.shape)}, "
            f"and its signature promises {list(spec.shape)}{free}"
        )


def _fits(shape: Shape, promised: Shape) -> bool:
    return len(shape) == len(promised) and all(
        wanted in (-1, size) for size, wanted in zip(shape, promised, strict=True)
    )


def _not_finite(array: Array) -> str | None:
    """Where the first value is that isn't finite, as "nan at [0, 3]"; None where there is none."""
    if array.dtype.kind != "f" and array.dtype != DTYPES["BF16"]:
        return None
    wrong = ~np.isfinite(array)
    if not wrong.any():
        return None
    index = tuple(int(each) for each in np.argwhere(wrong)[0]) if array.ndim else ()
    return f"{float(array[index])} at {list(index)}"
