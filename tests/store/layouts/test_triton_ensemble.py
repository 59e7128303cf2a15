"""Triton's ensembles, read as graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graph_host import FakeHost

from salver.core.errors import InvalidConfig
from salver.core.model import ModelSpec
from salver.core.request import InferenceRequest, Parameters
from salver.graph.document import read_graph_document
from salver.graph.model import GraphModel
from salver.store.layouts.triton import read_model
from salver.store.repository import scan

WHOLE = """
name: "pipeline"
platform: "ensemble"
max_batch_size: 8
input [
  { name: "IMAGE" data_type: TYPE_UINT8 dims: [ -1 ] },
  { name: "BIAS" data_type: TYPE_FP32 dims: [ 2 ] optional: true }
]
output [ { name: "SCORE" data_type: TYPE_FP32 dims: [ 2 ] }, { name: "RAW" data_type: TYPE_FP32 dims: [ 2 ] } ]
ensemble_scheduling {
  step [
    {
      model_name: "pre-process"
      model_version: -1
      input_map { key: "RAW_IMAGE" value: "IMAGE" }
      output_map { key: "PIXELS" value: "pixels" }
    },
    {
      model_name: "net"
      model_version: 3
      input_map { key: "x" value: "pixels" }
      input_map { key: "bias" value: "BIAS" }
      output_map { key: "y.0" value: "RAW" }
    },
    {
      model_name: "net"
      model_version: 3
      input_map { key: "x" value: "RAW" }
      output_map { key: "y.0" value: "SCORE" }
    }
  ]
}
"""


def write(root: Path, config: str, *, version: str = "1") -> Path:
    folder = root / "pipeline"
    (folder / version).mkdir(parents=True)  # empty, as Triton wants it
    (folder / "config.pbtxt").write_text(config)
    return folder


def test_an_ensemble_is_a_graph(tmp_path: Path) -> None:
    found = read_model(write(tmp_path, WHOLE))
    assert found is not None
    assert (found.wanted, found.config.runtime, found.problems) == (("1",), "graph", ())
    document = found.config.options["graph"]
    graph, _ = read_graph_document(document, "pipeline")
    assert [(each.name, each.datatype, each.shape, each.optional) for each in graph.inputs] == [
        ("IMAGE", "UINT8", (-1, -1), False),
        ("BIAS", "FP32", (-1, 2), True),
    ]
    assert [(step.name, step.model) for step in graph.steps] == [
        ("pre_process", "pre-process"),
        ("net", "net/3"),
        ("net_2", "net/3"),
    ]
    assert {key: source.from_ for key, source in graph.steps[1].inputs.items()} == {
        "x": "pre_process.PIXELS",
        "bias": "inputs.BIAS",
    }
    assert [(output.name, output.from_) for output in graph.outputs] == [("SCORE", "net_2.y.0"), ("RAW", "net.y.0")]


def test_a_repository_lists_it(tmp_path: Path) -> None:
    write(tmp_path, WHOLE)
    entry = scan(tmp_path).models["pipeline"]
    assert not entry.error
    assert list(entry.versions) == ["1"]


@pytest.mark.parametrize("any_name", [True, False])
def test_neither_artifacts_nor_git_keep_empty_folders(tmp_path: Path, any_name: bool) -> None:
    folder = write(tmp_path, WHOLE)
    (folder / "1").rmdir()
    found = read_model(folder, any_name=any_name)
    assert found is not None
    assert (found.versions, found.wanted) == ({"1": folder}, ("1",))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('value: "pixels"', 'value: "pixls"', "line 21: nothing gives the tensor 'pixels'; there are 'IMAGE'"),
        ('model_name: "pre-process"', "", "a step of an ensemble has no 'model_name'"),
        ('input_map { key: "RAW_IMAGE" value: "IMAGE" }', "", "a step of an ensemble has no 'input_map'"),
        ('value: "SCORE"', 'value: "RAW"', "give the tensor 'RAW'"),
        (
            '{ name: "SCORE" data_type: TYPE_FP32 dims: [ 2 ] }',
            '{ name: "S" data_type: TYPE_FP32 dims: 2 }',
            "tensor 'S'",
        ),
        ('model_name: "net"', 'model_name: "net" model_namespace: "x"', "models have no namespaces here"),
        ('model_name: "net"', 'model_name: "../net"', "line 19: .*'../net'"),
        ("model_version: 3", "model_version: 0", "line 20: 'model_version' is a version, or -1 for the newest, not 0"),
        ('input_map { key: "bias" value: "BIAS" }', 'input_map { key: "bias" }', "line 22: 'input_map' wants a key"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in WHOLE
    with pytest.raises(InvalidConfig, match=message):
        read_model(write(tmp_path, WHOLE.replace(old, new, 1)))


def test_settings_that_are_its_models_are_named(tmp_path: Path) -> None:
    config = WHOLE + "dynamic_batching { }\nresponse_cache { enable: true }\n"
    found = read_model(write(tmp_path, config))
    assert found is not None
    assert found.config.response_cache
    (problem,) = found.problems
    assert "'dynamic_batching' isn't for ensembles" in problem


def test_what_is_not_followed_is_named(tmp_path: Path) -> None:
    unused = """    {
      model_name: "log"
      input_map { key: "x" value: "RAW" }
      output_map { key: "y" value: "nowhere" }
    },
"""
    config = WHOLE.replace("  step [\n", "  step [\n" + unused) + "optimization { }\n"
    found = read_model(write(tmp_path, config))
    assert found is not None
    assert [step["name"] for step in found.config.options["graph"]["steps"]] == ["pre_process", "net", "net_2"]
    assert found.problems == (
        "pipeline/config.pbtxt, line 13: 'log' isn't asked: no output needs what it gives",
        "pipeline/config.pbtxt, line 38: 'optimization' has no equivalent here, and is not followed",
    )


async def test_its_stateful_models_hear_which_sequence_a_request_is_of(tmp_path: Path) -> None:
    found = read_model(write(tmp_path, WHOLE))
    assert found is not None
    config, document = read_graph_document(found.config.options["graph"], "pipeline")
    host = FakeHost()
    host.add("pre-process", lambda RAW_IMAGE: {"PIXELS": RAW_IMAGE}, outputs=["PIXELS"])  # noqa: N803
    host.add("net", lambda x, bias=1: {"y.0": x + bias}, outputs=["y.0"])
    graph = GraphModel(ModelSpec("pipeline", "1", tmp_path, "graph"), config, document, host, allow_code=False)
    await graph.connect()
    inputs = {"IMAGE": np.ones((1, 3), np.uint8)}
    parameters: Parameters = {"sequence_id": 7, "sequence_start": True, "other": "x"}
    answer = await graph.answer(InferenceRequest("pipeline", "", inputs, parameters=parameters), inputs)
    assert {name: array.tolist() for name, array in answer.items()} == {"SCORE": [[3, 3, 3]], "RAW": [[2, 2, 2]]}
    assert [(each.model, each.version) for each in host.requests] == [("pre-process", ""), ("net", "3"), ("net", "3")]
    for request in host.requests:
        assert request.parameters == {"sequence_id": 7, "sequence_start": True}
