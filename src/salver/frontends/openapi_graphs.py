"""The part of the OpenAPI document that is about graphs."""

from __future__ import annotations

from typing import Any, Final

from salver.frontends.openapi_parts import Operation, json_answers, json_body, operation_object, parameter_reference
from salver.frontends.openapi_schemas import (
    Schema,
    reference,
    schema_count,
    schema_list,
    schema_object,
    schema_text,
)
from salver.graph.spec import KINDS

GRAPH_TAG: Final = ("graphs", "What graphs are made of, and what their steps do.")

_EXPLAINED: Final = {
    "numbers": {
        "summary": "a graph with one input of two numbers",
        "value": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]},
    }
}

_YES_NO: Final[Schema] = {"type": "boolean"}
_MICROSECONDS: Final[Schema] = {"type": "number", "minimum": 0, "description": "From the request's begin."}
_KIND: Final[Schema] = {"type": "string", "enum": list(KINDS)}
_WHICH: Final[dict[str, Schema]] = {"name": schema_text(), "version": schema_text()}

_SHOWN_TENSOR: Final = schema_object(
    "A tensor and its first elements.",
    {
        "name": schema_text("Of an input: the reference that it was got by."),
        "datatype": reference("Datatype"),
        "shape": schema_list(schema_count()),
        "data": schema_list({}, "The first elements. NaN and infinities are texts."),
        "is_all": _YES_NO | {"description": "There are no more elements."},
    },
    "name",
    "datatype",
    "shape",
    "data",
    "is_all",
)

_STEP: Final = schema_object(
    "A step.",
    {
        "name": schema_text("Of a step inside another: OUTER/INNER."),
        "kind": _KIND,
        "asks": schema_text("Its model or function."),
        "description": schema_text(),
        "when": schema_text("Its condition."),
        "needs": schema_list(schema_text(), "Steps that it waits for; `inputs` for the graph's inputs."),
        "optional": _YES_NO,
        "statistics": schema_object(
            "Since the graph was loaded.",
            {
                "ok": schema_count("Runs that gave outputs."),
                "failed": schema_count(),
                "skipped": schema_count(),
                "retries": schema_count("Tries after the first."),
                "fallbacks": schema_count("Runs in which the fallback answered."),
                "seconds": {"type": "number", "minimum": 0, "description": "That the runs that gave outputs took."},
            },
        ),
        "steps": schema_list(reference("GraphStep"), "The steps inside it."),
        "fallback": reference("GraphStep"),
    },
    "name",
    "kind",
    "asks",
    "needs",
    "statistics",
)

_TIME_LINE: Final[dict[str, Schema]] = {
    "id": schema_text("The request's own; empty where it has none."),
    "time": {"type": "number", "description": "When it came, in seconds since 1970."},
    "microseconds": _MICROSECONDS | {"description": "How long it took."},
    "error": schema_text("Why it failed; empty where it was answered."),
    "steps": schema_list(reference("GraphStepRun"), "In the order in which they ended."),
}

GRAPH_SCHEMAS: Final[dict[str, Schema]] = {
    "Graphs": schema_object(
        "Graphs that are loaded.",
        {"graphs": schema_list(schema_object("", _WHICH | {"description": schema_text()}, "name", "version"))},
        "graphs",
    ),
    "Graph": schema_object(
        "A graph.",
        _WHICH
        | {
            "description": schema_text(),
            "inputs": schema_list(reference("GraphTensor")),
            "outputs": schema_list(reference("GraphTensor")),
            "models": schema_list(schema_text("`NAME` or `NAME/VERSION`."), "The models that its steps ask."),
            "steps": schema_list(reference("GraphStep")),
            "answers": schema_list(schema_text(), "The steps that give its outputs."),
        },
        "name",
        "version",
        "inputs",
        "outputs",
        "models",
        "steps",
        "answers",
    ),
    "GraphTensor": schema_object(
        "An input or output of a graph.",
        {
            "name": schema_text(),
            "datatype": {"description": "null for any.", "anyOf": [reference("Datatype"), {"type": "null"}]},
            "shape": {
                "type": ["array", "null"],
                "items": {"type": "integer", "minimum": -1},
                "description": "-1 is any size; null any shape.",
            },
            "optional": _YES_NO,
        },
        "name",
        "datatype",
        "shape",
        "optional",
    ),
    "GraphStep": _STEP,
    "GraphStepRun": schema_object(
        "A run of a step. An explained one has its tensors.",
        {
            "step": schema_text(),
            "kind": _KIND,
            "status": {
                "type": "string",
                "enum": ["ok", "skipped", "answered", "fallback", "failed", "error"],
                "description": "`failed`: an optional step. `answered`: it has ended the graph.",
            },
            "detail": schema_text("Which version answered, which way was taken, or what went wrong."),
            "attempts": schema_count("0 where the fallback answered."),
            "start": _MICROSECONDS,
            "end": _MICROSECONDS,
            "inputs": schema_list(reference("ShownTensor")),
            "outputs": schema_list(reference("ShownTensor")),
        },
        "step",
        "kind",
        "status",
        "detail",
        "attempts",
        "start",
        "end",
    ),
    "GraphTraces": schema_object(
        "Time lines of some of the last requests, the newest at the end.",
        {"traces": schema_list(schema_object("", _TIME_LINE, *_TIME_LINE))},
        "traces",
    ),
    "ExplainedRequest": schema_object(
        "A request's way through a graph.",
        _WHICH | _TIME_LINE | {"outputs": schema_list(reference("ShownTensor"), "The answer; empty after an error.")},
        *_WHICH,
        *_TIME_LINE,
        "outputs",
    ),
    "ShownTensor": _SHOWN_TENSOR,
}

_VERSION_IN_QUERY: Final[dict[str, Any]] = {
    "name": "version",
    "in": "query",
    "description": "A version, a label or an alias. Left out: the newest.",
    "schema": {"type": "string"},
}


def graph_paths() -> dict[str, Operation]:
    """The paths of graphs."""
    tag = GRAPH_TAG[0]
    which: dict[str, Any] = {"parameters": [parameter_reference("model"), _VERSION_IN_QUERY]}
    return {
        "/api/v1/graphs": {
            "get": operation_object("listGraphs", tag, "Graphs that are loaded", json_answers("Graphs"))
        },
        "/api/v1/graphs/{model}": which
        | {
            "get": operation_object(
                "showGraph",
                tag,
                "A graph's steps, and what they have done",
                json_answers("Graph", "400", "404", "429", "503", "504"),
            )
        },
        "/api/v1/graphs/{model}/traces": which
        | {
            "get": operation_object(
                "graphTraces",
                tag,
                "Time lines of the last requests",
                json_answers("GraphTraces", "400", "404", "429", "503", "504"),
            )
        },
        "/api/v1/graphs/{model}/explain": which
        | {
            "post": operation_object(
                "explainRequest",
                tag,
                "Run a graph once, and tell what each step got and gave",
                json_answers("ExplainedRequest", "400", "404", "429", "499", "503", "504"),
                description="Takes what `infer` takes. Where a step fails, the answer is 200, and says how far the "
                "request came and why it failed.",
                body=json_body("InferenceRequest", _EXPLAINED),
            )
        },
    }
