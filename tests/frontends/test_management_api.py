"""The management API: pushes, versions, aliases, deletes, files and history; driven as an ASGI application."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from asgi import Answer, call
from jsonschema import Draft202012Validator
from model_stores import LIMIT, MAX_ARTIFACT, contents, management_app, open_store, push, push_body, push_ready, settled
from onnx_files import write_constant

from salver.core.registry import Node
from salver.frontends.management_api import PREFIX, ManagementApp
from salver.frontends.openapi import document as openapi_document
from salver.registration.model_store import ModelStore
from salver.store.artifacts.describe import describe

IDENTITY = """
class Model:
    def predict(self, x: int) -> int:
        return x
"""


class Api:
    """A management API and the store behind it."""

    def __init__(self, store: ModelStore) -> None:
        self.store = store
        self.app: ManagementApp = management_app(store)

    async def get(self, path: str, query: str = "", **headers: str) -> Answer:
        return await call(self.app, "GET", f"/api/v1{path}", b"", headers, query=query)

    async def post(self, path: str, body: Any = b"") -> Answer:
        return await call(self.app, "POST", f"/api/v1{path}", body)

    async def put(self, path: str, body: Any = b"", query: str = "", **more: Any) -> Answer:
        return await call(self.app, "PUT", f"/api/v1{path}", body, query=query, **more)

    async def delete(self, path: str, query: str = "") -> Answer:
        return await call(self.app, "DELETE", f"/api/v1{path}", query=query)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with open_store(tmp_path / "store", poll_seconds=0.05) as store:
        yield Api(store)


@pytest.fixture
def plus_one(tmp_path: Path) -> Path:
    write_constant(tmp_path / "plus_one", 1)
    return tmp_path / "plus_one"


@pytest.fixture
def plus_two(tmp_path: Path) -> Path:
    write_constant(tmp_path / "plus_two", 2)
    return tmp_path / "plus_two"


# From a push to a version that is ready


async def test_a_pushed_version_is_probed_and_ready(api: Api, plus_one: Path) -> None:
    committed = await push(api.app, "plus", plus_one, owner="ada", tags={"stage": "test"})
    assert committed.status == 202
    assert (committed.json()["state"], committed.json()["version"]) == ("PENDING", "1")
    found = await settled(api.app, "plus", "1")
    assert found["state"] == "READY", found["reason"]
    assert found["runtime"] == "onnx"
    assert found["digest"] == describe(plus_one).digest
    assert found["size"] == (plus_one / "model.onnx").stat().st_size
    assert found["metadata"]["owner"] == "ada"
    assert found["metadata"]["tags"] == {"stage": "test"}
    assert found["signature"] == {
        "inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [-1, -1], "optional": False}],
        "outputs": [{"name": "OUTPUT0", "datatype": "FP32", "shape": [-1, -1]}],
        "batched": True,
    }
    assert found["probe"]["framework"] == "onnxruntime"
    assert found["probe"]["memory_bytes"] >= 0
    assert "1" in found["probe"]["latency_seconds"]
    assert found["created_at"].endswith("Z")


async def test_a_broken_artifact_fails_and_says_why(api: Api, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.onnx").write_bytes(b"not a model")
    await push(api.app, "broken", tmp_path / "broken")
    found = await settled(api.app, "broken", "1")
    assert found["state"] == "FAILED"
    assert "model.onnx" in found["reason"]
    assert str(tmp_path) not in found["reason"]


async def test_code_needs_permission(api: Api, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "model.py").write_text(IDENTITY)
    await push(api.app, "code", tmp_path / "code")
    found = await settled(api.app, "code", "1")
    assert found["state"] == "FAILED"
    assert "code" in found["reason"]


async def test_what_failed_is_probed_anew_when_it_is_pushed_again(api: Api, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "model.py").write_text(IDENTITY)
    await push(api.app, "code", tmp_path / "code")
    assert (await settled(api.app, "code", "1"))["state"] == "FAILED"
    await api.store.close()
    async with open_store(tmp_path / "store", poll_seconds=0.05, allow_code=True) as store:
        app = management_app(store)
        again = await push(app, "code", tmp_path / "code")
        assert (again.status, again.json()["version"]) == (202, "1")
        assert (await settled(app, "code", "1"))["state"] == "READY"


async def test_the_same_files_are_sent_once_and_registered_once(api: Api, plus_one: Path) -> None:
    await push_ready(api.app, "plus", plus_one)
    begun = await api.post("/models/plus/versions", push_body(describe(plus_one)))
    assert begun.json()["missing"] == []
    again = await api.post(f"/uploads/{begun.json()['upload']}/commit")
    assert (again.status, again.json()["version"], again.json()["state"]) == (200, "1", "READY")
    other = await api.post("/models/another/versions", push_body(describe(plus_one)))
    assert other.json()["missing"] == []
    found = (await api.post(f"/uploads/{other.json()['upload']}/commit")).json()
    assert (found["name"], found["version"]) == ("another", "1")


async def test_a_version_never_changes(api: Api, plus_one: Path, plus_two: Path) -> None:
    await push_ready(api.app, "plus", plus_one, "7")
    refused = await api.post("/models/plus/versions", push_body(describe(plus_two), "7"))
    assert refused.status == 409
    assert "versions never change" in refused.error
    assert (await push(api.app, "plus", plus_two)).json()["version"] == "8"


async def test_a_model_yaml_is_checked_at_the_commit(api: Api, plus_one: Path) -> None:
    (plus_one / "model.yaml").write_text("max_batch_size: 4\nversions: [9]\nlabels: {a: b}\n")
    found = await push_ready(api.app, "plus", plus_one)
    assert found["config"]["max_batch_size"] == 4
    (plus_one / "model.yaml").write_text("devise: cpu\n")
    refused = await push(api.app, "plus", plus_one)
    assert refused.status == 400
    assert "model.yaml:1: unknown key 'devise'; did you mean 'device'?" in refused.error


@pytest.mark.parametrize("layout", ["plus_one", "plus", "plus/model.onnx"])
async def test_a_version_folder_a_model_folder_and_a_file_are_one_version(
    api: Api, layout: str, tmp_path: Path
) -> None:
    if layout == "plus":
        write_constant(tmp_path / "plus" / "3", 1)
        (tmp_path / "plus" / "model.yaml").write_text("description: adds\n")
    else:
        write_constant(tmp_path / layout.partition("/")[0], 1)
    assert (await push_ready(api.app, "plus", tmp_path / layout))["version"] == "1"


async def test_a_folder_of_two_versions_is_not_one(api: Api, tmp_path: Path) -> None:
    write_constant(tmp_path / "plus" / "1", 1)
    write_constant(tmp_path / "plus" / "2", 2)
    await push(api.app, "plus", tmp_path / "plus")
    found = await settled(api.app, "plus", "1")
    assert found["state"] == "FAILED"
    assert "this one has 1, 2; push the folder of one version" in found["reason"]


# Uploads


async def begin(api: Api, files: dict[str, bytes], name: str = "plus", version: str = "") -> Answer:
    listed = [
        {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in files.items()
    ]
    return await api.post(f"/models/{name}/versions", {"version": version, "files": listed})


async def test_a_broken_upload_goes_on_where_it_ended(api: Api, plus_one: Path, tmp_path: Path) -> None:
    data = (plus_one / "model.onnx").read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    begun = (await begin(api, {"model.onnx": data})).json()
    assert begun["missing"] == [{"sha256": sha256, "size": len(data), "received": 0}]
    blob = f"/uploads/{begun['upload']}/blobs/{sha256}"
    await api.put(blob, [data[:10], data[10:20]], "offset=0", leaves=True)
    await api.store.close()
    async with open_store(tmp_path / "store") as store:
        after = Api(store)
        status = (await after.get(f"/uploads/{begun['upload']}")).json()
        assert status["missing"][0]["received"] == 20
        assert (await begin(after, {"model.onnx": data})).json() == status
        assert (await after.put(blob, data[20:30], "offset=20")).json() == {"received": 30}
        assert (await after.put(blob, data[30:], "offset=30")).json() == {"received": len(data)}
        assert (await after.post(f"/uploads/{begun['upload']}/commit")).status == 202


async def test_bytes_for_another_place_are_refused_with_what_is_there(api: Api) -> None:
    begun = (await begin(api, {"a.onnx": b"0123456789"})).json()
    blob = f"/uploads/{begun['upload']}/blobs/{begun['missing'][0]['sha256']}"
    await api.put(blob, b"0123", "offset=0")
    for offset in (0, 5, 10**17):
        answer = await api.put(blob, b"4567", f"offset={offset}")
        assert answer.status == 409
        assert answer.json()["received"] == 4
        assert "4 bytes of 'a.onnx' are here already" in answer.json()["error"]


async def test_only_one_request_sends_a_file_at_a_time(api: Api) -> None:
    data = b"0123456789"
    begun = (await begin(api, {"a.onnx": data})).json()
    blob = f"/api/v1/uploads/{begun['upload']}/blobs/{begun['missing'][0]['sha256']}"
    asked, go_on = asyncio.Event(), asyncio.Event()
    messages = [{"type": "http.request", "body": data, "more_body": False}]

    async def receive() -> dict[str, Any]:
        asked.set()
        await go_on.wait()
        return messages.pop()

    answer = Answer()
    scope = {"type": "http", "method": "PUT", "path": blob, "query_string": b"offset=0", "headers": []}
    first = asyncio.create_task(api.app(scope, receive, answer.send))
    await asked.wait()
    second = await call(api.app, "PUT", blob, data, query="offset=0")
    assert (second.status, second.json()["received"]) == (409, 0)
    go_on.set()
    await first
    assert answer.json() == {"received": len(data)}


async def test_wrong_bytes_are_refused_and_the_file_starts_anew(api: Api) -> None:
    begun = (await begin(api, {"a.onnx": b"0123456789"})).json()
    blob = f"/uploads/{begun['upload']}/blobs/{begun['missing'][0]['sha256']}"
    wrong = await api.put(blob, b"9876543210", "offset=0")
    assert wrong.status == 400
    assert "'a.onnx' came with other bytes than announced" in wrong.error
    assert (await api.get(f"/uploads/{begun['upload']}")).json()["missing"][0]["received"] == 0
    assert (await api.put(blob, b"0123456789", "offset=0")).json() == {"received": 10}


async def test_more_bytes_than_announced_are_refused(api: Api) -> None:
    begun = (await begin(api, {"a.onnx": b"0123456789"})).json()
    blob = f"/uploads/{begun['upload']}/blobs/{begun['missing'][0]['sha256']}"
    over = await api.put(blob, b"0123456789!", "offset=0")
    assert over.status == 400
    assert "announced with 10 bytes, and more came" in over.error


async def test_a_commit_of_what_has_not_come_says_what_is_missing(api: Api) -> None:
    begun = (await begin(api, {"a.onnx": b"0123456789", "empty": b""})).json()
    assert len(begun["missing"]) == 1
    answer = await api.post(f"/uploads/{begun['upload']}/commit")
    assert answer.status == 409
    assert "not all files have come as a whole: a.onnx; ask what is missing" in answer.error


async def test_an_upload_can_be_given_up(api: Api) -> None:
    begun = (await begin(api, {"a.onnx": b"0123456789"})).json()
    assert (await api.delete(f"/uploads/{begun['upload']}")).json() == {}
    for answer in (
        await api.get(f"/uploads/{begun['upload']}"),
        await api.delete(f"/uploads/{begun['upload']}"),
        await api.post(f"/uploads/{begun['upload']}/commit"),
        await api.get("/uploads/..%2F..%2Fsecret"),
        await api.get(f"/uploads/{'0' * 32}"),
    ):
        assert answer.status == 404
        assert "begin the push anew" in answer.error


async def test_an_artifact_over_the_limit_is_refused_before_it_is_sent(api: Api) -> None:
    files = [{"path": "model.onnx", "size": MAX_ARTIFACT + 1, "sha256": "0" * 64}]
    answer = await api.post("/models/plus/versions", {"files": files})
    assert answer.status == 400
    assert f"the server takes {MAX_ARTIFACT} (max_artifact_bytes)" in answer.error


async def test_open_uploads_are_bounded(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store", max_open=2) as store:
        api = Api(store)
        for number in range(2):
            assert (await begin(api, {"a.onnx": b"%d" % number})).status == 200
        refused = await begin(api, {"a.onnx": b"2"})
        assert (refused.status, refused.headers["retry-after"]) == (429, "30")
        assert (await begin(api, {"a.onnx": b"1"})).status == 200  # one that is open goes on


FILE = {"path": "a.onnx", "size": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[1]", "the push is an object with version, files, metadata"),
        (b"{", "isn't valid JSON"),
        ({}, "'files' is a list"),
        ({"files": []}, "the artifact has no files"),
        ({"files": [FILE], "metdata": {}}, "has no key 'metdata'"),
        ({"files": [{**FILE, "path": "../secret"}]}, "can't be a path in an artifact"),
        ({"files": [{**FILE, "path": "/etc/passwd"}]}, "can't be a path in an artifact"),
        ({"files": [{**FILE, "size": -1}]}, "a size is a number of bytes"),
        ({"files": [{**FILE, "size": True}]}, "size as a number"),
        ({"files": [{**FILE, "sha256": "../x"}]}, "64 lower-case hexadecimal digits"),
        ({"files": [FILE, FILE]}, "twice"),
        ({"files": [FILE, {**FILE, "path": "b", "size": 2}]}, "one SHA-256 and different sizes"),
        ({"files": [FILE], "version": "1/2"}, "can't be a version"),
        ({"files": [FILE], "version": [1]}, "'version' is a text"),
        ({"files": [FILE], "metadata": {"owner": 3}}, "'owner' in 'metadata' is a text"),
        ({"files": [FILE], "metadata": {"tags": {"a": 1}}}, "'tags' in 'metadata'"),
        ({"files": [FILE], "metadata": {"properties": []}}, "'properties' in 'metadata'"),
        ({"files": [FILE], "metadata": {"owner": "x" * 5000}}, "owner"),
        ({"files": [FILE], "metadata": {"mood": "good"}}, "has no key 'mood'"),
    ],
)
async def test_pushes_that_cannot_be_are_refused(api: Api, body: Any, message: str) -> None:
    answer = await api.post("/models/plus/versions", body)
    assert answer.status == 400
    assert message in answer.error


async def test_names_are_checked(api: Api) -> None:
    for name in ("-plus", "a b", "x" * 200, "stats"):
        assert (await begin(api, {"a.onnx": b"1"}, name)).status == 400


async def test_a_document_over_the_limit_is_refused(api: Api) -> None:
    answer = await api.post("/models/plus/versions", b" " * (LIMIT + 1))
    assert answer.status == 400
    assert "max_request_bytes" in answer.error


# Models, aliases, deletes, history


async def test_models_are_listed_by_pages(api: Api, plus_one: Path) -> None:
    for name in ("a", "b", "c"):
        await push(api.app, name, plus_one, tags={"team": name})
    page = (await api.get("/models", "limit=2")).json()
    assert ([model["name"] for model in page["models"]], page["next"]) == (["a", "b"], "b")
    rest = (await api.get("/models", "limit=2&after=b")).json()
    assert ([model["name"] for model in rest["models"]], rest["next"]) == (["c"], None)
    assert [model["name"] for model in (await api.get("/models", "prefix=b")).json()["models"]] == ["b"]
    assert [model["name"] for model in (await api.get("/models", "tag=team:c")).json()["models"]] == ["c"]
    for query in ("limit=0", "limit=many", "tag=team", "tga=team:c", "limit=" + "9" * 5000):
        assert (await api.get("/models", query)).status == 400


async def test_aliases_name_versions(api: Api, plus_one: Path, plus_two: Path) -> None:
    await push_ready(api.app, "plus", plus_one)
    await push_ready(api.app, "plus", plus_two)
    assert (await api.put("/models/plus/aliases/staging", {"version": 2})).json() == {
        "name": "plus",
        "alias": "staging",
        "version": "2",
    }
    assert (await api.put("/models/plus/aliases/prod", {"version": "1"})).status == 200
    assert (await api.get("/models/plus/versions/@staging")).json()["version"] == "2"
    model = (await api.get("/models/plus")).json()
    assert model["aliases"] == {"staging": "2", "prod": "1"}
    assert [each["version"] for each in model["versions"]] == ["1", "2"]
    assert (await api.put("/models/plus/aliases/prod", {"version": "@staging"})).json()["version"] == "2"
    assert (await api.delete("/models/plus/aliases/staging")).json() == {}
    assert (await api.get("/models/plus/versions/@staging")).status == 404
    for body in ({}, {"version": ""}, {"version": 1.5}, {"version": "9" * 100}, {"version": "1", "more": 1}, b"[]"):
        assert (await api.put("/models/plus/aliases/prod", body)).status == 400, body
    assert (await api.put("/models/plus/aliases/prod", {"version": "9"})).status == 404
    assert (await api.put("/models/plus/aliases/9", {"version": "1"})).status == 400


async def test_only_a_ready_version_gets_an_alias(api: Api, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.onnx").write_bytes(b"not a model")
    await push(api.app, "broken", tmp_path / "broken")
    await settled(api.app, "broken", "1")
    answer = await api.put("/models/broken/aliases/prod", {"version": "1"})
    assert answer.status == 409
    assert "FAILED" in answer.error


async def test_what_serves_is_not_deleted(api: Api, plus_one: Path, plus_two: Path) -> None:
    await push_ready(api.app, "plus", plus_one)
    await push_ready(api.app, "plus", plus_two)
    await api.put("/models/plus/aliases/prod", {"version": "1"})
    refused = await api.delete("/models/plus/versions/1", "force=true")
    assert refused.status == 409
    assert "has the alias 'prod'" in refused.error
    api.store.registry.beat(Node("n1", "http://10.0.0.7:8000", loaded={"plus/2": 12.0, "plus/1": 300.0}))
    for path in ("/models/plus/versions/2", "/models/plus"):
        refused = await api.delete(path)
        assert refused.status == 409
        assert re.search(r"version 2 of model 'plus' was used 1\d s ago by .* http://10.0.0.7:8000;", refused.error)
        assert "force=true" in refused.error
    assert (await api.delete("/models/plus/versions/2", "force=true")).json() == {}
    assert (await api.get("/models/plus/versions/2")).status == 404
    assert (await api.delete("/models/plus")).json() == {}
    assert (await api.get("/models/plus")).status == 404
    assert (await api.delete("/models/plus")).status == 404
    for query in ("force=yes", "forec=true"):
        assert (await api.delete("/models/plus", query)).status == 400


async def test_the_history_names_who_did_what(api: Api, plus_one: Path) -> None:
    await push_ready(api.app, "plus", plus_one)
    path = "/api/v1/models/plus/aliases/prod"
    await call(api.app, "PUT", path, {"version": "1"}, {"x-salver-actor": "ada"})
    for header in ("", "x" * 129, "a\nb"):
        assert (await call(api.app, "DELETE", path, headers={"x-salver-actor": header})).status == 400
    entries = (await api.get("/models/plus/audit")).json()["entries"]
    assert [(each["actor"], each["action"]) for each in entries] == [
        ("ada", "set_alias"),
        ("probe", "set_ready"),
        ("api", "register"),
    ]
    page = (await api.get("/audit", "limit=1")).json()
    assert page["entries"] == entries[:1]
    assert (await api.get("/audit", f"before={page['next']}")).json()["entries"] == entries[1:]


# Files


async def test_files_come_back_as_they_were_pushed(api: Api, plus_one: Path) -> None:
    (plus_one / "more").mkdir()
    (plus_one / "more" / "words of.txt").write_bytes(bytes(range(256)))
    (plus_one / "empty").write_bytes(b"")
    await push_ready(api.app, "plus", plus_one)
    listing = (await api.get("/models/plus/versions/1/files")).json()
    assert listing["digest"] == describe(plus_one).digest
    by_sha256 = contents(plus_one, describe(plus_one))
    assert len(listing["files"]) == 3
    for file in listing["files"]:
        answer = await api.get(f"/models/plus/versions/1/files/{file['path']}")
        assert answer.status == 200
        assert answer.body == by_sha256[file["sha256"]]
        assert answer.headers["etag"] == f'"{file["sha256"]}"'
    assert (await api.get("/models/plus/versions/1/files/nothing")).status == 404
    assert (await api.get("/models/plus/versions/1/files/../../secret")).status == 404


@pytest.mark.parametrize(
    ("wanted", "status", "start", "end"),
    [
        ("bytes=0-3", 206, 0, 4),
        ("bytes=250-", 206, 250, 256),
        ("bytes=-6", 206, 250, 256),
        ("bytes=-1000", 206, 0, 256),
        ("bytes=200-1000", 206, 200, 256),
        ("bytes=0-1,5-6", 200, 0, 256),
        ("bytes=-", 200, 0, 256),
        ("bytes=9-3", 200, 0, 256),
        ("lines=1-2", 200, 0, 256),
        ("bytes=256-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
    ],
)
async def test_ranges(api: Api, plus_one: Path, wanted: str, status: int, start: int, end: int) -> None:
    (plus_one / "bytes.bin").write_bytes(bytes(range(256)))
    await push(api.app, "plus", plus_one)
    answer = await api.get("/models/plus/versions/1/files/bytes.bin", range=wanted)
    assert answer.status == status
    if status != 416:
        assert answer.body == bytes(range(256))[start:end]
    assert (
        answer.headers.get("content-range")
        == {
            200: None,
            206: f"bytes {start}-{end - 1}/256",
            416: "bytes */256",
        }[status]
    )


async def test_a_range_of_other_bytes_is_the_whole_file(api: Api, plus_one: Path) -> None:
    await push(api.app, "plus", plus_one)
    headers = {"range": "bytes=0-3", "if-range": '"other"'}
    answer = await call(api.app, "GET", "/api/v1/models/plus/versions/1/files/model.onnx", b"", headers)
    assert (answer.status, answer.body) == (200, (plus_one / "model.onnx").read_bytes())


# Routes


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v1", 404),
        ("GET", "/api/v1/models//versions/1", 404),
        ("GET", "/api/v1/models/x/versions/1/files/", 404),
        ("POST", "/api/v1/models", 405),
        ("PATCH", "/api/v1/models/x", 405),
        ("GET", "/api/v1/models/x/versions", 405),
        ("GET", "/api/v1/models/nobody", 404),
        ("GET", "/api/v1/models/nobody/versions/1", 404),
        ("GET", "/api/v1/models/no%20body/versions/1", 404),
        ("GET", "/api/v1/models/", 200),
    ],
)
async def test_routes(api: Api, method: str, path: str, status: int) -> None:
    answer = await call(api.app, method, path)
    assert answer.status == status
    if status != 200:
        assert answer.error
    if status == 405:
        assert answer.headers["allow"]


# The document


DOCUMENT = openapi_document()
OPERATIONS = [
    (path, method.upper(), operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if method != "parameters" and operation.get("tags") == ["model store"]
]


def check(schema: str, value: Any) -> None:
    """Hold a value against a schema of the document."""
    validator = Draft202012Validator({"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]})
    validator.validate(value)


def schema_of(operation: dict[str, Any], status: int) -> str:
    content = operation["responses"][str(status)]["content"]["application/json"]
    return str(content["schema"]["$ref"].rpartition("/")[2])


async def test_every_route_is_in_the_document_and_everything_there_is_a_route(api: Api) -> None:
    routes = {(PREFIX + path, method) for path, methods in api.app.routes.items() for method in methods}
    assert routes == {(path, method) for path, method, _ in OPERATIONS}
    for path, method, _ in OPERATIONS:
        names = re.findall(r"\{(\w+)\}", path)
        handler, arguments = api.app.route(re.sub(r"\{(\w+)\}", r"a-\1", path), method)
        assert handler == api.app.routes[path.removeprefix(PREFIX)][method]
        assert arguments == tuple(f"a-{name}" for name in names)


async def test_answers_are_as_documented(api: Api, plus_one: Path) -> None:
    documented = {operation["operationId"]: operation for _, _, operation in OPERATIONS}
    begun = await api.post("/models/plus/versions", push_body(describe(plus_one), owner="ada"))
    check(schema_of(documented["beginPush"], 200), begun.json())
    upload = f"/uploads/{begun.json()['upload']}"
    check(schema_of(documented["showUpload"], 200), (await api.get(upload)).json())
    ((sha256, data),) = contents(plus_one, describe(plus_one)).items()
    wrong = await api.put(f"{upload}/blobs/{sha256}", data, "offset=7")
    check(schema_of(documented["sendFile"], 409), wrong.json())
    check(schema_of(documented["sendFile"], 200), (await api.put(f"{upload}/blobs/{sha256}", data)).json())
    check(schema_of(documented["commitUpload"], 202), (await api.post(f"{upload}/commit")).json())
    await settled(api.app, "plus", "1")
    alias = await api.put("/models/plus/aliases/prod", {"version": "1"})
    check(schema_of(documented["setAlias"], 200), alias.json())
    await push(api.app, "another", plus_one)
    for operation, path in {
        "listModels": "/models",
        "showModel": "/models/plus",
        "showVersion": "/models/plus/versions/@prod",
        "listFiles": "/models/plus/versions/1/files",
        "modelHistory": "/models/plus/audit",
        "history": "/audit",
    }.items():
        check(schema_of(documented[operation], 200), (await api.get(path)).json())
    for operation, path in {
        "deleteAlias": "/models/plus/aliases/prod",
        "deleteVersion": "/models/plus/versions/1",
    }.items():
        check(schema_of(documented[operation], 200), (await api.delete(path)).json())
