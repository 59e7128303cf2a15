"""Probing models that work, in processes of their own."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import onnx
import psutil
import pytest
import torch
from gates import until
from onnx import TensorProto, helper, numpy_helper
from onnx_files import write_constant
from process_models import fork_servers, python_spec
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier

from salver.core.errors import CodeNotAllowed, InvalidArtifact, InvalidConfig, LoadError, MissingDependency
from salver.core.model import ModelSpec
from salver.core.scheduling import Scheduling, WarmUp
from salver.core.signature import TensorSpec
from salver.registration.probe.limits import ProbeLimits
from salver.registration.probe.prober import Prober, probe_version
from salver.registration.probe.result import ProbeResult

pytestmark = pytest.mark.e2e

Probe = Callable[..., Awaitable[ProbeResult]]

MIB = 1 << 20
PLAIN = "class Model:\n    def predict(self, x: float) -> float:\n        return x + 1\n"


def write_dense(folder: Path, size: int) -> Path:
    """An ONNX model of one layer, ``size`` * ``size`` weights."""
    weights = numpy_helper.from_array(np.ones((size, size), np.float32), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", size])],
        [weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    return folder / "m.onnx"


async def test_an_onnx_model_is_measured(prober: Prober, tmp_path: Path) -> None:
    path = write_dense(tmp_path, 2048)
    result = await prober.probe(ModelSpec("dense", "1", path, "onnx"), allow_code=False)
    assert result.runtime == "onnx"
    assert result.notes == ()
    assert result.signature.inputs == (TensorSpec("x", "FP32", (-1, 2048)),)
    assert result.signature.batched
    probe = result.probe
    assert 16 * MIB <= probe.memory_bytes <= 60 * MIB  # 16 MiB of weights, which ONNX Runtime may have packed anew
    assert probe.memory_bytes <= probe.peak_memory_bytes <= 150 * MIB
    assert 0 < probe.load_seconds < 60
    assert {1, 2, 4, 8} <= probe.latency_seconds.keys()
    assert all(0 < seconds < 10 for seconds in probe.latency_seconds.values())
    assert probe.max_batch_size > 1
    assert probe.efficient_batch_size is not None
    assert probe.threads is not None
    assert (probe.device, probe.platform, probe.framework) == ("cpu", "onnxruntime_onnx", "onnxruntime")
    assert probe.framework_version


async def test_the_next_version_finds_its_framework_imported(prober: Prober, tmp_path: Path) -> None:
    write_constant(tmp_path / "1", 1.0)
    spec = ModelSpec("constant", "1", tmp_path / "1" / "model.onnx", "onnx")
    results = await asyncio.gather(*(prober.probe(spec, allow_code=False) for _ in range(4)))
    assert all(result.signature == results[0].signature for result in results)
    assert len(fork_servers()) == 1
    assert not fork_servers()[0].children()


async def test_sklearn_models_are_probed_where_code_is_allowed(prober: Prober, tmp_path: Path) -> None:
    inputs, classes = load_iris(return_X_y=True)
    joblib.dump(RandomForestClassifier(20, random_state=0).fit(inputs, classes), tmp_path / "forest.joblib")
    spec = ModelSpec("forest", "1", tmp_path / "forest.joblib", "sklearn")
    result = await prober.probe(spec, allow_code=True)
    assert {tensor.name for tensor in result.signature.outputs} == {"label", "probabilities"}
    assert result.probe.framework == "sklearn"
    assert result.probe.latency_seconds[1] > 0
    with pytest.raises(CodeNotAllowed, match="unpickles it"):
        await prober.probe(spec, allow_code=False)


async def test_pytorch_models_are_probed(prober: Prober, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(3, 4)).save(str(tmp_path / "m.pt"))  # type: ignore[no-untyped-call]
    spec = ModelSpec(
        "linear", "1", tmp_path / "m.pt", "pytorch", inputs=(TensorSpec("input", "FP32", (-1, 3)),), batched=None
    )
    result = await prober.probe(spec, allow_code=False)
    assert result.probe.framework_version == torch.__version__
    assert result.probe.latency_seconds[1] > 0
    assert result.probe.memory_bytes < 100 * MIB  # of a tiny model: PyTorch itself doesn't count


async def test_memory_is_what_the_model_takes(probe: Probe) -> None:
    code = (
        "import numpy as np\n"
        "class Model:\n"
        "    def load(self):\n"
        "        self.weights = np.ones(50 * 2**20 // 8)\n"
        "        np.ones(80 * 2**20 // 8).sum()\n"
        "    def predict(self, x: float) -> float:\n"
        "        return x\n"
    )
    measured = (await probe(code)).probe
    assert 50 * MIB <= measured.memory_bytes < 60 * MIB
    assert 125 * MIB <= measured.peak_memory_bytes < 150 * MIB


async def test_mapped_files_of_the_artifact_and_processes_of_the_model_count(probe: Probe, tmp_path: Path) -> None:
    weights = tmp_path / "m" / "1" / "weights.npy"
    weights.parent.mkdir(parents=True)
    np.save(weights, np.ones(20 * MIB // 8))
    code = (
        "import os, subprocess, sys\n"
        "import numpy as np\n"
        "class Model:\n"
        "    def load(self, path):\n"
        "        self.weights = np.load(path / 'weights.npy', mmap_mode='r')\n"
        "        self.weights.sum()\n"
        "        program = 'x = b\"1\" * (30 << 20); print(1, flush=True); input()'\n"
        "        self.worker = subprocess.Popen(\n"
        "            [sys.executable, '-c', program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "        self.worker.stdout.readline()\n"
        "    def predict(self, x: float) -> float:\n"
        "        return x\n"
    )
    assert 50 * MIB <= (await probe(code)).probe.memory_bytes < 70 * MIB


@pytest.mark.parametrize(
    "predict",
    [
        "async def predict(self, x: float) -> float:\n        return x",
        "def predict(self, x: float) -> float:\n        yield x\n        yield x",
        "async def predict(self, x: float) -> float:\n        yield x",
        "def predict(self, x: float) -> float:\n        import asyncio\n        asyncio.run(asyncio.sleep(0))\n"
        "        return x",
    ],
)
async def test_models_of_every_kind_are_probed(probe: Probe, predict: str) -> None:
    result = await probe(f"class Model:\n    {predict}\n")
    assert result.notes == ()
    assert result.probe.latency_seconds.keys() == {1}
    assert result.probe.max_batch_size == 1


async def test_a_model_that_refuses_made_up_inputs_passes_with_a_note(probe: Probe) -> None:
    code = "class Model:\n    def predict(self, x: float) -> float:\n        raise ValueError('only primes')\n"
    result = await probe(code)
    assert result.probe.latency_seconds == {}
    assert "only primes" in result.notes[0]


async def test_a_model_whose_inputs_cannot_be_made_up_passes_with_a_note(probe: Probe) -> None:
    result = await probe("class Model:\n    def predict(self, x):\n        return x\n")
    assert "leaves a datatype or shape open" in result.notes[0]


async def test_settings_of_model_yaml_count(probe: Probe, prober: Prober, tmp_path: Path) -> None:
    spec = ModelSpec(
        "dense", "1", write_dense(tmp_path, 64), "onnx", scheduling=Scheduling(max_batch_size=4), threads=1
    )
    measured = (await prober.probe(spec, allow_code=False)).probe
    assert (measured.max_batch_size, measured.batch_size_reason) == (4, "model.yaml says so")
    assert measured.latency_seconds.keys() == {1, 2, 4}
    assert measured.threads == 1


async def test_warm_up_requests_run(probe: Probe, tmp_path: Path) -> None:
    code = (
        "class Model:\n"
        "    def predict(self, x: float) -> float:\n"
        "        if x != 42:\n"
        "            raise ValueError('the answer is 42')\n"
        "        print('warm')\n"
        "        return x\n"
    )
    for value, name in ((42, "right.json"), (41, "wrong.json")):
        request = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [value]}]}
        (tmp_path / name).write_text(json.dumps(request))
    result = await probe(code, warm_up=(WarmUp(tmp_path / "right.json"),))
    assert "42" in result.notes[0]  # made-up ones are refused
    with pytest.raises(InvalidConfig, match=r"model 'm': its warm-up request wrong\.json failed: .*the answer is 42"):
        await probe(code, warm_up=(WarmUp(tmp_path / "wrong.json"),))


async def test_batches_that_would_take_too_much_memory_are_not_tried(prober: Prober, tmp_path: Path) -> None:
    # Each row takes 4 MiB on the way.
    nodes = [
        helper.make_node("MatMul", ["column", "x3"], ["outer"]),
        helper.make_node("ReduceSum", ["outer", "axes"], ["y"], keepdims=0),
        helper.make_node("Unsqueeze", ["x", "one"], ["x3"]),
    ]
    constants = [
        numpy_helper.from_array(np.ones((1, 1024, 1), np.float32), "column"),
        numpy_helper.from_array(np.array([1]), "axes"),
        numpy_helper.from_array(np.array([1]), "one"),
    ]
    shape = ["batch", 1024]
    graph = helper.make_graph(
        [nodes[2], nodes[0], nodes[1]],
        "outer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    limits = ProbeLimits(memory_bytes=120 * MIB)
    spec = ModelSpec("outer", "1", tmp_path / "m.onnx", "onnx", threads=1)
    result = await prober.probe(spec, allow_code=False, limits=limits)
    assert 1 in result.probe.latency_seconds
    assert max(result.probe.latency_seconds) <= 16
    assert result.probe.memory_bytes < 120 * MIB


@pytest.mark.parametrize(
    ("runtime", "content", "error", "text"),
    [
        ("onnx", b"no model", InvalidArtifact, "ONNX Runtime can't load"),
        ("nothing", b"", InvalidConfig, "there is no runtime 'nothing'"),
    ],
)
async def test_what_cannot_be_loaded_fails_as_in_the_server(
    prober: Prober, tmp_path: Path, runtime: str, content: bytes, error: type[LoadError], text: str
) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(error, match=text):
        await prober.probe(ModelSpec("m", "1", tmp_path / "m.onnx", runtime), allow_code=False)


async def test_requirements_and_code_are_checked(prober: Prober, tmp_path: Path) -> None:
    spec = python_spec(tmp_path, "m", PLAIN, options={"requirements": ["nothing-that-exists"]})
    with pytest.raises(MissingDependency, match="nothing-that-exists"):
        await prober.probe(spec, allow_code=True)
    with pytest.raises(CodeNotAllowed, match="allow_code"):
        await prober.probe(replace(spec, options={}), allow_code=False)


async def test_cancelling_ends_the_process(prober: Prober, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    code = (
        "import os, threading\n"
        "class Model:\n"
        "    def load(self):\n"
        f"        open({str(marker)!r}, 'w').write(str(os.getpid()) + ' ')\n"
        "        threading.Event().wait()\n"
        "    def predict(self, x: float) -> float:\n"
        "        return x\n"
    )
    probing = asyncio.create_task(prober.probe(python_spec(tmp_path, "m", code), allow_code=True))
    await until(lambda: marker.exists() and marker.read_text().endswith(" "))
    pid = int(marker.read_text())
    assert os.getpgid(pid) == pid
    assert psutil.Process(pid).nice() > psutil.Process().nice()
    probing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probing
    assert not psutil.pid_exists(pid)


async def test_a_probe_on_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "salver.models")
    spec = python_spec(tmp_path, "m", "print('a model that talks')\n" + PLAIN)
    result = await probe_version(spec, allow_code=True)
    assert result.probe.framework == "python"
    assert "model m, being probed: a model that talks" in caplog.text
    await until(lambda: not fork_servers())
