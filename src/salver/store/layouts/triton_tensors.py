"""Inputs and outputs of a Triton configuration as model.yaml has them."""

from __future__ import annotations

from typing import Any

from salver.core.tensor import DTYPES
from salver.store.layouts.text_protobuf import Message

_DATATYPES = {f"TYPE_{datatype}": datatype for datatype in DTYPES if datatype != "BYTES"} | {"TYPE_STRING": "BYTES"}
_READ = frozenset({"name", "data_type", "dims", "optional", "reshape", "label_filename", "format"})
_PROBLEMS = {
    "allow_ragged_batch": "only requests of the same shape share batches (see 'padding' of model.yaml)",
    "is_shape_tensor": "it is for TensorRT",
    "is_non_linear_format_io": "it is for TensorRT",
}


def read_tensors(message: Message, problems: list[str], *, batched: bool) -> dict[str, Any]:
    """Keys ``inputs`` and ``outputs``, as far as the configuration has them.

    Args:
        message: the configuration.
        problems: is added to.
        batched: every shape gets a batch dimension, which Triton leaves out.

    Raises:
        InvalidConfig: a tensor has no name, or a datatype or shape that no tensor has.
    """
    keys: dict[str, Any] = {}
    for kind in ("input", "output"):
        tensors = [_tensor(each, problems, batched=batched) for each in message.messages(kind)]
        if tensors:
            keys[f"{kind}s"] = tensors
    if (batching := message.messages("batch_input")) or (batching := message.messages("batch_output")):
        problems.append(
            f"{message.shown_as}, line {batching[0].line}: tensors that Triton makes of the batch are not made here"
        )
    return keys


def _tensor(message: Message, problems: list[str], *, batched: bool) -> dict[str, Any]:
    name = message.text("name")
    if not name:
        raise message.wrong("name", "a tensor has no 'name'")
    written = message.text("data_type", "TYPE_INVALID")
    if written not in _DATATYPES:
        raise message.wrong(
            "data_type", f"'data_type' of {name!r} is {written}; expected one of {', '.join(_DATATYPES)}"
        )
    if "dims" not in message:
        raise message.wrong("dims", f"{name!r} has no 'dims'; expected a list such as [ 3, 224, 224 ]")
    dims = message.integers("dims")
    reshape = message.message("reshape")
    if reshape is not None:
        wanted = reshape.integers("shape")
        if wanted != dims:
            _add(message, problems, "reshape", f"tensors of {name!r} have the model's shape {wanted}, not {dims}")
            dims = wanted
    for size in dims:
        if size < -1 or (size == 0 and reshape is None):
            raise message.wrong("dims", f"a dimension of {name!r} is {size}; expected a size, or -1 for any")
    if "label_filename" in message:
        _add(message, problems, "label_filename", f"{name!r} is given without labels: there is no classification here")
    if message.text("format", "FORMAT_NONE") != "FORMAT_NONE":
        _add(message, problems, "format", f"that {name!r} is {message.text('format')} is not told to clients")
    for field in message:
        if field not in _READ:
            _add(message, problems, field, f"{field!r} of {name!r} is not followed: {_PROBLEMS.get(field, 'unknown')}")
    tensor: dict[str, Any] = {"name": name, "datatype": _DATATYPES[written], "shape": [-1, *dims] if batched else dims}
    if message.boolean("optional"):
        tensor["optional"] = True
    return tensor


def _add(message: Message, problems: list[str], field: str, text: str) -> None:
    problems.append(f"{message.shown_as}, line {message.line_of(field)}: {text}")
