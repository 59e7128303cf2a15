"""The client of graphs against a server that answers as told."""

from __future__ import annotations

from collections.abc import Callable

import httpx2
import numpy as np
import orjson
import pytest

from salver.client.graphs import GraphClient
from salver.core.errors import MalformedBody, ServerUnreachable, UnknownModel
from salver.core.request import InferenceRequest
from salver.wire.v2_json import decode_request

Handle = Callable[[httpx2.Request], httpx2.Response]


def client(handle: Handle) -> GraphClient:
    found = GraphClient("http://salver", timeout=5)
    found._client.http.close()
    found._client.http = httpx2.Client(transport=httpx2.MockTransport(handle), headers=found._client.http.headers)
    return found


def answer(document: object, status: int = 200) -> httpx2.Response:
    return httpx2.Response(status, content=orjson.dumps(document), headers={"content-type": "application/json"})


def test_what_it_asks_for() -> None:
    asked: list[str] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        asked.append(f"{request.method} {request.url.raw_path.decode()}")
        return answer({"graphs": [{"name": "a"}], "traces": [{"id": "1"}]})

    with client(handle) as graphs:
        assert graphs.graphs() == [{"name": "a"}]
        graphs.show("a", "2")
        graphs.show("a/../b")
        assert graphs.traces("a") == [{"id": "1"}]
    assert asked == [
        "GET /api/v1/graphs",
        "GET /api/v1/graphs/a?version=2",
        "GET /api/v1/graphs/a%2F..%2Fb",
        "GET /api/v1/graphs/a/traces",
    ]


def test_explain_sends_the_request() -> None:
    x = np.array([[1, 2]], np.float32)

    def handle(request: httpx2.Request) -> httpx2.Response:
        length = int(request.headers["inference-header-content-length"])
        came, _ = decode_request(request.content, length, model="a", version="")
        assert came.inputs["x"].tolist() == x.tolist()
        return answer({"error": ""})

    with client(handle) as graphs:
        assert graphs.explain(InferenceRequest("a", "", {"x": x})) == {"error": ""}


def test_errors() -> None:
    request = InferenceRequest("a", "", {})
    with client(lambda _: answer({"error": "there is no model 'a'"}, 404)) as graphs:
        for call in (lambda: graphs.show("a"), lambda: graphs.traces("a"), lambda: graphs.explain(request)):
            with pytest.raises(UnknownModel, match="there is no model 'a'"):
                call()
    with client(lambda _: answer([1])) as graphs, pytest.raises(MalformedBody, match="didn't answer as a Salver"):
        graphs.explain(request)
    with GraphClient("http://127.0.0.1:9", timeout=5) as graphs, pytest.raises(ServerUnreachable):
        graphs.graphs()
