"""An ASGI application of a few JSON calls: routes with names in them, bodies within a limit, errors as JSON."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import orjson

from salver.core.errors import MalformedBody, MethodNotAllowed, UnknownRoute
from salver.frontends.http import (
    ClientLeft,
    Headers,
    Receive,
    Scope,
    Send,
    id_header,
    read_body,
    send_answer,
)
from salver.frontends.v2_rest import JSON, answer_error
from salver.monitoring.metrics import FailedRequests
from salver.monitoring.request_id import begin_request

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

    def routes(self) -> set[tuple[str, str]]:
        """Paths and methods that it answers."""
        return {(path, method) for path, (_, handlers) in self._routes.items() for method in handlers}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
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
            await answer_error(error, scope, send, failed=self._failed, front_end=self._front_end)

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


def _parsed(body: bytes) -> Any:
    if not body.strip():
        return None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"the body isn't JSON: {error}") from None
