"""The REST front end: routes, bodies, headers, errors; driven as an ASGI application, and over a real listener."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h2corn
import httpx2
import numpy as np
import pytest
from asgi import Answer, call
from gates import fresh_gates, gate, journal, until  # noqa: F401
from small_models import COUNT, ECHO, FAILS, GATED, engine_over, write_broken, write_onnx, write_python

from salver.core.errors import InstanceFailed, Overloaded
from salver.engine import Engine
from salver.frontends.http import status_of
from salver.frontends.v2 import V2Api
from salver.frontends.v2_rest import STATUSES, RestApp
from salver.monitoring.metrics import FailedRequests

LIMIT = 100_000
LENGTH = "inference-header-content-length"

LARGE = """
import numpy as np

class Model:
    def predict(self, count: int):
        return {"y": np.zeros(int(count), np.float32)}
"""

ODD_TEXT = """
class Model:
    def predict(self, x: int):
        raise ValueError("half a pair: \\ud800, a line\\nend")
"""

WITH_FIXED_X = """
inputs:
  - {name: x, datatype: INT32, shape: [-1]}
outputs:
  - {name: y, datatype: INT32, shape: [-1]}
"""


class Front:
    """A REST front end and what is behind it."""

    def __init__(self, engine: Engine, *, limit: int = LIMIT) -> None:
        self.engine = engine
        self.failed = FailedRequests()
        self.api = V2Api(engine)
        self.app = RestApp(self.api, max_request_bytes=limit, failed=self.failed)

    async def get(self, path: str, **more: Any) -> Answer:
        return await call(self.app, "GET", path, **more)

    async def post(self, path: str, body: Any = b"", headers: dict[str, str] | None = None, **more: Any) -> Answer:
        return await call(self.app, "POST", path, body, headers, **more)

    async def infer(self, model: str, tensor: dict[str, Any], **more: Any) -> Answer:
        return await self.post(f"/v2/models/{model}/infer", {"inputs": [tensor], **more})


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    write_onnx(tmp_path, "scale", version="1", factor=2)
    write_onnx(tmp_path, "scale", version="2", factor=3)
    write_python(tmp_path, "echo", ECHO)
    write_python(tmp_path, "ints", ECHO, config=WITH_FIXED_X)
    write_python(tmp_path, "fails", FAILS)
    write_python(tmp_path, "odd", ODD_TEXT)
    write_python(tmp_path, "gated", GATED, config="max_queue: 1\n")
    write_python(tmp_path, "count", COUNT)
    write_python(tmp_path, "large", LARGE)
    write_python(tmp_path, "versions", ECHO)
    write_broken(tmp_path, "broken")
    async with engine_over(tmp_path) as engine:
        yield Front(engine)
        for each in engine.models.loaded():
            assert (each.pins, each.statistics.in_flight) == (0, 0), each.name


X = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
ONE = {"name": "x", "datatype": "INT64", "shape": [1], "data": [1]}
TEXT = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["hello"]}


# Routes


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/scale/ready", {"name": "scale", "ready": True}),
        ("/v2/models/scale/versions/1/ready", {"name": "scale", "ready": True}),
        ("/v2/systemsharedmemory/status", []),
        ("/v2/cudasharedmemory/status", []),
    ],
)
async def test_health(front: Front, path: str, body: object) -> None:
    answer = await front.get(path)
    assert answer.status == 200
    assert answer.json() == body
    assert answer.headers["content-type"] == "application/json"  # exactly: KServe's client wants it so


async def test_not_ready_is_503_with_a_body(front: Front) -> None:
    answer = await front.get("/v2/models/broken/ready")
    assert (answer.status, answer.json()) == (503, {"name": "broken", "ready": False})
    front.api.drain()
    answer = await front.get("/v2/health/ready")
    assert (answer.status, answer.json()) == (503, {"ready": False})
    assert (await front.get("/v2/health/live")).status == 200


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
async def test_the_root_answers_without_a_redirect(front: Front, path: str) -> None:
    answer = await front.get(path)
    assert answer.status == 200
    assert answer.json() == front.api.server_metadata()


@pytest.mark.parametrize("prefix", ["/v2/models/scale", "/v2/models/scale/versions/2"])
async def test_what_models_tell(front: Front, prefix: str) -> None:
    assert (await front.get(prefix)).json() == await front.api.model_metadata("scale")
    assert (await front.get(prefix + "/")).json() == await front.api.model_metadata("scale")
    assert (await front.get(prefix + "/config")).json() == await front.api.model_config("scale")
    stats = (await front.get(prefix + "/stats")).json()["model_stats"]
    assert [each["version"] for each in stats] == (["2"] if "versions" in prefix else ["1", "2"])


async def test_statistics_of_all_models_have_their_own_url(front: Front) -> None:
    assert (await front.get("/v2/models/stats")).json() == front.api.model_statistics()


async def test_a_model_may_be_called_versions(front: Front) -> None:
    assert (await front.get("/v2/models/versions")).json()["name"] == "versions"
    assert (await front.get("/v2/models/versions/versions/1")).json()["name"] == "versions"
    assert (await front.infer("versions", ONE)).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v2x",
        "/v2x/models/scale",
        "/v2models/scale",
        "/v2/models",
        "/v2/models/",
        "/v2/models//ready",
        "/v2/models//stats",
        "/v2/models/scale/versions",
        "/v2/models/scale/versions//ready",
        "/v2/models/scale/versions/1/infer/more",
        "/v2/models/scale/nothing",
        "/v2/models/scale/versions/1/nothing",
        "/v2/health",
        "/v2/health/well",
        "/v2/repository/models/scale",
        "/v2/repository/models/scale/reload",
        "/v2//models/scale",
        "/v2/models/../models/scale",
    ],
)
async def test_other_urls_dont_exist(front: Front, path: str) -> None:
    for method in ("GET", "POST"):
        answer = await call(front.app, method, path, b"{}")
        assert answer.status == 404
        assert answer.error


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v2", "GET"),
        ("DELETE", "/v2/models/scale", "GET"),
        ("GET", "/v2/models/scale/infer", "POST"),
        ("PUT", "/v2/models/scale/versions/1/infer", "POST"),
        ("GET", "/v2/repository/models/scale/load", "POST"),
        ("PATCH", "/v2/repository/index", "POST, GET"),
    ],
)
async def test_other_methods_are_refused(front: Front, method: str, path: str, allowed: str) -> None:
    answer = await call(front.app, method, path)
    assert answer.status == 405
    assert answer.headers["allow"] == allowed
    assert answer.error == f"{path} takes {allowed.replace(', ', ' or ')}, not {method}"


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/scale/trace/setting",
        "/v2/trace/setting",
        "/v2/logging",
        "/v2/systemsharedmemory/region/r/register",
        "/v2/cudasharedmemory/unregister",
    ],
)
async def test_what_isnt_supported_says_so(front: Front, path: str) -> None:
    for method in ("GET", "POST"):
        answer = await call(front.app, method, path)
        assert answer.status == 501
        assert "supported" in answer.error or "can't be changed" in answer.error


@pytest.mark.parametrize("rest", ["", "/config", "/stats", "/ready", "/infer", "/generate", "/generate_stream"])
@pytest.mark.parametrize("model", ["none", "scale/versions/9", "a..b", "%2e%2e"])
async def test_unknown_models(front: Front, model: str, rest: str) -> None:
    method = "POST" if rest in ("/infer", "/generate", "/generate_stream") else "GET"
    answer = await call(front.app, method, f"/v2/models/{model}{rest}", b"not even read")
    assert answer.status == 404
    assert "Request for unknown model" in answer.error


@pytest.mark.parametrize("rest", ["", "/config", "/stats", "/infer", "/generate", "/generate_stream"])
async def test_models_that_arent_ready(front: Front, rest: str) -> None:
    method = "GET" if rest in ("", "/config", "/stats") else "POST"
    answer = await call(front.app, method, f"/v2/models/broken{rest}", {"inputs": [X]})
    assert answer.status == 503
    assert "version 1 failed to load" in answer.error


async def test_a_body_for_an_unknown_model_isnt_waited_for(front: Front) -> None:
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"x", "more_body": True}

    answer = Answer()
    scope = {"type": "http", "method": "POST", "path": "/v2/models/none/infer", "headers": []}
    await front.app(scope, receive, answer.send)
    assert (answer.status, read) == (404, 0)


# The repository


async def test_the_index(front: Front) -> None:
    for answer in (
        await front.post("/v2/repository/index"),
        await front.post("/v2/repository/index", b"  "),
        await front.post("/v2/repository/index", {}),
        await front.get("/v2/repository/index"),
    ):
        assert answer.status == 200
        assert answer.json() == front.api.repository_index()
    ready = (await front.post("/v2/repository/index", {"ready": True})).json()
    assert {each["state"] for each in ready} == {"READY"}
    assert len(ready) == len(front.api.repository_index()) - 1


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b"{", b'{"ready": 1}', b'{"ready": "yes"}', b"[" * 500])
async def test_a_bad_index_request(front: Front, body: bytes) -> None:
    answer = await front.post("/v2/repository/index", body)
    assert answer.status == 400
    assert answer.error


async def test_load_and_unload(front: Front, tmp_path: Path) -> None:
    answer = await front.post("/v2/repository/models/scale/unload", {"parameters": {"unload_dependents": True}})
    assert (answer.status, answer.json()) == (200, {})
    assert (await front.get("/v2/models/scale/ready")).status == 503
    unavailable = await front.infer("scale", X)
    assert unavailable.status == 503
    assert "unloaded" in unavailable.error
    answer = await front.post("/v2/repository/models/scale/load")
    assert (answer.status, answer.json()) == (200, {})
    assert (await front.infer("scale", X)).json()["outputs"][0]["data"] == [3, 6]
    write_broken(tmp_path, "scale", version="2")
    answer = await front.post("/v2/repository/models/scale/load", {})
    assert answer.status == 400
    assert "failed to load 'scale' version 2" in answer.error
    assert (await front.infer("scale", X)).json()["outputs"][0]["data"] == [3, 6]


async def test_clients_arent_told_where_the_repository_lies(front: Front, tmp_path: Path) -> None:
    index = (await front.post("/v2/repository/index")).json()
    reasons = {model["name"]: model["reason"] for model in index}
    assert "broken/1/model.onnx" in reasons["broken"]
    load = await front.post("/v2/repository/models/broken/load")
    infer = await front.infer("broken", X)
    for text in (reasons["broken"], load.error, infer.error):
        assert str(tmp_path) not in text


async def test_loading_what_isnt_there(front: Front) -> None:
    answer = await front.post("/v2/repository/models/none/load")
    assert answer.status == 404
    assert "failed to load 'none'" in answer.error
    assert "Request for unknown model" in answer.error
    answer = await front.post("/v2/repository/models/none/unload")
    assert answer.status == 404
    assert "Request for unknown model" in answer.error


async def test_a_load_with_a_config_of_its_own_is_not_supported(front: Front) -> None:
    answer = await front.post("/v2/repository/models/scale/load", {"parameters": {"config": "{}"}})
    assert answer.status == 501


# Inference


@pytest.mark.parametrize("path", ["/v2/models/scale/infer", "/v2/models/scale/versions/2/infer"])
async def test_infer(front: Front, path: str) -> None:
    for _ in range(3):  # the first goes another way than those that follow
        answer = await front.post(path, {"inputs": [X], "id": "mine"})
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {
            "model_name": "scale",
            "model_version": "2",
            "id": "mine",
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [3.0, 6.0]}],
        }
    older = await front.post("/v2/models/scale/versions/1/infer", {"inputs": [X]})
    assert older.json()["outputs"][0]["data"] == [2.0, 4.0]


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/octet-stream"]
)
async def test_the_content_type_is_never_looked_at(front: Front, content_type: str) -> None:
    answer = await front.post("/v2/models/scale/infer", {"inputs": [X]}, {"content-type": content_type})
    assert answer.status == 200


async def test_binary_both_ways(front: Front) -> None:
    values = np.array([[1, 2], [3, 4]], np.float32)
    header = json.dumps(
        {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}}],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        }
    ).encode()
    for _ in range(2):
        answer = await front.post("/v2/models/scale/infer", header + values.tobytes(), {LENGTH: str(len(header))})
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/octet-stream"
        length = int(answer.headers[LENGTH])
        assert json.loads(answer.body[:length])["outputs"][0]["parameters"] == {"binary_data_size": 16}
        assert np.frombuffer(answer.body[length:], np.float32).tolist() == [3, 6, 9, 12]


async def test_a_raw_request(front: Front) -> None:
    answer = await front.post("/v2/models/ints/infer", np.array([5, 6, 7], np.int32).tobytes(), {LENGTH: "0"})
    length = int(answer.headers[LENGTH])
    assert np.frombuffer(answer.body[length:], np.int32).tolist() == [5, 6, 7]


@pytest.mark.parametrize("length", ["-1", "1.5", "x", "", "0x10", "9" * 5000, "٣"])
async def test_a_header_length_that_is_none(front: Front, length: str) -> None:
    if not length.isascii():
        length = length.encode().decode("latin-1")
    answer = await front.post("/v2/models/scale/infer", {"inputs": [X]}, {LENGTH: length})
    assert answer.status == 400
    assert "Inference-Header-Content-Length must be a number" in answer.error
    assert len(answer.error) < 300


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "isn't valid JSON"),
        (b"{", "isn't valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "must have 'inputs'"),
        (b'{"inputs": [' + b"[" * 200 + b"]" * 200 + b"]}", "nested"),
        ({"inputs": []}, "missing input 'x'"),
        ({"inputs": [{**X, "name": "z"}]}, "unknown input 'z'; expected 'x'"),
        ({"inputs": [{**X, "datatype": "FP64"}]}, "expected datatype FP32, got FP64"),
        ({"inputs": [{**X, "shape": [2, 1]}]}, "expected shape [-1, 2]"),
        ({"inputs": [{**X, "shape": [-1, 2]}]}, "can't be negative"),
        ({"inputs": [X], "outputs": [{"name": "z"}]}, "unknown output 'z'; the model has 'y'"),
    ],
)
async def test_bad_requests(front: Front, body: Any, problem: str) -> None:
    for _ in range(2):
        answer = await front.post("/v2/models/scale/infer", body)
        assert answer.status == 400
        assert problem in answer.error


async def test_a_model_that_streams_is_refused_by_infer(front: Front) -> None:
    answer = await front.infer("count", {"name": "upto", "datatype": "INT64", "shape": [1], "data": [2]})
    assert answer.status == 501
    assert "generate_stream" in answer.error


async def test_a_large_answer_is_the_same_as_a_small_one(front: Front) -> None:
    count = 1_500_000  # beyond the size from which answers are encoded on a thread
    answer = await front.infer("large", {"name": "count", "datatype": "INT64", "shape": [1], "data": [count]})
    output = answer.json()["outputs"][0]
    assert (output["shape"], len(output["data"]), set(output["data"])) == ([count], count, {0.0})


async def test_a_large_request_is_the_same_as_a_small_one(front: Front) -> None:
    front = Front(front.engine, limit=2**26)
    values = list(range(1_000_000))
    answer = await front.infer("echo", {"name": "x", "datatype": "INT32", "shape": [len(values)], "data": values})
    assert answer.json()["outputs"][0]["data"] == values
    answer = await front.post("/v2/models/none/infer", b" " * 2**23)
    assert answer.status == 404


# Limits, compression


@pytest.mark.parametrize(
    "path",
    ["/v2/models/scale/infer", "/v2/models/echo/generate", "/v2/repository/index", "/v2/repository/models/scale/load"],
)
async def test_a_body_over_the_limit(front: Front, path: str) -> None:
    for body in (b" " * (LIMIT + 1), [b" " * LIMIT, b" "]):
        for _ in range(2):
            answer = await front.post(path, body)
            assert answer.status == 400
            assert answer.error == (
                f"the request body is larger than the server's limit of {LIMIT} bytes (max_request_bytes)"
            )


async def test_a_body_at_the_limit(front: Front) -> None:
    body = json.dumps({"inputs": [X]}).encode().ljust(LIMIT)
    assert (await front.post("/v2/models/scale/infer", body)).status == 200
    assert (await front.post("/v2/models/scale/infer", [body[:10], b"", body[10:]])).status == 200


@pytest.mark.parametrize(
    ("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("GZIP", gzip.compress)]
)
async def test_compressed_requests(front: Front, coding: str, compress: Any) -> None:
    body = compress(json.dumps({"inputs": [X]}).encode())
    for _ in range(2):
        answer = await front.post("/v2/models/scale/infer", body, {"content-encoding": coding})
        assert answer.json()["outputs"][0]["data"] == [3, 6]
    halves = [body[:10], body[10:]]
    assert (await front.post("/v2/models/scale/infer", halves, {"content-encoding": coding})).status == 200


async def test_the_header_length_is_that_of_the_uncompressed_json(front: Front) -> None:
    header = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}]}
    ).encode()
    body = gzip.compress(header + np.array([1, 2], np.float32).tobytes())
    answer = await front.post("/v2/models/scale/infer", body, {"content-encoding": "gzip", LENGTH: str(len(header))})
    assert answer.json()["outputs"][0]["data"] == [3, 6]


async def test_a_bomb_is_refused(front: Front) -> None:
    answer = await front.post("/v2/models/scale/infer", gzip.compress(b" " * 50_000_000), {"content-encoding": "gzip"})
    assert answer.status == 400
    assert "larger than the limit" in answer.error


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [("br", b"x", 501), ("gzip", b"x", 400), ("gzip", b"", 400), ("gzip, gzip", b"x", 501)],
)
async def test_bad_codings(front: Front, coding: str, body: bytes, status: int) -> None:
    answer = await front.post("/v2/models/scale/infer", body, {"content-encoding": coding})
    assert answer.status == status
    assert answer.error


@pytest.mark.parametrize(("coding", "decompress"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
async def test_compressed_answers(front: Front, coding: str, decompress: Any) -> None:
    plain = await front.infer("scale", X)
    answer = await front.post("/v2/models/scale/infer", {"inputs": [X]}, {"accept-encoding": coding})
    assert answer.headers["content-encoding"] == coding
    assert decompress(answer.body) == plain.body


@pytest.mark.parametrize("accepted", ["gzip, deflate, br", "*", "identity", "br", ""])
async def test_who_names_no_single_coding_gets_none(front: Front, accepted: str) -> None:
    answer = await front.post("/v2/models/scale/infer", {"inputs": [X]}, {"accept-encoding": accepted})
    assert "content-encoding" not in answer.headers
    assert answer.status == 200


# Errors


async def test_a_failing_model_is_500_and_its_traceback_only_in_the_log(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await front.infer("fails", TEXT)
    assert answer.status == 500
    assert "ValueError: hello" in answer.error
    assert "Traceback" not in answer.error
    assert "model.py" not in answer.error
    assert "Traceback" in caplog.text


async def test_an_error_that_is_no_valid_unicode(front: Front) -> None:
    answer = await front.infer("odd", ONE)
    assert answer.status == 500
    assert "half a pair: ?, a line\nend" in answer.error


async def test_an_unexpected_exception_tells_the_client_nothing(
    front: Front, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("a secret of the server")

    monkeypatch.setattr(front.engine.models, "find", broken)
    for method, path in (
        ("POST", "/v2/models/scale/infer"),
        ("GET", "/v2/models/scale"),
        ("POST", "/v2/models/scale/generate"),
    ):
        caplog.clear()
        answer = await call(front.app, method, path, {"inputs": [X]}, {"x-request-id": "abc"})
        assert answer.status == 500
        assert answer.error == "internal error; the server's log has it under request id abc"
        assert "a secret of the server" in caplog.text
    assert front.failed.counts["rest", "InternalError"] == 3


async def test_errors_are_short_whatever_they_quote(front: Front) -> None:
    front = Front(front.engine, limit=2**24)
    answer = await front.infer("scale", {**X, "name": "n" * 2**20})
    assert answer.status == 400
    assert len(answer.body) < 5000
    assert "unknown input" in answer.error


async def test_overload_is_429_and_says_when_to_come_back(front: Front) -> None:
    running = asyncio.create_task(front.infer("gated", ONE))
    await gate("predict").reached_async()
    waiting = asyncio.create_task(front.infer("gated", ONE))
    await until(lambda: front.engine.models.lookup("gated").statistics.in_flight == 2)
    answer = await front.infer("gated", ONE)
    assert answer.status == 429
    assert answer.headers["retry-after"] == "1"
    assert "try again later" in answer.error
    gate("predict").open()
    assert [(await each).status for each in (running, waiting)] == [200, 200]


async def test_retry_after_is_whole_seconds_and_never_too_early(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(_: object) -> None:
        raise Overloaded("full", retry_after=2.1)

    monkeypatch.setattr(front.api, "infer", full)
    assert (await front.infer("scale", X)).headers["retry-after"] == "3"


async def test_failures_are_counted_by_class(front: Front) -> None:
    await front.infer("none", X)
    await front.infer("scale", {**X, "shape": [1]})
    await front.get("/v2/nothing")
    assert front.failed.counts == {
        ("rest", "UnknownModel"): 1,
        ("rest", "InvalidInput"): 1,
        ("rest", "UnknownRoute"): 1,
    }


# Request ids and logs


async def test_a_clients_request_id_is_echoed_and_logged(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "salver.rest")
    answer = await front.post("/v2/models/scale/infer", {"inputs": [X]}, {"x-request-id": "trace-7"})
    assert answer.headers["x-request-id"] == "trace-7"
    await front.post("/v2/models/scale/infer", {"inputs": []}, {"x-request-id": "trace-9"})
    assert "POST /v2/models/scale/infer: 400" in caplog.text
    for path in ("/v2", "/v2/nothing", "/v2/models/scale/ready"):
        assert (await front.get(path, headers={"x-request-id": "trace-8"})).headers["x-request-id"] == "trace-8"


async def test_others_get_an_id_of_their_own(front: Front) -> None:
    ids = {(await front.get("/v2")).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
    assert (await front.get("/v2", headers={"x-request-id": "a\x1bb"})).headers["x-request-id"] != "a\x1bb"


async def test_only_the_servers_faults_are_logged_unasked(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "salver")
    await front.infer("scale", X)
    await front.infer("scale", {**X, "shape": [1]})
    await front.get("/v2/nothing")
    assert caplog.text == ""
    await front.infer("broken", X)
    assert "503" in caplog.text


# Clients that leave


@pytest.mark.parametrize("body", [[b'{"inp', b"uts"], [b""]])
async def test_a_client_that_leaves_while_it_sends(front: Front, body: list[bytes]) -> None:
    for _ in range(2):
        answer = await front.post("/v2/models/scale/infer", body, leaves=True)
        assert answer.status == 0
        await front.infer("scale", X)
    assert front.failed.counts == {}


@pytest.mark.parametrize("path", ["/v2/models/scale/infer", "/v2", "/v2/models/none/infer"])
async def test_a_client_that_leaves_before_its_answer_is_no_failure(
    front: Front, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def send(message: object) -> None:
        raise ConnectionResetError("gone")

    method = "POST" if path.endswith("infer") else "GET"
    for _ in range(2):
        await call(front.app, method, path, {"inputs": [X]}, send=send)
        await front.infer("scale", X)
    assert ("rest", "InternalError") not in front.failed.counts
    assert "Traceback" not in caplog.text


async def test_a_stream_that_nobody_reads_any_more_ends(front: Front) -> None:
    sent = 0

    async def send(message: object) -> None:
        nonlocal sent
        sent += 1
        if sent == 4:
            raise ConnectionResetError("gone")

    await call(front.app, "POST", "/v2/models/count/generate_stream", {"upto": 1_000_000}, send=send)
    assert sent == 4
    assert journal == ["left"]
    assert front.failed.counts == {}


async def test_a_cancelled_request_holds_nothing(front: Front) -> None:
    asking = asyncio.create_task(front.infer("gated", ONE))
    await gate("predict").reached_async()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert front.engine.models.lookup("gated").statistics.in_flight == 0
    gate("predict").open()
    assert (await front.infer("gated", ONE)).status == 200


async def test_a_websocket_is_closed(front: Front) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    await front.app({"type": "websocket", "path": "/v2", "headers": []}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


# A real listener


@asynccontextmanager
async def listening(front: Front) -> AsyncIterator[str]:
    server = h2corn.Server(
        front.app,
        h2corn.Config(host="127.0.0.1", port=0, lifespan="off", access_log=False, max_request_body_size=0),
    )
    serving = asyncio.create_task(server.serve())
    await server.wait_started()
    try:
        yield f"http://{server.addresses[0]}"
    finally:
        server.shutdown()
        await serving


@pytest.fixture
def quiet_banner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h2corn._lib.emit_banner", lambda *_: None)


@pytest.mark.e2e
@pytest.mark.usefixtures("quiet_banner")
async def test_requests_over_a_connection(front: Front) -> None:
    async with listening(front) as url, httpx2.AsyncClient(base_url=url) as client:
        many = [client.post("/v2/models/scale/infer", json={"inputs": [X], "id": str(number)}) for number in range(50)]
        answers = await asyncio.gather(*many)
        assert [answer.json()["id"] for answer in answers] == [str(number) for number in range(50)]
        assert (await client.get("/v2/")).status_code == 200
        assert (await client.get("/v2/models/n%C3%A4h%0Ame")).status_code == 404
        probe = await client.head("/v2/health/ready")  # as load balancers do it
        assert (probe.status_code, probe.content) == (200, b"")
        assert (await client.head("/v2/models/none/ready")).status_code == 404
        assert (await client.head("/v2/models/scale/infer")).status_code == 405
        large = await client.post("/v2/models/scale/infer", content=b" " * (LIMIT * 20))
        assert large.status_code == 400
        assert "max_request_bytes" in large.json()["error"]
        assert (await client.get("/v2/health/ready")).json() == {"ready": True}


@pytest.mark.e2e
@pytest.mark.usefixtures("quiet_banner")
async def test_a_stream_comes_as_it_is_made(front: Front) -> None:
    async with (
        listening(front) as url,
        httpx2.AsyncClient(base_url=url) as client,
        client.stream("POST", "/v2/models/count/generate_stream", json={"upto": 3}) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line.removeprefix("data: ")) async for line in answer.aiter_lines() if line]
    assert [event["number"] for event in events] == [0, 1, 2]


@pytest.mark.e2e
@pytest.mark.usefixtures("quiet_banner")
async def test_a_client_that_leaves_a_stream_ends_it(front: Front) -> None:
    async with listening(front) as url:
        async with (
            httpx2.AsyncClient(base_url=url) as client,
            client.stream("POST", "/v2/models/count/generate_stream", json={"upto": 10**12}) as answer,
        ):
            assert await anext(answer.aiter_lines())
        await until(lambda: front.engine.models.lookup("count").statistics.in_flight == 0)
    assert journal == ["left"]


# Errors of the queue


def test_a_failed_instance_is_unavailable() -> None:
    assert status_of(InstanceFailed("x"), STATUSES) == 503


async def test_a_refused_request_is_told_when_to_come_again(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, header in ((0.001, "1"), (1.0, "1"), (1.2, "2"), (30.0, "30")):

        def full(model: str, version: str, priority: int | None = None, seconds: float = seconds) -> None:
            raise Overloaded("the queue is full", retry_after=seconds)

        monkeypatch.setattr(front.api, "admit", full)
        for action in ("infer", "generate", "generate_stream"):
            # Refused before it is decoded: the body isn't JSON.
            answer = await front.post(f"/v2/models/echo/{action}", b"no JSON")
            assert (answer.status, answer.error) == (429, "the queue is full")
            assert answer.headers["retry-after"] == header
