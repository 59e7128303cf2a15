"""The V2 protocol over HTTP: an ASGI application without a framework between it and the request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import ceil
from time import monotonic
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar

import orjson

from salver.core import errors
from salver.core.errors import (
    InternalError,
    InvalidRequest,
    MalformedBody,
    MethodNotAllowed,
    SalverError,
    UnknownRoute,
    UnsupportedRequest,
)
from salver.core.request import InferenceRequest
from salver.frontends.deadlines import TIMEOUT_HEADER, before, check_deadline, parse_request_timeout, set_deadline
from salver.frontends.departures import Departed, Departures, resume
from salver.frontends.generate import decode_generate, encode_generate, stream_events
from salver.frontends.http import (
    MAX_DIGITS,
    ClientLeft,
    Headers,
    Message,
    Receive,
    Scope,
    Send,
    error_text,
    id_header,
    read_body,
    send_answer,
    status_of,
)
from salver.frontends.v2 import V2Api
from salver.monitoring.metrics import FailedRequests
from salver.monitoring.request_id import begin_request, current_request_id
from salver.wire.compression import CODINGS, compress, decompress
from salver.wire.json_depth import parse
from salver.wire.v2_headers import FORWARDED, WITHIN, decode_within
from salver.wire.v2_json import decode_raw_request, decode_request, encode_response

STATUSES: Final[dict[type[SalverError], int]] = {
    errors.InvalidRequest: 400,
    errors.UnsupportedRequest: 501,
    errors.MethodNotAllowed: 405,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.ModelUnavailable: 503,
    errors.Overloaded: 429,
    errors.DeadlineExceeded: 504,
    errors.ModelFailed: 500,
    errors.LoadError: 400,
    errors.StoreUnavailable: 503,
    errors.ServerUnreachable: 502,
    errors.InternalError: 500,
    errors.SalverError: 500,
}
"""Error -> HTTP status: a class's own or its nearest base's."""

CLIENT_CLOSED_REQUEST: Final = 499
"""What requests of clients that left have in the log of requests: nginx's number for it, as HTTP has none."""

JSON: Final = b"application/json"
OCTETS: Final = b"application/octet-stream"
_LENGTH_HEADER: Final = b"inference-header-content-length"
_OFF_LOOP: Final = 4 * 1024 * 1024  # bytes from which decoding or encoding would hold up the event loop too long
_SEARCHED: Final = 64 * 1024  # bytes that are searched for a word in no time
_MAX_KNOWN_PATHS: Final = 4096

T = TypeVar("T")

_log = logging.getLogger("salver.rest")


@dataclass(frozen=True, slots=True)
class Call:
    """A request on its way to a handler.

    Attributes:
        model, version: from the URL; "" where it has none.
        headers: by lower-case name.
        scope, receive, send: ASGI's.
    """

    model: str
    version: str
    headers: Headers
    scope: Scope
    receive: Receive
    send: Send

    async def answer(self, document: Any, status: int = 200) -> None:
        """Send a JSON answer."""
        await send_answer(self.send, status, orjson.dumps(document), JSON, [id_header()])


Handler: TypeAlias = Callable[[Call], Awaitable[None]]


class RestApp:
    """Answers ``/v2``.

    Args:
        api: the protocol's calls.
        max_request_bytes: larger bodies are refused, also where they grow that large when unpacked.
        failed: counts the requests that are answered with an error.
    """

    def __init__(self, api: V2Api, *, max_request_bytes: int, failed: FailedRequests) -> None:
        self._api = api
        self._limit = max_request_bytes
        self._failed = failed
        self._departures = Departures()
        self._inferences: dict[str, tuple[str, str]] = {}  # paths seen to lead to a model's infer
        self._server_routes: dict[str, dict[str, Handler]] = {
            "": {"GET": self._server_metadata},
            "/health/live": {"GET": self._live},
            "/health/ready": {"GET": self._ready},
            "/models/stats": {"GET": self._statistics},
            "/repository/index": {"POST": self._index, "GET": self._index},
            "/systemsharedmemory/status": {"GET": self._no_regions},
            "/cudasharedmemory/status": {"GET": self._no_regions},
        }
        self._model_routes: dict[str, dict[str, Handler]] = {
            "": {"GET": self._model_metadata},
            "ready": {"GET": self._model_ready},
            "config": {"GET": self._model_config},
            "stats": {"GET": self._statistics},
            "infer": {"POST": self._first_inference},
            "generate": {"POST": self._generate},
            "generate_stream": {"POST": self._generate_stream},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        headers: Headers = dict(scope["headers"])
        begin_request(headers.get(b"x-request-id"))
        path: str = scope["path"]
        try:
            known = self._inferences.get(path)
            if known is not None and scope["method"] == "POST":
                await self._infer(*known, headers, scope, receive, send)
            else:
                handler, model, version = self._route(path, scope["method"])
                await handler(Call(model, version, headers, scope, receive, send))
                if handler == self._first_inference and len(self._inferences) < _MAX_KNOWN_PATHS:
                    self._inferences[path] = (model, version)
        except Departed as error:
            _log.debug("%s %s: the client left while its request ran", scope["method"], path)
            await close_off(error, send)
        except ClientLeft:
            _log.debug("%s %s: the client left", scope["method"], path)
        except Exception as error:  # noqa: BLE001  the last line of defence: nothing else may reach the client
            await answer_error(error, scope, send, failed=self._failed)

    def _route(self, path: str, method: str) -> tuple[Handler, str, str]:
        rest = path.removeprefix("/v2").rstrip("/")
        handlers = self._server_routes.get(rest)
        model = version = ""
        if handlers is None:
            first, *parts = rest.split("/")
            if first or "" in parts:  # /v2x/models, /v2/models//infer
                parts = []
            match parts:
                case ["models", model]:
                    handlers = self._model_routes[""]
                case ["models", model, "versions", version]:
                    handlers = self._model_routes[""]
                case ["models", model, "versions", version, action]:
                    handlers = self._model_routes.get(action)
                case ["models", model, action]:
                    handlers = self._model_routes.get(action)
                case ["repository", "models", model, "load"]:
                    handlers = {"POST": self._load}
                case ["repository", "models", model, "unload"]:
                    handlers = {"POST": self._unload}
                case ["models", *_, "trace", "setting"] | ["trace", "setting"] | ["logging"]:
                    raise UnsupportedRequest("trace and log settings can't be changed over the API")
                case ["systemsharedmemory" | "cudasharedmemory", *_]:
                    raise UnsupportedRequest("shared memory isn't supported; send tensors as binary data")
        if handlers is None:
            raise UnknownRoute(f"no such URL: {path}; see /docs for those that there are")
        handler = handlers.get("GET" if method == "HEAD" else method)
        if handler is None:
            raise MethodNotAllowed(f"{path} takes {' or '.join(handlers)}, not {method}", allowed=tuple(handlers))
        return handler, model, version

    async def _first_inference(self, call: Call) -> None:
        self._api.check(call.model, call.version)  # an unknown model is refused before the body is read
        await self._infer(call.model, call.version, call.headers, call.scope, call.receive, call.send)

    # The way of most requests: what costs them a coroutine or a look-up less is written out here.
    async def _infer(
        self, model: str, version: str, headers: Headers, scope: Scope, receive: Receive, send: Send
    ) -> None:
        body: bytes | None
        deadline = None
        if TIMEOUT_HEADER in headers:
            body, deadline = await timed_body(receive, headers, limit=self._limit)
        else:
            message = await receive()
            body = message.get("body")
            if body is None or message.get("more_body") or len(body) > self._limit or b"content-encoding" in headers:
                body = await request_body(receive, headers, limit=self._limit, first=message)
        self._api.admit(model, version, _known_priority(body))
        length = json_length(headers) if _LENGTH_HEADER in headers else None
        if length == 0:
            signature = await self._api.signature(model, version)
            request, encoding = decode_raw_request(body, signature, model=model, version=version)
        elif len(body) > _OFF_LOOP and (length is None or length > _OFF_LOOP):
            request, encoding = await asyncio.to_thread(decode_request, body, length, model=model, version=version)
        else:
            request, encoding = decode_request(body, length, model=model, version=version)
        if deadline is not None:
            set_deadline(request, deadline)
        if FORWARDED in headers:
            request.forwarded = True
            if WITHIN in headers:
                request.within = decode_within(headers[WITHIN])
        work = self._api.infer(request)
        try:
            waits_for = work.send(None)
        except StopIteration as answered:  # as with models that run on the event loop: no client can leave meanwhile
            response = answered.value
        else:
            response = await self._departures.guard(scope, resume(work, waits_for))
        if response.nbytes() > _OFF_LOOP:
            answer, length = await asyncio.to_thread(encode_response, response, encoding)
        else:
            answer, length = encode_response(response, encoding)
        if length is None:
            answer_headers = [(b"content-type", JSON)]
        else:
            answer_headers = [(b"content-type", OCTETS), (_LENGTH_HEADER, b"%d" % length)]
        if b"x-request-id" in headers:
            answer_headers.append(id_header())
        if b"accept-encoding" in headers:
            answer = await _compressed(answer, headers[b"accept-encoding"], answer_headers)
        answer_headers.append((b"content-length", b"%d" % len(answer)))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": answer_headers})
            await send({"type": "http.response.body", "body": answer})
        except OSError:
            raise ClientLeft from None

    async def _generate(self, call: Call) -> None:
        request = await self._generate_request(call)
        response = await self._departures.guard(call.scope, self._api.infer(request))
        await call.answer(encode_generate(response))

    async def _generate_stream(self, call: Call) -> None:
        request = await self._generate_request(call)
        await stream_events(self._departures.guard_stream(call.scope, self._api.stream(request)), call.send)

    async def _generate_request(self, call: Call) -> InferenceRequest:
        signature = await self._api.signature(call.model, call.version)
        body, deadline = await timed_body(call.receive, call.headers, limit=self._limit)
        self._api.admit(call.model, call.version)
        request = await _decoded(body, partial(decode_generate, signature=signature, target=call))
        if deadline is not None:
            set_deadline(request, deadline)
        return request

    async def _server_metadata(self, call: Call) -> None:
        await call.answer(self._api.server_metadata())

    async def _live(self, call: Call) -> None:
        live = self._api.live()
        await call.answer({"live": live}, 200 if live else 503)

    async def _ready(self, call: Call) -> None:
        ready = self._api.ready()
        await call.answer({"ready": ready}, 200 if ready else 503)

    async def _model_ready(self, call: Call) -> None:
        ready = self._api.model_ready(call.model, call.version)
        await call.answer({"name": call.model, "ready": ready}, 200 if ready else 503)

    async def _model_metadata(self, call: Call) -> None:
        await call.answer(await self._api.model_metadata(call.model, call.version))

    async def _model_config(self, call: Call) -> None:
        await call.answer(await self._api.model_config(call.model, call.version))

    async def _statistics(self, call: Call) -> None:
        await call.answer(self._api.model_statistics(call.model, call.version))

    async def _index(self, call: Call) -> None:
        wanted = await self._object(call)
        ready = wanted.get("ready", False)
        if type(ready) is not bool:
            raise InvalidRequest(f"'ready' must be true or false, got {ready!r}")
        await call.answer(self._api.repository_index(ready_only=ready))

    async def _load(self, call: Call) -> None:
        wanted = await self._object(call)
        if wanted.get("parameters"):
            raise UnsupportedRequest(
                "a model is loaded as its repository folder says; 'parameters' (config, files) aren't supported"
            )
        await self._api.load_model(call.model)
        await call.answer({})

    async def _unload(self, call: Call) -> None:
        await self._object(call)  # unload_dependents means nothing where models have none
        await self._api.unload_model(call.model)
        await call.answer({})

    async def _object(self, call: Call) -> dict[str, Any]:
        """The JSON object that a body holds; an empty one where there is no body."""
        body = await request_body(call.receive, call.headers, limit=self._limit)
        if not body.strip():
            return {}
        document = await _decoded(body, parse)
        if not isinstance(document, dict):
            raise MalformedBody("the body must be a JSON object or empty")
        return document

    async def _no_regions(self, call: Call) -> None:
        await call.answer([])


async def answer_error(
    error: Exception,
    scope: Scope,
    send: Send,
    *,
    failed: FailedRequests,
    front_end: str = "rest",
    more: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Tell a client what went wrong, and count it. What isn't Salver's error is logged, and nothing told of it.

    Args:
        error: what went wrong.
        scope, send: ASGI's.
        failed: counts it.
        front_end: how metrics call the one that answers.
        more: keys that the answer has beside ``error``.
    """
    if scope["type"] != "http":  # a websocket, which nothing here speaks
        await send({"type": "websocket.close"})
        return
    if not isinstance(error, SalverError):
        _log.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
        error = InternalError(f"internal error; the server's log has it under request id {current_request_id()}")
    status = status_of(error, STATUSES)
    level = logging.WARNING if status >= 500 else logging.DEBUG
    _log.log(level, "%s %s: %d %s", scope["method"], scope["path"], status, error)
    failed.add(front_end, error)
    extra = [id_header()]
    if isinstance(error, errors.Overloaded):
        extra.append((b"retry-after", b"%d" % max(1, ceil(error.retry_after))))
    elif isinstance(error, MethodNotAllowed):
        extra.append((b"allow", ", ".join(error.allowed).encode()))
    try:
        await send_answer(send, status, orjson.dumps({"error": error_text(error), **more}), JSON, extra)
    except (ClientLeft, RuntimeError):
        # The connection is gone, or an answer had begun: there is nobody left to tell.
        _log.debug("the error couldn't be sent", exc_info=True)


async def request_body(receive: Receive, headers: Headers, *, limit: int, first: Message | None = None) -> bytes:
    """The body of an inference request, unpacked; see :func:`read_body`."""
    body = await read_body(receive, headers, limit=limit, first=first)
    coding = headers.get(b"content-encoding")
    if coding is None:
        return body
    name = coding.decode("latin-1").strip().lower()
    return await asyncio.to_thread(decompress, body, name, limit=limit)


async def timed_body(receive: Receive, headers: Headers, *, limit: int) -> tuple[bytes, float | None]:
    """The body, and the deadline that the headers give the request, which holds for its arrival already."""
    if TIMEOUT_HEADER not in headers:
        return await request_body(receive, headers, limit=limit), None
    seconds = parse_request_timeout(headers[TIMEOUT_HEADER])
    deadline = monotonic() + seconds
    async with before(deadline, seconds):
        body = await request_body(receive, headers, limit=limit)
    check_deadline(deadline)
    return body, deadline


async def close_off(error: Departed, send: Send) -> None:
    """End the request of a client that has left, which the HTTP server takes for a fault when it isn't answered.

    Who has only said that nothing more will come, and still reads, is told why nothing else comes either.
    """
    with suppress(ClientLeft, RuntimeError):
        body = orjson.dumps({"error": error_text(error)})
        await send_answer(send, CLIENT_CLOSED_REQUEST, body, JSON, [id_header()])


def _known_priority(body: bytes) -> int | None:
    """The priority of a request that isn't decoded yet: 0 where it names none, None where it takes a look to know."""
    return 0 if len(body) <= _SEARCHED and b"priority" not in body else None


async def _compressed(answer: bytes, accepted: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The answer in the coding that the client wants, which is added to the headers.

    Clients that name several codings do so by default; only one that names a single one is taken by its word.
    """
    coding = accepted.decode("latin-1").strip().lower()
    if coding not in CODINGS:
        return answer
    headers.append((b"content-encoding", coding.encode()))
    return await asyncio.to_thread(compress, answer, coding)


def json_length(headers: Headers) -> int | None:
    """The bytes of JSON before the binary data; None where all is JSON.

    Raises:
        MalformedBody: the header isn't a number.
    """
    value = headers.get(_LENGTH_HEADER)
    if value is None:
        return None
    if not value.isdigit() or len(value) > MAX_DIGITS:
        shown = value[:80].decode("latin-1")
        raise MalformedBody(f"Inference-Header-Content-Length must be a number of bytes, got {shown!r}")
    return int(value)


async def _decoded(body: bytes, decode: Callable[[bytes], T]) -> T:
    if len(body) > _OFF_LOOP:
        return await asyncio.to_thread(decode, body)
    return decode(body)
