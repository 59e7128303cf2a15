"""Passes a request on to the server that has its model."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from time import monotonic
from urllib.parse import quote

import httpx2

from salver.client.exchange import JSON_LENGTH, Answer, raise_for
from salver.cluster.neighbours import Neighbours
from salver.core.errors import (
    DeadlineExceeded,
    InvalidRequest,
    MalformedBody,
    ModelUnavailable,
    NotFound,
    Overloaded,
    ServerUnreachable,
)
from salver.core.registry import Node
from salver.core.request import InferenceRequest, InferenceResponse
from salver.wire.v2_headers import FORWARDED, WITHIN, encode_within
from salver.wire.v2_json import decode_response, encode_request

_LONGEST_SECONDS = 120.0
_CONNECT_SECONDS = 1.0
_MAX_CONNECTIONS = 256
_LARGE = 1 << 20

_log = logging.getLogger("salver.cluster")


class Forwarding:
    """Answers requests for models that other servers have or should have.

    Args:
        neighbours: know which.
    """

    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours
        self._http = httpx2.AsyncClient(
            timeout=httpx2.Timeout(_LONGEST_SECONDS, connect=_CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_CONNECTIONS),
            headers={"accept-encoding": "identity"},
        )

    async def predict(self, request: InferenceRequest) -> InferenceResponse | None:
        """The answer of the server that has the model; None where the request is this server's to answer.

        A server that can't be reached, doesn't know the model yet or has too much to do is no reason to fail: then this
        server loads the model itself.

        Raises:
            SalverError: what the other server said of the request, or that it broke off.
        """
        node = self._neighbours.place(request.model, request.version)
        if node is None:
            return None
        try:
            return await self._ask(node, request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            _log.warning("%s can't be reached, and gets no requests for a while: %s", node.url, error)
            self._neighbours.shun(node)
        except (NotFound, ModelUnavailable, Overloaded) as error:
            _log.debug("%s doesn't answer for model '%s': %s", node.url, request.model, error)
        return None

    def takes(self, model: str, version: str) -> bool:
        """See :meth:`salver.engine.Elsewhere.takes`."""
        return self._neighbours.place(model, version) is not None

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _ask(self, node: Node, request: InferenceRequest) -> InferenceResponse:
        parameters = dict(request.parameters)
        if request.priority:
            parameters["priority"] = request.priority
        seconds = _LONGEST_SECONDS
        if request.deadline is not None:
            seconds = request.deadline - monotonic()
            if seconds <= 0:
                raise DeadlineExceeded("the deadline had passed before the request was passed on")
            parameters["timeout"] = max(1, int(seconds * 1e6))
        sent = replace(request, parameters=parameters)
        if sum(array.nbytes for array in request.inputs.values()) > _LARGE:
            body, length = await asyncio.to_thread(encode_request, sent)
        else:
            body, length = encode_request(sent)
        headers = {FORWARDED.decode(): self._neighbours.node_id, "content-type": "application/octet-stream"}
        if length is None:
            headers["content-type"] = "application/json"
        else:
            headers[JSON_LENGTH] = str(length)
        if request.within:
            headers[WITHIN.decode()] = encode_within(request.within)
        path = f"/v2/models/{quote(request.model, safe='')}"
        if request.version:
            path += f"/versions/{quote(request.version, safe='')}"
        try:
            async with asyncio.timeout(seconds):
                response = await self._http.post(f"{node.url}{path}/infer", content=body, headers=headers)
        except TimeoutError:
            raise DeadlineExceeded(f"the server that has model '{request.model}' gave no answer in time") from None
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout):
            raise
        except httpx2.HTTPError as error:
            raise ServerUnreachable(f"the server that has model '{request.model}' broke off: {error}") from error
        raise_for(Answer(response.status_code, response.headers, response.content), request.model)
        told = response.headers.get(JSON_LENGTH)
        try:
            return decode_response(memoryview(bytearray(response.content)), None if told is None else int(told))
        except (InvalidRequest, ValueError) as error:
            raise MalformedBody(f"the answer of {node.url} isn't a V2 inference response: {error}") from error
