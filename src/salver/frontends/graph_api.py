"""Graphs over HTTP: what they are made of, their requests' time lines, and one request explained step by step."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable
from typing import Any
from urllib.parse import parse_qs

import orjson

from salver.cache.loaded_version import LoadedVersion
from salver.cache.model_cache import ModelCache
from salver.core.errors import InvalidRequest, MethodNotAllowed, Overloaded
from salver.frontends.deadlines import set_deadline
from salver.frontends.departures import Departed, Departures
from salver.frontends.http import ClientLeft, Headers, Receive, Scope, Send, id_header, send_answer
from salver.frontends.json_api import JsonApi, JsonCall
from salver.frontends.v2_rest import JSON, answer_error, close_off, json_length, timed_body
from salver.graph.description import describe_answer, describe_graph, describe_trace
from salver.graph.model import GraphModel
from salver.monitoring.metrics import FailedRequests
from salver.monitoring.request_id import begin_request
from salver.wire.v2_json import decode_raw_request, decode_request

PREFIX = "/api/v1/graphs"

_EXPLAIN = re.compile(PREFIX + r"/(?P<model>[^/]+)/explain/?")

_MOST_EXPLAINED = 16
"""Requests that are explained at a time: each keeps all tensors of all its steps."""

_log = logging.getLogger("salver.rest")


class GraphApp:
    """The ASGI application of ``/api/v1/graphs``.

    Args:
        models: the node's, graphs among them.
        max_request_bytes: larger requests aren't explained.
        failed: counts the requests that are answered with an error.
    """

    def __init__(self, models: ModelCache, *, max_request_bytes: int, failed: FailedRequests) -> None:
        self._models = models
        self._limit = max_request_bytes
        self._failed = failed
        self._explaining = 0
        self._departures = Departures()
        self._json = JsonApi(
            {
                ("GET", PREFIX): self._list,
                ("GET", PREFIX + "/{model}"): self._show,
                ("GET", PREFIX + "/{model}/traces"): self._traces,
            },
            front_end="graphs",
            failed=failed,
        )

    def routes(self) -> set[tuple[str, str]]:
        """Paths and methods that it answers."""
        return self._json.routes() | {(PREFIX + "/{model}/explain", "POST")}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The ASGI application."""
        match = _EXPLAIN.fullmatch(scope["path"])
        if match is not None:
            return self._explain(match["model"], scope, receive, send)
        return self._json(scope, receive, send)

    async def _list(self, _: JsonCall) -> tuple[int, Any]:
        graphs = [
            {"name": loaded.name, "version": loaded.version, "description": loaded.composed.config.description}
            for loaded in self._models.loaded()
            if isinstance(loaded.composed, GraphModel)
        ]
        return 200, {"graphs": graphs}

    async def _show(self, call: JsonCall) -> tuple[int, Any]:
        loaded, graph = await self._acquire(call.names["model"], _version(call.query))
        try:
            return 200, describe_graph(loaded.name, loaded.version, graph)
        finally:
            loaded.unpin()

    async def _traces(self, call: JsonCall) -> tuple[int, Any]:
        loaded, graph = await self._acquire(call.names["model"], _version(call.query))
        try:
            return 200, {"traces": [describe_trace(trace) for trace in graph.traces]}
        finally:
            loaded.unpin()

    async def _explain(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = dict(scope["headers"])
        begin_request(headers.get(b"x-request-id"))
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(f"{scope['path']} takes POST, not {scope['method']}", allowed=("POST",))
            if self._explaining >= _MOST_EXPLAINED:
                raise Overloaded(f"{_MOST_EXPLAINED} requests are being explained, as many as may be; try again later")
            self._explaining += 1
            try:
                told = await self._explained(name, headers, scope, receive)
            finally:
                self._explaining -= 1
            await send_answer(send, 200, orjson.dumps(told), JSON, [id_header()])
        except Departed as error:
            _log.debug("%s %s: the client left while its request ran", scope["method"], scope["path"])
            await close_off(error, send)
        except ClientLeft:
            _log.debug("%s %s: the client left", scope["method"], scope["path"])
        except Exception as error:  # noqa: BLE001  the last line of defence: nothing else may reach the client
            await answer_error(error, scope, send, failed=self._failed, front_end="graphs")

    async def _explained(self, name: str, headers: Headers, scope: Scope, receive: Receive) -> dict[str, Any]:
        loaded, graph = await self._acquire(name, _version(scope.get("query_string", b"")))
        try:
            body, deadline = await timed_body(receive, headers, limit=self._limit)
            length = json_length(headers)
            which = {"model": loaded.name, "version": loaded.version}
            if length == 0:
                request, _ = decode_raw_request(body, loaded.signature, **which)
            else:
                request, _ = await asyncio.to_thread(decode_request, body, length, **which)
            if deadline is not None:
                set_deadline(request, deadline)
            inputs = loaded.signature.check_inputs(request.inputs)
            answer, trace = await self._departures.guard(scope, graph.explain(request, inputs))
        finally:
            loaded.unpin()
        return {"name": loaded.name, "version": loaded.version} | describe_answer(answer, trace)

    async def _acquire(self, name: str, version: str) -> tuple[LoadedVersion, GraphModel]:
        loaded = await self._models.acquire(name, version)
        if not isinstance(loaded.composed, GraphModel):
            loaded.unpin()
            raise InvalidRequest(f"model '{name}' is no graph; its metadata is at /v2/models/{name}")
        return loaded, loaded.composed


def _version(query: bytes) -> str:
    return parse_qs(query.decode("latin-1")).get("version", [""])[0]
