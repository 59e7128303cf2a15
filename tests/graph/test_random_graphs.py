"""Random graphs give what evaluating their steps one after the other gives."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml
from graph_host import FakeHost, ask, load
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.core.errors import ModelFailed
from salver.core.tensor import Array

Step = dict[str, Any]
Values = dict[str, int]

MODULUS = 1_000_003


def mix(a: int, b: int, c: int) -> int:
    """What the model does, as a plain function: another answer for any other inputs."""
    return (a * 31 + b * 17 + c * 7 + 1) % MODULUS


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Step], list[str]]:
    """Steps in an order in which they can run, and the references that the graph gives."""
    steps: list[Step] = []
    sure = ["inputs.p", "inputs.q"]
    unsure: list[str] = []
    for number in range(draw(st.integers(1, 12))):
        name = f"s{number}"
        sources = st.sampled_from(sure)
        kind = draw(
            st.sampled_from(["model", "model", "switch", "map", "graph", "skipped", "join", "ensemble", "fallback"])
        )
        inputs = {key: draw(sources) for key in "abc"}
        if kind == "model":
            steps.append({"name": name, "model": "mix", "inputs": inputs})
        elif kind == "switch":
            condition = f"{draw(sources)} % 2 == {draw(st.integers(0, 1))}"
            other = {key: draw(sources) for key in "abc"}
            cases = [{"when": condition, "model": "mix", "inputs": inputs}, {"model": "mix", "inputs": other}]
            steps.append({"name": name, "switch": cases})
        elif kind == "map":
            over = {"it": {"stack": [draw(sources) for _ in range(draw(st.integers(1, 4)))]}}
            item = {"a": "item.it", "b": inputs["b"], "c": inputs["c"]}
            steps.append({"name": f"{name}m", "map": {"over": over, "step": {"model": "mix", "inputs": item}}})
            steps.append({"name": name, "values": {"y": {"from": f"{name}m.y", "select": [0]}}})
        elif kind == "graph":
            inner = {
                "steps": [
                    {"name": "s", "model": "mix", "inputs": {"a": "inputs.b", "b": "inputs.a", "c": "inputs.c"}},
                    {"name": "t", "model": "mix", "inputs": {"a": "s.y", "b": "s.y", "c": "inputs.a"}},
                ],
                "outputs": [{"name": "y", "from": "t.y"}],
            }
            steps.append({"name": name, "graph": inner, "inputs": inputs})
        elif kind == "skipped":
            steps.append({"name": name, "model": "mix", "inputs": inputs, "when": f"{draw(sources)} % 3 == 0"})
            unsure.append(f"{name}.y")
            continue
        elif kind == "join":
            chosen = (
                [*draw(st.lists(st.sampled_from(unsure), max_size=2)), draw(sources)] if unsure else [draw(sources)]
            )
            steps.append({"name": name, "values": {"y": {"first": chosen}}})
        elif kind == "ensemble":
            members = [{"model": "mix", "inputs": {key: draw(sources) for key in "abc"}} for _ in range(3)]
            steps.append({"name": name, "ensemble": {"members": members, "combine": "vote"}})
        else:
            values = {"values": {"y": draw(sources)}}
            steps.append({"name": name, "model": "fail", "inputs": inputs, "fallback": values})
        sure.append(f"{name}.y")
    wanted = draw(st.lists(st.sampled_from([*sure, *unsure]), min_size=1, max_size=4, unique=True))
    return steps, wanted


def evaluate(steps: list[Step], values: Values) -> Values:
    """The plain way: one step after the other."""
    values = dict(values)
    for step in steps:
        found = outcome(step, values)
        if found is not None:
            values[f"{step['name']}.y"] = found
    return values


def outcome(step: Step, values: Values) -> Any:
    if "when" in step and not is_true(step["when"], values):
        return None
    if step.get("model") == "mix":
        return mix(*(values[step["inputs"][key]] for key in "abc"))
    if step.get("model") == "fail":
        return values[step["fallback"]["values"]["y"]]
    if "switch" in step:
        return next(found for case in step["switch"] if (found := outcome(case, values)) is not None)
    if "map" in step:
        items = [values[each] for each in step["map"]["over"]["it"]["stack"]]
        inputs = step["map"]["step"]["inputs"]
        return [mix(each, values[inputs["b"]], values[inputs["c"]]) for each in items]
    if "graph" in step:
        inner = {f"inputs.{key}": values[reference] for key, reference in step["inputs"].items()}
        return evaluate(step["graph"]["steps"], inner)["t.y"]
    if "ensemble" in step:
        votes = sorted(outcome(member, values) for member in step["ensemble"]["members"])
        return max(votes, key=votes.count)
    source = step["values"]["y"]
    if "select" in source:
        return values[source["from"]][0]  # type: ignore[index]
    return next(values[each] for each in source["first"] if each in values)


def is_true(condition: str, values: Mapping[str, int]) -> bool:
    reference, _, rest = condition.partition(" % ")
    modulus, _, remainder = rest.partition(" == ")
    return values[reference] % int(modulus) == int(remainder)


class Node(FakeHost):
    """A node whose models take their time, each time another."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        chance = random.Random(seed)

        async def slowly(a: Array, b: Array, c: Array) -> dict[str, Any]:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            return {"y": np.int64(mix(int(a), int(b), int(c)))}

        async def fails(a: Array, b: Array, c: Array) -> dict[str, Any]:
            raise ModelFailed("always")

        self.add("mix", slowly, outputs=["y"])
        self.add("fail", fails, outputs=["y"])


@settings(max_examples=150, deadline=None)
@given(graph=graphs(), p=st.integers(0, 1000), q=st.integers(0, 1000), seed=st.integers(0, 10_000))
def test_a_random_graph_gives_what_its_steps_give_one_after_the_other(
    graph: tuple[list[Step], list[str]], p: int, q: int, seed: int
) -> None:
    steps, wanted = graph
    kept = _needed(steps, wanted)
    shuffled = list(kept)
    random.Random(seed).shuffle(shuffled)
    outputs = [{"name": f"o{number}", "from": each, "optional": True} for number, each in enumerate(wanted)]
    if not shuffled:
        return
    document = {
        "inputs": [{"name": name, "datatype": "INT64", "shape": []} for name in "pq"],
        "outputs": outputs,
        "steps": shuffled,
    }

    async def run() -> dict[str, Array]:
        model = await load(yaml.safe_dump(document), Node(seed))
        return await ask(model, p=np.int64(p), q=np.int64(q))

    expected = evaluate(steps, {"inputs.p": p, "inputs.q": q})
    answer = asyncio.run(run())
    there = {f"o{number}": expected[each] for number, each in enumerate(wanted) if each in expected}
    assert {name: array.tolist() for name, array in answer.items()} == there


def _needed(steps: list[Step], wanted: list[str]) -> list[Step]:
    """The steps that the outputs need: others would be refused."""
    needed = {each.partition(".")[0] for each in wanted}
    kept: list[Step] = []
    for step in reversed(steps):
        if step["name"] in needed:
            kept.append(step)
            text = yaml.safe_dump(step)
            needed |= {other["name"] for other in steps if f"{other['name']}." in text}
    return kept[::-1]
