"""An ASGI application of a few JSON calls: routes with names in them, bodies within a limit, errors as JSON."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Final, TypeAlias

import orjson

from salver.core import errors
from salver.core.errors import InternalError, MalformedBody, MethodNotAllowed, SalverError, UnknownRoute
from salver.frontends.http import (
    ClientLeft,
    Headers,
    Receive,
    Scope,
    Send,
    error_text,
    id_header,
    read_body,
    send_answer,
    status_of,
)
from salver.frontends.v2_rest import JSON, STATUSES
from salver.monitoring.metrics import FailedRequests
from salver.monitoring.request_id import begin_request, current_request_id

MAX_BODY_BYTES: Final = 1 << 20

_log = logging.getLogger("salver.rest")


@dataclass(frozen=True, slots=True)
class JsonCall:
    """A call on its way to a handler.

    Attributes:
        names: what stands in the URL in place of the route's names.
        query: the URL's query, as it came.
        body: the JSON value of the body; None where there is none.
    """

    names: Mapping[str, str]
    query: bytes
    body: Any


JsonHandler: TypeAlias = Callable[[JsonCall], Awaitable[tuple[int, Any]]]
"""Gives the status and the answer."""


class JsonApi:
    """Answers calls whose requests and answers are small JSON documents.

    Args:
        routes: method and path, such as ``("PUT", "/api/v1/cache/models/{name}")`` -> handler.
        front_end: how metrics call it.
        failed: counts the requests that are answered with an error.
    """

    def __init__(
        self, routes: Mapping[tuple[str, str], JsonHandler], *, front_end: str, failed: FailedRequests
    ) -> None:
        self._routes: dict[str, tuple[re.Pattern[str], dict[str, JsonHandler]]] = {}
        for (method, path), handler in routes.items():
            pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path) + "/?")
            self._routes.setdefault(path, (pattern, {}))[1][method] = handler
        self._front_end = front_end
        self._failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":  # a websocket, which nothing here speaks
            await send({"type": "websocket.close"})
            return
        headers: Headers = dict(scope["headers"])
        begin_request(headers.get(b"x-request-id"))
        try:
            handler, names = self._route(scope["path"], scope["method"])
            body = await read_body(receive, headers, limit=MAX_BODY_BYTES)
            status, answer = await handler(JsonCall(names, scope.get("query_string", b""), _parsed(body)))
            await send_answer(send, status, orjson.dumps(answer), JSON, [id_header()])
        except ClientLeft:
            _log.debug("%s %s: the client left", scope["method"], scope["path"])
        except Exception as error:  # noqa: BLE001  the last line of defence: nothing else may reach the client
            await self._answer_error(error, scope, send)

    def _route(self, path: str, method: str) -> tuple[JsonHandler, dict[str, str]]:
        for pattern, handlers in self._routes.values():
            match = pattern.fullmatch(path)
            if match is None:
                continue
            handler = handlers.get("GET" if method == "HEAD" else method)
            if handler is None:
                raise MethodNotAllowed(f"{path} takes {' or '.join(handlers)}, not {method}", allowed=tuple(handlers))
            return handler, match.groupdict()
        raise UnknownRoute(f"no such URL: {path}; see /docs for those that there are")

    async def _answer_error(self, error: Exception, scope: Scope, send: Send) -> None:
        if not isinstance(error, SalverError):
            _log.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
            error = InternalError(f"internal error; the server's log has it under request id {current_request_id()}")
        self._failed.add(self._front_end, error)
        extra = [id_header()]
        if isinstance(error, errors.Overloaded):
            extra.append((b"retry-after", b"%d" % max(1, ceil(error.retry_after))))
        elif isinstance(error, MethodNotAllowed):
            extra.append((b"allow", ", ".join(error.allowed).encode()))
        try:
            body = orjson.dumps({"error": error_text(error)})
            await send_answer(send, status_of(error, STATUSES), body, JSON, extra)
        except (ClientLeft, RuntimeError):
            _log.debug("the error couldn't be sent", exc_info=True)


def _parsed(body: bytes) -> Any:
    if not body.strip():
        return None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"the body isn't JSON: {error}") from None
