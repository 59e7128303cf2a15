"""The V2 protocol's answers, apart from how they travel."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from gates import fresh_gates, gate  # noqa: F401
from small_models import (
    COUNT,
    ECHO,
    FAILS,
    GATED_LOAD,
    engine_over,
    request,
    rows,
    write_broken,
    write_onnx,
    write_python,
)

from salver import __version__
from salver.assembly import build_engine
from salver.config import ServerSettings
from salver.core.errors import LoadError, ModelFailed, ModelUnavailable, UnknownModel
from salver.frontends.v2 import V2Api

TYPED = """
inputs:
  - {name: x, datatype: BYTES, shape: [-1, 3]}
outputs:
  - {name: y, datatype: BF16, shape: [-1]}
batched: true
"""


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[V2Api]:
    write_onnx(tmp_path, "scale", version="1", factor=2)
    write_onnx(tmp_path, "scale", version="2", factor=3)
    write_python(tmp_path, "echo", ECHO)
    write_python(tmp_path, "typed", ECHO, config=TYPED)
    write_python(tmp_path, "count", COUNT)
    write_python(tmp_path, "fails", FAILS)
    write_broken(tmp_path, "broken")
    async with engine_over(tmp_path) as engine:
        yield V2Api(engine)


async def test_the_server_tells_what_it_is(api: V2Api) -> None:
    metadata = api.server_metadata()
    assert (metadata["name"], metadata["version"]) == ("salver", __version__)
    assert {"binary_tensor_data", "model_repository", "statistics"} <= set(metadata["extensions"])


async def test_the_server_is_ready_once_it_has_loaded_until_it_drains(tmp_path: Path) -> None:
    write_python(tmp_path, "a", GATED_LOAD)
    engine = build_engine(ServerSettings(repository=tmp_path, allow_code=True))
    api = V2Api(engine)
    starting = asyncio.create_task(engine.start())
    await gate("load a/1").reached_async()
    assert (api.live(), api.ready()) == (True, False)
    assert not api.model_ready("a")
    gate("load a/1").open()
    await starting
    assert (api.live(), api.ready(), api.model_ready("a")) == (True, True, True)
    api.drain()
    assert (api.live(), api.ready(), api.model_ready("a")) == (True, False, True)
    await engine.close()


async def test_models_are_ready_or_not_or_unknown(api: V2Api) -> None:
    assert api.model_ready("scale")
    assert api.model_ready("scale", "1")
    assert not api.model_ready("broken")
    assert not api.model_ready("broken", "1")
    for name, version in (("none", ""), ("scale", "9"), ("", "")):
        with pytest.raises(UnknownModel):
            api.model_ready(name, version)


async def test_metadata(api: V2Api) -> None:
    assert await api.model_metadata("scale") == {
        "name": "scale",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }
    assert await api.model_metadata("scale", "1") == await api.model_metadata("scale", "2")
    assert (await api.model_metadata("echo"))["inputs"] == [{"name": "x", "datatype": "ANY", "shape": [-1]}]


async def test_the_config_has_no_batch_dimension(api: V2Api) -> None:
    config = await api.model_config("typed")
    assert config["max_batch_size"] > 0
    assert config["input"] == [
        {"name": "x", "data_type": "TYPE_STRING", "dims": [3], "optional": False, "allow_ragged_batch": False}
    ]
    assert config["output"] == [{"name": "y", "data_type": "TYPE_BF16", "dims": [1]}]


async def test_the_config_of_a_model_without_batches(api: V2Api) -> None:
    config = await api.model_config("echo")
    assert config["max_batch_size"] == 0
    assert config["input"][0]["data_type"] == "TYPE_INVALID"
    # perf_analyzer takes their mere presence for "on".
    assert not {"dynamic_batching", "sequence_batching", "response_cache"} & config.keys()
    assert config["model_transaction_policy"] == {"decoupled": False}
    assert config["backend"] == "python"
    assert config["instance_group"] == [{"name": "echo_0", "kind": "KIND_CPU", "count": 1}]
    assert (await api.model_config("count"))["model_transaction_policy"] == {"decoupled": True}


async def test_statistics(api: V2Api) -> None:
    for size in (1, 4, 4):
        await api.infer(request("scale", x=np.zeros((size, 2), np.float32)))
    with pytest.raises(ModelFailed):
        await api.infer(request("fails", text=np.array([b"x"], object)))
    first, second = api.model_statistics("scale")["model_stats"]
    assert (first["name"], first["version"], first["inference_count"], first["last_inference"]) == ("scale", "1", 0, 0)
    assert (second["version"], second["inference_count"], second["execution_count"]) == ("2", 9, 3)
    assert second["last_inference"] > 1_600_000_000_000
    times = second["inference_stats"]
    assert set(times) == {
        "success",
        "fail",
        "queue",
        "compute_input",
        "compute_infer",
        "compute_output",
        "cache_hit",
        "cache_miss",
    }
    assert times["success"]["count"] == 3
    assert times["success"]["ns"] == sum(
        times[part]["ns"] for part in ("queue", "compute_input", "compute_infer", "compute_output")
    )
    assert times["fail"] == times["cache_hit"] == {"count": 0, "ns": 0}
    assert [(batch["batch_size"], batch["compute_infer"]["count"]) for batch in second["batch_stats"]] == [
        (1, 1),
        (4, 2),
    ]
    assert api.model_statistics("scale", "2")["model_stats"] == [second]
    (failed,) = api.model_statistics("fails")["model_stats"]
    assert failed["inference_stats"]["fail"]["count"] == 1
    assert failed["inference_stats"]["success"]["count"] == failed["execution_count"] == 0


async def test_statistics_of_all_models(api: V2Api) -> None:
    everything = [(each["name"], each["version"]) for each in api.model_statistics()["model_stats"]]
    assert everything == [("count", "1"), ("echo", "1"), ("fails", "1"), ("scale", "1"), ("scale", "2"), ("typed", "1")]


@pytest.mark.parametrize("method", ["signature", "model_metadata", "model_config", "model_statistics"])
async def test_what_isnt_there_cant_be_asked(api: V2Api, method: str) -> None:
    async def ask(*names: str) -> None:
        answer = getattr(api, method)(*names)
        if inspect.isawaitable(answer):
            await answer

    with pytest.raises(UnknownModel, match="Request for unknown model"):
        await ask("none")
    with pytest.raises(UnknownModel, match="Request for unknown model"):
        await ask("scale", "3")
    with pytest.raises(ModelUnavailable, match="failed to load"):
        await ask("broken")
    with pytest.raises(ModelUnavailable, match="failed to load"):
        await ask("broken", "1")


async def test_the_index(api: V2Api) -> None:
    index = api.repository_index()
    assert [(each["name"], each["version"], each["state"]) for each in index] == [
        ("broken", "1", "UNAVAILABLE"),
        ("count", "1", "READY"),
        ("echo", "1", "READY"),
        ("fails", "1", "READY"),
        ("scale", "1", "READY"),
        ("scale", "2", "READY"),
        ("typed", "1", "READY"),
    ]
    assert index[0]["reason"]
    assert {each["reason"] for each in index[1:]} == {""}
    assert [each["name"] for each in api.repository_index(ready_only=True)] == [
        each["name"] for each in index if each["state"] == "READY"
    ]


async def test_load_and_unload(api: V2Api, tmp_path: Path) -> None:
    await api.unload_model("scale")
    assert not api.model_ready("scale")
    with pytest.raises(ModelUnavailable, match="unloaded"):
        await api.infer(request("scale", x=rows((1, 1))))
    await api.unload_model("scale")
    await api.load_model("scale")
    assert (await api.infer(request("scale", x=rows((1, 1))))).outputs["y"].tolist() == [[3, 3]]
    with pytest.raises(UnknownModel, match="Request for unknown model: 'none' is not found"):
        await api.unload_model("none")
    with pytest.raises(UnknownModel, match="failed to load 'none'"):
        await api.load_model("none")
    with pytest.raises(LoadError, match="failed to load 'broken' version 1"):
        await api.load_model("broken")
    write_onnx(tmp_path, "broken")
    await api.load_model("broken")
    assert api.model_ready("broken")


async def test_an_answer_to_a_stream(api: V2Api) -> None:
    assert [response.outputs["number"].tolist() async for response in api.stream(request("count", upto=[2]))] == [
        [0],
        [1],
    ]
