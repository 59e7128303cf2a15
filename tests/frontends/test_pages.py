"""What browsers and monitoring systems ask for, and whether the OpenAPI document tells the truth."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import orjson
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from prometheus_client.parser import text_string_to_metric_families
from servers import Server

from salver.assembly import build_engine
from salver.config import ServerSettings
from salver.core.errors import NotFound
from salver.frontends.openapi import document
from salver.frontends.openapi_examples import GENERATE, GENERATE_STREAM, INFER
from salver.frontends.pages import PagesApp
from salver.frontends.v2 import V2Api
from salver.frontends.v2_rest import CLIENT_CLOSED_REQUEST, STATUSES, RestApp
from salver.monitoring.metrics import METRICS, FailedRequests, Metrics, ModelSnapshot
from salver.monitoring.statistics import ModelStatistics
from salver.wire.v2_json import decode_request

DOCUMENT = document()
PAGES = ("/metrics", "/openapi.json", "/docs")
OPERATIONS = [
    (path, method, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if method != "parameters"
]


def rest_app(folder: Path) -> RestApp:
    api = V2Api(build_engine(ServerSettings(repository=folder)))
    return RestApp(api, max_request_bytes=1000, failed=FailedRequests())


def client(metrics: Metrics) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(PagesApp(metrics)), base_url="http://salver")


def metrics_of(statistics: ModelStatistics, failed: FailedRequests | None = None) -> Metrics:
    snapshots = [ModelSnapshot("iris", "1", True, 10, statistics), ModelSnapshot("broken", "1", False, 0, None)]
    return Metrics(lambda: snapshots, failed or FailedRequests())


def check(schema: str, value: Any) -> None:
    """Hold a value against a schema of the document."""
    validator = Draft202012Validator({"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]})
    validator.validate(value)


# The document


def test_document_is_valid_openapi() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_every_route_is_in_the_document(tmp_path: Path) -> None:
    app = rest_app(tmp_path)
    routes = {(f"/v2{path}", method) for path, methods in app._server_routes.items() for method in methods}
    for action, methods in app._model_routes.items():
        for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes |= {(f"{prefix}/{action}".rstrip("/"), method) for method in methods}
    documented = {(path, method.upper()) for path, method, _ in OPERATIONS}
    assert routes <= documented


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_everything_in_the_document_is_a_route(path: str, method: str, operation: Any, tmp_path: Path) -> None:
    del operation
    if path in PAGES or path.startswith("/api/"):
        return  # asked for below; of the management API, see test_management_api.py
    handler, model, version = rest_app(tmp_path)._route(path.format(model="m", version="7"), method.upper())
    assert callable(handler)
    assert (model, version) == ("m" if "{model}" in path else "", "7" if "{version}" in path else "")


def test_a_path_that_is_not_in_the_document_is_no_route(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        rest_app(tmp_path)._route("/v2/models/m/explain", "POST")


def test_operation_ids_are_unique() -> None:
    ids = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(ids)) == len(ids)


def test_errors_in_the_document_are_statuses_that_the_front_end_gives() -> None:
    given = {*STATUSES.values(), CLIENT_CLOSED_REQUEST}
    assert {int(status) for status in DOCUMENT["components"]["responses"]} <= given
    for path, _, operation in OPERATIONS:
        assert operation["responses"].keys() >= {"200", "405", "500"}, path


def test_examples_fit_their_schemas() -> None:
    checked = 0
    for _, _, operation in OPERATIONS:
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for body in bodies:
            content = body.get("content", {}).get("application/json", {})
            for example in content.get("examples", {}).values():
                check(content["schema"]["$ref"].rpartition("/")[2], example["value"])
                checked += 1
    assert checked > 5


@pytest.mark.parametrize("model", INFER)
def test_infer_examples_decode(model: str) -> None:
    request, _ = decode_request(orjson.dumps(INFER[model]["value"]), None, model=model, version="")
    assert request.inputs
    assert all(isinstance(array, np.ndarray) and array.size for array in request.inputs.values())


# The pages


async def test_metrics_have_every_name_and_the_histogram_by_outcome() -> None:
    statistics, failed = ModelStatistics(), FailedRequests()
    statistics.ok.add(2_000_000)
    statistics.ok.add(30_000_000)
    statistics.record_failure(ValueError(), 1000)
    failed.add("rest", NotFound("no"))
    async with client(metrics_of(statistics, failed)) as http:
        answer = await http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert {name.removesuffix("_total") for name in METRICS} <= families.keys()
    durations = families["salver_request_duration_seconds"]
    assert durations.type == "histogram"
    samples = {
        (sample.name.rpartition("_")[2], sample.labels["outcome"], sample.labels.get("le")): sample.value
        for sample in durations.samples
        if sample.labels["model"] == "iris" and sample.labels["version"] == "1"
    }
    assert samples["bucket", "ok", "0.0025"] == 1
    assert samples["bucket", "ok", "+Inf"] == samples["count", "ok", None] == 2
    assert samples["sum", "ok", None] == pytest.approx(0.032)
    assert samples["count", "error", None] == 1
    ready = {sample.labels["model"]: sample.value for sample in families["salver_model_ready"].samples}
    assert ready == {"iris": 1, "broken": 0}


async def test_scrapes_at_the_same_time_share_one_rendering_off_the_event_loop() -> None:
    asked, go_on, renderings = threading.Event(), threading.Event(), []

    def snapshot() -> Iterator[ModelSnapshot]:
        renderings.append(threading.current_thread())
        asked.set()
        assert go_on.wait(10)
        return iter(())

    async with client(Metrics(snapshot, FailedRequests())) as http:
        scrapes = [asyncio.create_task(http.get("/metrics")) for _ in range(5)]
        assert await asyncio.to_thread(asked.wait, 10)
        assert (await http.get("/openapi.json")).status_code == 200  # the event loop is free
        go_on.set()
        assert {answer.status_code for answer in await asyncio.gather(*scrapes)} == {200}
    assert len(renderings) == 1
    assert renderings[0] is not threading.current_thread()


async def test_head_answers_without_a_body() -> None:
    async with client(metrics_of(ModelStatistics())) as http:
        for path in (*PAGES, "/docs/docs.js"):
            head, get = await http.head(path), await http.get(path)
            assert head.status_code == get.status_code == 200
            assert head.content == b""
            assert head.headers["content-type"] == get.headers["content-type"]
            if path != "/metrics":  # which tells of the process, too, and changes
                assert int(head.headers["content-length"]) == len(get.content)


async def test_root_leads_to_the_documentation() -> None:
    async with client(metrics_of(ModelStatistics())) as http:
        answer = await http.get("/")
    assert answer.status_code == 307
    assert answer.headers["location"] == "/docs"


@pytest.mark.parametrize(
    "path", ["/nothing", "/docs/../docs.js", "/docs/docs.py", "/docs/", "//metrics", "/favicon.ico"]
)
async def test_what_is_not_there_is_a_404_that_says_so(path: str) -> None:
    answer = await asked(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"].startswith("no such URL: ")


@pytest.mark.parametrize("path", ["/", *PAGES])
async def test_a_wrong_method_is_a_405(path: str) -> None:
    async with client(metrics_of(ModelStatistics())) as http:
        answer = await http.post(path, content=b"x")
    assert answer.status_code == 405
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["allow"] == "GET, HEAD"
    assert answer.json() == {"error": f"{path} takes GET or HEAD, not POST"}


async def test_request_ids_are_echoed_or_made() -> None:
    async with client(metrics_of(ModelStatistics())) as http:
        assert (await http.get("/docs", headers={"x-request-id": "mine"})).headers["x-request-id"] == "mine"
        assert (await http.get("/nothing")).headers["x-request-id"]


async def test_a_fault_of_the_server_shows_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Iterator[ModelSnapshot]:
        raise ZeroDivisionError("secret")

    async with client(Metrics(broken, FailedRequests())) as http:
        answer = await http.get("/metrics", headers={"x-request-id": "mine"})
    assert answer.status_code == 500
    assert answer.json() == {"error": "internal error; the server's log has it under request id mine"}
    assert "secret" in caplog.text


async def test_the_page_needs_nothing_from_elsewhere() -> None:
    async with client(metrics_of(ModelStatistics())) as http:
        page = await http.get("/docs")
        policy = page.headers["content-security-policy"]
        sources = dict(directive.split(" ", 1) for directive in policy.split("; "))
        assert set(sources.values()) == {"'self'", "'none'"}
        assert sources["default-src"] == "'none'"
        linked = re.findall(r'(?:href|src)="([^"]+)"', page.text)
        assert {"docs/docs.css", "docs/docs.js", "openapi.json"} <= set(linked)
        for target in linked:
            answer = await http.get(f"/{target}")
            assert answer.status_code == 200, target
            if target.startswith("docs/"):
                outside = answer.text.replace("http://www.w3.org/2000/svg", "")
                assert "://" not in outside
                assert "@import" not in outside
    assert "<script>" not in page.text
    assert " style=" not in page.text


async def test_the_page_cannot_take_a_text_for_markup() -> None:
    script = (await asked("/docs/docs.js")).text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script)


async def asked(path: str) -> httpx2.Response:
    """The answer to a path as it stands, which a client would tidy up."""
    app = PagesApp(metrics_of(ModelStatistics()))
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": "GET", "path": path, "headers": []}, receive, send)
    return httpx2.Response(sent[0]["status"], headers=sent[0]["headers"], content=sent[1]["body"])


# A real server


@pytest.mark.e2e
def test_answers_are_as_documented(example_server: Server) -> None:
    with httpx2.Client(base_url=example_server.url) as http:
        asked = 0
        for path, method, operation in OPERATIONS:
            schema = operation["responses"]["200"]["content"].get("application/json", {}).get("schema", {})
            if method == "get" and "$ref" in schema and not path.startswith("/api/"):
                answer = http.get(path.format(model="iris", version="1"))
                assert answer.status_code == 200, path
                check(schema["$ref"].rpartition("/")[2], answer.json())
                asked += 1
        assert asked > 10
        assert http.get("/openapi.json").json() == DOCUMENT


@pytest.mark.e2e
@pytest.mark.parametrize("prefix", ["/v2/models/{model}", "/v2/models/{model}/versions/1"])
def test_examples_work(example_server: Server, prefix: str) -> None:
    with httpx2.Client(base_url=example_server.url) as http:
        for model, example in INFER.items():
            answer = http.post(prefix.format(model=model) + "/infer", json=example["value"])
            assert answer.status_code == 200, answer.text
            check("InferenceResponse", answer.json())
            documented = _documented_answer("infer", model)
            assert documented is None or answer.json() == documented
        for model, example in GENERATE.items():
            answer = http.post(prefix.format(model=model) + "/generate", json=example["value"])
            check("GenerateResponse", answer.json())
            assert answer.json() == _documented_answer("generate", model)
        for model, example in GENERATE_STREAM.items():
            answer = http.post(prefix.format(model=model) + "/generate_stream", json=example["value"])
            assert answer.text.startswith(_documented_answer("generateStream", model))


@pytest.mark.e2e
def test_errors_are_as_documented(example_server: Server) -> None:
    calls = {
        "404": ("GET", "/v2/models/nobody", None),
        "405": ("DELETE", "/v2/models/iris", None),
        "400": ("POST", "/v2/models/iris/infer", {"inputs": []}),
        "501": ("POST", "/v2/models/spell/infer", INFER["textstats"]["value"] | {"outputs": []}),
    }
    with httpx2.Client(base_url=example_server.url) as http:
        for status, (method, path, body) in calls.items():
            answer = http.request(method, path, json=body)
            assert str(answer.status_code) == status, answer.text
            assert answer.headers["content-type"] == "application/json"
            check("Error", answer.json())


@pytest.mark.e2e
@pytest.mark.parametrize("path", ["/docs", "/v2/models/iris"])
def test_websockets_are_refused_without_a_fuss(example_server: Server, path: str) -> None:
    upgrade = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    before = example_server.log
    assert httpx2.get(example_server.url + path, headers=upgrade).status_code == 403
    assert "Traceback" not in example_server.log.removeprefix(before)


@pytest.mark.e2e
def test_metrics_of_a_server_count_requests(example_server: Server) -> None:
    def count(outcome: str) -> float:
        text = http.get("/metrics").text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "salver_request_duration_seconds_count"
            and sample.labels == {"model": "iris", "version": "1", "outcome": outcome}
        )

    with httpx2.Client(base_url=example_server.url) as http:
        answered, refused = count("ok"), count("invalid_request")
        assert http.post("/v2/models/iris/infer", json=INFER["iris"]["value"]).status_code == 200
        assert http.post("/v2/models/iris/infer", json={"inputs": []}).status_code == 400
        assert (count("ok"), count("invalid_request")) == (answered + 1, refused + 1)


def _documented_answer(operation_id: str, model: str) -> Any:
    """The example answer of an operation for a model."""
    for _, _, operation in OPERATIONS:
        if operation["operationId"] == operation_id:
            (content, *_) = operation["responses"]["200"]["content"].values()
            example = content["examples"].get(model)
            return None if example is None else example["value"]
    raise AssertionError(operation_id)
