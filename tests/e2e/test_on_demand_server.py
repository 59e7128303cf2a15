"""`salver serve --load on_demand`: first requests of every kind, and the cache over HTTP and from the command line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from servers import SALVER, Server
from small_models import write_onnx, write_python

pytestmark = pytest.mark.e2e

COUNT = """
class Model:
    def predict(self, n: int):
        for number in range(n):
            yield {"number": number}
"""
X = np.ones((1, 2), np.float32)


@pytest.fixture
def server(serve: Callable[..., Server], tmp_path: Path) -> Server:
    for number in range(10):
        write_onnx(tmp_path, f"m{number}", factor=float(number))
    write_python(tmp_path, "count", COUNT)
    return serve(tmp_path, "--load", "on_demand", "--allow-code")


def loaded(server: Server) -> list[str]:
    return [each["name"] for each in httpx2.get(f"{server.url}/api/v1/cache").json()["loaded"]]


def test_first_requests_of_every_kind(server: Server) -> None:
    with httpx2.Client(base_url=server.url) as http:
        ask_everything(server, http)


def ask_everything(server: Server, http: httpx2.Client) -> None:
    assert loaded(server) == []
    index = http.post("/v2/repository/index").json()
    assert {each["state"] for each in index} == {"READY"}
    assert http.get("/v2/models/m0/ready").status_code == 200
    assert loaded(server) == []

    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 1]}]}
    assert http.post("/v2/models/m0/infer", json=body).json()["outputs"][0]["data"] == [0, 0]
    raw = {"inference-header-content-length": "0"}
    answer = http.post("/v2/models/m1/infer", content=X.tobytes(), headers=raw)
    assert answer.status_code == 200
    assert http.post("/v2/models/m2/generate", json={"x": [1, 1]}).status_code == 200
    assert http.get("/v2/models/m3").json()["versions"] == ["1"]
    assert http.get("/v2/models/m4/config").json()["backend"] == "onnx"
    events = http.post("/v2/models/count/generate_stream", json={"n": 3}).text
    assert events.count("data:") == 3
    with triton_grpc.InferenceServerClient(server.address) as client:
        tensor = triton_grpc.InferInput("x", [1, 2], "FP32")
        tensor.set_data_from_numpy(X)
        assert client.is_model_ready("m5")
        result = client.infer("m5", [tensor], client_timeout=30.0)
        assert result.as_numpy("y").tolist() == [[5, 5]]
        assert client.get_model_metadata("m6").inputs[0].name == "x"
    with triton_http.InferenceServerClient(server.address) as client:
        tensor = triton_http.InferInput("x", [1, 2], "FP32")
        tensor.set_data_from_numpy(X)
        assert client.infer("m7", [tensor]).as_numpy("y").tolist() == [[7, 7]]
    assert sorted(loaded(server)) == ["count", *(f"m{number}" for number in range(8))]
    assert http.get("/v2/models/m9/stats").json()["model_stats"][0]["inference_count"] == 0
    assert http.post("/v2/models/none/infer", json=body).status_code == 404


def test_a_stream_is_the_first_request(server: Server) -> None:
    answers: list[int] = []
    with triton_grpc.InferenceServerClient(server.address) as client:
        tensor = triton_grpc.InferInput("n", [1], "INT64")
        tensor.set_data_from_numpy(np.array([3]))
        client.start_stream(lambda result, error: answers.append(-1 if error else result.as_numpy("number").item()))
        client.async_stream_infer("count", [tensor])
        client.stop_stream()
    assert answers == [0, 1, 2]


def test_the_cache_over_http(server: Server) -> None:
    with httpx2.Client(base_url=f"{server.url}/api/v1/cache") as http:
        use_the_cache(server, http)


def use_the_cache(server: Server, http: httpx2.Client) -> None:
    hinted = http.post("/prefetch", json={"models": ["m1", "m2:1", "none", "m3:7"]}).json()
    assert hinted["accepted"] == 2
    assert [each["model"] for each in hinted["refused"]] == ["none", "m3:7"]
    for wrong in ([], {"models": "m1"}, {"models": [1]}, {"models": ["m1"] * 1001}):
        assert http.post("/prefetch", json=wrong).status_code == 400
    assert http.post("/prefetch", content=b"{").status_code == 400
    with server.client() as client:
        client.predict("m1", {"x": X})
        assert http.delete("/models/m1/versions/1").json() == {"name": "m1", "version": "1", "evicted": True}
        assert http.delete("/models/m1/versions/1").json()["evicted"] is False
        assert http.delete("/models/none/versions/1").status_code == 404
        client.predict("m1", {"x": X})
    assert http.put("/models/m1/versions/1/pin").json()["pinned"] is True
    shown = http.get("").json()
    assert next(each for each in shown["loaded"] if each["name"] == "m1")["pinned"] is True
    assert shown["last_evictions"][0]["reason"] == "on request"
    assert shown["memory"]["cpu"]["used_bytes"] > 0
    assert http.delete("/models/m1/versions/1/pin").json()["pinned"] is False
    assert http.put("/models/none/versions/1/pin").status_code == 404
    assert http.put("").status_code == 405
    assert http.get("/nothing").status_code == 404
    metrics = httpx2.get(f"{server.url}/metrics").text
    assert 'salver_memory_budget_bytes{device="cpu"}' in metrics
    assert "salver_cache_evictions_total 1.0" in metrics


def test_the_cache_from_the_command_line(server: Server) -> None:
    def salver(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [SALVER, "cache", "--url", server.url, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert "0 of 11 versions are loaded; no requests yet" in salver().stdout
    assert salver("--prefetch", "m1", "--prefetch", "m2").stdout == "2 of 2 are loaded, or being loaded\n"
    refused = salver("--prefetch", "none")
    assert refused.returncode == 1
    assert "'none' is not found" in refused.stderr
    with server.client() as client:
        client.predict("m3", {"x": X})
    assert salver("--pin", "m3:1").stdout == "m3 version 1 stays\n"
    lines = salver().stdout.splitlines()
    assert next(line for line in lines if line.startswith("m3:1")).endswith("yes")
    assert salver("--unpin", "m3:1").stdout == "m3 version 1 may be evicted\n"
    assert salver("--evict", "m3:1").stdout == "m3 version 1 is evicted\n"
    assert "on request" in salver().stdout
    assert json.loads(salver("--json").stdout)["evictions"] == 1
    assert salver("--evict", "m3").returncode == 2
    assert salver("--evict", "none:1").returncode == 1
