"""Graphs from Python: the same as writing ``graph.yaml`` by hand, and it writes that file.

graph = Graph("Who is in the picture?")
image = graph.input("image", "UINT8", [-1, -1, 3])
found = graph.add("found", model("detector", {"image": image}))
names = graph.add("names", map_over({"box": found["boxes"]}, model("names", {"image": image, "box": item("box")})))
graph.output("names", names["name"])
graph.write("people/1")
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from salver.graph.document import read_graph_document
from salver.graph.spec import GRAPH_YAML, GraphConfig

Value: TypeAlias = "Tensor | bool | int | float | list[Any]"
"""A tensor, or a constant."""


class Tensor:
    """A tensor of a graph, as a step or an output takes it. Its methods give a changed one, and run nothing."""

    def __init__(self, **source: Any) -> None:
        self._source = source

    def select(self, *index: int | str | Sequence[int]) -> Tensor:
        """For each dimension an index, a range such as "0:3", or a list of indices."""
        return self._changed("select", [each if isinstance(each, int | str) else list(each) for each in index])

    def transpose(self, *order: int) -> Tensor:
        """The dimensions in another order."""
        return self._changed("transpose", list(order))

    def reshape(self, *shape: int) -> Tensor:
        """The same elements in another shape; -1 is what is left, 0 the dimension as it was."""
        return self._changed("reshape", list(shape))

    def cast(self, datatype: str) -> Tensor:
        """The elements in another datatype, such as "FP32"."""
        return self._changed("cast", datatype)

    def source(self) -> Any:
        """The tensor as ``graph.yaml`` has it."""
        return self._source["from"] if list(self._source) == ["from"] else dict(self._source)

    def _changed(self, key: str, value: Any) -> Tensor:
        order = ["select", "transpose", "reshape", "cast"]
        if any(later in self._source for later in order[order.index(key) :]):
            raise ValueError(
                f"{key} comes too late: a source is changed in the order {', '.join(order)}; use a step of values()"
            )
        return Tensor(**self._source, **{key: value})


class Step:
    """A step that isn't part of a graph yet; :meth:`Graph.add` makes it one, or a step around it."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = {key: value for key, value in config.items() if value is not None}


class Added:
    """A step of a graph: ``step["output"]`` is a tensor of it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, output: str) -> Tensor:
        return Tensor(**{"from": f"{self.name}.{output}"})


def item(name: str) -> Tensor:
    """In a map's step: the item of one of its lists."""
    return Tensor(**{"from": f"item.{name}"})


def parameter(name: str, datatype: str | None = None) -> Tensor:
    """A parameter of the request, as a tensor of one element."""
    return Tensor(parameter=name) if datatype is None else Tensor(parameter=name, datatype=datatype)


def constant(value: bool | int | float | str | list[Any], datatype: str | None = None) -> Tensor:
    """A constant; texts need this, numbers and lists of them may stand for themselves."""
    return Tensor(value=value) if datatype is None else Tensor(value=value, datatype=datatype)


def first(*tensors: Value) -> Tensor:
    """The first of the tensors that is there."""
    return Tensor(first=[_source(each) for each in tensors])


def concat(*tensors: Value, axis: int = 0) -> Tensor:
    """Tensors joined along a dimension."""
    return Tensor(concat=[_source(each) for each in tensors], axis=axis)


def stack(*tensors: Value, axis: int = 0) -> Tensor:
    """Tensors of one shape along a new dimension."""
    return Tensor(stack=[_source(each) for each in tensors], axis=axis)


def model(name: str, inputs: Mapping[str, Value], **options: Any) -> Step:
    """Ask a model: NAME, NAME/VERSION or NAME@ALIAS. ``options`` are keys of a step: when, timeout, retries, ..."""
    return Step({"model": name, "inputs": _sources(inputs)} | _options(options))


def function(name: str, inputs: Mapping[str, Value], **options: Any) -> Step:
    """Call FILE.py:NAME, a function in the graph's folder."""
    return Step({"function": name, "inputs": _sources(inputs)} | _options(options))


def values(tensors: Mapping[str, Value], **options: Any) -> Step:
    """Tensors under new names, or changed."""
    return Step({"values": _sources(tensors)} | _options(options))


def answer(outputs: Mapping[str, Value], **options: Any) -> Step:
    """Answer with these outputs, and end the graph."""
    return Step({"answer": _sources(outputs)} | _options(options))


def switch(cases: Sequence[Step], **options: Any) -> Step:
    """The first case whose ``when`` is true; the last may be without one."""
    return Step({"switch": [case.config for case in cases]} | _options(options))


def split(branches: Sequence[tuple[float, Step]], **options: Any) -> Step:
    """One of the steps by chance, each with its weight."""
    return Step({"split": [{"weight": weight} | branch.config for weight, branch in branches]} | _options(options))


def ensemble(
    members: Sequence[Step], combine: str | Mapping[str, Any] = "mean", quorum: int | None = None, **options: Any
) -> Step:
    """Several steps, and one answer of theirs."""
    config: dict[str, Any] = {"members": [member.config for member in members], "combine": combine}
    if quorum is not None:
        config["quorum"] = quorum
    return Step({"ensemble": config} | _options(options))


def map_over(over: Mapping[str, Value], step: Step, **options: Any) -> Step:
    """A step for each item of lists; rows, max_items, concurrency, regroup and on_error are the map's options."""
    own = {
        key: options.pop(key) for key in ("rows", "max_items", "concurrency", "regroup", "on_error") if key in options
    }
    return Step({"map": {"over": _sources(over), "step": step.config} | own} | _options(options))


def inline(graph: Graph, inputs: Mapping[str, Value], **options: Any) -> Step:
    """A graph's steps as one step; ``inputs`` are its inputs.

    Raises:
        ValueError: the inputs aren't the graph's, or it has what only a whole graph can have.
    """
    document = graph.document()
    if "parameters" in document or "timeout" in document:
        raise ValueError("'parameters' and 'timeout' are of the whole graph; a step has a 'timeout' of its own")
    declared = {each["name"]: each.get("optional", False) for each in document.get("inputs", ())}
    if set(inputs) - set(declared) or any(name not in inputs for name, optional in declared.items() if not optional):
        raise ValueError(
            f"its inputs are {', '.join(declared) or 'none'}, and it is given {', '.join(inputs) or 'none'}"
        )
    inner = {"outputs": document["outputs"], "steps": document["steps"]}
    return Step({"inputs": _sources(inputs), "graph": inner} | _options(options))


class Graph:
    """Collects the inputs, steps and outputs of a graph.

    Args:
        description: a sentence.
        timeout: seconds that a request may take; None for its own deadline alone.
        parameters: that requests may have, with their default values.
    """

    def __init__(
        self,
        description: str = "",
        *,
        timeout: float | None = None,
        parameters: Mapping[str, bool | int | float | str] | None = None,
    ) -> None:
        self._document: dict[str, Any] = {}
        if description:
            self._document["description"] = description
        if timeout is not None:
            self._document["timeout"] = timeout
        if parameters:
            self._document["parameters"] = dict(parameters)
        self._inputs: list[dict[str, Any]] = []
        self._outputs: list[dict[str, Any]] = []
        self._steps: list[dict[str, Any]] = []

    def input(
        self, name: str, datatype: str | None = None, shape: Sequence[int] | None = None, *, optional: bool = False
    ) -> Tensor:
        """Declare an input; a tensor of it."""
        tensor: dict[str, Any] = {"name": name}
        if datatype is not None:
            tensor["datatype"] = datatype
        if shape is not None:
            tensor["shape"] = list(shape)
        if optional:
            tensor["optional"] = True
        self._inputs.append(tensor)
        return Tensor(**{"from": f"inputs.{name}"})

    def add(self, name: str, step: Step) -> Added:
        """Make a step a part of the graph."""
        self._steps.append({"name": name} | step.config)
        return Added(name)

    def output(self, name: str, tensor: Value, *, optional: bool = False) -> None:
        """Declare an output, and where it comes from."""
        source = _source(tensor)
        given = (
            source if isinstance(source, dict) else {"from": source} if isinstance(source, str) else {"value": source}
        )
        self._outputs.append({"name": name} | given | ({"optional": True} if optional else {}))

    def document(self) -> dict[str, Any]:
        """The graph as ``graph.yaml`` has it."""
        inputs = {"inputs": self._inputs} if self._inputs else {}
        return self._document | inputs | {"outputs": self._outputs, "steps": self._steps}

    def config(self) -> GraphConfig:
        """The graph, checked as far as that goes without its models.

        Raises:
            InvalidConfig: it isn't one.
        """
        config, _ = read_graph_document(self.document(), "the graph")
        return config

    def write(self, folder: str | Path) -> Path:
        """Write ``graph.yaml`` into a folder, which is made where there is none; the file's path.

        The file is there as a whole or, as before, not at all.

        Raises:
            InvalidConfig: the graph isn't one.
        """
        self.config()
        path = Path(folder) / GRAPH_YAML
        path.parent.mkdir(parents=True, exist_ok=True)
        text = yaml.dump(self.document(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
        return path


class _Dumper(yaml.SafeDumper):
    """Writes what stands in several places out in each: readers of Salver's files refuse aliases."""

    def ignore_aliases(self, data: object) -> bool:
        """Nothing is an alias."""
        return True


def _source(value: Value) -> Any:
    return value.source() if isinstance(value, Tensor) else value


def _sources(values: Mapping[str, Value]) -> dict[str, Any]:
    return {name: _source(value) for name, value in values.items()}


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """A step's other keys; a step or tensors as a fallback become what the file has for them."""
    result = dict(options)
    fallback = result.get("fallback")
    if isinstance(fallback, Step):
        result["fallback"] = {"step": fallback.config}
    elif isinstance(fallback, Mapping):
        result["fallback"] = {"values": _sources(fallback)}
    return result
