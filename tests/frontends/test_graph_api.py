"""Graphs over HTTP: the routes are those of the document, answers are as it says, wrong calls are refused."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from asgi import Answer, call
from gates import until
from graph_repository import CHAIN, write_graph, write_model, write_onnx
from jsonschema import Draft202012Validator

from salver.assembly import build_engine
from salver.config import ServerSettings
from salver.core.request import InferenceRequest
from salver.engine import Engine
from salver.frontends.graph_api import PREFIX, GraphApp
from salver.frontends.openapi import document
from salver.monitoring.metrics import FailedRequests
from salver.wire.v2_json import encode_request

DOCUMENT = document()
X = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}

MODEL = """
import asyncio
import numpy as np

class Model:
    async def predict(self, x: np.ndarray, parameters: dict) -> dict:
        how = parameters.get("how", "")
        if how == "fail":
            raise RuntimeError("nothing works")
        if how == "hang":
            await asyncio.sleep(60)
        return {"y": x, "text": np.array([b"\\xff", "\\u00e4".encode() * 41, b"short"], object)}
"""

EVERYTHING = """
inputs: [{name: x, datatype: FP32, shape: [-1, 2]}, {name: more, optional: true}]
outputs: [{name: y, from: ask.y}, {name: text, from: ask.text}, {name: rows, from: last.rows, optional: true}]
parameters: {how: ""}
steps:
- {name: ask, model: careful, inputs: {x: inputs.x}, parameters: {how: $how}, fallback: {on: [timeout], step:
    {values: {y: inputs.x, text: {value: [a]}}}}}
- {name: never, model: double, inputs: {x: inputs.x}, when: "false"}
- {name: each, map: {over: {row: inputs.x}, step: {values: {row: item.row}}}, optional: true}
- {name: last, values: {rows: each.row, nan: [.nan]}, after: [never]}
"""


def check(schema: str, value: Any) -> None:
    whole = {"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]}
    Draft202012Validator(whole).validate(value)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    write_onnx(tmp_path, "double", 2.0)
    write_model(tmp_path, "careful", MODEL)
    write_graph(tmp_path, "chain", CHAIN)
    write_graph(tmp_path, "everything", EVERYTHING)
    engine = build_engine(ServerSettings(repository=tmp_path, allow_code=True))
    await engine.start()
    yield engine
    await engine.close()


@pytest.fixture
def app(engine: Engine) -> GraphApp:
    return GraphApp(engine.models, max_request_bytes=10_000, failed=FailedRequests())


async def explain(app: GraphApp, name: str, body: object = X, **more: Any) -> Answer:
    return await call(app, "POST", f"{PREFIX}/{name}/explain", body, **more)


async def test_the_document_has_the_routes_that_there_are(app: GraphApp) -> None:
    documented = {
        (path, method.upper())
        for path, item in DOCUMENT["paths"].items()
        for method in item
        if method != "parameters" and path.startswith(PREFIX)
    }
    assert app.routes() == documented
    for path, method in documented:
        answer = await call(app, method, path.replace("{model}", "chain"), X if method == "POST" else b"")
        assert answer.status == 200, path
        wrong = await call(app, "DELETE", path.replace("{model}", "chain"))
        assert (wrong.status, wrong.headers["allow"]) == (405, method)


async def test_answers_are_as_documented(app: GraphApp, engine: Engine) -> None:
    listed = (await call(app, "GET", PREFIX)).json()
    check("Graphs", listed)
    assert {each["name"] for each in listed["graphs"]} == {"chain", "everything"}
    x = {"x": np.ones((2, 2), np.float32)}
    await engine.predict(InferenceRequest("everything", "", x))
    for name in ("chain", "everything"):
        shown = (await call(app, "GET", f"{PREFIX}/{name}")).json()
        check("Graph", shown)
    kinds = {step["name"]: step["kind"] for step in shown["steps"]}
    assert kinds == {"ask": "model", "never": "model", "each": "map", "last": "values"}
    assert [step["statistics"]["ok"] for step in shown["steps"]] == [1, 0, 1, 1]
    traces = (await call(app, "GET", f"{PREFIX}/everything/traces", query="version=1")).json()
    check("GraphTraces", traces)
    (trace,) = traces["traces"]
    assert {step["step"]: step["status"] for step in trace["steps"]}["never"] == "skipped"
    assert all("inputs" not in step for step in trace["steps"])


@pytest.mark.parametrize("how", ["", "fail"])
async def test_an_explained_request_is_as_documented(app: GraphApp, how: str) -> None:
    answer = await explain(app, "everything", X | {"id": "mine", "parameters": {"how": how}})
    assert answer.status == 200
    told = answer.json()
    check("ExplainedRequest", told)
    assert (told["name"], told["version"], told["id"]) == ("everything", "1", "mine")
    assert ("nothing works" in told["error"]) == bool(how)
    assert bool(told["outputs"]) == (not how)
    if not how:
        texts = next(each for each in told["outputs"] if each["name"] == "text")
        assert texts["data"] == ["b'\\xff'", "ä" * 40 + "... (82 bytes)", "short"]
        last = next(step for step in told["steps"] if step["step"] == "last")
        assert {each["name"]: each["data"] for each in last["outputs"]} == {"rows": [1, 2], "nan": ["nan"]}


async def test_bodies_may_be_binary_raw_and_compressed(app: GraphApp) -> None:
    x = np.array([[1, 2]], np.float32)
    body, length = encode_request(InferenceRequest("chain", "", {"x": x}))
    length_header = "Inference-Header-Content-Length"
    answers = [
        await explain(app, "chain", body, headers={length_header: str(length)}),
        await explain(app, "chain", x.tobytes(), headers={length_header: "0"}),
        await explain(app, "chain", gzip.compress(orjson.dumps(X)), headers={"content-encoding": "gzip"}),
    ]
    assert [answer.json()["outputs"][0]["data"] for answer in answers] == [[4, 8]] * 3


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("nobody/explain", X, 404, "nobody"),
        ("double/explain", X, 400, "model 'double' is no graph; its metadata is at /v2/models/double"),
        ("chain/explain", b"{", 400, "JSON"),
        ("chain/explain", b"[" * 20_000, 400, "10000"),
        ("chain/explain", {"inputs": []}, 400, "missing input 'x'"),
        ("chain/explain/more", X, 404, "no such URL"),
        ("/explain", X, 404, "no such URL"),
    ],
)
async def test_wrong_calls(app: GraphApp, path: str, body: object, status: int, text: str) -> None:
    answer = await call(app, "POST", f"{PREFIX}/{path}", body)
    assert (answer.status, text in answer.error) == (status, True), answer.error


async def test_a_version_that_is_not_there(app: GraphApp) -> None:
    answer = await call(app, "GET", f"{PREFIX}/chain", query="version=7")
    assert (answer.status, "version 7" in answer.error) == (404, True), answer.error


async def test_an_explained_request_has_a_deadline(app: GraphApp) -> None:
    body = X | {"parameters": {"how": "hang", "timeout": 50_000}}
    told = (await explain(app, "everything", body)).json()
    assert [step["status"] for step in told["steps"] if step["step"] == "ask"] == ["error"]
    body["parameters"] = {"how": "hang"}
    late = (await explain(app, "everything", body, headers={"x-request-timeout": "0.05"})).json()
    assert "deadline" in late["error"]
    assert (await explain(app, "chain", headers={"x-request-timeout": "soon"})).status == 400


async def test_only_some_are_explained_at_a_time(app: GraphApp, engine: Engine) -> None:
    body = X | {"parameters": {"how": "hang"}}
    statistics = engine.models.routes["careful", ""].statistics
    hanging = [asyncio.create_task(explain(app, "everything", body)) for _ in range(16)]
    await until(lambda: statistics.in_flight == 16)
    refused = await explain(app, "chain")
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert "16 requests are being explained" in refused.error
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    assert (await explain(app, "chain")).status == 200
    assert engine.models.routes["everything", ""].pins == 0
