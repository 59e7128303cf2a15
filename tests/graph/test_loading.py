"""What is wrong with a graph is told before anything is made of it, with its models and without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graph_host import FakeHost, load

from salver.core.errors import InvalidConfig
from salver.core.request import InferenceRequest
from salver.graph.description import describe_file

GRAPH = """
inputs: [{{name: x}}]
outputs: [{{name: y, from: a.y, optional: true}}]
steps:
- {{name: a, model: double, inputs: {{x: {source}}}, when: {when}}}
- {{name: b, model: double, inputs: {{x: a.y}}}}
"""

WRONG = {
    "cycle": (GRAPH.format(source="b.y", when="true"), "step 'a' needs itself: a -> b -> a", "steps need each other"),
    "condition": (GRAPH.format(source="inputs.x", when="1 +"), "step 'a': '1 \\+' is no condition", "step 'a': '1"),
    "constant": (
        GRAPH.format(source="[[1], [2, 3]]", when="true"),
        "step 'a': x: the lists of a constant differ",
        "step 'a': the lists of a constant differ",
    ),
}


@pytest.fixture
def host() -> FakeHost:
    host = FakeHost()
    host.add("double", lambda x: {"y": x * 2}, outputs=["y"])
    return host


@pytest.mark.parametrize(("text", "checked", "shown"), WRONG.values(), ids=WRONG)
async def test_it_is_told(host: FakeHost, tmp_path: Path, text: str, checked: str, shown: str) -> None:
    with pytest.raises(InvalidConfig, match=r"graph\.yaml:5: " + checked):
        await load(text, host)
    (tmp_path / "graph.yaml").write_text(text)
    with pytest.raises(InvalidConfig, match=shown):
        describe_file(tmp_path)


async def test_an_explained_request_leaves_nothing_behind(host: FakeHost) -> None:
    model = await load(GRAPH.format(source="inputs.x", when="true").replace("- {name: b", "# - {name: b"), host)
    x = {"x": np.array([1.0])}
    await model.answer(InferenceRequest("g", "", x), x)
    kept = list(model.traces)
    assert len(kept) == 1
    answer, trace = await model.explain(InferenceRequest("g", "", x, id="mine"), x)
    assert isinstance(answer, dict)
    assert answer["y"].tolist() == [2.0]
    assert (trace.id, trace.error) == ("mine", "")
    assert trace.trace.records[0].outputs == {"y": np.array([2.0])}
    assert list(model.traces) == kept
