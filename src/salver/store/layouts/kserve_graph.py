"""KServe's ``InferenceGraph`` as a graph: the YAML file of one, read as it stands.

Described in https://kserve.github.io/website/docs/concepts/resources/inferencegraph, and by its router's code:
https://github.com/kserve/kserve/blob/master/cmd/router/main.go. What KServe passes from step to step are whole requests
and answers, so names of tensors are left to the models (``inputs_from``, ``outputs_from``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from salver.config.document import Document, KeyPath
from salver.config.yaml_file import read_document
from salver.core.errors import InvalidConfig, InvalidRequest
from salver.core.model import check_model_name
from salver.store.files import artifact_files, printable
from salver.store.layouts.foreign import ForeignModel
from salver.store.model_config import MODEL_YAML, ModelConfig

_SUFFIXES = (".yaml", ".yml")
_KIND = re.compile(rb"^kind:[ \t]*[\"']?InferenceGraph\b", re.MULTILINE)
_LOOKED_AT = 64 * 1024

_MODEL_PATH = re.compile(
    r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/infer)?|/v1/models/(?P<old>[^/:]+)(?::predict)?"
)
_CONDITION = re.compile(
    r"""(?:\[@this\]\.#\((?P<path>[^=!<>%]+?)\s*(?P<operator>==|!=|<=|>=|<|>)\s*(?P<value>"[^"\\]*"|-?[0-9.]+|true|false)\))"""
)
_TENSOR = re.compile(r"(?P<which>outputs|inputs)\.(?P<number>[0-9]+)\.data\.(?P<element>[0-9]+)")
_OLD_TENSOR = re.compile(r"(?P<which>predictions|instances)\.(?P<element>[0-9]+)")
_NODE_KEYS = frozenset({"routerType", "steps"})
_STEP_KEYS = frozenset({"serviceName", "serviceUrl", "nodeName", "name", "data", "condition", "weight", "dependency"})
_ROUTERS = ("Sequence", "Switch", "Ensemble", "Splitter")
_NO_NAME = re.compile(r"[^A-Za-z0-9_]")


def read_model(folder: Path) -> ForeignModel | None:
    """A file with an InferenceGraph, or a folder with one in it; None where there is none.

    Raises:
        InvalidConfig: it can't be understood, or asks for what Salver can't do.
    """
    file = _file(folder)
    if file is None:
        return None
    shown = f"{printable(file.parent.name)}/{printable(file.name)}"
    document = read_document(file, shown_as=shown)
    metadata = document.data.get("metadata")
    written = metadata.get("name") if isinstance(metadata, Mapping) else None
    name = str(written) if written and not folder.is_dir() else printable(folder.name if folder.is_dir() else file.stem)
    try:
        check_model_name(name)
    except InvalidRequest as error:
        raise InvalidConfig(f"{shown}: {error}") from None
    status = file.stat()
    graph = to_graph(document)
    return ForeignModel(
        name=name,
        system="KServe",
        folder=folder,
        config=ModelConfig.model_validate({"runtime": "graph", "options": {"graph": graph}}),
        versions={"1": folder},
        wanted=("1",),
        stamp=f"{status.st_size} {status.st_mtime_ns} {status.st_ino}",
        problems=tuple(_problems(document)),
    )


def read_root(folder: Path) -> Mapping[str, ForeignModel] | None:
    """None: KServe has no repositories of graphs."""
    return None


def to_graph(document: Document) -> dict[str, Any]:
    """The graph that an InferenceGraph is, as ``graph.yaml`` has it.

    Raises:
        InvalidConfig: with the line of what can't be understood.
    """
    return _Translation(document).graph()


def _file(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix.lower() in _SUFFIXES and _is_graph(path) else None
    if not path.is_dir():
        return None
    names = [name for name in artifact_files(path) if Path(name).suffix.lower() in _SUFFIXES and name != MODEL_YAML]
    files = [path / name for name in names if _is_graph(path / name)]
    return files[0] if len(files) == 1 else None


def _is_graph(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return _KIND.search(opened.read(_LOOKED_AT)) is not None
    except OSError:
        return False


def _problems(document: Document) -> list[str]:
    spec = document.data.get("spec")
    if not isinstance(spec, Mapping):
        return []
    return [
        f"{document.place(('spec', key))}: {key!r} is for Kubernetes, and is not followed"
        for key in spec
        if key not in ("nodes", "timeout")
    ]


class _Translation:
    """One InferenceGraph on its way to a graph."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._nodes = self._map(("spec", "nodes"))
        self._open: list[str] = []

    def graph(self) -> dict[str, Any]:
        if "root" not in self._nodes:
            raise self._wrong(("spec", "nodes"), "there is no node 'root', where a graph begins")
        graph = self._node("root")
        timeout = self._document.data["spec"].get("timeout")
        return graph | ({"timeout": timeout} if isinstance(timeout, int | float) else {})

    def _node(self, name: str) -> dict[str, Any]:
        """A node as steps and ``outputs_from``; its steps take the inputs of the graph that they stand in."""
        path: KeyPath = ("spec", "nodes", name)
        if name in self._open:
            raise self._wrong(path, f"node {name!r} leads back to itself: {' -> '.join([*self._open, name])}")
        node = self._map(path)
        self._known(node, _NODE_KEYS, path)
        steps = node.get("steps")
        if not isinstance(steps, list) or not steps:
            raise self._wrong(path, f"node {name!r} has no 'steps'")
        self._open.append(name)
        try:
            match node.get("routerType"):
                case "Sequence":
                    return self._sequence(path, steps)
                case "Switch":
                    return self._choice("switch", path, steps)
                case "Splitter":
                    return self._choice("split", path, steps)
                case "Ensemble":
                    return self._ensemble(path, steps)
        finally:
            self._open.pop()
        raise self._wrong(
            (*path, "routerType"),
            f"'routerType' of node {name!r} is {node.get('routerType')!r}; expected one of {', '.join(_ROUTERS)}",
        )

    def _sequence(self, path: KeyPath, steps: Sequence[Any]) -> dict[str, Any]:
        """Where a step's condition doesn't hold, the answer is what there is so far, and nothing else runs."""
        made: list[dict[str, Any]] = []
        conditions: list[str] = []
        ends: list[dict[str, Any]] = []
        for number in range(len(steps)):
            where = (*path, "steps", number)
            step = self._step(where)
            name = self._name(step, number)
            if any(name == other["name"] for other in made):
                name = f"{name}_{number}"
            previous = made[-1]["name"] if made else "inputs"
            if "condition" in step and made:
                condition = self._condition(where, step["condition"], previous)
                if conditions:  # the step before may not have run itself
                    condition = f"has({condition.partition(']')[0]}]) and {condition}"
                conditions.append(condition)
                ends.append({"when": f"not ({condition})", "values": {}, "inputs_from": previous})
            origin = previous if step.get("data", "$request") != "$request" else "inputs"
            call = self._call(where, step, origin)
            when = {"when": " and ".join(f"({each})" for each in conditions)} if conditions else {}
            made.append({"name": name} | call | when)
        last = made[-1]["name"]
        if not conditions:
            return {"steps": self._needed(made), "outputs_from": last}
        made.append({"name": "answer_", "switch": [*ends, {"values": {}, "inputs_from": last}]})
        return {"steps": made, "outputs_from": "answer_"}

    def _needed(self, made: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A step whose answer nobody takes runs before the next one all the same, as in KServe."""
        for before, step in pairwise(made):
            if step["inputs_from"] != before["name"]:
                step["after"] = [before["name"]]
        return made

    def _choice(self, key: str, path: KeyPath, steps: Sequence[Any]) -> dict[str, Any]:
        cases = []
        for number in range(len(steps)):
            where = (*path, "steps", number)
            step = self._step(where)
            case = self._call(where, step, "inputs")
            if key == "split":
                weight = step.get("weight")
                if not isinstance(weight, int) or weight <= 0:
                    raise self._wrong(where, f"a step of a Splitter needs a 'weight' above 0, not {weight!r}")
                case["weight"] = weight
            elif "condition" in step:
                case["when"] = self._condition(where, step["condition"], "inputs")
            elif number < len(steps) - 1:
                raise self._wrong(where, "each step of a Switch needs a 'condition', but for the last")
            cases.append(case)
        return {"steps": [{"name": "chosen", key: cases}], "outputs_from": "chosen"}

    def _ensemble(self, path: KeyPath, steps: Sequence[Any]) -> dict[str, Any]:
        members = []
        for number in range(len(steps)):
            where = (*path, "steps", number)
            step = self._step(where)
            members.append({"name": self._name(step, number)} | self._call(where, step, "inputs"))
        ensemble = {"members": members, "combine": "collect"}
        return {"steps": [{"name": "all", "ensemble": ensemble}], "outputs_from": "all"}

    def _call(self, path: KeyPath, step: Mapping[str, Any], origin: str) -> dict[str, Any]:
        """What a step asks, with all that comes from ``origin``."""
        targets = [key for key in ("serviceName", "serviceUrl", "nodeName") if key in step]
        if len(targets) != 1:
            raise self._wrong(path, "a step has one of 'serviceName', 'serviceUrl' and 'nodeName'")
        (key,) = targets
        target = str(step[key])
        if key == "nodeName":
            if target not in self._nodes:
                raise self._wrong((*path, key), f"there is no node {target!r}; there are {', '.join(self._nodes)}")
            return {"graph": self._node(target), "inputs_from": origin}
        model = target if key == "serviceName" else self._model(path, target)
        return {"model": model, "inputs_from": origin}

    def _model(self, path: KeyPath, url: str) -> str:
        match = _MODEL_PATH.fullmatch(urlsplit(url).path.rstrip("/"))
        if match is None:
            raise self._wrong(
                (*path, "serviceUrl"), f"{url!r} names no model; its path should be /v2/models/NAME/infer"
            )
        name = match["name"] or match["old"]
        return f"{name}/{match['version']}" if match["version"] else name

    def _condition(self, path: KeyPath, text: object, origin: str) -> str:
        """A condition in GJSON's syntax as an expression over tensors."""
        match = _CONDITION.fullmatch(str(text).strip())
        if match is None:
            raise self._wrong(
                (*path, "condition"),
                f"the condition {str(text)[:100]!r} can't be read; supported is "
                '[@this].#(outputs.0.data.0 == "text"), with ==, !=, <, <=, > or >=, and inputs, predictions, '
                "instances or parameters.NAME in place of outputs",
            )
        left = self._tensor(path, match["path"].strip(), origin)
        return f"{left} {match['operator']} {match['value']}"

    def _tensor(self, path: KeyPath, text: str, origin: str) -> str:
        if text.startswith("parameters."):
            return text
        match = _TENSOR.fullmatch(text) or _OLD_TENSOR.fullmatch(text)
        if match is None:
            raise self._wrong(
                (*path, "condition"), f"{text!r} is no element of a tensor, such as outputs.0.data.0 or predictions.0"
            )
        number = match.groupdict().get("number") or "0"
        return f'{origin}["#{number}"][{match["element"]}]'

    def _name(self, step: Mapping[str, Any], number: int) -> str:
        name = _NO_NAME.sub("_", str(step.get("name") or step.get("serviceName") or step.get("nodeName") or ""))[:50]
        if not name or name[0].isdigit() or name in ("inputs", "item", "parameters", "outputs"):
            name = f"step_{number}"
        return name

    def _step(self, path: KeyPath) -> Mapping[str, Any]:
        step = self._at(path)
        if not isinstance(step, Mapping):
            raise self._wrong(path, "a step is a map with 'serviceName', 'serviceUrl' or 'nodeName'")
        self._known(step, _STEP_KEYS, path)
        return step

    def _known(self, found: Mapping[str, Any], keys: frozenset[str], path: KeyPath) -> None:
        for key in found:
            if key not in keys:
                raise self._wrong((*path, key), f"{key!r} isn't known here; there are {', '.join(sorted(keys))}")

    def _map(self, path: KeyPath) -> Mapping[str, Any]:
        found = self._at(path)
        if not isinstance(found, Mapping) or not found:
            raise self._wrong(path, f"'{'.'.join(map(str, path))}' is missing, or is no map")
        return found

    def _at(self, path: KeyPath) -> Any:
        found: Any = self._document.data
        for part in path:
            if isinstance(found, Mapping):
                found = found.get(str(part))
            elif isinstance(found, list) and isinstance(part, int):
                found = found[part]
            else:
                return None
        return found

    def _wrong(self, path: KeyPath, problem: str) -> InvalidConfig:
        return InvalidConfig(f"{self._document.place(path)}: {problem}")
