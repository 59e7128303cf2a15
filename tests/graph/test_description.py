"""A graph, its counters and its tensors as JSON values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest
from graph_host import FakeHost, ask, load

from salver.core.errors import InvalidArtifact
from salver.core.tensor import DTYPES
from salver.graph.description import describe_file, describe_graph, describe_tensor

GRAPH = """
description: several kinds
inputs: [{name: x, datatype: FP32, shape: [-1]}]
outputs: [{name: y, from: s.y}]
steps:
- {name: s, switch: [{model: double/2, when: "false", inputs: {x: inputs.x}}, {model: double, inputs: {x: inputs.x}}]}
- {name: inner, inputs: {x: s.y}, graph: {outputs: [{name: y, from: t.y}], steps: [
    {name: t, model: double, inputs: {x: inputs.x}}]}}
- {name: each, map: {over: {row: inner.y}, step: {values: {y: item.row}}}, after: [s],
   fallback: {values: {y: s.y}}, optional: true}
- {name: end, answer: {y: {first: [each.y, s.y]}}, when: "has(each.y)"}
"""


async def test_a_graph_with_what_it_has_done() -> None:
    host = FakeHost()
    host.add("double", lambda x: {"y": x * 2}, outputs=["y"])
    graph = await load(GRAPH, host)
    assert (await ask(graph, x=np.array([1, 2], np.float32)))["y"].tolist() == [4, 8]
    told = describe_graph("g", "3", graph)
    assert (told["name"], told["version"], told["description"]) == ("g", "3", "several kinds")
    assert told["models"] == ["double", "double/2"]
    assert told["answers"] == ["s"]
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1], "optional": False}]
    steps = {step["name"]: step for step in told["steps"]}
    assert {name: step["kind"] for name, step in steps.items()} == {
        "s": "switch",
        "inner": "graph",
        "each": "map",
        "end": "answer",
    }
    assert [each["name"] for each in steps["s"]["steps"]] == ["s/double/2", "s/double"]
    assert [each["statistics"]["ok"] for each in steps["s"]["steps"]] == [0, 1]
    assert [each["name"] for each in steps["inner"]["steps"]] == ["inner/t"]
    assert (steps["each"]["needs"], steps["each"]["optional"]) == (["inner", "s"], True)
    assert steps["each"]["fallback"]["kind"] == "values"
    assert steps["each"]["steps"][0]["statistics"]["ok"] == 2
    assert (steps["end"]["needs"], steps["end"]["when"]) == (["each", "s"], "has(each.y)")
    assert orjson.loads(orjson.dumps(told)) == told


@pytest.mark.parametrize("datatype", DTYPES)
def test_tensors_of_every_datatype(datatype: str) -> None:
    array = np.array([[b"a", b"b"]] if datatype == "BYTES" else [[0, 1]], DTYPES[datatype])
    told = describe_tensor("t", array)
    assert (told["datatype"], told["shape"], told["is_all"]) == (datatype, [1, 2], True)
    assert told["data"] == (["a", "b"] if datatype == "BYTES" else [0, 1])
    assert orjson.dumps(told)


def test_large_empty_and_strange_tensors() -> None:
    view = np.broadcast_to(np.float32(1.5), (1 << 20, 1 << 20))  # 4 TiB, if anybody copied it
    told = describe_tensor("t", view.T)
    assert (told["data"], told["is_all"]) == ([1.5] * 8, False)
    assert describe_tensor("t", np.zeros((0, 3)))["data"] == []
    assert describe_tensor("t", np.array(7))["data"] == [7]
    assert describe_tensor("t", np.array([np.nan, np.inf, -np.inf]))["data"] == ["nan", "inf", "-inf"]
    assert describe_tensor("t", np.array([2**64 - 1], np.uint64))["data"] == [2**64 - 1]


def test_texts_are_cut_between_characters() -> None:
    texts = np.array([b"\xff\xfe", b"x" * 79 + "ä".encode(), "ä".encode() * 40], object)
    assert describe_tensor("t", texts)["data"] == ["b'\\xff\\xfe'", "x" * 79 + "... (81 bytes)", "ä" * 40]


def test_a_file_without_its_models(tmp_path: Path) -> None:
    (tmp_path / "graph.yaml").write_text(GRAPH)
    told = describe_file(tmp_path)
    assert told == describe_file(tmp_path / "graph.yaml")
    assert told["outputs"] == [{"name": "y", "datatype": None, "shape": None, "optional": False}]
    assert told["models"] == ["double", "double/2"]
    assert [step["name"] for step in told["steps"]] == ["s", "inner", "each", "end"]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InvalidArtifact, match=r"there is no .*nothing/graph\.yaml"):
        describe_file(tmp_path / "nothing")
