"""A graph, its counters and its time lines as JSON values: what the API tells and pictures are drawn from."""

from __future__ import annotations

import codecs
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from salver.core.errors import SalverError
from salver.core.model import ModelSpec
from salver.core.tensor import Array, datatype_of
from salver.graph.compile import Compiler
from salver.graph.model import GraphModel, RequestTrace
from salver.graph.runtime import GraphRuntime, read_spec
from salver.graph.scope import StepRecord
from salver.graph.spec import all_steps
from salver.graph.steps.block import Block
from salver.graph.steps.map import Map
from salver.graph.steps.step import Step
from salver.runtimes.base import Outputs
from salver.store.layouts.readers import read_model

_SHOWN_ELEMENTS = 8
_SHOWN_BYTES = 80
_UTF_8 = codecs.getincrementaldecoder("utf-8")


def describe_graph(name: str, version: str, graph: GraphModel) -> dict[str, Any]:
    """A graph with its steps, what each needs, and what it has done since it was loaded."""
    return {
        "name": name,
        "version": version,
        "description": graph.config.description,
        "inputs": [_spec(spec.name, spec.datatype, spec.shape, spec.optional) for spec in graph.signature.inputs],
        "outputs": [_spec(spec.name, spec.datatype, spec.shape, spec.optional) for spec in graph.signature.outputs],
        "models": sorted(str(model) for model in graph.models()),
        "steps": [describe_step(step) for step in graph.plan.steps],
        "answers": _needs(graph.plan.output_references()),
    }


def describe_file(path: Path) -> dict[str, Any]:
    """A graph in a file or folder, also one of another system, as far as it can be known without its models.

    Blocks on the disk.

    Raises:
        InvalidArtifact, InvalidConfig: there is none, or it can't be understood.
    """
    folder = (path if path.is_dir() else path.parent).absolute()
    name, version = (folder.parent.name, folder.name) if folder.name.isdecimal() else (folder.name, "")
    spec = ModelSpec(name=name, version=version, path=path, runtime=GraphRuntime.name)
    foreign = read_model(path)
    if foreign is not None and foreign.config.runtime == GraphRuntime.name:
        newest = foreign.versions[foreign.wanted[-1]]
        spec = replace(spec, name=foreign.name, path=newest, options=foreign.config.options)
    config, _ = read_spec(spec)
    plan = Compiler(None, lambda _: ()).graph(config)
    return {
        "name": spec.name,
        "version": spec.version,
        "description": config.description,
        "inputs": [_spec(each.name, each.datatype, each.shape, each.optional) for each in config.inputs],
        "outputs": [_spec(each.name, None, None, each.optional) for each in config.outputs],
        "models": sorted({step.model for step in all_steps(config) if step.model is not None}),
        "steps": [describe_step(step) for step in plan.steps],
        "answers": sorted({*_needs(plan.output_references()), *([config.outputs_from] if config.outputs_from else [])}),
    }


def describe_step(step: Step) -> dict[str, Any]:
    """A step, and those inside it."""
    config, counted = step.config, step.statistics
    inner = list(step.inner())
    if isinstance(step, Map):
        inner = [step.step]
    elif isinstance(step, Block):
        inner = list(step.plan.steps)
    result: dict[str, Any] = {
        "name": step.name,
        "kind": step.kind,
        "asks": config.model or config.function or "",
        "description": config.description,
        "when": "" if config.when is None else str(config.when),
        "needs": sorted(
            {*_needs(step.references()), *config.after, *([config.inputs_from] if config.inputs_from else [])}
        ),
        "optional": config.optional,
        "statistics": {
            "ok": sum(counted.ok.buckets),
            "failed": counted.failed,
            "skipped": counted.skipped,
            "retries": counted.retries,
            "fallbacks": counted.fallbacks,
            "seconds": counted.ok.ns / 1e9,
        },
    }
    if inner:
        result["steps"] = [describe_step(each) for each in inner]
    if step.fallback is not None:
        result["fallback"] = describe_step(step.fallback)
    return result


def describe_trace(trace: RequestTrace) -> dict[str, Any]:
    """A request's time line: microseconds from its begin."""
    return {
        "id": trace.id,
        "time": trace.time,
        "microseconds": (trace.ended_ns - trace.started_ns) / 1000,
        "error": trace.error,
        "steps": [_record(record, trace.started_ns) for record in trace.trace.records],
    }


def describe_answer(answer: Outputs | SalverError, trace: RequestTrace) -> dict[str, Any]:
    """An explained request: its time line with each step's tensors, and the answer."""
    outputs = [] if isinstance(answer, SalverError) else [describe_tensor(*each) for each in answer.items()]
    return describe_trace(trace) | {"outputs": outputs}


def describe_tensor(name: str, array: Array) -> dict[str, Any]:
    """A tensor's name, datatype, shape and first elements."""
    first = array.flat[:_SHOWN_ELEMENTS]
    if array.dtype == np.object_:
        data: list[Any] = [_text(element) for element in first.tolist()]
    else:
        wide = first if first.dtype.kind in "biu" else first.astype(np.float64)
        data = [value if value == value and abs(value) != float("inf") else str(value) for value in wide.tolist()]
    return {
        "name": name,
        "datatype": datatype_of(array),
        "shape": list(array.shape),
        "data": data,
        "is_all": array.size <= _SHOWN_ELEMENTS,
    }


def _record(record: StepRecord, started_ns: int) -> dict[str, Any]:
    result: dict[str, Any] = {
        "step": record.step,
        "kind": record.kind,
        "status": record.status,
        "detail": record.detail,
        "attempts": record.attempts,
        "start": (record.started_ns - started_ns) / 1000,
        "end": (record.ended_ns - started_ns) / 1000,
    }
    if record.inputs is not None:
        result["inputs"] = [describe_tensor(*each) for each in record.inputs.items()]
    if record.outputs is not None:
        result["outputs"] = [describe_tensor(*each) for each in record.outputs.items()]
    return result


def _spec(name: str, datatype: str | None, shape: tuple[int, ...] | None, optional: bool) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": None if shape is None else list(shape), "optional": optional}


def _needs(references: frozenset[str]) -> list[str]:
    """The steps (or "inputs") that references lead to."""
    return sorted({reference.partition(".")[0] for reference in references} - {"item"})


def _text(element: object) -> str:
    if not isinstance(element, bytes):
        return str(element)[:_SHOWN_BYTES]
    is_cut = len(element) > _SHOWN_BYTES
    try:
        # What is cut may end within a character.
        text = _UTF_8().decode(element[:_SHOWN_BYTES], final=not is_cut)
    except UnicodeDecodeError:
        text = repr(element[:_SHOWN_BYTES])
    return f"{text}... ({len(element)} bytes)" if is_cut else text
