"""What clients say to a V2 server and read from its answers, without any I/O.

Each method of :class:`Exchanges` is a generator: it gives :class:`Call` values, takes an :class:`Answer` for each, and
returns the result. The sync and async clients only carry calls and answers.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import quote

import orjson

from salver.client.frames import from_outputs, is_frame
from salver.client.values import Values, needs_signature, texts, to_tensors
from salver.core.errors import (
    Conflict,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    LoadError,
    MalformedBody,
    MethodNotAllowed,
    ModelFailed,
    ModelUnavailable,
    NotFound,
    Overloaded,
    RequestTooLarge,
    SalverError,
    ServerUnreachable,
    UnknownModel,
    UnsupportedRequest,
)
from salver.core.request import InferenceRequest, InferenceResponse, Parameter
from salver.core.signature import Signature
from salver.core.tensor import Array
from salver.wire.v2_json import decode_response, encode_request
from salver.wire.v2_metadata import decode_signature

if TYPE_CHECKING:
    import pandas as pd

JSON_LENGTH = "inference-header-content-length"

_BY_STATUS: dict[int, type[SalverError]] = {
    400: InvalidRequest,
    404: NotFound,
    405: MethodNotAllowed,
    408: DeadlineExceeded,
    409: Conflict,
    413: RequestTooLarge,
    500: ModelFailed,
    501: UnsupportedRequest,
    502: ServerUnreachable,
    503: ModelUnavailable,
    504: DeadlineExceeded,
}
_FINE = (200, 202, 206)
_UNTOLD = Signature((), ())


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request; ``path`` is quoted and begins with a slash."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP response, its body uncompressed; the names of ``headers`` are found in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


T = TypeVar("T")
Exchange: TypeAlias = Generator[Call, Answer, T]


class Exchanges:
    """The conversations of a client with one server.

    Args:
        decode_text: give BYTES outputs whose elements are all UTF-8 as ``str``.
    """

    def __init__(self, *, decode_text: bool) -> None:
        self._decode_text = decode_text
        self._signatures: dict[tuple[str, str], Signature] = {}

    def predict(
        self,
        model: str,
        inputs: Values | pd.DataFrame,
        version: str,
        outputs: Sequence[str] | None,
        parameters: Mapping[str, Parameter] | None,
        id: str,
    ) -> Exchange[dict[str, Array] | pd.DataFrame]:
        known = (model, version) in self._signatures
        signature = _UNTOLD
        if needs_signature(inputs):
            signature = yield from self._signature(model, version)
        request = InferenceRequest(model, version, {}, asked(outputs), dict(parameters or {}), id)
        try:
            response = yield from _infer(request, inputs, signature)
        except InvalidRequest:
            # The model may have changed since its metadata was read; a request that didn't fit has not been run.
            if not known or signature is _UNTOLD:
                raise
            del self._signatures[model, version]
            fresh = yield from self._signature(model, version)
            if signature == fresh:
                raise
            response = yield from _infer(request, inputs, fresh)
        return results(response, inputs, decode_text=self._decode_text)

    def healthy(self, what: str) -> Exchange[bool]:
        answer = yield Call("GET", f"/v2/health/{what}")
        return answer.status == 200

    def model_ready(self, model: str, version: str) -> Exchange[bool]:
        answer = yield Call("GET", f"{_model_path(model, version)}/ready")
        if answer.status in (400, 503):
            return False
        raise_for(answer, model)
        return True

    def metadata(self, model: str | None, version: str) -> Exchange[dict[str, Any]]:
        path = "/v2" if model is None else _model_path(model, version)
        return (yield from _document("GET", path, dict, model))

    def statistics(self, model: str | None, version: str) -> Exchange[dict[str, Any]]:
        path = "/v2/models/stats" if model is None else f"{_model_path(model, version)}/stats"
        return (yield from _document("GET", path, dict, model))

    def models(self, ready_only: bool) -> Exchange[list[dict[str, str]]]:
        body = orjson.dumps({"ready": ready_only})
        return (yield from _document("POST", "/v2/repository/index", list, None, body))

    def load(self, model: str) -> Exchange[None]:
        answer = yield Call("POST", f"/v2/repository/models/{_quoted(model)}/load", b"{}")
        try:
            raise_for(answer, model)
        except (InvalidRequest, ModelUnavailable, ModelFailed) as error:
            raise LoadError(str(error)) from None
        self._forget(model)

    def unload(self, model: str) -> Exchange[None]:
        answer = yield Call("POST", f"/v2/repository/models/{_quoted(model)}/unload", b"{}")
        raise_for(answer, model)
        self._forget(model)

    def _signature(self, model: str, version: str) -> Exchange[Signature]:
        signature = self._signatures.get((model, version))
        if signature is None:
            metadata = yield from self.metadata(model, version)
            signature = self._signatures[model, version] = decode_signature(metadata)
        return signature

    def _forget(self, model: str) -> None:
        for key in [key for key in self._signatures if key[0] == model]:
            del self._signatures[key]


def asked(outputs: Sequence[str] | None) -> tuple[str, ...] | None:
    """The names of asked-for outputs; one alone may be given as a text."""
    if outputs is None:
        return None
    return (outputs,) if isinstance(outputs, str) else tuple(outputs)


def results(
    response: InferenceResponse, inputs: Values | pd.DataFrame, *, decode_text: bool
) -> dict[str, Array] | pd.DataFrame:
    """A response's outputs as a user gets them: arrays by name, or a frame where a frame went in."""
    outputs = texts(response.outputs) if decode_text else response.outputs
    return from_outputs(outputs, inputs) if is_frame(inputs) else outputs


def _infer(
    request: InferenceRequest, inputs: Values | pd.DataFrame, signature: Signature
) -> Exchange[InferenceResponse]:
    request.inputs = to_tensors(inputs, signature)
    body, json_length = encode_request(request)
    headers = {"content-type": "application/json"}
    if json_length is not None:
        headers = {"content-type": "application/octet-stream", JSON_LENGTH: str(json_length)}
    answer = yield Call("POST", f"{_model_path(request.model, request.version)}/infer", body, headers)
    raise_for(answer, request.model)
    length = answer.headers.get(JSON_LENGTH)
    try:
        # A bytearray, because arrays over bytes could not be written to.
        return decode_response(memoryview(bytearray(answer.body)), None if length is None else int(length))
    except (InvalidRequest, ValueError) as error:
        raise MalformedBody(f"the server's answer isn't a V2 inference response: {error}") from error


def _document(method: str, path: str, kind: type[T], model: str | None, body: bytes = b"") -> Exchange[T]:
    answer = yield Call(method, path, body, {"content-type": "application/json"} if body else {})
    raise_for(answer, model)
    document = read_json(answer.body)
    if not isinstance(document, kind):
        raise MalformedBody(f"{path} answered {_excerpt(answer.body)}, which isn't what a V2 server answers there")
    return document


def raise_for(
    answer: Answer, model: str | None, by_status: Mapping[int, type[SalverError]] = MappingProxyType({})
) -> None:
    """Raise the error that an answer tells of.

    Args:
        answer: the server's.
        model: that the request was about; None where it was about none.
        by_status: what statuses mean where they mean something else than in V2.
    """
    if answer.status in _FINE:
        return
    document = read_json(answer.body)
    text = document.get("error") if isinstance(document, dict) else None
    if not isinstance(text, str):
        text = f"the server answered with HTTP status {answer.status}: {_excerpt(answer.body)}"
    elif answer.status == 404 and model is not None:
        raise UnknownModel(text)
    elif answer.status == 500 and text.startswith("internal error"):
        raise InternalError(text)
    if answer.status == 429:
        raise Overloaded(text, retry_after=_seconds(answer.headers.get("retry-after")))
    other = InvalidRequest if 400 <= answer.status < 500 else InternalError
    raise {**_BY_STATUS, **by_status}.get(answer.status, other)(text)


def _seconds(header: str | None) -> float:
    try:
        return float(header or 1)
    except ValueError:  # a date
        return 1.0


def read_json(body: bytes) -> object:
    """The JSON value of a body; None where it isn't JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _excerpt(body: bytes) -> str:
    text = body[:200].decode(errors="replace").strip()
    return repr(text + ("..." if len(body) > 200 else "")) if text else "an empty body"


def _model_path(model: str, version: str) -> str:
    path = f"/v2/models/{_quoted(model)}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def _quoted(model: str) -> str:
    if not model or model in (".", ".."):
        raise InvalidRequest(f"{model!r} can't be the name of a model")
    return quote(model, safe="")
