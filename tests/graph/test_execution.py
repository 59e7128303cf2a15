"""How graphs run: order, side by side, what is missing, what fails."""

from __future__ import annotations

import asyncio
import weakref
from time import monotonic
from typing import Any

import numpy as np
import pytest
from gates import until
from graph_host import FakeHost, ask, load

from salver.core.errors import (
    DeadlineExceeded,
    InvalidInput,
    InvalidRequest,
    ModelFailed,
    ModelUnavailable,
    UnsupportedRequest,
)
from salver.core.request import InferenceRequest
from salver.core.tensor import Array
from salver.graph.scope import Trace


@pytest.fixture
def host() -> FakeHost:
    host = FakeHost()
    host.add("add", lambda a, b: {"sum": a + b}, outputs=["sum"])
    host.add("double", lambda x: {"y": x * 2}, outputs=["y"])
    host.add("negate", lambda x: {"y": -x}, outputs=["y"])
    host.add("fail", _fail, outputs=["y"])
    host.add("soon", _soon, outputs=["y"])
    return host


async def _soon(x: Array) -> dict[str, Array]:
    await asyncio.sleep(0)
    return {"y": x * 2}


def _fail(x: Array) -> dict[str, Array]:
    raise RuntimeError("out of luck")


CHAIN = """
inputs: [{name: x}]
outputs: [{name: y, from: second.y}]
steps:
- {name: second, model: double, inputs: {x: first.y}}
- {name: first, model: negate, inputs: {x: inputs.x}}
"""


async def test_a_chain_runs_in_the_order_of_what_it_needs(host: FakeHost) -> None:
    model = await load(CHAIN, host)
    assert (await ask(model, x=[1, 2]))["y"].tolist() == [-2, -4]
    assert [request.model for request in host.requests] == ["negate", "double"]


async def test_steps_ask_for_what_is_used_and_pass_on_deadline_priority_and_id(host: FakeHost) -> None:
    host.add("wide", lambda x: {"y": x, "z": x + 1, "w": x}, outputs=["y", "z", "w"])
    model = await load(
        """
inputs: [{name: x}]
outputs: [{name: y, from: step.z}]
steps:
- {name: step, model: wide/3, inputs: {x: inputs.x}, parameters: {k: 5, user: $who}}
""",
        host,
    )
    deadline = monotonic() + 60
    request = InferenceRequest(
        "g", "", {"x": np.array([1])}, parameters={"who": "me", "other": 1}, id="7", priority=2, deadline=deadline
    )
    await model.answer(request, request.inputs)
    (asked,) = host.requests
    assert (asked.model, asked.version, asked.outputs) == ("wide", "3", ("z",))
    assert asked.parameters == {"k": 5, "user": "me"}
    assert (asked.deadline, asked.priority, asked.id) == (deadline, 2, "7")
    assert asked.within == (("g", "1"),)


async def test_steps_that_do_not_need_each_other_run_side_by_side(host: FakeHost) -> None:
    both = asyncio.Barrier(2)

    async def meet(x: Array) -> dict[str, Array]:
        await both.wait()
        return {"y": x + 1}

    host.add("meet", meet, outputs=["y"])
    model = await load(
        """
inputs: [{name: x}]
outputs: [{name: sum, from: sum.sum}]
steps:
- {name: before, model: double, inputs: {x: inputs.x}}
- {name: left, model: meet, inputs: {x: before.y}}
- {name: right, model: meet, inputs: {x: before.y}}
- {name: sum, model: add, inputs: {a: left.y, b: right.y}}
""",
        host,
    )
    assert (await ask(model, x=[1]))["sum"].tolist() == [6]
    assert host.most_running == 2


async def test_tensors_go_as_soon_as_nothing_needs_them(host: FakeHost) -> None:
    watched: list[weakref.ref[Array]] = []
    alive: list[bool] = []

    def make(x: Array) -> dict[str, Array]:
        big = np.zeros(10)
        watched.append(weakref.ref(big))
        return {"y": big}

    def look(x: Array) -> dict[str, Array]:
        alive.append(watched[0]() is not None)
        return {"y": np.array([1.0])}

    host.add("make", make, outputs=["y"])
    host.add("look", look, outputs=["y"])
    chain = """
inputs: [{name: x}]
outputs: [{name: y, from: last.y}]
steps:
- {name: first, model: make, inputs: {x: inputs.x}}
- {name: second, model: look, inputs: {x: first.y}}
- {name: third, model: look, inputs: {x: second.y}}
- {name: last, model: look, inputs: {x: third.y}}
"""
    host.predict = _without_frames(host)  # type: ignore[method-assign]
    model = await load(chain, host)
    await ask(model, x=[1])
    assert alive == [True, False, False]


def _without_frames(host: FakeHost) -> Any:
    """The host's predict, keeping no request."""
    ask_host = host.predict

    async def predict(request: InferenceRequest) -> Any:
        response = await ask_host(request)
        host.requests.clear()
        return response

    return predict


async def test_a_step_is_skipped_where_its_condition_is_false_and_those_that_need_it_too(host: FakeHost) -> None:
    model = await load(
        """
inputs: [{name: x}]
outputs:
- {name: y, first: [large.y, small.y], optional: true}
- {name: more, from: next.y, optional: true}
steps:
- {name: large, model: double, inputs: {x: inputs.x}, when: "inputs.x > 10"}
- {name: next, model: negate, inputs: {x: large.y}}
- {name: small, model: negate, inputs: {x: inputs.x}, when: "not has(large.y)"}
""",
        host,
    )
    assert {name: array.tolist() for name, array in (await ask(model, x=20)).items()} == {"y": 40, "more": -40}
    assert {name: array.tolist() for name, array in (await ask(model, x=3)).items()} == {"y": -3}
    by_name = {step.name: step.statistics for step in model.steps()}
    assert (by_name["large"].skipped, by_name["next"].skipped, by_name["small"].skipped) == (1, 1, 1)


async def test_an_optional_input_may_be_missing(host: FakeHost) -> None:
    host.add("some", lambda x, bias=0: {"y": x + bias}, outputs=["y"])
    model = await load(
        """
inputs: [{name: x}]
outputs: [{name: y, from: some.y}]
steps:
- {name: bias, model: double, inputs: {x: inputs.x}, when: "inputs.x > 10"}
- {name: some, model: some, inputs: {x: inputs.x, bias: bias.y}}
""",
        host,
    )
    assert (await ask(model, x=20))["y"] == 60
    assert (await ask(model, x=1))["y"] == 1


async def test_an_answer_ends_the_graph_and_cancels_what_runs(host: FakeHost) -> None:
    cancelled = asyncio.Event()

    async def endless(x: Array) -> dict[str, Array]:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    host.add("endless", endless, outputs=["y"])
    model = await load(
        """
inputs: [{name: x}]
outputs: [{name: y, from: slow.y}]
steps:
- {name: slow, model: endless, inputs: {x: inputs.x}}
- {name: quick, model: soon, inputs: {x: inputs.x}}
- {name: enough, answer: {y: quick.y}, when: "quick.y > 5"}
""",
        host,
    )
    assert (await ask(model, x=4))["y"] == 8
    assert cancelled.is_set()


async def test_a_switch_takes_the_first_case_that_fits(host: FakeHost) -> None:
    model = await load(
        """
inputs: [{name: x}]
outputs: [{name: y, from: choice.y}]
steps:
- name: choice
  switch:
  - {when: "inputs.x > 100", model: double, inputs: {x: inputs.x}}
  - {when: "inputs.x > 10", model: negate, inputs: {x: inputs.x}}
  - {values: {y: inputs.x}}
""",
        host,
    )
    assert [int((await ask(model, x=x))["y"]) for x in (200, 20, 2)] == [400, -20, 2]


async def test_a_split_goes_by_weight_or_by_a_parameter(host: FakeHost) -> None:
    text = """
inputs: [{name: x}]
outputs: [{name: y, from: choice.y}]
steps:
- name: choice
  split:
  - {weight: 3, model: double, inputs: {x: inputs.x}}
  - {weight: 1, model: negate, inputs: {x: inputs.x}}
"""
    model = await load(text, host)
    answers = [int((await ask(model, x=1))["y"]) for _ in range(400)]
    assert set(answers) == {2, -1}
    assert 220 < answers.count(2) < 380
    sticky = await load(text + "  split_by: user\n", host)

    async def of(user: str) -> int:
        request = InferenceRequest("g", "", {"x": np.array(1)}, parameters={"user": user})
        return int((await sticky.answer(request, request.inputs))["y"])

    users = [f"user {number}" for number in range(200)]
    first = [await of(user) for user in users]
    assert [await of(user) for user in users] == first
    assert 100 < first.count(2) < 190


@pytest.mark.parametrize(
    ("combine", "expected"),
    [("mean", [2.0, 20.0]), ("vote", [1.0, 10.0]), ("{weights: [0, 0, 1]}", [4.0, 40.0])],
)
async def test_an_ensemble_combines(host: FakeHost, combine: str, expected: list[float]) -> None:
    host.add("same", lambda x: {"y": x}, outputs=["y"])
    host.add("four", lambda x: {"y": x * 4, "other": x}, outputs=["y", "other"])
    model = await load(
        f"""
inputs: [{{name: x}}]
outputs: [{{name: y, from: all.y}}]
steps:
- name: all
  ensemble:
    combine: {combine}
    members:
    - {{model: same, inputs: {{x: inputs.x}}}}
    - {{model: same, inputs: {{x: inputs.x}}}}
    - {{model: four, inputs: {{x: inputs.x}}}}
""",
        host,
    )
    assert (await ask(model, x=[1.0, 10.0]))["y"].tolist() == expected


async def test_an_ensemble_needs_its_quorum(host: FakeHost) -> None:
    text = """
inputs: [{name: x}]
outputs: [{name: y, from: all.y}]
steps:
- name: all
  ensemble:
    quorum: QUORUM
    members:
    - {model: double, inputs: {x: inputs.x}}
    - {model: fail, inputs: {x: inputs.x}}
"""
    model = await load(text.replace("QUORUM", "1"), host)
    assert (await ask(model, x=[1.0]))["y"].tolist() == [2.0]
    model = await load(text.replace("QUORUM", "2"), host)
    with pytest.raises(ModelFailed, match="step 'all/fail': model 'fail' failed: out of luck"):
        await ask(model, x=[1.0])


async def test_an_ensemble_goes_on_without_members_that_may_be_left_out(host: FakeHost) -> None:
    text = """
inputs: [{name: x}, {name: more, optional: true}]
outputs: [{name: y, from: all.y}]
steps:
- name: all
  ensemble:
    members:
    - {model: double, inputs: {x: inputs.x}}
    - {model: fail, inputs: {x: inputs.x}, optional: true}
    - {model: double, inputs: {x: inputs.more}, when: has(inputs.more)}
"""
    model = await load(text, host)
    assert (await ask(model, x=[1.0]))["y"].tolist() == [2.0]
    assert (await ask(model, x=[1.0], more=[2.0]))["y"].tolist() == [3.0]
    needed = await load(text.replace(", optional: true}\n    -", "}\n    -"), host)
    with pytest.raises(ModelFailed, match="step 'all/fail': model 'fail' failed: out of luck"):
        await ask(needed, x=[1.0])


async def test_an_ensemble_needs_members_whose_inputs_are_missing(host: FakeHost) -> None:
    model = await load(
        """
inputs: [{name: x}, {name: more, optional: true}]
outputs: [{name: y, from: all.y, optional: true}]
steps:
- name: all
  ensemble:
    members: [{model: double, inputs: {x: inputs.x}}, {name: second, model: double, inputs: {x: inputs.more}}]
""",
        host,
    )
    assert (await ask(model, x=[1.0], more=[2.0]))["y"].tolist() == [3.0]
    with pytest.raises(ModelFailed, match="all/second didn't run, and is needed"):
        await ask(model, x=[1.0])


async def test_a_map_runs_a_step_for_each_item(host: FakeHost) -> None:
    text = """
inputs: [{name: xs}, {name: offset}]
outputs: [{name: ys, from: all.sum}]
steps:
- name: all
  map:
    over: {x: inputs.xs}
    concurrency: 3
    step: {model: add, inputs: {a: item.x, b: inputs.offset}}
"""
    model = await load(text, host)
    answer = await ask(model, xs=[[1, 2], [3, 4], [5, 6], [7, 8]], offset=10)
    assert answer["ys"].tolist() == [[11, 12], [13, 14], [15, 16], [17, 18]]
    assert {request.inputs["a"].shape for request in host.requests} == {(2,)}
    host.requests.clear()
    chunks = await load(text.replace("concurrency: 3", "rows: 3"), host)
    assert (await ask(chunks, xs=[[1], [2], [3], [4]], offset=1))["ys"].tolist() == [[2], [3], [4], [5]]
    assert [request.inputs["a"].shape for request in host.requests] == [(3, 1), (1, 1)]


async def test_a_map_joins_lists_of_different_lengths_and_tells_whose_they_are(host: FakeHost) -> None:
    host.add("ones", lambda n: {"y": np.ones(int(n))}, outputs=["y"])
    model = await load(
        """
inputs: [{name: ns}]
outputs: [{name: ys, from: all.y}, {name: whose, from: all.item_index}]
steps:
- {name: all, map: {over: {n: inputs.ns}, regroup: concat, step: {model: ones, inputs: {n: item.n}}}}
""",
        host,
    )
    answer = await ask(model, ns=[2, 0, 3])
    assert answer["whose"].tolist() == [0, 0, 2, 2, 2]
    assert len(answer["ys"]) == 5


async def test_a_map_may_leave_out_items_that_fail(host: FakeHost) -> None:
    def odd(x: Array) -> dict[str, Array]:
        if x % 2 == 0:
            raise ValueError("even")
        return {"y": x}

    host.add("odd", odd, outputs=["y"])
    text = """
inputs: [{name: xs}]
outputs: [{name: ys, from: all.y}, {name: which, from: all.item_index}]
steps:
- {name: all, map: {over: {x: inputs.xs}, on_error: skip, step: {model: odd, inputs: {x: item.x}}}}
"""
    answer = await ask(await load(text, host), xs=[1, 2, 3, 4, 5])
    assert (answer["ys"].tolist(), answer["which"].tolist()) == ([1, 3, 5], [0, 2, 4])
    failing = text.replace("on_error: skip, ", "").replace(", {name: which, from: all.item_index}", "")
    with pytest.raises(ModelFailed, match="step 'all/model': model 'odd' failed: even"):
        await ask(await load(failing, host), xs=[1, 2])


async def test_a_map_over_nothing_and_over_too_much(host: FakeHost) -> None:
    model = await load(
        """
inputs: [{name: xs}]
outputs: [{name: ys, from: all.y}]
steps:
- {name: all, map: {over: {x: inputs.xs}, step: {model: double, inputs: {x: item.x}}}}
""",
        host,
    )
    assert (await ask(model, xs=np.empty((0, 4))))["ys"].shape == (0,)
    with pytest.raises(InvalidInput, match="step 'all': 10000 items, and it takes 1000 at most"):
        await ask(model, xs=np.zeros(10_000))
    assert not host.requests


async def test_an_inline_graph_sees_only_its_own(host: FakeHost) -> None:
    model = await load(
        """
inputs: [{name: xs}]
outputs: [{name: ys, from: all.z}]
steps:
- name: all
  map:
    over: {x: inputs.xs}
    step:
      inputs: {it: item.x}
      graph:
        outputs: [{name: z, from: b.y}]
        steps:
        - {name: early, answer: {z: inputs.it}, when: "inputs.it > 2"}
        - {name: a, model: double, inputs: {x: inputs.it}, after: [early]}
        - {name: b, model: negate, inputs: {x: a.y}}
""",
        host,
    )
    assert (await ask(model, xs=[1, 2, 3]))["ys"].tolist() == [-2, -4, 3]


async def test_errors_name_the_step_and_keep_their_kind(host: FakeHost) -> None:
    with pytest.raises(ModelFailed, match=r"step 'second': model 'fail' failed: out of luck"):
        await ask(await load(CHAIN.replace("double", "fail"), host), x=[1])
    host.add("picky", _picky, outputs=["y"])
    first = "{name: s, model: picky, inputs: {x: inputs.x}}"
    text = f"inputs: [{{name: x}}]\noutputs: [{{name: y, from: s.y}}]\nsteps:\n- {first}\n"
    with pytest.raises(InvalidInput, match="step 's': too small"):
        await ask(await load(text, host), x=[1])
    # The same refusal of what another step has made is nothing that the caller can change.
    with pytest.raises(ModelFailed, match="step 'second': too small"):
        await ask(await load(CHAIN.replace("double", "picky"), host), x=[1])


def _picky(x: Array) -> dict[str, Array]:
    raise InvalidInput("too small")


async def test_a_model_that_is_gone_makes_the_graph_unavailable(host: FakeHost) -> None:
    model = await load(CHAIN, host)
    del host._models["double"]
    with pytest.raises(ModelUnavailable, match="step 'second': there is no model 'double'"):
        await ask(model, x=[1])


async def test_other_steps_are_cancelled_when_one_fails(host: FakeHost) -> None:
    cancelled = asyncio.Event()

    async def endless(x: Array) -> dict[str, Array]:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    host.add("endless", endless, outputs=["y"])
    model = await load(
        """
inputs: [{name: x}]
outputs: [{name: sum, from: sum.sum}]
steps:
- {name: slow, model: endless, inputs: {x: inputs.x}}
- {name: first, model: soon, inputs: {x: inputs.x}}
- {name: bad, model: fail, inputs: {x: first.y}}
- {name: sum, model: add, inputs: {a: slow.y, b: bad.y}}
""",
        host,
    )
    with pytest.raises(ModelFailed, match="step 'bad'"):
        await ask(model, x=[1])
    assert cancelled.is_set()


async def test_a_cancelled_request_cancels_its_steps(host: FakeHost) -> None:
    cancelled: list[str] = []

    async def endless(x: Array) -> dict[str, Array]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("one")
            raise
        raise AssertionError

    host.add("endless", endless, outputs=["y"])
    model = await load(
        """
inputs: [{name: x}]
outputs: [{name: sum, from: sum.sum}]
steps:
- {name: a, model: endless, inputs: {x: inputs.x}}
- {name: b, model: endless, inputs: {x: inputs.x}}
- {name: sum, model: add, inputs: {a: a.y, b: b.y}}
""",
        host,
    )
    task = asyncio.create_task(ask(model, x=[1]))
    await until(lambda: host.running == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled == ["one", "one"]


async def test_retries_fallbacks_and_optional_steps(host: FakeHost) -> None:
    tries: list[int] = []

    def flaky(x: Array) -> dict[str, Array]:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("not yet")
        return {"y": x}

    host.add("flaky", flaky, outputs=["y"])
    text = """
inputs: [{name: x}]
outputs: [{name: y, from: s.y, optional: true}]
steps:
- {name: s, model: MODEL, inputs: {x: inputs.x}, retry_delay: 0ms, MORE}
"""
    model = await load(text.replace("MODEL", "flaky").replace("MORE", "retries: 2"), host)
    assert (await ask(model, x=7))["y"] == 7
    (step,) = model.steps()
    assert (step.statistics.retries, step.statistics.failed) == (2, 0)

    def guarded(more: str) -> str:
        return text.replace("MODEL", "fail").replace("MORE", more)

    with pytest.raises(ModelFailed, match=r"step 's': .*out of luck"):
        await ask(await load(guarded("retries: 2"), host), x=7)
    assert (await ask(await load(guarded("fallback: {values: {y: 3}}"), host), x=7))["y"] == 3
    backup = await load(guarded("fallback: {step: {model: double, inputs: {x: inputs.x}}}"), host)
    assert (await ask(backup, x=7))["y"] == 14
    assert next(iter(backup.steps())).statistics.fallbacks == 1
    assert await ask(await load(guarded("optional: true"), host), x=7) == {}
    with pytest.raises(ModelFailed, match="out of luck"):
        await ask(await load(guarded("fallback: {on: [timeout], values: {y: 3}}"), host), x=7)


async def test_a_step_has_its_own_timeout_and_the_request_one_deadline(host: FakeHost) -> None:
    async def endless(x: Array) -> dict[str, Array]:
        await asyncio.Event().wait()
        raise AssertionError

    host.add("endless", endless, outputs=["y"])
    text = """
inputs: [{name: x}]
outputs: [{name: y, from: s.y}]
steps:
- {name: s, model: endless, inputs: {x: inputs.x}, timeout: 20ms, MORE}
"""
    with pytest.raises(DeadlineExceeded, match=r"step 's': it took more than 0\.02 s"):
        await ask(await load(text.replace(", MORE", ""), host), x=1)
    model = await load(text.replace("MORE", "fallback: {on: [timeout], values: {y: inputs.x}}"), host)
    assert (await ask(model, x=5))["y"] == 5
    assert host.requests[-1].deadline is not None
    whole = await load("timeout: 10s\n" + CHAIN, host)
    await ask(whole, x=[1])
    deadlines = {request.deadline for request in host.requests[-2:]}
    assert len(deadlines) == 1
    assert monotonic() < (deadlines.pop() or 0.0) < monotonic() + 10


async def test_a_condition_on_a_missing_tensor_names_the_step(host: FakeHost) -> None:
    model = await load(
        """
inputs: [{name: x}, {name: z, optional: true}]
outputs: [{name: y, from: b.y}]
steps:
- {name: b, model: double, inputs: {x: inputs.x}, when: "has(inputs.z) and inputs.z > 1"}
""".replace("y, from: b.y", "y, from: b.y, optional: true"),
        host,
    )
    assert await ask(model, x=1) == {}
    assert (await ask(model, x=1, z=2))["y"] == 2


async def test_a_condition_that_has_no_truth_names_the_step(host: FakeHost) -> None:
    model = await load(
        """
inputs: [{name: x}]
outputs: [{name: y, from: b.y, optional: true}]
steps:
- {name: b, model: double, inputs: {x: inputs.x}, when: "inputs.x > 1"}
""",
        host,
    )
    with pytest.raises(ModelFailed, match=r"step 'b': its condition 'inputs\.x > 1'"):
        await ask(model, x=[1, 2])


async def test_declared_parameters_have_defaults_and_a_kind(host: FakeHost) -> None:
    model = await load(
        """
parameters: {level: 3.0, count: 2, name: me, fast: true}
inputs: [{name: x}]
outputs: [{name: y, from: s.y}]
steps:
- {name: s, values: {y: {parameter: level}}}
""",
        host,
    )
    x = np.array(1)
    assert (await ask(model, x=x))["y"] == 3
    given = InferenceRequest("g", "", {"x": x}, parameters={"level": 4, "other": "any"})
    assert (await model.answer(given, given.inputs))["y"] == 4
    for name, value, kind in (
        ("level", "high", "a number"),
        ("count", 1.5, "a whole number"),
        ("fast", 1, "true or false"),
        ("name", 1, "a text"),
    ):
        wrong = InferenceRequest("g", "", {"x": x}, parameters={name: value})
        with pytest.raises(InvalidRequest, match=f"parameter '{name}' must be {kind}, got"):
            await model.answer(wrong, wrong.inputs)


async def test_a_graph_does_not_call_itself(host: FakeHost) -> None:
    model = await load(CHAIN, host)

    async def again(x: Array) -> dict[str, Array]:
        request = host.requests[-1]
        return {"y": (await model.answer(request, request.inputs))["y"]}

    host.add("double", again, outputs=["y"])
    with pytest.raises(UnsupportedRequest, match="step 'second': graph 'g' calls itself: g -> g"):
        await ask(model, x=[1])


async def test_the_last_step_s_answers_are_streamed(host: FakeHost) -> None:
    host.add("words", lambda text: ({"word": word} for word in str(text).split()), outputs=["word"], streams=True)
    model = await load(
        """
inputs: [{name: text}]
outputs: [{name: w, from: last.word}]
steps:
- {name: first, values: {t: inputs.text}}
- {name: last, model: words, inputs: {text: first.t}}
""",
        host,
    )
    assert model.kind == "async_stream"
    request = InferenceRequest("g", "", {"text": np.array("a b c")})
    assert [str(part["w"]) async for part in model.answers(request, request.inputs)] == ["a", "b", "c"]
    with pytest.raises(UnsupportedRequest, match="streams its answers"):
        await ask(model, text="a b")


async def test_explain_tells_what_each_step_got_and_gave(host: FakeHost) -> None:
    model = await load(CHAIN, host)
    request = InferenceRequest("g", "", {"x": np.array([1])}, id="42")
    answer, trace = await model.explain(request, request.inputs)
    assert not isinstance(answer, Exception)
    assert answer["y"].tolist() == [-2]
    assert trace.id == "42"
    first, second = trace.trace.records
    assert (first.step, first.kind, first.status, first.detail) == ("first", "model", "ok", "1")
    assert first.inputs is not None
    assert second.outputs is not None
    assert (first.inputs["inputs.x"].tolist(), second.outputs["y"].tolist()) == ([1], [-2])
    assert trace.started_ns <= first.started_ns <= first.ended_ns <= second.started_ns <= trace.ended_ns


def test_a_trace_has_a_bound() -> None:
    trace = Trace(most=2)
    from salver.graph.scope import StepRecord

    for _ in range(5):
        trace.add(StepRecord("s", "model", 0, 1))
    assert len(trace.records) == 2
