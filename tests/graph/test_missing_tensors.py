"""What may be missing in a graph, as its check knows it; what it takes for granted is there when the graph runs."""

from __future__ import annotations

import asyncio
import functools
import itertools

import numpy as np
import pytest
from graph_checks import GOOD, check, problems
from graph_host import FakeHost, ask, load
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from salver.core.errors import InvalidConfig
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import Array

MISSING = (
    "output 'y' may be missing, since a step may not run; set 'optional: true', or give another one with 'first: [...]'"
)


@pytest.mark.parametrize(
    "steps",
    [
        "- {name: s, model: scorer, inputs: {x: inputs.x}, when: 'inputs.x[0, 0] > 1'}",
        "- {name: s, model: scorer, inputs: {x: inputs.x}, optional: true}",
        "- {name: t, model: scorer, inputs: {x: inputs.x}, optional: true}\n- {name: s, values: {y: t.y}}",
        "- {name: s, switch: [{when: 'inputs.x[0, 0] > 1', model: scorer, inputs: {x: inputs.x}}]}",
        "- {name: s, switch: [{when: 'inputs.x[0, 0] > 1', values: {y: inputs.x}}, {values: {z: inputs.x}}]}",
        "- {name: s, values: {y: {parameter: level}}}",
        "- {name: s, model: scorer, inputs: {x: inputs.x}, fallback: {values: {z: 1.0}}}",
    ],
)
def test_outputs_that_some_way_leaves_missing(steps: str) -> None:
    assert [line.partition(": ")[2] for line in problems(steps)] == [MISSING]
    assert check(steps, "- {name: y, from: s.y, optional: true}").outputs[0].optional


@pytest.mark.parametrize(
    "steps",
    [
        "- {name: s, switch: [{when: 'inputs.x[0, 0] > 1', model: scorer, inputs: {x: inputs.x}}, "
        "{values: {y: inputs.x}}]}",
        "- {name: s, switch: [{when: 'inputs.x[0, 0] > 1', answer: {y: inputs.x}}, {values: {y: inputs.x}}]}",
        "- {name: s, model: scorer, inputs: {x: inputs.x, bias: inputs.extra}}",
        "- {name: s, model: scorer, inputs: {x: inputs.x}, fallback: {values: {y: [[1.0, 2.0]]}}}",
        "- {name: t, model: scorer, inputs: {x: inputs.x}, when: 'has(inputs.extra) and inputs.extra > 0'}\n"
        "- {name: s, values: {y: {first: [t.y, inputs.x]}}}",
        "- {name: s, model: silent, inputs: {x: inputs.x}}",
    ],
)
def test_ways_that_always_give_an_output(steps: str) -> None:
    assert not check(steps).outputs[0].optional


def test_a_condition_on_what_may_be_missing_has_to_ask_first() -> None:
    (line,) = problems(GOOD.replace("}}", "}, when: 'inputs.extra > 0'}"), "- {name: y, from: s.y, optional: true}")
    assert line == (
        "graph.yaml:8: step 's': condition 'inputs.extra > 0': 'inputs.extra' may be missing; ask "
        "'has(inputs.extra) and ...' first"
    )


T = "- {name: t, model: scorer, inputs: {x: inputs.x}, optional: true}\n"
LARGE = "- {name: large, model: scorer, inputs: {x: inputs.x}, when: 'inputs.x[0, 0] > 1'}\n"


@pytest.mark.parametrize(
    "steps",
    [
        # What a condition has asked for is there in its step, and in the cases after it where it was false.
        T + "- {name: s, switch: [{when: 'has(t.y)', values: {y: t.y}}, {values: {y: inputs.x}}]}",
        T + "- {name: s, switch: [{when: 'not has(t.y)', values: {y: inputs.x}}, {values: {y: t.y}}]}",
        T + "- {name: a, when: 'has(t.y) and t.y[0, 0] > 1', answer: {y: t.y}}\n- {name: s, values: {y: inputs.x}}",
        # An early answer where a tensor is missing: at the end it is there, and what was made of it, too.
        T + "- {name: a, when: 'not has(t.y)', answer: {y: inputs.x}}\n- {name: s, values: {y: t.y}}",
        T + "- {name: a, when: 'not has(t.y)', answer: {y: inputs.x}}\n- {name: u, after: [a], values: {x: t.y}}\n"
        "- {name: s, inputs: {x: u.x}, graph: {outputs: [{name: y, from: v.y}], steps: "
        "[{name: v, values: {y: inputs.x}}]}}",
        # Two ways of which each is taken where the other isn't.
        LARGE + "- {name: small, when: 'not has(large.y)', values: {y: inputs.x}}\n"
        "- {name: s, values: {y: {first: [large.y, small.y]}}}",
        "- {name: s, switch: [{when: 'inputs.x[0, 0] > 1', values: {y: inputs.x}}], must_match: true}",
        "- {name: s, values: {y: inputs.x}, when: true}",
        # Items that are left out leave a shorter list, and not none.
        "- {name: s, map: {over: {x: inputs.x}, step: {model: silent, inputs: {x: item.x}, outputs: [y], "
        "when: 'item.x[0] > 1'}}}",
    ],
)  # fmt: skip
def test_what_conditions_tell_is_known(steps: str) -> None:
    assert not check(steps).outputs[0].optional


@pytest.mark.parametrize(
    "steps",
    [
        "- {name: s, model: silent, inputs: {x: inputs.x}, when: 'inputs.x[0, 0] > 1'}",
        "- {name: s, switch: [{when: 'inputs.x[0, 0] > 1', values: {x: inputs.x}}, "
        "{model: silent, inputs: {x: inputs.x}}]}",
        # 'or' tells of neither; an answer that may fail leaves open why there was none.
        T + "- {name: u, optional: true, values: {y: inputs.x}}\n"
        "- {name: s, switch: [{when: 'has(t.y) or has(u.y)', values: {y: t.y}}, {values: {y: inputs.x}}]}",
        T + "- {name: a, when: 'not has(t.y)', optional: true, answer: {y: inputs.x}}\n- {name: s, values: {y: t.y}}",
        # It may be skipped for another reason than its condition.
        T + LARGE + "- {name: small, when: 'not has(large.y)', values: {y: t.y}}\n"
        "- {name: s, values: {y: {first: [large.y, small.y]}}}",
    ],
)  # fmt: skip
def test_what_conditions_leave_open(steps: str) -> None:
    assert [line.partition(": ")[2] for line in problems(steps)] == [MISSING]


def test_steps_know_of_early_answers_only_after_them() -> None:
    steps = (
        T + "- {name: a, when: 'not has(t.y)', answer: {y: inputs.x}}\n" + GOOD[:-1] + ", when: 't.y[0, 0] > 1'AFTER}"
    )
    optional = "- {name: y, from: s.y, optional: true}"
    (line,) = problems(steps.replace("AFTER", ""), optional)
    assert line.endswith("'t.y' may be missing; ask 'has(t.y) and ...' first")
    assert check(steps.replace("AFTER", ", after: [a]"), optional)


BITS = ("inputs.a", "inputs.b", "inputs.c")


@st.composite
def graphs(draw: st.DrawFn) -> str:
    """Steps that fail, are skipped, join ways and answer early, as three bits say."""
    tensors: list[str] = []
    lines: list[str] = []
    answers: list[str] = []

    def tensor() -> str:
        return draw(st.sampled_from([*tensors, *BITS]))

    def condition() -> str:
        form = draw(st.sampled_from(["{bit} > 0", "has({one})", "not has({one})", "has({one}) and {bit} > 0",
                                     "not has({one}) or {bit} > 0", "has({one}) or has({two})"]))  # fmt: skip
        return form.format(bit=draw(st.sampled_from(BITS)), one=tensor(), two=tensor())

    for number in range(draw(st.integers(2, 7))):
        kind = draw(st.sampled_from(["model", "fails", "join", "first", "switch", "answer", "block"]))
        when = f", when: '{condition()}'" if kind == "answer" or draw(st.booleans()) else ""
        after = f", after: [{draw(st.sampled_from(answers))}]" if answers and draw(st.booleans()) else ""
        body = {
            "model": f"model: keep, inputs: {{x: {tensor()}}}",
            "fails": f"model: fails, inputs: {{x: {tensor()}}}, optional: true",
            "join": f"model: add, inputs: {{x: {tensor()}, z: {tensor()}}}",
            "first": f"values: {{y: {{first: [{tensor()}, {tensor()}]}}}}",
            "switch": f"switch: [{{when: '{condition()}', values: {{y: {tensor()}}}}}, {{values: {{y: {tensor()}}}}}]",
            "answer": f"answer: {{y: {tensor()}}}",
            "block": f"inputs: {{x: {tensor()}}}, graph: {{outputs: [{{name: y, optional: true, from: i.y}}], "
            "steps: [{name: i, model: keep, inputs: {x: inputs.x}}]}",
        }[kind]
        lines.append(f"- {{name: s{number}, {body}{when}{after}}}")
        if kind == "answer":
            answers.append(f"s{number}")
        else:
            tensors.append(f"s{number}.y")
    source = draw(st.sampled_from([tensor(), f"{{first: [{tensor()}, {tensor()}]}}"]))
    # Steps that nothing needs are refused, which isn't what is looked for here.
    kept = [f"- {{name: o{number}, from: {each}, optional: true}}" for number, each in enumerate(tensors)]
    inputs = "".join(f"- {{name: {bit[-1]}, datatype: INT64, shape: []}}\n" for bit in BITS)
    output = "- {name: y, " + (f"from: {source}}}" if source[0] != "{" else source[1:])
    return "\n".join([f"inputs:\n{inputs}outputs:", output, *kept, "steps:", *lines])


@given(graphs())
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_promised_is_there(text: str) -> None:
    asyncio.run(_run_all_ways(text))


async def _run_all_ways(text: str) -> None:
    scalar = functools.partial(TensorSpec, datatype="INT64", shape=())
    host = FakeHost()
    host.add("keep", lambda x: {"y": x}, Signature((scalar("x"),), (scalar("y"),)))
    host.add("add", lambda x, z: {"y": x + z}, Signature((scalar("x"), scalar("z")), (scalar("y"),)))
    host.add("fails", _fails, Signature((scalar("x"),), (scalar("y"),)))
    try:
        model = await load(text, host)
    except InvalidConfig:
        event("refused")
        return
    event("checked")
    for bits in itertools.product((0, 1), repeat=len(BITS)):
        given_bits = {name[-1]: np.array(bit, np.int64) for name, bit in zip(BITS, bits, strict=True)}
        answer = await ask(model, **given_bits)
        assert "y" in answer


def _fails(x: Array) -> dict[str, Array]:
    if x > 0:
        raise ValueError("above 0")
    return {"y": x}
