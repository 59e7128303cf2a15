"""What the builder writes is what `graph.yaml` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graph_host import FakeHost, ask, load

from salver.core.errors import InvalidConfig
from salver.graph.builder import (
    Graph,
    Step,
    Tensor,
    answer,
    concat,
    constant,
    ensemble,
    first,
    function,
    inline,
    item,
    map_over,
    model,
    parameter,
    split,
    stack,
    switch,
    values,
)
from salver.graph.document import read_graph
from salver.graph.spec import GraphConfig


def written(graph: Graph, folder: Path) -> GraphConfig:
    """The graph as its file is read, which is the same as without the file."""
    config, _ = read_graph(graph.write(folder))
    assert config == graph.config()
    return config


def graph_of(step: Step) -> Graph:
    graph = Graph()
    graph.input("x", "FP32", [-1, 2])
    added = graph.add("s", step)
    graph.output("y", added["y"], optional=True)
    return graph


def step_of(step: Step, folder: Path) -> dict[str, Any]:
    config = written(graph_of(step), folder)
    return config.steps[0].model_dump(by_alias=True, exclude_defaults=True, mode="json")


X = Tensor(**{"from": "inputs.x"})
ASK = {"inputs": {"x": {"from": "inputs.x"}}}


def test_a_whole_graph(tmp_path: Path) -> None:
    graph = Graph("Wer ist „das“?", timeout=2.5, parameters={"lang": "de", "top": 3, "fast": True})
    image = graph.input("image", "UINT8", [-1, -1, 3])
    graph.input("more", optional=True)
    found = graph.add("found", model("detector@best", {"image": image}, timeout="2s", retries=2))
    graph.output("boxes", found["boxes"].select(0, "1:3", [2, 0]).transpose(1, 0).reshape(1, -1).cast("FP32"))
    graph.output("maybe", first(found["maybe"], graph.input("other", optional=True)), optional=True)
    graph.output("one", 1)
    graph.write(tmp_path / "new" / "1")
    config = written(graph, tmp_path / "new" / "1")
    assert (config.description, config.timeout) == ("Wer ist „das“?", 2.5)
    assert config.parameters == {"lang": "de", "top": 3, "fast": True}
    assert [(each.name, each.datatype, each.shape, each.optional) for each in config.inputs] == [
        ("image", "UINT8", (-1, -1, 3), False),
        ("more", None, None, True),
        ("other", None, None, True),
    ]
    boxes, maybe, one = config.outputs
    assert (boxes.from_, boxes.select, boxes.transpose) == ("found.boxes", (0, "1:3", (2, 0)), (1, 0))
    assert (boxes.reshape, boxes.cast) == ((1, -1), "FP32")
    assert maybe.optional
    assert [each.from_ for each in maybe.first or ()] == ["found.maybe", "inputs.other"]
    assert one.value == 1
    assert sorted(path.name for path in (tmp_path / "new" / "1").iterdir()) == ["graph.yaml"]


@pytest.mark.parametrize(
    ("step", "wanted"),
    [
        (model("m/3", {"x": X}, when="len(inputs.x) > 1"), {"model": "m/3", "when": "len(inputs.x) > 1"} | ASK),
        (model("m", {"x": X}, parameters={"top": "$top"}), {"model": "m", "parameters": {"top": "$top"}} | ASK),
        (model("m", {"x": X}, outputs={"y": "z"}, optional=True), {"model": "m", "outputs": {"y": "z"}} | ASK),
        (function("s.py:f", {"x": X}, isolation="process", instances=2), {"function": "s.py:f"} | ASK),
        (values({"y": concat(X, [1.5], axis=1)}), {"values": {"y": {"axis": 1}}}),
        (values({"y": stack(X, X)}), {"values": {"y": {"stack": [{"from": "inputs.x"}] * 2}}}),
        (values({"y": constant("text")}), {"values": {"y": {"value": "text"}}}),
        (values({"y": constant([1, 2], "FP16")}), {"values": {"y": {"value": [1, 2], "datatype": "FP16"}}}),
        (values({"y": parameter("top", "INT32")}), {"values": {"y": {"parameter": "top", "datatype": "INT32"}}}),
        (values({"y": parameter("top")}), {"values": {"y": {"parameter": "top"}}}),
        (values({"y": True}), {"values": {"y": {"value": True}}}),
        (answer({"y": X}, when="true"), {"answer": {"y": {"from": "inputs.x"}}}),
        (
            switch([model("a", {"x": X}, when="false"), model("b", {"x": X})]),
            {"switch": [{"model": "a", "when": "false"} | ASK, {"model": "b"} | ASK]},
        ),
        (
            split([(1, model("a", {"x": X})), (3, model("b", {"x": X}))], split_by="user"),
            {"split": [{"model": "a", "weight": 1.0} | ASK, {"model": "b", "weight": 3.0} | ASK], "split_by": "user"},
        ),
        (
            ensemble([model("a", {"x": X}), model("b", {"x": X})], {"weights": [1, 2]}, quorum=1),
            {"ensemble": {"quorum": 1, "combine": {"weights": [1.0, 2.0]}}},
        ),
        (ensemble([model("a", {"x": X})]), {"ensemble": {"members": [{"model": "a"} | ASK]}}),
        (
            map_over({"row": X}, model("m", {"x": item("row")}), rows=8, max_items=10, concurrency=2, on_error="skip"),
            {"map": {"rows": 8, "max_items": 10, "concurrency": 2, "on_error": "skip"}},
        ),
        (model("m", {"x": X}, fallback=model("n", {"x": X})), {"fallback": {"step": {"model": "n"} | ASK}}),
        (model("m", {"x": X}, fallback={"y": X}), {"fallback": {"values": {"y": {"from": "inputs.x"}}}}),
    ],
)
def test_every_kind_of_step(step: Step, wanted: dict[str, Any], tmp_path: Path) -> None:
    _holds(step_of(step, tmp_path), wanted)


def _holds(found: Any, wanted: Any) -> None:
    if isinstance(wanted, dict):
        for key, value in wanted.items():
            _holds(found[key], value)
    else:
        assert found == wanted


async def test_what_is_written_runs(tmp_path: Path) -> None:
    host = FakeHost()
    host.add("double", lambda x: {"y": x * 2}, outputs=["y"])
    inner = Graph()
    row = inner.input("row")
    inner.output("y", inner.add("twice", model("double", {"x": row}))["y"])
    graph = Graph()
    x = graph.input("x", "FP32", [-1, 2])
    # One tensor in several places: the file has no aliases, which its reader refuses.
    last = x.select(":", [1, 0]).reshape(-1, 2)
    each = graph.add("each", map_over({"row": last}, inline(inner, {"row": item("row")})))
    both = graph.add("both", values({"y": concat(each["y"], last, last, axis=1)}))
    graph.output("y", both["y"])
    text = graph.write(tmp_path).read_text(encoding="utf-8")
    assert "&" not in text
    assert "*" not in text
    loaded = await load(text, host)
    answered = await ask(loaded, x=np.array([[1, 2], [3, 4]], np.float32))
    assert answered["y"].tolist() == [[4, 2, 2, 1, 2, 1], [8, 6, 4, 3, 4, 3]]


def test_changes_have_an_order() -> None:
    tensor = Tensor(**{"from": "a.y"})
    with pytest.raises(ValueError, match=r"select comes too late: .* select, transpose, reshape, cast"):
        tensor.cast("FP32").select(0)
    with pytest.raises(ValueError, match="reshape comes too late"):
        tensor.reshape(1).reshape(2)
    assert tensor.source() == "a.y"  # it is as it was


def test_what_is_no_graph_is_not_written(tmp_path: Path) -> None:
    graph = graph_of(model("m", {"x": X}, retires=2))
    with pytest.raises(InvalidConfig, match=r"unknown key 'retires' in steps\[0\]; did you mean 'retries'\?"):
        graph.write(tmp_path / "1")
    assert not list(tmp_path.iterdir())
    graph = graph_of(model("m", {"x": X}))
    graph.add("s", model("n", {"x": X}))
    with pytest.raises(InvalidConfig, match="two steps are named 's'"):
        graph.config()


def test_a_graph_that_is_replaced_is_there_all_the_time(tmp_path: Path) -> None:
    graph_of(model("m", {"x": X})).write(tmp_path)
    before = (tmp_path / "graph.yaml").stat().st_ino
    graph_of(model("n", {"x": X})).write(tmp_path)
    assert read_graph(tmp_path / "graph.yaml")[0].steps[0].model == "n"
    assert (tmp_path / "graph.yaml").stat().st_ino != before
    assert [path.name for path in tmp_path.iterdir()] == ["graph.yaml"]


def test_a_graph_within_has_nothing_of_its_own_but_steps() -> None:
    inner = Graph(parameters={"top": 3})
    inner.output("y", inner.input("x"))
    with pytest.raises(ValueError, match="'parameters' and 'timeout' are of the whole graph"):
        inline(inner, {"x": X})
    inner = Graph()
    inner.output("y", inner.input("x"))
    with pytest.raises(ValueError, match="its inputs are x, and it is given z"):
        inline(inner, {"z": X})
