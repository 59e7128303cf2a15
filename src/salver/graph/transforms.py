"""Sources made ready: where a tensor comes from, and how it is changed on the way. No code of anybody's runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from salver.core.request import Parameter
from salver.core.tensor import Array, Shape, datatype_of
from salver.graph import shapes
from salver.graph.casting import MAX_BYTES, TransformError, cast, check_cast, constant
from salver.graph.spec import SourceConfig
from salver.graph.tensor_types import TensorType, merged

__all__ = ["CompiledSource", "TransformError", "compile_source"]

TensorOf = Callable[[str], Array | None]
TypeOf = Callable[[str], TensorType | None]


class CompiledSource:
    """A source, made ready to give its tensor for each request.

    Attributes:
        references: the tensors that it is made of.
        parts: the same, as often as each is a part of it.
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
        self.parts: tuple[str, ...] = (*reference, *(name for part in self._parts for name in part.parts))
        self.parameters: frozenset[str] = parameter.union(*(part.parameters for part in self._parts))
        self._index = None if config.select is None else config.index()
        self._changes = any(each is not None for each in (config.select, config.transpose, config.reshape, config.cast))
        self.plain = None if self._changes else config.from_
        if self._index is not None:
            shapes.check_index(self._index)
        if config.transpose is not None:
            shapes.check_order(config.transpose)
        if config.reshape is not None:
            shapes.check_sizes(config.reshape)
        self._constant: Array | None = None
        if config.value is not None:
            self._constant = self._changed(constant(config.value, config.datatype))
            self._constant.flags.writeable = False

    def evaluate(self, tensor: TensorOf, parameters: Mapping[str, Parameter]) -> Array | None:
        """The tensor; None where it is missing.

        A view of the tensors that it is made of, where NumPy has one; constants can't be written to.

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

        Args:
            type_of: what is known of a tensor, or of ``parameters.NAME``; None for one that isn't there, or for a
                parameter that isn't declared.

        Raises:
            TransformError: it can't be made of such tensors.
        """
        if self._constant is not None:
            return TensorType(datatype_of(self._constant), self._constant.shape)
        config = self._config
        given = self._origin_type(type_of)
        datatype, shape = given.datatype, given.shape
        if self._index is not None and shape is not None:
            shape = shapes.selected(self._index, shape)
        if config.transpose is not None:
            unknown = (-1,) * len(config.transpose)
            shape = shapes.transposed(config.transpose, unknown if shape is None else shape)
        if config.reshape is not None:
            shape = _unknown(config.reshape) if shape is None else shapes.reshaped(config.reshape, shape)
        if config.cast is not None:
            check_cast(datatype, config.cast)
            datatype = config.cast
        return TensorType(datatype, shape, given.optional)

    def _origin(self, tensor: TensorOf, parameters: Mapping[str, Parameter]) -> Array | None:
        config = self._config
        if config.from_ is not None:
            return tensor(config.from_)
        if config.parameter is not None:
            value = parameters.get(config.parameter)
            return None if value is None else constant(value, config.datatype)
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

    @property
    def _joins(self) -> str:
        return "concat" if self._config.concat is not None else "stack"

    def _joined(self, arrays: Sequence[Array]) -> Array:
        first = arrays[0].dtype
        if any(array.dtype != first for array in arrays):
            raise self._mixed({datatype_of(array) for array in arrays})
        size = sum(array.nbytes for array in arrays)
        if size > MAX_BYTES:
            raise TransformError(f"'{self._joins}' would take {size} bytes, and {MAX_BYTES} are the most")
        join: Callable[..., Array] = np.concatenate if self._config.concat is not None else np.stack
        try:
            return join(arrays, axis=self._config.axis)
        except ValueError:
            raise shapes.not_joined(self._joins, self._config.axis, [array.shape for array in arrays]) from None

    def _mixed(self, datatypes: set[str]) -> TransformError:
        told = " and ".join(sorted(datatypes))
        return TransformError(f"'{self._joins}' of different datatypes, {told}; 'cast' makes them one")

    def _changed(self, array: Array) -> Array:
        config = self._config
        if self._index is not None:
            array = shapes.selection(array, self._index)
        if config.transpose is not None:
            shapes.transposed(config.transpose, array.shape)
            array = array.transpose(config.transpose)
        if config.reshape is not None:
            array = array.reshape(shapes.reshaped(config.reshape, array.shape))
        if config.cast is not None:
            array = cast(array, config.cast)
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
            if config.datatype is not None:
                check_cast(declared.datatype, config.datatype)
            return TensorType(config.datatype or declared.datatype, declared.shape)
        types = [part.result_type(type_of) for part in self._parts]
        if config.first is not None:
            given = types[0]
            for other in types[1:]:
                given = merged(given, other)
            return TensorType(given.datatype, given.shape, all(each.optional for each in types))
        return self._joined_type(types)

    def _joined_type(self, types: Sequence[TensorType]) -> TensorType:
        datatypes = {each.datatype for each in types if each.datatype is not None}
        if len(datatypes) > 1:
            raise self._mixed(datatypes)
        datatype = next(iter(datatypes), None)  # were another of a different one, joining them would be refused
        optional = any(each.optional for each in types)
        known = [each.shape for each in types if each.shape is not None]
        shape = shapes.joined(self._joins, self._config.axis, known) if len(known) == len(types) else None
        return TensorType(datatype, shape, optional)


def compile_source(config: SourceConfig) -> CompiledSource:
    """A source, made ready.

    Raises:
        TransformError: it has a constant that no tensor can be, or changes that fit no tensor.
    """
    return CompiledSource(config)


def _unknown(wanted: Shape) -> Shape:
    return tuple(-1 if size == 0 else size for size in wanted)
