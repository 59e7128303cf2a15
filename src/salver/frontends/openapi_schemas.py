"""The schemas of the OpenAPI document: what requests and answers of the REST API look like."""

from __future__ import annotations

from typing import Any, Final

from salver.core.model import ModelState
from salver.core.tensor import DTYPES

Schema = dict[str, Any]


def reference(name: str) -> Schema:
    """A reference to one of :data:`SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def schema_object(description: str, properties: dict[str, Schema], *required: str) -> Schema:
    """An object; "" for no description."""
    schema: Schema = {"type": "object", "properties": properties}
    if description:
        schema["description"] = description
    if required:
        schema["required"] = list(required)
    return schema


def schema_list(items: Schema, description: str = "") -> Schema:
    """An array."""
    schema: Schema = {"type": "array", "items": items}
    if description:
        schema["description"] = description
    return schema


def schema_text(description: str = "") -> Schema:
    """A string."""
    return {"type": "string", "description": description} if description else {"type": "string"}


def schema_count(description: str = "") -> Schema:
    """An integer of at least 0."""
    return {"type": "integer", "minimum": 0} | ({"description": description} if description else {})


_SHAPE: Final = schema_list({"type": "integer", "minimum": 0}, "The size of each dimension; [] for a scalar.")
_DATA: Final = schema_list(
    {},
    "The elements in row-major order, flat or nested as the shape is. BYTES elements are texts. FP16 and BF16 have no "
    "JSON form. In answers it is flat, and null stands for NaN and infinities.",
)
_ID: Final = schema_text("The client's own id of the request; the answer repeats it.")

_INFERENCE: Final[dict[str, Schema]] = {
    "Datatype": {
        "type": "string",
        "description": "A datatype of the protocol. BYTES holds texts or any other bytes.",
        "enum": list(DTYPES),
    },
    "Parameters": {
        "type": "object",
        "description": "Values that the model may read. Names that begin with `triton_` are reserved.",
        "additionalProperties": {"type": ["string", "number", "boolean"]},
    },
    "RequestParameters": {
        "type": "object",
        "description": "Values that the model may read, and some that the server takes for itself. Names that begin "
        "with `triton_` are reserved.",
        "properties": {
            "priority": schema_count("The level of the model's queue: 1 is served first, 0 is the model's default."),
            "timeout": schema_count("Microseconds within which the answer is of use; 0 for any time."),
        },
        "additionalProperties": {"type": ["string", "number", "boolean"]},
    },
    "InputTensor": schema_object(
        "One input, with its elements in `data`, or as bytes behind the JSON, of which it then has `binary_data_size`.",
        {
            "name": schema_text("The input's name, as the model's metadata has it."),
            "datatype": reference("Datatype"),
            "shape": _SHAPE,
            "data": _DATA,
            "parameters": schema_object(
                "For the binary form.", {"binary_data_size": schema_count("Bytes of this tensor behind the JSON.")}
            ),
        },
        "name",
        "datatype",
        "shape",
    ),
    "RequestedOutput": schema_object(
        "An output that the answer shall have.",
        {
            "name": schema_text(),
            "parameters": schema_object(
                "", {"binary_data": {"type": "boolean", "default": False, "description": "Answer it in binary form."}}
            ),
        },
        "name",
    ),
    "InferenceRequest": schema_object(
        "Input tensors, and what is wanted of the model.",
        {
            "id": _ID,
            "inputs": schema_list(reference("InputTensor")),
            "outputs": schema_list(
                reference("RequestedOutput"), "The outputs wanted, in this order. Without it: all, in the model's."
            ),
            "parameters": {
                "description": "Besides the model's own, `binary_data_output`: true asks for all outputs in binary "
                "form, where `outputs` isn't there.",
                "allOf": [reference("RequestParameters")],
            },
        },
        "inputs",
    ),
    "OutputTensor": schema_object(
        "One output.",
        {
            "name": schema_text(),
            "datatype": reference("Datatype"),
            "shape": _SHAPE,
            "data": _DATA,
            "parameters": schema_object(
                "For the binary form.", {"binary_data_size": schema_count("Bytes of this tensor behind the JSON.")}
            ),
        },
        "name",
        "datatype",
        "shape",
    ),
    "InferenceResponse": schema_object(
        "The model's answer.",
        {
            "model_name": schema_text(),
            "model_version": schema_text("The version that answered."),
            "id": _ID,
            "parameters": reference("Parameters"),
            "outputs": schema_list(reference("OutputTensor")),
        },
        "model_name",
        "model_version",
        "outputs",
    ),
    "GenerateRequest": {
        "type": "object",
        "description": "Each key that is an input of the model is that input: a text, a number, a boolean, or a list "
        "of them. Any other key is a request parameter, and so is each key of `parameters`.",
        "properties": {"id": _ID, "parameters": reference("RequestParameters")},
        "additionalProperties": True,
    },
    "GenerateResponse": {
        "type": "object",
        "description": "The outputs by name. An output of one element is a plain value, any other a list.",
        "properties": {"model_name": schema_text(), "model_version": schema_text(), "id": _ID},
        "required": ["model_name", "model_version"],
        "additionalProperties": True,
    },
    "Error": schema_object(
        "What is wrong, what was expected, and what to do.", {"error": schema_text("A text for people.")}, "error"
    ),
}

_TENSOR_METADATA: Final = schema_object(
    "An input or output of a model.",
    {
        "name": schema_text(),
        "datatype": {
            "description": "ANY where the model takes any datatype.",
            "anyOf": [reference("Datatype"), {"const": "ANY"}],
        },
        "shape": schema_list({"type": "integer", "minimum": -1}, "With the batch dimension; -1 is any size."),
    },
    "name",
    "datatype",
    "shape",
)

_CONFIG_TENSOR: Final[dict[str, Schema]] = {
    "name": schema_text(),
    "data_type": schema_text("TYPE_FP32 and so on; TYPE_STRING for BYTES."),
    "dims": schema_list({"type": "integer", "minimum": -1}, "Without the batch dimension."),
}

_SERVER_AND_MODELS: Final[dict[str, Schema]] = {
    "ServerMetadata": schema_object(
        "What this server is.",
        {
            "name": schema_text(),
            "version": schema_text(),
            "extensions": schema_list(schema_text(), "Protocol extensions that it speaks."),
        },
        "name",
        "version",
        "extensions",
    ),
    "ServerLive": schema_object("", {"live": {"type": "boolean"}}, "live"),
    "ServerReady": schema_object("", {"ready": {"type": "boolean"}}, "ready"),
    "ModelReady": schema_object("", {"name": schema_text(), "ready": {"type": "boolean"}}, "name", "ready"),
    "TensorMetadata": _TENSOR_METADATA,
    "ModelMetadata": schema_object(
        "A model's signature.",
        {
            "name": schema_text(),
            "versions": schema_list(schema_text(), "The versions that are ready, oldest first."),
            "platform": schema_text("The format, such as onnxruntime_onnx."),
            "inputs": schema_list(reference("TensorMetadata")),
            "outputs": schema_list(
                reference("TensorMetadata"), "Empty where a model doesn't tell them before it has run."
            ),
        },
        "name",
        "versions",
        "platform",
        "inputs",
        "outputs",
    ),
    "ModelConfig": schema_object(
        "A model's configuration, in the form that Triton's clients read.",
        {
            "name": schema_text(),
            "platform": schema_text(),
            "backend": schema_text("The runtime."),
            "version_policy": {"type": "object"},
            "max_batch_size": schema_count("0 where the model has no batch dimension."),
            "input": schema_list(
                schema_object(
                    "",
                    _CONFIG_TENSOR | {"optional": {"type": "boolean"}, "allow_ragged_batch": {"type": "boolean"}},
                )
            ),
            "output": schema_list(schema_object("", _CONFIG_TENSOR)),
            "instance_group": schema_list(
                schema_object(
                    "Where the model runs.",
                    {
                        "name": schema_text(),
                        "kind": {"enum": ["KIND_CPU", "KIND_GPU"]},
                        "count": schema_count(),
                        "gpus": schema_list(schema_count()),
                    },
                )
            ),
            "default_model_filename": schema_text(),
            "parameters": {
                "type": "object",
                "additionalProperties": schema_object("", {"string_value": schema_text()}, "string_value"),
            },
            "model_transaction_policy": schema_object(
                "", {"decoupled": {"type": "boolean", "description": "Whether the model streams its answers."}}
            ),
        },
        "name",
        "max_batch_size",
        "input",
        "output",
    ),
    "IndexRequest": schema_object(
        "Which versions to list.",
        {"ready": {"type": "boolean", "default": False, "description": "Only those that are ready."}},
    ),
    "RepositoryIndex": schema_list(
        schema_object(
            "A model version.",
            {
                "name": schema_text(),
                "version": schema_text("Empty for what is wrong with a model as a whole."),
                "state": {"type": "string", "enum": [state.value for state in ModelState]},
                "reason": schema_text("Why it isn't ready, or why its reload failed."),
            },
            "name",
            "version",
            "state",
            "reason",
        )
    ),
    "LoadRequest": schema_object(
        "Nothing, or an empty object. A model is loaded as its repository folder says.",
        {"parameters": {"type": "object", "maxProperties": 0}},
    ),
    "UnloadRequest": schema_object(
        "Nothing, or an empty object.", {"parameters": schema_object("", {"unload_dependents": {"type": "boolean"}})}
    ),
    "Empty": {"type": "object", "maxProperties": 0},
    "NoRegions": {
        "type": "array",
        "maxItems": 0,
        "description": "No regions: shared memory isn't supported.",
    },
}

_DURATIONS: Final = {
    "success": "Answered requests, and their time in all.",
    "fail": "Failed requests, and their time in all.",
    "queue": "Waiting for the model.",
    "compute_input": "Checking and preparing inputs.",
    "compute_infer": "Computing.",
    "compute_output": "Preparing outputs.",
    "cache_hit": "Always 0.",
    "cache_miss": "Always 0.",
}

_STATISTICS: Final[dict[str, Schema]] = {
    "Duration": schema_object(
        "How often something happened, and for how long in all.",
        {"count": schema_count(), "ns": schema_count("Nanoseconds.")},
        "count",
        "ns",
    ),
    "ModelStatistics": schema_object(
        "Counters of one model version since it was loaded.",
        {
            "name": schema_text(),
            "version": schema_text(),
            "last_inference": schema_count("Milliseconds since 1970; 0 for never."),
            "inference_count": schema_count("A request with a batch of 8 counts 8."),
            "execution_count": schema_count("Runs of the model."),
            "inference_stats": schema_object(
                "",
                {
                    name: {"description": meaning, "allOf": [reference("Duration")]}
                    for name, meaning in _DURATIONS.items()
                },
            ),
            "batch_stats": schema_list(
                schema_object(
                    "Runs with one batch size.",
                    {
                        "batch_size": schema_count(),
                        "compute_input": reference("Duration"),
                        "compute_infer": reference("Duration"),
                        "compute_output": reference("Duration"),
                    },
                    "batch_size",
                )
            ),
        },
        "name",
        "version",
        "inference_stats",
        "batch_stats",
    ),
    "Statistics": schema_object("", {"model_stats": schema_list(reference("ModelStatistics"))}, "model_stats"),
}

SCHEMAS: Final[dict[str, Schema]] = _INFERENCE | _SERVER_AND_MODELS | _STATISTICS
"""Every schema by its name."""
