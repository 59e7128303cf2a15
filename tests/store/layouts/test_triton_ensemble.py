"""Triton's ensembles, read as graphs."""

from __future__ import annotations

from pathlib import Path

import pytest

from salver.core.errors import InvalidConfig
from salver.graph.document import read_graph_document
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


def test_an_artifact_has_no_empty_folders(tmp_path: Path) -> None:
    folder = write(tmp_path, WHOLE)
    (folder / "1").rmdir()
    found = read_model(folder, any_name=True)
    assert found is not None
    assert list(found.versions.values()) == [folder]


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
