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
from salver.core.errors import InvalidRequest
from salver.frontends.http import ClientLeft, Headers, Receive, Scope, Send, id_header, read_body, send_answer
from salver.frontends.json_api import JsonApi, JsonCall
from salver.frontends.v2_rest import JSON, answer_error, json_length
from salver.graph.description import describe_answer, describe_graph, describe_trace
from salver.graph.model import GraphModel
from salver.monitoring.metrics import FailedRequests
from salver.monitoring.request_id import begin_request
from salver.wire.v2_json import decode_request

PREFIX = "/api/v1/graphs"

_EXPLAIN = re.compile(PREFIX + r"/(?P<name>[^/]+)/explain/?")

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
        self._json = JsonApi(
            {
                ("GET", PREFIX): self._list,
                ("GET", PREFIX + "/{name}"): self._show,
                ("GET", PREFIX + "/{name}/traces"): self._traces,
            },
            front_end="graphs",
            failed=failed,
        )

    def routes(self) -> set[tuple[str, str]]:
        """Paths and methods that it answers."""
        return self._json.routes() | {(PREFIX + "/{name}/explain", "POST")}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The ASGI application."""
        match = _EXPLAIN.fullmatch(scope["path"])
        if match is not None and scope["method"] == "POST":
            return self._explain(match["name"], scope, receive, send)
        return self._json(scope, receive, send)

    async def _list(self, _: JsonCall) -> tuple[int, Any]:
        graphs = [
            {"name": loaded.name, "version": loaded.version, "description": loaded.composed.config.description}
            for loaded in self._models.loaded()
            if isinstance(loaded.composed, GraphModel)
        ]
        return 200, {"graphs": graphs}

    async def _show(self, call: JsonCall) -> tuple[int, Any]:
        loaded, graph = await self._acquire(call.names["name"], _version(call.query))
        try:
            return 200, describe_graph(loaded.name, loaded.version, graph)
        finally:
            loaded.unpin()

    async def _traces(self, call: JsonCall) -> tuple[int, Any]:
        loaded, graph = await self._acquire(call.names["name"], _version(call.query))
        try:
            return 200, {"traces": [describe_trace(trace) for trace in graph.traces]}
        finally:
            loaded.unpin()

    async def _explain(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = dict(scope["headers"])
        begin_request(headers.get(b"x-request-id"))
        try:
            loaded, graph = await self._acquire(name, _version(scope.get("query_string", b"")))
            try:
                body = await read_body(receive, headers, limit=self._limit)
                length = json_length(headers)
                request, _ = await asyncio.to_thread(
                    decode_request, body, length, model=loaded.name, version=loaded.version
                )
                inputs = loaded.signature.check_inputs(request.inputs)
                answer, trace = await graph.explain(request, inputs)
            finally:
                loaded.unpin()
            told = {"name": loaded.name, "version": loaded.version} | describe_answer(answer, trace)
            await send_answer(send, 200, orjson.dumps(told), JSON, [id_header()])
        except ClientLeft:
            _log.debug("%s %s: the client left", scope["method"], scope["path"])
        except Exception as error:  # noqa: BLE001  the last line of defence: nothing else may reach the client
            await answer_error(error, scope, send, failed=self._failed, front_end="graphs")

    async def _acquire(self, name: str, version: str) -> tuple[LoadedVersion, GraphModel]:
        loaded = await self._models.acquire(name, version)
        if not isinstance(loaded.composed, GraphModel):
            loaded.unpin()
            raise InvalidRequest(f"model '{name}' is no graph; its metadata is at /v2/models/{name}")
        return loaded, loaded.composed


def _version(query: bytes) -> str:
    return parse_qs(query.decode("latin-1")).get("version", [""])[0]
