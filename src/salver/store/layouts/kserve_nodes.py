"""The nodes of one of KServe's graphs as steps: pure, from its YAML to what ``graph.yaml`` would hold.

What KServe passes from step to step are whole requests and answers, so names of tensors are left to the models
(``inputs_from``, ``outputs_from``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from salver.config.document import Document, KeyPath
from salver.config.explain import suggestion
from salver.core.errors import InvalidConfig, InvalidRequest
from salver.core.model import check_model_name, check_version
from salver.store.layouts.kserve_conditions import parse_condition
from salver.store.layouts.kserve_scope import Scope

MAX_CALLS = 1000
"""Steps that a graph comes to: nodes that lead to nodes may be few, and stand for more than there is memory."""

MAX_DEPTH = 16
"""Nodes that lead to nodes."""

_ROUTERS = ("Sequence", "Switch", "Ensemble", "Splitter")
_TARGETS = ("serviceName", "serviceUrl", "nodeName")
_NODE_KEYS = ("routerType", "steps")
_STEP_KEYS = (*_TARGETS, "name", "data", "condition", "weight", "dependency")
_MEANS_NOTHING = {
    "Sequence": ("weight",),
    "Switch": ("weight", "data", "dependency"),
    "Ensemble": ("weight", "data", "condition"),
    "Splitter": ("data", "condition", "dependency"),
}
"""Keys of a step that KServe doesn't look at in a node of that type."""

_MODEL_PATH = re.compile(
    r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer|/v1/models/(?P<old>[^/:]+):predict"
)


def translate_nodes(document: Document) -> tuple[dict[str, Any], dict[KeyPath, int], list[str]]:
    """The graph that ``spec`` describes, the lines of its parts, and what isn't followed.

    Raises:
        InvalidConfig: with the line of what can't be understood.
    """
    translation = _Translation(document)
    graph = translation.graph()
    return graph, translation.lines(graph), translation.problems


class _Translation:
    def __init__(self, document: Document) -> None:
        self.problems: list[str] = []
        self._document = document
        self._origins: list[tuple[dict[str, Any], KeyPath]] = []
        self._open: list[str] = []
        self._seen: set[str] = set()
        self._calls = 0
        spec = document.data.get("spec")
        if not isinstance(spec, Mapping):
            raise self._wrong(("spec",), "'spec' is missing, or is no map")
        self._spec = spec
        nodes = spec.get("nodes")
        if not isinstance(nodes, Mapping) or not nodes:
            raise self._wrong(("spec", "nodes"), "'nodes' is missing, or is no map of nodes by their names")
        self._nodes: Mapping[str, Any] = nodes

    def graph(self) -> dict[str, Any]:
        """The whole of it."""
        if "root" not in self._nodes:
            raise self._wrong(("spec", "nodes"), "there is no node 'root', where a graph begins")
        timeout = self._timeout(("spec", "timeout"), self._spec.get("timeout"))
        for key in self._spec:
            if key not in ("nodes", "timeout"):
                self._problem(("spec", key), f"{key!r} is for Kubernetes, and is not followed")
        scope = Scope()
        last = self._into(scope, "root", "inputs")
        for name in self._nodes:
            if name not in self._seen:
                self._problem(("spec", "nodes", name), f"node {name!r} is not used: no step leads to it")
        return {"steps": scope.steps, "outputs_from": last} | timeout

    def lines(self, graph: dict[str, Any]) -> dict[KeyPath, int]:
        """Where in the file each step of the graph stands."""
        places = {id(step): path for step, path in self._origins}
        found: dict[KeyPath, int] = {(): 1}
        waiting: list[tuple[KeyPath, Any]] = [((), graph)]
        while waiting:
            path, value = waiting.pop()
            if id(value) in places:
                found[path] = self._document.line(places[id(value)])
            if isinstance(value, dict):
                waiting += [((*path, key), each) for key, each in value.items()]
            elif isinstance(value, list):
                waiting += [((*path, index), each) for index, each in enumerate(value)]
        return found

    # Nodes

    def _into(self, scope: Scope, name: str, origin: str) -> str:
        """A node's steps in this scope; the name of the one that has its answer."""
        path, router, steps = self._enter(name)
        if router == "Sequence":
            last = self._sequence(scope, path, steps, origin)
        else:
            last = scope.name(name)
            body = self._body(scope, router, path, steps, origin)
            scope.steps.append(self._at(path, {"name": last} | body))
        self._open.pop()
        return last

    def _node(self, scope: Scope, name: str, origin: str) -> dict[str, Any]:
        """A node as one step."""
        path, router, steps = self._enter(name)
        if router == "Sequence":
            inner = Scope((scope, origin))
            last = self._sequence(inner, path, steps, "inputs")
            body = {
                "graph": {"steps": inner.steps, "outputs_from": last},
                "inputs": inner.inputs,
                "inputs_from": origin,
            }
        else:
            body = self._body(scope, router, path, steps, origin)
        self._open.pop()
        return body

    def _enter(self, name: str) -> tuple[KeyPath, str, Sequence[Mapping[str, Any]]]:
        """A node's path, type and steps, as far as it can be said of them by themselves."""
        path: KeyPath = ("spec", "nodes", name)
        if name in self._open:
            raise self._wrong(path, f"node {name!r} leads back to itself: {' -> '.join([*self._open, name])}")
        self._open.append(name)
        self._seen.add(name)
        if len(self._open) > MAX_DEPTH:
            raise self._wrong(path, f"nodes lead to nodes more than {MAX_DEPTH} deep: {' -> '.join(self._open)}")
        node = self._nodes[name]
        if not isinstance(node, Mapping):
            raise self._wrong(path, f"node {name!r} is no map with 'routerType' and 'steps'")
        self._check_keys(node, _NODE_KEYS, path, f"node {name!r}")
        router, steps = node.get("routerType"), node.get("steps")
        if router not in _ROUTERS:
            raise self._wrong(
                (*path, "routerType"),
                f"'routerType' of node {name!r} is {router!r}; expected one of {', '.join(_ROUTERS)}",
            )
        if not isinstance(steps, list) or not steps:
            raise self._wrong((*path, "steps"), f"node {name!r} has no 'steps'")
        for number, step in enumerate(steps):
            where = (*path, "steps", number)
            if not isinstance(step, Mapping):
                raise self._wrong(where, f"a step of node {name!r} is a map with one of {', '.join(_TARGETS)}")
            self._check_keys(step, _STEP_KEYS, where, f"a step of node {name!r}")
            for key in _MEANS_NOTHING[router]:
                if key in step:
                    self._problem(
                        (*where, key), f"{key!r} means nothing in a node of type {router}, and isn't looked at"
                    )
        return path, router, steps

    def _sequence(self, scope: Scope, path: KeyPath, steps: Sequence[Mapping[str, Any]], origin: str) -> str:
        """Where a step's condition doesn't hold, the answer is what there is so far, and nothing else runs."""
        made: list[dict[str, Any]] = []
        conditions: list[str] = []
        ends: list[dict[str, Any]] = []
        for number, step in enumerate(steps):
            where = (*path, "steps", number)
            previous = made[-1]["name"] if made else ""
            if "condition" in step:
                if not previous:
                    raise self._wrong(
                        (*where, "condition"),
                        "the first step of a Sequence can't have a condition: it is on the answer of the step before",
                    )
                condition = self._condition(scope, where, step, previous)
                conditions.append(f"({condition})")
                ends.append({"when": f"not {conditions[-1]}", "values": {}, "inputs_from": previous})
            data = step.get("data", "$request")
            if data not in ("$request", "$response"):
                raise self._wrong((*where, "data"), f"'data' is {data!r}; expected $request or $response")
            body = self._call(scope, where, step, previous if previous and data == "$response" else origin)
            when = {"when": " and ".join(conditions)} if conditions else {}
            made.append(self._at(where, {"name": scope.name(_wanted(step, number))} | body | when))
            scope.steps.append(made[-1])
        self._chain(made, steps)
        last = str(made[-1]["name"])
        if not conditions:
            return last
        answer = scope.name("answer")
        cases = [*ends, {"values": {}, "inputs_from": last}]
        scope.steps.append(self._at(path, {"name": answer, "switch": cases}))
        return answer

    def _chain(self, made: Sequence[dict[str, Any]], steps: Sequence[Mapping[str, Any]]) -> None:
        """A step whose answer nobody takes runs before the next one all the same; it may fail unless it is Hard."""
        for (before, step), (after, next_step) in pairwise(zip(made, steps, strict=True)):
            if next_step.get("data") == "$response":
                continue
            after["after"] = [before["name"]]
            if "condition" not in next_step and step.get("dependency") != "Hard":
                before["optional"] = True

    def _body(
        self, scope: Scope, router: str, path: KeyPath, steps: Sequence[Mapping[str, Any]], origin: str
    ) -> dict[str, Any]:
        if router == "Switch":
            return self._switch(scope, path, steps, origin)
        if router == "Splitter":
            return self._splitter(scope, path, steps, origin)
        return self._ensemble(scope, path, steps, origin)

    def _switch(self, scope: Scope, path: KeyPath, steps: Sequence[Mapping[str, Any]], origin: str) -> dict[str, Any]:
        cases = []
        for number, step in enumerate(steps):
            where = (*path, "steps", number)
            case = self._at(where, self._call(scope, where, step, origin))
            if "condition" in step:
                case["when"] = self._condition(scope, where, step, origin)
            elif number < len(steps) - 1:
                raise self._wrong(where, "each step of a Switch needs a 'condition', but for the last")
            cases.append(case)
        return {"switch": cases, "must_match": True}

    def _splitter(self, scope: Scope, path: KeyPath, steps: Sequence[Mapping[str, Any]], origin: str) -> dict[str, Any]:
        cases = []
        for number, step in enumerate(steps):
            where = (*path, "steps", number)
            weight = step.get("weight")
            if isinstance(weight, bool) or not isinstance(weight, int) or weight < 0:
                raise self._wrong(
                    (*where, "weight"),
                    f"a step of a Splitter needs a 'weight', an integer of at least 0, not {weight!r}",
                )
            case = self._call(scope, where, step, origin)
            if weight:
                cases.append(self._at(where, case | {"weight": weight}))
        if not cases:
            raise self._wrong(path, "all steps of a Splitter have the weight 0")
        return {"split": cases}

    def _ensemble(self, scope: Scope, path: KeyPath, steps: Sequence[Mapping[str, Any]], origin: str) -> dict[str, Any]:
        """The answers of all steps. One that fails is left out unless it is Hard; one has to answer."""
        names = Scope()
        members = []
        hard = [step.get("dependency") == "Hard" for step in steps]
        for number, step in enumerate(steps):
            where = (*path, "steps", number)
            member = {"name": names.name(_wanted(step, number))} | self._call(scope, where, step, origin)
            if any(hard) and not hard[number]:
                member["optional"] = True
            members.append(self._at(where, member))
        quorum = {} if any(hard) else {"quorum": 1}
        return {"ensemble": {"members": members, "combine": "collect"} | quorum}

    # Steps

    def _call(self, scope: Scope, path: KeyPath, step: Mapping[str, Any], origin: str) -> dict[str, Any]:
        """What a step asks, with all that comes from ``origin``."""
        self._calls += 1
        if self._calls > MAX_CALLS:
            raise self._wrong(path, f"the graph comes to more than {MAX_CALLS} steps, with nodes that are used again")
        if step.get("dependency", "Soft") not in ("Soft", "Hard"):
            raise self._wrong(
                (*path, "dependency"), f"'dependency' is {step['dependency']!r}; expected one of Soft, Hard"
            )
        targets = [key for key in _TARGETS if key in step]
        if len(targets) != 1:
            raise self._wrong(
                path, f"a step has one of {', '.join(_TARGETS)}; here is {' and '.join(targets) or 'none'}"
            )
        (key,) = targets
        target = step[key]
        if not isinstance(target, str) or not target:
            raise self._wrong((*path, key), f"{key!r} is a text, not {target!r}")
        if key == "nodeName":
            if target not in self._nodes:
                raise self._wrong(
                    (*path, key), f"there is no node {target!r}; {suggestion(target, self._nodes, what='node')}"
                )
            return self._node(scope, target, origin)
        model = self._model((*path, key), target)
        return {"model": model, "inputs_from": origin}

    def _model(self, path: KeyPath, target: str) -> str:
        name, version = target, ""
        if path[-1] == "serviceUrl":
            url = urlsplit(target)
            match = _MODEL_PATH.fullmatch(url.path)
            if match is None:
                raise self._wrong(
                    path, f"the path of a 'serviceUrl' has to be /v2/models/NAME/infer, and here is {url.path!r}"
                )
            name, version = match["name"] or match["old"], match["version"] or ""
            self._problem(path, f"model {name!r} is asked here, and not on another server")
        try:
            check_model_name(name)
            if version:
                check_version(version)
        except InvalidRequest as error:
            raise self._wrong(path, str(error)) from None
        return f"{name}/{version}" if version else name

    def _condition(self, scope: Scope, path: KeyPath, step: Mapping[str, Any], origin: str) -> str:
        text = step["condition"]
        try:
            condition = parse_condition(str(text))
        except ValueError as error:
            raise self._wrong(
                (*path, "condition"), f"the condition {str(text)[:100]!r} can't be translated: {error}"
            ) from None
        if condition.parameter:
            return condition.expression("")
        reference = scope.reference(
            origin, condition.tensor, flat=condition.is_flat, note=lambda made: self._at((*path, "condition"), made)
        )
        return condition.expression(reference)

    def _timeout(self, path: KeyPath, timeout: object) -> dict[str, Any]:
        if timeout is None:
            return {}
        if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout <= 0:
            raise self._wrong(path, f"'timeout' is a number of seconds above 0, not {timeout!r}")
        return {"timeout": timeout}

    # Where things stand

    def _at(self, path: KeyPath, step: dict[str, Any]) -> dict[str, Any]:
        """Remember where a step stands in the file."""
        self._origins.append((step, path))
        return step

    def _check_keys(self, found: Mapping[str, Any], keys: Sequence[str], path: KeyPath, whose: str) -> None:
        for key in found:
            if key not in keys:
                raise self._wrong((*path, key), f"{whose} has no {key!r}; {suggestion(key, keys, what='key')}")

    def _problem(self, path: KeyPath, text: str) -> None:
        told = f"{self._document.place(path)}: {text}"
        if told not in self.problems:
            self.problems.append(told)

    def _wrong(self, path: KeyPath, problem: str) -> InvalidConfig:
        return InvalidConfig(f"{self._document.place(path)}: {problem}")


def _wanted(step: Mapping[str, Any], number: int) -> str:
    """What a step would be called."""
    if isinstance(step.get("name"), str):
        return str(step["name"])
    if "serviceUrl" in step:
        return f"step_{number}"
    return str(step.get("serviceName") or step.get("nodeName") or "")
