"""Repositories of Triton and TorchServe behind a real server, asked by Triton's own client."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from onnx_files import write_graph
from servers import Server
from torchserve_archives import write_archive

pytestmark = pytest.mark.e2e

ADD = """
platform: "onnxruntime_onnx"  max_batch_size: 8
input [ { name: "A" data_type: TYPE_FP32 dims: 2 }, { name: "B" data_type: TYPE_FP32 dims: 2 } ]
output { name: "SUM" data_type: TYPE_FP32 dims: 2 }
dynamic_batching { max_queue_delay_microseconds: 100 }
model_warmup { name: "once" batch_size: 2 inputs { key: "A" value { data_type: TYPE_FP32 dims: 2 zero_data: true } } }
optimization { graph { level: 1 } }
"""
UPPER = """
backend: "python"  max_batch_size: 4
input { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "UPPER" data_type: TYPE_STRING dims: [ 1 ] }
"""
UPPER_CODE = """
import os
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            texts = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
            if (texts == b"end the process").any():
                os._exit(1)
            upper = np.array([text.decode().upper() for text in texts.ravel()], dtype=object)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("UPPER", upper.reshape(texts.shape))]))
        return responses
"""
COUNTER = """
backend: "python"
input { name: "N" data_type: TYPE_INT32 dims: [ 1 ] }
output { name: "I" data_type: TYPE_INT32 dims: [ 1 ] }
model_transaction_policy { decoupled: true }
"""
COUNTER_CODE = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        sender = requests[0].get_response_sender()
        for i in range(int(pb_utils.get_input_tensor_by_name(requests[0], "N").as_numpy()[0])):
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("I", np.array([i], np.int32))]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def write(folder: Path, config: str, code: str = "") -> None:
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(config)
    if code:
        (folder / "1" / "model.py").write_text(code)


def test_a_triton_repository(tmp_path: Path) -> None:
    write_graph(tmp_path / "add" / "1", "FP32", [("Add", ["A", "B"], "SUM")])
    write(tmp_path / "add", ADD)
    write(tmp_path / "upper", UPPER, UPPER_CODE)
    write(tmp_path / "counter", COUNTER, COUNTER_CODE)
    write(tmp_path / "plan", 'platform: "tensorrt_plan"')
    (tmp_path / "plan" / "1" / "model.plan").write_bytes(b"plan")
    server = Server(tmp_path, "--allow-code")
    try:
        server.wait_for_log("tensorrt' can't be served")
        server.wait_for_log("'optimization' has no equivalent here")
        client = triton_http.InferenceServerClient(server.address)
        for model in ("add", "upper", "counter"):
            server.wait_for_log(rf"{model}.*(ready|READY|loaded)")
            assert client.is_model_ready(model)
        assert not client.is_model_ready("plan")
        config = client.get_model_config("add")
        assert (config["max_batch_size"], config["input"][0]["dims"]) == (8, [2])

        a = triton_http.InferInput("A", [3, 2], "FP32")
        b = triton_http.InferInput("B", [3, 2], "FP32")
        values = np.arange(6, dtype=np.float32).reshape(3, 2)
        a.set_data_from_numpy(values)
        b.set_data_from_numpy(values)
        np.testing.assert_array_equal(client.infer("add", [a, b]).as_numpy("SUM"), values * 2)

        def upper(text: str) -> list[bytes]:
            tensor = triton_http.InferInput("TEXT", [1, 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[text.encode()]], object))
            found: list[bytes] = client.infer("upper", [tensor]).as_numpy("UPPER").ravel().tolist()
            return found

        assert upper("wörter") == ["WÖRTER".encode()]
        with pytest.raises(triton_http.InferenceServerException):
            upper("end the process")  # of the model: the server goes on
        np.testing.assert_array_equal(client.infer("add", [a, b]).as_numpy("SUM"), values * 2)
        client.close()
        assert streamed(server, 5) == [0, 1, 2, 3, 4]
    finally:
        assert server.stop() == 0


def streamed(server: Server, count: int) -> list[int]:
    import queue

    answers: queue.Queue[object] = queue.Queue()
    with triton_grpc.InferenceServerClient(server.address) as client:
        tensor = triton_grpc.InferInput("N", [1], "INT32")
        tensor.set_data_from_numpy(np.array([count], np.int32))
        client.start_stream(lambda result, error: answers.put(error or result))
        client.async_stream_infer("counter", [tensor], enable_empty_final_response=True)
        found: list[int] = []
        while True:
            answer = answers.get(timeout=60)
            assert isinstance(answer, triton_grpc.InferResult), answer
            response = answer.get_response()
            if response.parameters["triton_final_response"].bool_param:
                return found
            found.append(int(answer.as_numpy("I")[0]))


def test_a_model_store_of_torchserve(tmp_path: Path) -> None:
    code = """
from ts.torch_handler.base_handler import BaseHandler

class Handler(BaseHandler):
    def initialize(self, context):
        self.version = context.manifest["model"]["modelVersion"]
    def preprocess(self, data):
        return data
    def inference(self, data):
        return [{"version": self.version, "length": len(row.get("data") or row["body"]["text"])} for row in data]
    def postprocess(self, data):
        return data
"""
    store = tmp_path / "model-store"
    for version in ("1.0", "2.0"):
        write_archive(store, "length", version=version, code=code).rename(store / f"length_{version[0]}.mar")
    (tmp_path / "config.properties").write_text("load_models=all\ndefault_response_timeout=60\n")
    server = Server(tmp_path, "--allow-code")
    try:
        server.wait_until_ready()
        client = triton_http.InferenceServerClient(server.address)
        for version, expected in (("1", "1.0"), ("2", "2.0"), ("", "2.0")):
            tensor = triton_http.InferInput("data", [1], "BYTES")
            tensor.set_data_from_numpy(np.array([b"\0\1\2"], object))
            (answer,) = client.infer("length", [tensor], model_version=version).as_numpy("output")
            assert json.loads(answer) == {"version": expected, "length": 3}
        tensor = triton_http.InferInput("json", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([b'{"text": "four"}'], object))
        (answer,) = client.infer("length", [tensor]).as_numpy("output")
        assert json.loads(answer)["length"] == 4
        client.close()
    finally:
        assert server.stop() == 0


def test_code_of_archives_runs_only_where_it_is_allowed(tmp_path: Path) -> None:
    write_archive(tmp_path / "store", "mine", code="def handle(data, context):\n    return data\n")
    server = Server(tmp_path / "store")
    try:
        server.wait_for_log("which isn't allowed")
    finally:
        server.stop()
