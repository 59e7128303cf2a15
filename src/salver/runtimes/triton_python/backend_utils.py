"""What models of Triton's Python backend import as ``triton_python_backend_utils``.

The names and their meaning are those of https://github.com/triton-inference-server/python_backend. Left out is what
reaches into the server: requests to other models, shared memory, and metrics (they count, and nobody collects them).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NoReturn

import numpy as np

from salver.core.errors import InvalidInput
from salver.core.tensor import DTYPES, Array, as_tensor, datatype_of
from salver.runtimes.triton_python.responses import Channel
from salver.wire.raw import to_raw

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2

TRITON_STRING_TO_NUMPY: dict[str, Any] = {
    "TYPE_STRING": np.object_,
    **{f"TYPE_{name}": dtype.type for name, dtype in DTYPES.items() if name not in ("BYTES", "BF16")},
}
"""Datatype of a model's configuration -> NumPy type."""

_NUMBERS = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")
TRITON_TO_NUMPY_TYPE: dict[int, Any] = {
    **{number: DTYPES[name].type for number, name in enumerate(_NUMBERS, 1)},
    13: np.object_,
}
"""Triton's number of a datatype -> NumPy type."""

NUMPY_TO_TRITON_TYPE: dict[Any, int] = {
    **{dtype: number for number, dtype in TRITON_TO_NUMPY_TYPE.items()},
    np.bytes_: 13,
}

model_directory: ContextVar[str] = ContextVar("salver_triton_model_directory")

_log = logging.getLogger("salver.models")


class TritonModelException(Exception):
    """What a model raises, or is told by one of these functions."""


class TritonError:
    """Why a request failed; a response may have one in place of outputs."""

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str = "", code: int = INTERNAL) -> None:
        self._message = str(message)
        self._code = code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code

    def __str__(self) -> str:
        return self._message


class Tensor:
    """A named tensor over a NumPy array."""

    def __init__(self, name: str, array: Array) -> None:
        if not isinstance(array, np.ndarray):
            raise TritonModelException(f"Tensor {name!r} takes a NumPy array, not a {type(array).__name__}")
        self._name = name
        self._array = array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Array:
        return self._array

    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    def triton_dtype(self) -> int:
        return numpy_to_triton_type(self._array.dtype.type)

    def is_cpu(self) -> bool:
        return True

    def to_dlpack(self) -> Any:
        return self._array.__dlpack__()

    def __dlpack__(self, **arguments: Any) -> Any:
        return self._array.__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        device: tuple[int, int] = self._array.__dlpack_device__()
        return device

    @staticmethod
    def from_dlpack(name: str, tensor: Any) -> Tensor:
        """A tensor of another library's, copied from a GPU where it lies there."""
        if hasattr(tensor, "detach"):  # PyTorch, whose capsules NumPy can't take
            tensor = tensor.detach().cpu()
        return Tensor(name, np.from_dlpack(tensor if hasattr(tensor, "__dlpack__") else _Capsule(tensor)))


class _Capsule:
    """A bare DLPack capsule as NumPy wants it."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class InferenceResponse:
    """What a model answers to one request."""

    def __init__(
        self,
        output_tensors: Sequence[Tensor] = (),
        error: TritonError | str | None = None,
        parameters: str | Mapping[str, Any] | None = None,
    ) -> None:
        self._output_tensors = list(output_tensors)
        self._error = TritonError(error) if isinstance(error, str) else error
        self._parameters = parameters

    def output_tensors(self) -> list[Tensor]:
        return self._output_tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def parameters(self) -> str:
        return self._parameters if isinstance(self._parameters, str) else json.dumps(dict(self._parameters or {}))


class InferenceResponseSender:
    """Takes the answers to one request of a decoupled model; it may be used on any thread."""

    def __init__(self, channel: Channel[InferenceResponse]) -> None:
        self._channel = channel

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        """Give an answer, or, by the flag, say that there are no more."""
        if self._channel.is_finished():
            raise TritonModelException("the last response was sent already (flags said COMPLETE_FINAL)")
        if response is not None:
            self._channel.put(response)
        if flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL:
            self._channel.finish()

    def is_cancelled(self) -> bool:
        return self._channel.is_closed()

    def __del__(self) -> None:
        self._channel.finish()  # a model that forgets the sender sends no more


class InferenceRequest:
    """One request to a model."""

    def __init__(
        self,
        model_name: str = "",
        requested_output_names: Sequence[str] = (),
        inputs: Sequence[Tensor] = (),
        request_id: str = "",
        correlation_id: int | str = 0,
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: object = None,
        trace: object = None,
        parameters: str | Mapping[str, Any] | None = None,
        *,
        channel: Channel[InferenceResponse] | None = None,
    ) -> None:
        self._model_name = model_name
        self._requested = list(requested_output_names)
        self._inputs = list(inputs)
        self._request_id = request_id
        self._correlation_id = correlation_id
        self._model_version = model_version
        self._flags = flags
        self._timeout = timeout
        self._parameters = parameters
        self._channel = channel
        self._sender: InferenceResponseSender | None = None

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def request_id(self) -> str:
        return self._request_id

    def correlation_id(self) -> int | str:
        return self._correlation_id

    def requested_output_names(self) -> list[str]:
        return self._requested

    def set_requested_output_names(self, names: Sequence[str]) -> None:
        self._requested = list(names)

    def model_name(self) -> str:
        return self._model_name

    def model_version(self) -> int:
        return self._model_version

    def flags(self) -> int:
        return self._flags

    def set_flags(self, flags: int) -> None:
        self._flags = flags

    def timeout(self) -> int:
        return self._timeout

    def parameters(self) -> str:
        return self._parameters if isinstance(self._parameters, str) else json.dumps(dict(self._parameters or {}))

    def is_cancelled(self) -> bool:
        return self._channel is not None and self._channel.is_closed()

    def get_response_sender(self) -> InferenceResponseSender:
        if self._channel is None:
            raise TritonModelException("a request that the model has made itself has no response sender")
        if self._sender is None:
            self._channel.is_used = True
            self._sender = InferenceResponseSender(self._channel)
        return self._sender

    def exec(self, *_: Any, **__: Any) -> NoReturn:
        raise TritonModelException(
            f"a request to the model {self._model_name!r} can't be made from within a model: Salver doesn't support "
            "Triton's business logic scripting (BLS); let the client call both models"
        )

    async def async_exec(self, *_: Any, **__: Any) -> NoReturn:
        self.exec()


class Logger:
    """Writes to the server's log."""

    INFO, WARN, ERROR, VERBOSE = logging.INFO, logging.WARNING, logging.ERROR, logging.DEBUG

    @staticmethod
    def log(message: str, level: int = logging.INFO) -> None:
        _log.log(level, "%s", message)

    @staticmethod
    def log_info(message: str) -> None:
        _log.info("%s", message)

    @staticmethod
    def log_warn(message: str) -> None:
        _log.warning("%s", message)

    @staticmethod
    def log_error(message: str) -> None:
        _log.error("%s", message)

    @staticmethod
    def log_verbose(message: str) -> None:
        _log.debug("%s", message)


class Metric:
    """A number that the model keeps for itself: it is not among the server's metrics."""

    def __init__(self) -> None:
        self._value = 0.0

    def increment(self, value: float) -> None:
        self._value += value

    def set(self, value: float) -> None:
        self._value = value

    def observe(self, value: float) -> None:
        self._value += value

    def value(self) -> float:
        return self._value


class MetricFamily:
    """Metrics of one name."""

    COUNTER, GAUGE, HISTOGRAM = range(3)

    def __init__(self, name: str, description: str, kind: int, *_: Any) -> None:
        _log.warning("the model's metric %r is kept, and not among the server's metrics", name)

    def Metric(self, labels: Mapping[str, str] | None = None, **_: Any) -> Metric:  # noqa: N802 - Triton's name
        return Metric()


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    """An input of a request; None where it has none of that name."""
    return next((tensor for tensor in inference_request.inputs() if tensor.name() == name), None)


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Tensor | None:
    """An output of a response; None where it has none of that name."""
    return next((tensor for tensor in inference_response.output_tensors() if tensor.name() == name), None)


def get_input_config_by_name(model_config: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """An input of a configuration; None where it has none of that name."""
    return next((each for each in model_config.get("input", ()) if each["name"] == name), None)


def get_output_config_by_name(model_config: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """An output of a configuration; None where it has none of that name."""
    return next((each for each in model_config.get("output", ()) if each["name"] == name), None)


def using_decoupled_model_transaction_policy(model_config: Mapping[str, Any]) -> bool:
    """Whether a model may give any number of answers to a request."""
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


def triton_to_numpy_type(data_type: int) -> Any:
    """The NumPy type for Triton's number of a datatype."""
    return TRITON_TO_NUMPY_TYPE[data_type]


def numpy_to_triton_type(data_type: Any) -> int:
    """Triton's number of a datatype for a NumPy type."""
    return NUMPY_TO_TRITON_TYPE[np.dtype(data_type).type]


def triton_string_to_numpy(triton_type_string: str) -> Any:
    """The NumPy type for a datatype of a configuration, such as TYPE_FP32."""
    return TRITON_STRING_TO_NUMPY[triton_type_string]


def get_model_dir() -> str:
    """The folder of the model's version."""
    try:
        return model_directory.get()
    except LookupError:
        raise TritonModelException("get_model_dir() can be called in initialize, execute and finalize") from None


def serialize_byte_tensor(input_tensor: Array) -> Array | None:
    """A tensor of text or bytes as one object array of raw bytes, each element behind its length."""
    if input_tensor.size == 0:
        return np.empty(0, np.object_)
    try:
        if datatype_of(input_tensor) != "BYTES":
            raise TritonModelException("serialize_byte_tensor takes an array of text or bytes")
        return np.asarray(bytes(to_raw(as_tensor(input_tensor))), dtype=np.object_)
    except InvalidInput as error:
        raise TritonModelException(str(error)) from None


def deserialize_bytes_tensor(encoded_tensor: bytes) -> Array:
    """The elements of what :func:`serialize_byte_tensor` wrote, in one dimension."""
    elements: list[bytes] = []
    offset = 0
    while offset < len(encoded_tensor):
        end = offset + 4 + int.from_bytes(encoded_tensor[offset : offset + 4], "little")
        if end > len(encoded_tensor):
            raise TritonModelException("the bytes end within an element")
        elements.append(bytes(encoded_tensor[offset + 4 : end]))
        offset = end
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array
