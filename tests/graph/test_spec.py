"""What is wrong with a `graph.yaml` by itself is told with its line, and says what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from salver.core.errors import InvalidConfig
from salver.graph.document import read_graph
from salver.graph.spec import GraphConfig, ModelReference, SourceConfig, all_steps, function_file

STEP = "model: m, inputs: {x: inputs.x}"


def graph(step: str, more: str = "") -> str:
    return f"inputs: [{{name: x}}]\noutputs: [{{name: y, from: s.y}}]\n{more}\nsteps:\n- {{{step}}}\n"


def problem(text: str, folder: Path) -> str:
    (folder / "graph.yaml").write_text(text)
    with pytest.raises(InvalidConfig) as caught:
        read_graph(folder / "graph.yaml", shown_as="graph.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (STEP, "step 1 of 'steps' needs a 'name'"),
        ("name: s", "a step has one of model, function, graph, switch, split, ensemble, map, values, answer; here is "),
        (f"name: s, function: s.py:f, {STEP}", "here is model and function"),
        (f"name: 1s, {STEP}", "'1s' can't name a step: letters, digits and '_', no digit first, 64 at most"),
        (f"name: inputs, {STEP}", "'inputs' can't name a step: references to other things begin so"),
        (f"name: s, {STEP}, retires: 2", "unknown key 'retires' in steps[0]; did you mean 'retries'?"),
        (f"name: s, {STEP}, retries: 11", "must be an integer from 0 to 10, got 11"),
        (f"name: s, {STEP}, timeout: 0", "timeout"),
        (f"name: s, {STEP}, weight: 0", "weight"),
        ("name: s, model: 'a b'", "a model is NAME, NAME/VERSION or NAME@ALIAS"),
        ("name: s, model: m/../x", "a model is NAME, NAME/VERSION or NAME@ALIAS"),
        ("name: s, function: steps.find", "'steps.find' is no function; write FILE.py:NAME"),
        ("name: s, function: ../s.py:f", "'../s.py:f' leads out of the graph's folder"),
        ("name: s, function: /etc/s.py:f", "'/etc/s.py:f' leads out of the graph's folder"),
        ("name: s, values: {y: inputs.x}, inputs: {x: inputs.x}", "'inputs' isn't for 'values'"),
        ("name: s, function: s.py:f, parameters: {a: 1}", "'parameters' are for 'model', not for 'function'"),
        (f"name: s, {STEP}, split_by: user", "'split_by' goes with 'split'"),
        (f"name: s, {STEP}, instances: 2", "'instances' goes with 'function'; a model's is in its own model.yaml"),
        ("name: s, split: [{model: a}, {model: b, weight: 1}]", "each step of 'split' needs a 'weight'"),
        ("name: s, switch: [{model: a}, {model: b}]", "each step of 'switch' needs 'when', but for the last"),
        ("name: s, switch: []", "switch"),
        ("name: s, ensemble: {members: [{model: a}], quorum: 2}", "'quorum' is 2, and there are 1 members"),
        ("name: s, ensemble: {members: [{model: a}], combine: {weights: [1, 2]}}", "there are 2 weights for 1 members"),
        ("name: s, ensemble: {members: [{model: a}], combine: {weights: [0]}}", "'weights' must not all be 0"),
        ("name: s, ensemble: {members: [{model: a}], combine: {}}", "one of 'weights' and 'function' is needed"),
        ("name: s, ensemble: {members: [{model: a}], combine: collect}", "'combine: collect' needs a 'name'"),
        ("name: s, ensemble: {members: [{model: a}], combine: {function: ../s.py:f}}", "leads out of the graph's"),
        (
            "name: s, ensemble: {members: [{model: a}], combine: median}",
            "combine': it is mean, vote, collect, or a map with",
        ),
        ("name: s, map: {over: {}, step: {model: a}}", "over"),
        (f"name: s, {STEP}, fallback: {{on: [timeout]}}", "one of 'values' and 'step' is needed"),
        ("name: s, model: m, inputs: {x: {}}", "a tensor has one origin: from, first, value, parameter, concat or st"),
        ("name: s, model: m, inputs: {x: {from: a.y, value: 1}}", "here is from and value"),
        ("name: s, model: m, inputs: {x: {from: a.y, datatype: FP32}}", "to change a tensor's datatype, use 'cast'"),
        ("name: s, model: m, inputs: {x: {from: a.y, cast: FP23}}", "unknown datatype 'FP23'; did you mean 'FP32'?"),
        ("name: s, model: m, inputs: {x: {from: a.y, reshape: [-1, -1]}}", "'reshape' can have -1 once"),
        ("name: s, model: m, inputs: {x: {from: a.y, select: ['0-3']}}", "'0-3' is no range; write START:STOP"),
    ],
)
def test_a_step_is_told_what_is_wrong(step: str, text: str, tmp_path: Path) -> None:
    told = problem(graph(step), tmp_path)
    assert text in told
    # In flow style, all of a step stands in one line; what is wrong with all steps is told where they begin.
    assert told.startswith(("graph.yaml:5: ", "graph.yaml:1: step 1 of")), told


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("steps: []\noutputs: [{name: y, from: s.y}]\n", "'steps' must have a length of at least 1, got 0"),
        ("outputs: [{name: y, from: s.y}]\n", "missing key 'steps'"),
        (graph(f"name: s, {STEP}") + f"- {{name: s, {STEP}}}\n", "two steps are named 's'"),
        (graph(f"name: s, {STEP}").replace("[{name: x}]", "[{name: x}, {name: x}]"), "two inputs have the same name"),
        (
            graph(f"name: s, {STEP}").replace("from: s.y}]", "from: s.y}, {name: y, from: s.y}]"),
            "two outputs have the same name",
        ),
        (graph("name: s, graph: {outputs: [{name: y, from: t.y}], steps: [{model: m}]}"), "needs a 'name'"),
        (graph(f"name: s, {STEP}", "max_step_bytes: much"), "max_step_bytes"),
        ("[]", "graph.yaml"),
    ],
)
def test_a_graph_is_told_what_is_wrong(text: str, wanted: str, tmp_path: Path) -> None:
    assert wanted in problem(text, tmp_path)


def test_all_problems_at_once_with_their_lines(tmp_path: Path) -> None:
    text = graph(f"name: s, {STEP}, timout: 1").replace("[{name: x}]", "[{name: x, datatype: float32}]")
    first, second = problem(text, tmp_path).splitlines()
    assert first.startswith("graph.yaml:1: ")
    assert "did you mean 'FP32'" in first
    assert second == "graph.yaml:5: unknown key 'timout' in steps[0]; did you mean 'timeout'?"


@pytest.mark.parametrize(
    ("text", "name", "version"),
    [("m", "m", ""), ("m/3", "m", "3"), ("m@best", "m", "best"), ("m/stable", "m", "stable")],
)
def test_references_to_models(text: str, name: str, version: str) -> None:
    found = ModelReference.parse(text)
    assert (found.name, found.version) == (name, version)


@pytest.mark.parametrize("text", ["", "/", "m/", "m@", "m@a@b", "m/1/2", "../m", "m m"])
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(ValueError, match="a model is NAME, NAME/VERSION or NAME@ALIAS"):
        ModelReference.parse(text)


def test_short_forms() -> None:
    step = GraphConfig.model_validate(
        {
            "outputs": [{"name": "y", "from": "s.y"}],
            "steps": [
                {"name": "s", "model": "m", "inputs": {"a": "i.x", "b": 1, "c": [1], "d": True}, "outputs": ["y"]}
            ],
        }
    ).steps[0]
    assert step.inputs["a"].from_ == "i.x"
    assert [step.inputs[key].value for key in "bcd"] == [1, [1], True]
    assert step.outputs == {"y": "y"}


def test_an_index() -> None:
    source = SourceConfig.model_validate({"from": "a.y", "select": [0, ":", "1:-1", "::2", [2, 0]]})
    assert source.index() == (0, slice(None), slice(1, -1), slice(None, None, 2), [2, 0])


def test_all_steps_are_those_inside_others_too() -> None:
    inner = {"outputs": [{"name": "y", "from": "t.y"}], "steps": [{"name": "t", "model": "in_graph"}]}
    config = GraphConfig.model_validate(
        {
            "outputs": [{"name": "y", "from": "a.y"}],
            "steps": [
                {"name": "a", "switch": [{"model": "case", "when": "true"}, {"graph": inner}]},
                {"name": "b", "split": [{"model": "branch", "weight": 1}]},
                {"name": "c", "ensemble": {"members": [{"model": "member"}]}},
                {"name": "d", "map": {"over": {"x": "a.y"}, "step": {"model": "each"}}},
                {"name": "e", "model": "asked", "fallback": {"step": {"model": "fallback"}}},
            ],
        }
    )
    models = {step.model for step in all_steps(config) if step.model}
    assert models == {"case", "in_graph", "branch", "member", "each", "asked", "fallback"}


def test_functions_in_folders_of_the_graph() -> None:
    assert function_file("parts/steps.py:find") == ("parts/steps.py", "find")
