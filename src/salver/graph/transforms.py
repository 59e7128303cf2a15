"""Sources made ready: where a tensor comes from, and how it is changed on the way. No code of anybody's runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from salver.core.request import Parameter
from salver.core.tensor import DTYPES, Array, Shape, as_tensor, datatype_of
from salver.graph.spec import SourceConfig
from salver.graph.tensor_types import TensorType, merged

MAX_BYTES = 1 << 30
"""No source makes a tensor that takes more."""

TensorOf = Callable[[str], Array | None]
TypeOf = Callable[[str], TensorType | None]


class TransformError(ValueError):
    """A tensor can't be made of what there is."""


class CompiledSource:
    """A source, made ready to give its tensor for each request.

    Attributes:
        references: the tensors that it is made of.
        parameters: the request's parameters that it reads.
        plain: its only reference, where it gives that tensor as it is.
    """

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        self._parts: tuple[CompiledSource, ...] = tuple(
            CompiledSource(part) for part in config.first or config.concat or config.stack or ()
        )
        reference = frozenset(() if config.from_ is None else (config.from_,))
        parameter = frozenset(() if config.parameter is None else (config.parameter,))
        self.references: frozenset[str] = reference.union(*(part.references for part in self._parts))
        self.parameters: frozenset[str] = parameter.union(*(part.parameters for part in self._parts))
        self._constant = None if config.value is None else _constant(config.value, config.datatype)
        self._index = None if config.select is None else config.index()
        self._changes = any(each is not None for each in (config.select, config.transpose, config.reshape, config.cast))
        self.plain = None if self._changes else config.from_
        if self._constant is not None:
            self._constant = self._changed(self._constant) if self._changes else self._constant
            self._constant.flags.writeable = False

    def evaluate(self, tensor: TensorOf, parameters: Mapping[str, Parameter]) -> Array | None:
        """The tensor; None where it is missing.

        Raises:
            TransformError: it can't be made of what there is.
        """
        if self._constant is not None:
            return self._constant
        array = self._origin(tensor, parameters)
        if array is None or not self._changes:
            return array
        return self._changed(array)

    def result_type(self, type_of: TypeOf) -> TensorType:
        """What is known of the tensor.

        Raises:
            TransformError: it can't be made of such tensors.
        """
        if self._constant is not None:
            return TensorType(datatype_of(self._constant), self._constant.shape)
        config = self._config
        given = self._origin_type(type_of)
        shape = given.shape
        if self._index is not None:
            shape = _selected(self._index, shape)
        if config.transpose is not None:
            shape = _transposed(config.transpose, shape)
        if config.reshape is not None:
            shape = _reshaped(config.reshape, shape)
        datatype = given.datatype
        if config.cast is not None:
            _check_cast(datatype, config.cast)
            datatype = config.cast
        return TensorType(datatype, shape, given.optional)

    def _origin(self, tensor: TensorOf, parameters: Mapping[str, Parameter]) -> Array | None:
        config = self._config
        if config.from_ is not None:
            return tensor(config.from_)
        if config.parameter is not None:
            value = parameters.get(config.parameter)
            return None if value is None else _constant(value, config.datatype)
        if config.first is not None:
            for part in self._parts:
                array = part.evaluate(tensor, parameters)
                if array is not None:
                    return array
            return None
        arrays = []
        for part in self._parts:
            array = part.evaluate(tensor, parameters)
            if array is None:
                return None
            arrays.append(array)
        return self._joined(arrays)

    def _joined(self, arrays: Sequence[Array]) -> Array:
        kind = "concat" if self._config.concat is not None else "stack"
        datatypes = sorted({datatype_of(array) for array in arrays})
        if len(datatypes) > 1:
            raise TransformError(f"'{kind}' of different datatypes, {' and '.join(datatypes)}; 'cast' makes them one")
        size = sum(array.nbytes for array in arrays)
        if size > MAX_BYTES:
            raise TransformError(f"'{kind}' would take {size} bytes, and {MAX_BYTES} are the most")
        join: Callable[..., Array] = np.concatenate if kind == "concat" else np.stack
        try:
            return join(list(arrays), axis=self._config.axis)
        except ValueError:
            shapes = " and ".join(str(list(array.shape)) for array in arrays[:4])
            raise TransformError(
                f"shapes {shapes} can't be joined by '{kind}' with 'axis: {self._config.axis}'"
            ) from None

    def _changed(self, array: Array) -> Array:
        config = self._config
        if self._index is not None:
            try:
                array = _selection(array, self._index)
            except IndexError as error:
                raise TransformError(f"'select' doesn't fit shape {list(array.shape)}: {error}") from None
        if config.transpose is not None:
            try:
                array = array.transpose(config.transpose)
            except ValueError as error:
                raise TransformError(
                    f"'transpose: {list(config.transpose)}' doesn't fit shape {list(array.shape)}: {error}"
                ) from None
        if config.reshape is not None:
            wanted = _kept(config.reshape, array.shape)
            try:
                array = array.reshape(wanted)
            except ValueError:
                raise TransformError(
                    f"'reshape: {list(config.reshape)}' doesn't fit shape {list(array.shape)}, of {array.size} elements"
                ) from None
        if config.cast is not None:
            array = _cast(array, config.cast)
        return array

    def _origin_type(self, type_of: TypeOf) -> TensorType:
        config = self._config
        if config.from_ is not None:
            found = type_of(config.from_)
            if found is None:
                raise TransformError(f"there is no tensor {config.from_!r}")
            return found
        if config.parameter is not None:
            declared = type_of(f"parameters.{config.parameter}")
            if declared is None:
                return TensorType(config.datatype, (), optional=True)
            return TensorType(config.datatype or declared.datatype, declared.shape)
        types = [part.result_type(type_of) for part in self._parts]
        if config.first is not None:
            given = types[0]
            for other in types[1:]:
                given = merged(given, other)
            return TensorType(given.datatype, given.shape, all(each.optional for each in types))
        return self._joined_type(types)

    def _joined_type(self, types: Sequence[TensorType]) -> TensorType:
        kind = "concat" if self._config.concat is not None else "stack"
        datatypes = sorted({each.datatype for each in types if each.datatype is not None})
        if len(datatypes) > 1:
            raise TransformError(f"'{kind}' of different datatypes, {' and '.join(datatypes)}; 'cast' makes them one")
        datatype = datatypes[0] if all(each.datatype is not None for each in types) else None
        optional = any(each.optional for each in types)
        if any(each.shape is None for each in types):
            return TensorType(datatype, None, optional)
        shapes = [each.shape for each in types if each.shape is not None]
        axis = self._config.axis
        rank = len(shapes[0])
        after = rank + (kind == "stack")
        told = " and ".join(str(list(shape)) for shape in shapes[:4])
        if any(len(shape) != rank for shape in shapes) or not -after <= axis < after:
            raise TransformError(f"shapes {told} can't be joined by '{kind}' with 'axis: {axis}'")
        axis %= after
        result: list[int] = []
        for dimension in range(rank):
            sizes = {shape[dimension] for shape in shapes}
            if kind == "concat" and dimension == axis:
                result.append(-1 if -1 in sizes else sum(shape[dimension] for shape in shapes))
                continue
            known = sizes - {-1}
            if len(known) > 1:
                raise TransformError(f"shapes {told} can't be joined by '{kind}' with 'axis: {axis}'")
            result.append(known.pop() if known else -1)
        if kind == "stack":
            result.insert(axis, len(shapes))
        return TensorType(datatype, tuple(result), optional)


def compile_source(config: SourceConfig) -> CompiledSource:
    """A source, made ready.

    Raises:
        TransformError: it has a constant that no tensor can be, or that can't be changed as it says.
    """
    return CompiledSource(config)


def _constant(value: Any, datatype: str | None) -> Array:
    """A constant as an array of the datatype that is natural for it, or the one that is wanted."""
    try:
        array = np.array(value)
    except ValueError:
        raise TransformError("the lists of a constant differ in length") from None
    if array.dtype.kind in "US":
        kinds = {type(each) for each in _leaves(value)}
        if kinds != {str}:
            raise TransformError("a constant is of texts or of numbers, not of both")
        array = as_tensor(array)
    elif array.dtype.kind not in "biuf":
        raise TransformError("a constant is a number that fits 64 bits, a text, true or false, or lists of them")
    elif array.dtype == np.float64 and datatype is None:
        array = array.astype(np.float32)
    if datatype is None or DTYPES[datatype] == array.dtype:
        return array
    return _cast(array, datatype)


def _leaves(value: Any) -> list[Any]:
    return [leaf for each in value for leaf in _leaves(each)] if isinstance(value, list) else [value]


def _selection(array: Array, index: tuple[int | slice | list[int], ...]) -> Array:
    """Each dimension by itself: two lists are a grid, not pairs."""
    if len(index) > array.ndim:
        raise IndexError(f"it has {len(index)} parts for {array.ndim} dimensions")
    dimension = 0
    for part in index:
        at: tuple[Any, ...] = (slice(None),) * dimension
        if isinstance(part, list):
            array = array[(*at, np.asarray(part, dtype=np.intp))]
        else:
            found = array[(*at, part)]
            array = found if isinstance(found, np.ndarray) else _wrapped(found, array.dtype)
        dimension += not isinstance(part, int)
    return array


def _wrapped(element: object, dtype: np.dtype[Any]) -> Array:
    array = np.empty((), dtype=dtype)
    array[()] = element
    return array


def _kept(wanted: Shape, shape: Shape) -> list[int]:
    """The wanted shape, with the dimensions that stay as they are."""
    result = []
    for dimension, size in enumerate(wanted):
        if size == 0:
            if dimension >= len(shape):
                raise TransformError(
                    f"'reshape: {list(wanted)}' keeps dimension {dimension}, which {list(shape)} has not"
                )
            size = shape[dimension]
        result.append(size)
    if -1 in result and 0 in result and 0 in shape:
        result = [1 if size == -1 else size for size in result]  # NumPy can't tell what is left of nothing
    return result


def _cast(array: Array, datatype: str) -> Array:
    """The elements in another datatype.

    Raises:
        TransformError: one of them isn't the same number there.
    """
    came = datatype_of(array)
    _check_cast(came, datatype)
    wanted = DTYPES[datatype]
    if array.dtype == wanted:
        return array
    if wanted.kind in "iu" and array.size and came != "BOOL":
        limits = np.iinfo(wanted)
        if array.dtype.kind not in "iu":
            wide = array.astype(np.float64)
            if not np.isfinite(wide).all():
                raise TransformError(f"numbers that aren't finite can't be cast to {datatype}")
            low, high = math.trunc(wide.min()), math.trunc(wide.max())
        else:
            low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            raise TransformError(f"numbers from {low} to {high} can't be cast to {datatype}")
    with np.errstate(over="ignore"):  # a float that is too large is infinite there
        return array.astype(wanted)


def _check_cast(came: str | None, wanted: str) -> None:
    if came is not None and came != wanted and "BYTES" in (came, wanted):
        raise TransformError(f"{came} can't be cast to {wanted}; a function can tell what a text stands for")


def _selected(index: Sequence[int | slice | list[int]], shape: Shape | None) -> Shape | None:
    if shape is None:
        return None
    if len(index) > len(shape):
        raise TransformError(f"'select' has {len(index)} parts, and the tensor has shape {list(shape)}")
    result: list[int] = []
    for part, size in zip(index, shape, strict=False):
        if isinstance(part, slice):
            result.append(
                -1 if size == -1 and part != slice(None) else len(range(*part.indices(size))) if size != -1 else -1
            )
            continue
        chosen = [part] if isinstance(part, int) else part
        if size != -1 and any(not -size <= each < size for each in chosen):
            raise TransformError(f"'select' takes index {chosen[0]} of a dimension of {size}, in shape {list(shape)}")
        if not isinstance(part, int):
            result.append(len(part))
    return (*result, *shape[len(index) :])


def _transposed(order: Shape, shape: Shape | None) -> Shape | None:
    if sorted(dimension % max(len(order), 1) for dimension in order) != list(range(len(order))):
        raise TransformError(f"'transpose: {list(order)}' doesn't name each dimension once")
    if shape is None:
        return (-1,) * len(order)
    if len(order) != len(shape):
        raise TransformError(f"'transpose: {list(order)}' doesn't fit shape {list(shape)}")
    return tuple(shape[dimension] for dimension in order)


def _reshaped(wanted: Shape, shape: Shape | None) -> Shape:
    if shape is None:
        return tuple(-1 if size == 0 else size for size in wanted)
    result = _kept(wanted, shape)
    if -1 in shape:
        return tuple(result)
    count = math.prod(shape)
    rest = math.prod(size for size in result if size != -1)
    if (-1 in result and (rest == 0 or count % rest)) or (-1 not in result and rest != count):
        raise TransformError(f"'reshape: {list(wanted)}' doesn't fit shape {list(shape)}, of {count} elements")
    return tuple(count // rest if size == -1 else size for size in result)
