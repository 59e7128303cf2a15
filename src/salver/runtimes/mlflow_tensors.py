"""Between tensors and what MLflow's pyfunc models take and give: data frames, arrays, lists and maps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from mlflow.types import schema as types

from salver.core.errors import InvalidInput, ModelFailed
from salver.core.signature import TensorSpec
from salver.core.tensor import DATATYPES, DTYPES, Array, as_tensor
from salver.runtimes.base import Inputs, Outputs
from salver.runtimes.values import read_array, read_text_list, to_array

INPUT, OUTPUT = "input", "output"

_DATATYPES = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
    "binary": "BYTES",
    "datetime": "BYTES",
}


def input_specs(schema: Any) -> tuple[TensorSpec, ...]:
    """The inputs of a signature: one a column, or one a tensor; ``input`` where they have no names.

    Columns are ``[-1]``; arrays in columns ``[-1, -1]``; objects, maps and arrays of these BYTES of JSON; dates BYTES
    in ISO 8601.
    """
    return tuple(_spec(each, INPUT, index, len(schema.inputs)) for index, each in enumerate(schema.inputs))


def output_specs(schema: Any) -> tuple[TensorSpec, ...]:
    """The outputs of a signature, likewise; ``output`` where they have no names."""
    return tuple(_spec(each, OUTPUT, index, len(schema.inputs)) for index, each in enumerate(schema.inputs))


def _spec(each: Any, unnamed: str, index: int, count: int) -> TensorSpec:
    name = each.name if each.name not in (None, "") else unnamed if count == 1 else f"{unnamed}-{index}"
    if isinstance(each, types.TensorSpec):
        kind = np.dtype(each.type)
        datatype = "BYTES" if kind.kind in "SUO" else DATATYPES.get(kind)
        return TensorSpec(str(name), datatype, tuple(int(size) for size in each.shape), safe_cast=kind.kind in "iuf")
    datatype, shape = _column(each.type)
    numeric = datatype not in ("BYTES", "BOOL")
    return TensorSpec(str(name), datatype, shape, optional=not each.required, safe_cast=numeric)


def _column(kind: Any) -> tuple[str, tuple[int, ...]]:
    if isinstance(kind, types.DataType):
        return _DATATYPES[kind.name], (-1,)
    if isinstance(kind, types.Array) and isinstance(kind.dtype, types.DataType):
        datatype = _DATATYPES[kind.dtype.name]
        if datatype != "BYTES":
            return datatype, (-1, -1)
    return "BYTES", (-1,)


class Reader:
    """Makes of a request's tensors what ``PyFuncModel.predict`` takes.

    Args:
        schema: of the signature; None where the model has none.
        declared: names of inputs in model.yaml; where there is no schema, they are columns.
        listed: the one unnamed column is given as a list (models whose signature is a type hint).
    """

    def __init__(self, schema: Any, declared: Sequence[str], *, listed: bool) -> None:
        self._columns: dict[str, Callable[[str, Array], Any]] = {}
        self._frame = bool(declared)
        self._listed = False
        if schema is not None:
            names = [spec.name for spec in input_specs(schema)]
            self._frame = not schema.is_tensor_spec()
            self._columns = dict(zip(names, map(_reader, schema.inputs), strict=True))
            self._named = all(each.name not in (None, "") for each in schema.inputs)
            self._listed = listed and not self._named and len(names) == 1
        else:
            self._named = bool(declared)

    def __call__(self, inputs: Inputs) -> Any:
        values = {name: self._columns.get(name, _plain)(name, array) for name, array in inputs.items()}
        if self._listed:
            return list(next(iter(values.values())))
        if not self._frame:
            return values if self._named else next(iter(values.values()))
        frame = {name: list(value) if getattr(value, "ndim", 1) > 1 else value for name, value in values.items()}
        data = pd.DataFrame(frame)
        if not self._named:
            data.columns = pd.RangeIndex(len(data.columns))
        return data


def _reader(each: Any) -> Callable[[str, Array], Any]:
    if isinstance(each, types.TensorSpec):
        return _plain
    if each.type == types.DataType.datetime:
        return _read_dates
    if each.type == types.DataType.binary:
        return lambda name, array: array.tolist()
    if each.type == types.DataType.string:
        return read_text_list
    if _column(each.type) == ("BYTES", (-1,)):
        return _read_json
    return _plain


def _plain(name: str, array: Array) -> Any:
    if array.dtype.kind == "O":
        return np.array(read_text_list(name, array), np.object_).reshape(array.shape)
    return read_array(name, array)


def _read_dates(name: str, array: Array) -> Any:
    try:
        return pd.to_datetime(read_text_list(name, array), format="ISO8601").to_numpy("datetime64[ns]")
    except (ValueError, TypeError) as error:
        raise InvalidInput(
            f"input {name!r}: expected dates in ISO 8601, such as 2025-01-31T12:00:00: {error}"
        ) from None


def _read_json(name: str, array: Array) -> list[Any]:
    try:
        return [json.loads(text) for text in read_text_list(name, array)]
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"input {name!r}: expected JSON in each element: {error}") from None


def to_outputs(model: str, result: Any, declared: tuple[TensorSpec, ...]) -> Outputs:
    """What a model gave, as tensors: a column of a data frame each, an entry of a map each, or one.

    Args:
        model: its name, for errors.
        result: what ``predict`` gave.
        declared: the outputs of the signature: they give an array's columns their names, and numbers their datatypes.

    Raises:
        ModelFailed: it is nothing that a response can carry, or not what the signature says.
    """
    try:
        found = _tensors(result, [tensor.name for tensor in declared])
        for tensor in declared:
            if tensor.name not in found:
                raise ModelFailed(
                    f"model {model!r} gave {', '.join(map(repr, found)) or 'nothing'}, "
                    f"and its signature has the output {tensor.name!r}"
                )
            found[tensor.name] = _cast(found[tensor.name], tensor)
    except (TypeError, ValueError, RuntimeError, InvalidInput) as error:
        raise ModelFailed(f"model {model!r} gave what no response can carry: {error}") from error
    return {tensor.name: found[tensor.name] for tensor in declared} if declared else found


def _tensors(result: Any, names: Sequence[str]) -> dict[str, Array]:
    if hasattr(result, "toarray"):  # sparse matrices
        result = result.toarray()
    if isinstance(result, list | tuple) and result and all(isinstance(row, dict) for row in result):
        result = pd.DataFrame.from_records(list(result))
    if isinstance(result, pd.DataFrame):
        if len(names) == 1 and names[0] not in map(str, result.columns):
            return {names[0]: to_array(result.to_numpy())}
        return {str(name): _series(result[name]) for name in result.columns}
    if isinstance(result, Mapping):
        return {str(name): _value(value) for name, value in result.items()}
    array = _value(result)
    if len(names) > 1 and array.ndim == 2 and array.shape[1] == len(names):
        return {name: array[:, index] for index, name in enumerate(names)}
    return {names[0] if len(names) == 1 else OUTPUT: array}


def _value(value: Any) -> Array:
    return (
        _series(value)
        if isinstance(value, pd.Series)
        else _series(pd.Series(value))
        if _mixed(value)
        else to_array(value)
    )


def _mixed(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "OmM" and value.ndim == 1


def _series(column: pd.Series[Any]) -> Array:
    if column.dtype.kind == "M":
        return as_tensor(np.array([each.isoformat() for each in column], np.object_))
    if column.dtype.kind != "O" and isinstance(column.dtype, np.dtype):
        return as_tensor(column.to_numpy())
    values = column.tolist()
    if any(isinstance(each, dict | list | None) and not _numbers(each) for each in values):
        values = [json.dumps(each, default=str) if isinstance(each, dict | list) else each for each in values]
    if values and all(isinstance(each, np.ndarray) for each in values):
        return to_array(np.stack(values))
    return to_array(values)


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, int | float) for each in value)


def _cast(array: Array, tensor: TensorSpec) -> Array:
    """Numbers as the signature has them: pandas and NumPy are free with 32 and 64 bits."""
    if tensor.datatype in (None, "BYTES") or array.dtype == DTYPES[tensor.datatype or ""]:
        return array
    if not np.can_cast(array.dtype, DTYPES[tensor.datatype or ""], "same_kind"):
        raise TypeError(f"output {tensor.name!r} is {array.dtype}, and the signature says {tensor.datatype}")
    return array.astype(DTYPES[tensor.datatype or ""])
