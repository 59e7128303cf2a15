"""Graphs over a real server: every protocol, what goes wrong in steps, and changes of models under them."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from graph_repository import CHAIN, write_all, write_graph, write_model, write_onnx
from servers import SALVER, Server

from salver import Client
from salver.core.errors import DeadlineExceeded, InvalidRequest, ModelFailed, SalverError

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("graphs")
    write_all(folder)
    server = Server(folder, "--allow-code")
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.kill()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client() as client:
        yield client


X = np.array([[1, 2], [3, 4]], np.float32)


def test_a_graph_is_a_model_to_every_client(server: Server, client: Client) -> None:
    assert client.predict("chain", {"x": X})["y"].tolist() == (X * 4).tolist()
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    answer = httpx2.post(f"{server.url}/v2/models/chain/versions/1/infer", json=body).json()
    assert (answer["model_version"], answer["outputs"][0]["data"]) == ("1", [4.0, 8.0])
    for module, address in ((triton_http, server.address), (triton_grpc, server.address)):
        triton = module.InferenceServerClient(address)
        tensor = module.InferInput("x", [2, 2], "FP32")
        tensor.set_data_from_numpy(X)
        assert triton.infer("outer", [tensor]).as_numpy("y").tolist() == (X * 4).tolist()
        triton.close()


def test_metadata_index_and_statistics(server: Server, client: Client) -> None:
    metadata = client.metadata("chain")
    assert metadata["platform"] == "salver_graph"
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert metadata["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}]
    assert {"name": "chain", "version": "1", "state": "READY", "reason": ""} in client.models()
    before = client.statistics("chain")["model_stats"][0]["inference_stats"]["success"]["count"]
    client.predict("chain", {"x": X})
    assert client.statistics("chain")["model_stats"][0]["inference_stats"]["success"]["count"] == before + 1
    metrics = httpx2.get(f"{server.url}/metrics").text
    assert 'salver_graph_steps_total{model="chain",outcome="ok",step="first",version="1"}' in metrics


def test_wrong_inputs_are_refused_before_any_step(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="expected shape"):
        client.predict("chain", {"x": np.zeros((1, 3), np.float32)})
    with pytest.raises(InvalidRequest, match="missing input 'x'"):
        client.predict("chain", {})


def test_steps_side_by_side_take_the_time_of_one(client: Client) -> None:
    client.predict("diamond", {"x": np.zeros(2, np.float32)})
    taken = []
    for _ in range(10):
        begun = time.perf_counter()
        assert client.predict("diamond", {"x": np.array([1, 2], np.float32)})["total"].tolist() == [2, 4]
        taken.append(time.perf_counter() - begun)
    assert min(taken) < 0.1  # two after the other would take that at least, each time


def test_a_graph_streams_where_its_last_step_does(server: Server) -> None:
    body = {"text": "to be or"}
    with httpx2.stream("POST", f"{server.url}/v2/models/stream/generate_stream", json=body) as answer:
        words = [json.loads(line[5:])["word"] for line in answer.iter_lines() if line.startswith("data:")]
    assert words == ["to", "be", "or"]


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("fail", ModelFailed, "step 's': .*nothing works"),
        ("hang", DeadlineExceeded, r"step 's': .*(5 s|deadline)"),
        ("nothing", ModelFailed, "step 's': .*'y'"),
        ("huge", ModelFailed, "step 's': its outputs take 67108864 bytes, and max_step_bytes is 33554432"),
    ],
)
def test_a_step_that_goes_wrong_is_named_and_others_go_on(
    client: Client, server: Server, how: str, kind: type[SalverError], text: str
) -> None:
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(_predict_chain, server) for _ in range(4)]
        with pytest.raises(kind, match=text):
            client.predict("guarded", {"x": X}, parameters={"how": how})
        assert all(each.result() == (X * 4).tolist() for each in others)
    assert client.predict("guarded", {"x": X}, parameters={"how": ""})["y"].tolist() == X.tolist()


def _predict_chain(server: Server) -> Any:
    with server.client() as client:
        return client.predict("chain", {"x": X})["y"].tolist()


def test_the_commands(server: Server) -> None:
    shown = _salver("graph", "show", "diamond", "--url", server.url)
    assert "│ model slow │  │ model slow │" in shown
    assert "function steps.py:add" in shown
    explained = _salver("graph", "run", "chain", "-i", "[[1, 2]]", "--explain", "--url", server.url)
    assert "first  model, ok," in explained
    assert "-> y: FP32 [1, 2] 2, 4" in explained
    assert "y       FP32      [1, 2]  4, 8" in explained
    assert _salver("graph", "run", "chain", "-i", "[[1, 2]]", "--url", server.url).split()[-1]
    assert "second" in _salver("graph", "traces", "chain", "--url", server.url)


def test_a_picture(server: Server, tmp_path: Path) -> None:
    _salver("graph", "show", "diamond", "--svg", str(tmp_path / "diamond.svg"), "--url", server.url)
    text = (tmp_path / "diamond.svg").read_text()
    assert text.startswith("<svg ")
    assert text.count("<rect") == 6


def test_an_explained_failure_tells_how_far_it_came(server: Server) -> None:
    body = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}],
        "parameters": {"how": "fail"},
    }
    answer = httpx2.post(f"{server.url}/api/v1/graphs/guarded/explain", json=body).json()
    assert "nothing works" in answer["error"]
    assert [step["status"] for step in answer["steps"]] == ["error"]
    assert httpx2.get(f"{server.url}/api/v1/graphs/double").status_code == 400
    assert httpx2.get(f"{server.url}/api/v1/graphs/nobody").status_code == 404
    assert {graph["name"] for graph in httpx2.get(f"{server.url}/api/v1/graphs").json()["graphs"]} >= {"chain", "outer"}


def _salver(*arguments: str) -> str:
    done = subprocess.run([SALVER, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_changes_under_graphs(tmp_path: Path) -> None:
    """A graph comes before its model; then a version of the model comes that it couldn't work with, and one it can."""
    write_graph(tmp_path, "chain", CHAIN)
    write_graph(tmp_path, "broken", CHAIN.replace("first.y", "frist.y"))
    server = Server(tmp_path, "--watch")
    try:
        server.wait_for_log("failed to load 'chain' version 1")
        server.wait_for_log(r"graph\.yaml:\d+: step 'second'.*frist")
        write_onnx(tmp_path, "double", 2.0)
        server.wait_for_log("model 'chain' version 1 is ready")
        with server.client() as client:
            assert client.predict("chain", {"x": X})["y"].tolist() == (X * 4).tolist()
            write_model(tmp_path, "double", "class Model:\n    def predict(self, text: str) -> str: ...\n", version="2")
            server.wait_for_log("failed to load 'double' version 2")
            assert client.predict("chain", {"x": X})["y"].tolist() == (X * 4).tolist()
            write_onnx(tmp_path, "double", 3.0, version="3")
            server.wait_for_log("model 'double' version 3 is ready")
            assert client.predict("chain", {"x": X})["y"].tolist() == (X * 9).tolist()
    finally:
        server.kill()


def test_a_version_that_would_break_a_graph_says_so(tmp_path: Path) -> None:
    write_onnx(tmp_path, "double", 2.0)
    write_graph(tmp_path, "chain", CHAIN)
    server = Server(tmp_path, "--watch", "--allow-code")
    try:
        server.wait_until_ready()
        write_model(tmp_path, "double", "class Model:\n    def predict(self, text: str) -> str: ...\n", version="2")
        server.wait_for_log("it would break graph 'chain' version 1")
        with server.client() as client:
            assert client.predict("chain", {"x": X})["y"].tolist() == (X * 4).tolist()
            states = {(each["name"], each["version"]): each["state"] for each in client.models()}
            assert states[("double", "2")] == "UNAVAILABLE"
    finally:
        server.kill()


def test_graphs_are_loaded_on_demand_with_their_models(tmp_path: Path) -> None:
    write_all(tmp_path)
    server = Server(tmp_path, "--allow-code", "--load", "on_demand")
    try:
        server.wait_until_ready()
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(_ask, server, name) for name in ("outer", "chain", "diamond") * 4]
            for each in asked:
                assert each.result().size == 2
    finally:
        server.kill()


def _ask(server: Server, name: str) -> Any:
    x = np.array([1, 2], np.float32)
    with server.client() as client:
        return next(iter(client.predict(name, {"x": x if name == "diamond" else x[np.newaxis]}).values()))


ENSEMBLE = """
platform: "ensemble"
max_batch_size: 8
input { name: "IN" data_type: TYPE_FP32 dims: 2 }
output { name: "OUT" data_type: TYPE_FP32 dims: 2 }
ensemble_scheduling {
  step { model_name: "double" model_version: -1
         input_map { key: "x" value: "IN" } output_map { key: "y" value: "between" } }
  step { model_name: "triple" model_version: 1
         input_map { key: "x" value: "between" } output_map { key: "y" value: "OUT" } }
}
"""


def test_a_triton_ensemble_is_served_to_triton_s_client(tmp_path: Path) -> None:
    for name, factor in (("double", 2.0), ("triple", 3.0)):
        write_onnx(tmp_path, name, factor)
        (tmp_path / name / "config.pbtxt").write_text('backend: "onnxruntime" max_batch_size: 8\n')
    (tmp_path / "both" / "1").mkdir(parents=True)
    (tmp_path / "both" / "config.pbtxt").write_text(ENSEMBLE)
    server = Server(tmp_path)
    try:
        server.wait_until_ready()
        triton = triton_grpc.InferenceServerClient(server.address)
        tensor = triton_grpc.InferInput("IN", [2, 2], "FP32")
        tensor.set_data_from_numpy(X)
        assert triton.infer("both", [tensor]).as_numpy("OUT").tolist() == (X * 6).tolist()
        metadata = triton.get_model_metadata("both")
        assert [(each.name, list(each.shape)) for each in metadata.inputs] == [("IN", [-1, 2])]
        triton.close()
    finally:
        server.kill()


KSERVE = """
apiVersion: serving.kserve.io/v1alpha1
kind: InferenceGraph
metadata: {name: both}
spec:
  nodes:
    root:
      routerType: Sequence
      steps:
      - {serviceName: double}
      - {nodeName: more, data: $response}
    more:
      routerType: Switch
      steps:
      - {serviceName: triple, condition: "[@this].#(outputs.0.data.1 > 3)"}
      - {serviceUrl: "http://double.default.svc.cluster.local/v2/models/double/infer", condition: outputs.0.data.0}
"""


def test_a_graph_of_kserve_s_is_served(tmp_path: Path) -> None:
    for name, factor in (("double", 2.0), ("triple", 3.0)):
        write_onnx(tmp_path, name, factor)
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "inference-graph.yaml").write_text(KSERVE)
    server = Server(tmp_path)
    try:
        server.wait_until_ready()
        with server.client() as client:
            small = np.array([[1, 1]], np.float32)
            assert client.predict("both", {"x": X})["y"].tolist() == (X * 6).tolist()
            assert client.predict("both", {"x": small})["y"].tolist() == (small * 4).tolist()
    finally:
        server.kill()


def test_graphs_that_are_loaded_keep_none_of_their_models_waiting(tmp_path: Path) -> None:
    """A load that waits for its models' loads mustn't hold the place that those wait for, nor wait for itself."""
    write_onnx(tmp_path, "double", 2.0)
    for number in range(8):
        write_graph(tmp_path, f"inner{number}", CHAIN)
        write_graph(tmp_path, f"outer{number}", CHAIN.replace("model: double", f"model: inner{number}"))
        write_graph(tmp_path, f"around{number}", CHAIN.replace("double", f"around{(number + 1) % 8}"))
    server = Server(tmp_path, "--load", "on_demand", "--concurrent-loads", "1")
    try:
        server.wait_until_ready()
        with ThreadPoolExecutor(16) as pool:
            asked = [pool.submit(_ask, server, f"outer{number}") for number in range(8)]
            around = [pool.submit(_ask, server, f"around{number}") for number in range(8)]
            for each in asked:
                assert each.result(30).tolist() == [[16, 32]]
            for each in around:
                with pytest.raises(SalverError, match=r"asks itself|failed to load"):
                    each.result(30)
    finally:
        server.kill()
