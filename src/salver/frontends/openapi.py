"""The OpenAPI document of everything that Salver answers over HTTP."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

from salver.frontends import openapi_examples as examples
from salver.frontends.openapi_cache import CACHE_SCHEMAS, CACHE_TAG, CLUSTER_TAG, cache_paths
from salver.frontends.openapi_graphs import GRAPH_SCHEMAS, GRAPH_TAG, graph_paths
from salver.frontends.openapi_management import MANAGEMENT_PARAMETERS, TAG, management_paths
from salver.frontends.openapi_management_schemas import MANAGEMENT_SCHEMAS
from salver.frontends.openapi_parts import (
    Operation,
    content_object,
    error_answers,
    get_operation,
    health_answers,
    json_answers,
    json_body,
    json_content,
    operation_object,
    parameter_reference,
)
from salver.frontends.openapi_schemas import SCHEMAS

_DESCRIPTION: Final = """\
Predictions from models over the V2 protocol (Open Inference Protocol). A path without `/versions/{version}` means the \
model's newest version that is ready.

Errors are `{"error": "text"}`. A request may bring an id of its own in `x-request-id`; the answer and the server's \
log repeat it. Other requests get a new id, and their answers have it too, but for those of `infer`."""

_TAGS: Final = (
    ("inference", "Ask a model."),
    ("models", "What a model takes and gives, and how it does."),
    ("repository", "Which models there are; load and unload them."),
    GRAPH_TAG,
    TAG,
    CACHE_TAG,
    CLUSTER_TAG,
    ("server", "Is it there, is it ready, what is it."),
    ("monitoring", "For monitoring systems and for readers."),
    ("shared memory", "Not supported. Clients ask for the regions, and are told that there are none."),
)

_BINARY_REQUEST: Final = """\
The binary form: the same JSON, and right behind it the bytes of those tensors that have `binary_data_size` among \
their parameters instead of `data`, in the order of `inputs`. The header `Inference-Header-Content-Length` says how \
long the JSON is. Numbers are little-endian; a BYTES element is its length in 4 bytes, then the bytes. Where the \
header is 0, the body is nothing but the bytes of the model's only input. The Content-Type doesn't matter."""

_BINARY_ANSWER: Final = """\
The binary form, where outputs were asked for in it: JSON as long as `Inference-Header-Content-Length` says, then the \
bytes of the outputs that have `binary_data_size`, in order."""

_LENGTH_HEADER: Final = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "Bytes of JSON (uncompressed) before the binary tensors. Only with the binary form.",
    "schema": {"type": "integer", "minimum": 0},
}

_TIMEOUT_HEADER: Final = {
    "name": "x-request-timeout",
    "in": "header",
    "description": "Seconds within which the answer is of use, such as 0.25, from the request's arrival. With the "
    "parameter `timeout` as well, the earlier end counts.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}

_PARAMETERS: Final[dict[str, Operation]] = {
    "model": {
        "name": "model",
        "in": "path",
        "required": True,
        "description": "The model's name, or `NAME@ALIAS`.",
        "schema": {
            "type": "string",
            "pattern": r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}(@[A-Za-z][A-Za-z0-9_.\-]{0,63})?$",
        },
    },
    "version": {
        "name": "version",
        "in": "path",
        "required": True,
        "description": "A version of the model: an integer, or letters and digits.",
        "schema": {"type": "string", "pattern": r"^[A-Za-z0-9]{1,64}$"},
    },
}

_ERRORS: Final = {
    "400": "The request can't be understood, doesn't fit the model, or is over a limit.",
    "404": "There is no such model, version or URL.",
    "409": "The request doesn't fit what is there: a version that exists, or that serves traffic.",
    "405": "The URL doesn't take this method.",
    "429": "As many requests wait for this model version as may. Send it again later.",
    "499": "The client has closed its side of the connection, and so its request was cancelled.",
    "500": "The model failed, or the server did.",
    "501": "The request asks for something that the server doesn't do, such as shared memory.",
    "503": "The model or the server isn't ready, or the instance that ran the request has died.",
    "504": "The request's deadline has passed.",
}

_INFERENCE_ERRORS: Final = ("400", "404", "429", "499", "501", "503", "504")


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    paths = _server_paths() | _monitoring_paths() | _repository_paths()
    paths |= graph_paths() | management_paths() | cache_paths()
    for version_path in ("", "/versions/{version}"):
        paths |= _model_paths(f"/v2/models/{{model}}{version_path}", "Version" if version_path else "")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Salver",
            "version": version("salver"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": description} for name, description in _TAGS],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS | GRAPH_SCHEMAS | MANAGEMENT_SCHEMAS | CACHE_SCHEMAS,
            "parameters": _PARAMETERS | MANAGEMENT_PARAMETERS,
            "responses": {status: _error(status, meaning) for status, meaning in _ERRORS.items()},
        },
    }


def _model_paths(path: str, suffix: str) -> dict[str, Operation]:
    here = [parameter_reference("model"), *([parameter_reference("version")] if suffix else [])]

    def route(action: str, method: str, operation: Operation) -> dict[str, Operation]:
        operation["operationId"] += suffix
        return {path + action: {"parameters": here, method: operation}}

    return (
        route("/infer", "post", _infer())
        | route("/generate", "post", _generate())
        | route("/generate_stream", "post", _generate_stream())
        | route(
            "",
            "get",
            get_operation(
                "modelMetadata", "models", "Inputs, outputs and versions", json_answers("ModelMetadata", "404", "503")
            ),
        )
        | route(
            "/ready", "get", get_operation("modelReady", "models", "Is it ready?", health_answers("ModelReady", "404"))
        )
        | route(
            "/config",
            "get",
            get_operation("modelConfig", "models", "Configuration", json_answers("ModelConfig", "404", "503")),
        )
        | route(
            "/stats",
            "get",
            get_operation("modelStatistics", "models", "Statistics", json_answers("Statistics", "404", "503")),
        )
    )


def _server_paths() -> dict[str, Operation]:
    return {
        "/v2": {
            "get": get_operation(
                "serverMetadata", "server", "Name, version and extensions", json_answers("ServerMetadata")
            )
        },
        "/v2/health/live": {
            "get": get_operation("serverLive", "server", "Does the process work?", health_answers("ServerLive"))
        },
        "/v2/health/ready": {
            "get": get_operation("serverReady", "server", "Have the models been loaded?", health_answers("ServerReady"))
        },
        "/v2/models/stats": {
            "get": get_operation("allStatistics", "models", "Statistics of all models", json_answers("Statistics"))
        },
        "/v2/systemsharedmemory/status": {
            "get": get_operation(
                "systemSharedMemory", "shared memory", "System regions: none", json_answers("NoRegions")
            )
        },
        "/v2/cudasharedmemory/status": {
            "get": get_operation("cudaSharedMemory", "shared memory", "CUDA regions: none", json_answers("NoRegions"))
        },
    }


def _repository_paths() -> dict[str, Operation]:
    index = json_answers("RepositoryIndex", "400")
    body = json_body("IndexRequest", examples.INDEX, required=False)
    change = {"parameters": [parameter_reference("model")]}
    load = json_answers("Empty", "400", "404", "501")
    unload = json_answers("Empty", "400", "404")
    return {
        "/v2/repository/index": {
            "post": operation_object(
                "repositoryIndex", "repository", "All versions and their states", index, body=body
            ),
            "get": get_operation("repositoryIndexAll", "repository", "All versions and their states", index),
        },
        "/v2/repository/models/{model}/load": change
        | {
            "post": operation_object(
                "loadModel",
                "repository",
                "Load or reload a model",
                load,
                description="Loads the model's versions as they are in the repository now. What can't be loaded "
                "replaces nothing that serves; the error (400) says why.",
                body=json_body("LoadRequest", None, required=False),
            )
        },
        "/v2/repository/models/{model}/unload": change
        | {
            "post": operation_object(
                "unloadModel",
                "repository",
                "Unload a model",
                unload,
                description="Requests that the model works on are answered first.",
                body=json_body("UnloadRequest", None, required=False),
            )
        },
    }


def _monitoring_paths() -> dict[str, Operation]:
    def page(operation: str, summary: str, content_type: str) -> dict[str, Operation]:
        answers = json_answers(None) | {
            "200": content_object("The page.", {content_type: {"schema": {"type": "string"}}})
        }
        return {"get": get_operation(operation, "monitoring", summary, answers)}

    return {
        "/metrics": page("metrics", "Metrics in the Prometheus text format", "text/plain"),
        "/openapi.json": page("openapi", "This document", "application/json"),
        "/docs": page("docs", "This document, to read and to try", "text/html"),
    }


def _infer() -> Operation:
    request = json_body("InferenceRequest", examples.INFER)
    request["content"]["application/octet-stream"] = {"schema": {"type": "string", "description": _BINARY_REQUEST}}
    answer = content_object("The model's answer.", json_content("InferenceResponse", examples.INFERRED))
    answer["content"]["application/octet-stream"] = {"schema": {"type": "string", "description": _BINARY_ANSWER}}
    answer["headers"] |= {
        "Inference-Header-Content-Length": {key: _LENGTH_HEADER[key] for key in ("description", "schema")}
    }
    operation = operation_object(
        "infer",
        "inference",
        "Run the model on tensors",
        {"200": answer} | error_answers(*_INFERENCE_ERRORS),
        description="Bodies may be compressed (`Content-Encoding: gzip` or `deflate`). The answer is, where "
        "`Accept-Encoding` names exactly one of these.",
        body=request,
    )
    return operation | {"parameters": [_LENGTH_HEADER, _TIMEOUT_HEADER]}


def _generate() -> Operation:
    operation = operation_object(
        "generate",
        "inference",
        "Run the model on plain values",
        {"200": content_object("The model's answer.", json_content("GenerateResponse", examples.GENERATED))}
        | error_answers(*_INFERENCE_ERRORS),
        description="Inputs and outputs as one flat JSON object. For models whose inputs are a text, a number or a "
        "list of them.",
        body=json_body("GenerateRequest", examples.GENERATE),
    )
    return operation | {"parameters": [_TIMEOUT_HEADER]}


def _generate_stream() -> Operation:
    stream = {"text/event-stream": {"schema": {"type": "string"}, "examples": examples.GENERATED_STREAM}}
    operation = operation_object(
        "generateStream",
        "inference",
        "Run the model on plain values, and get answers as they come",
        {"200": content_object("Server-sent events; the data of each is what `generate` answers.", stream)}
        | error_answers(*_INFERENCE_ERRORS),
        description='An error after the first event comes as an event `{"error": "text"}`, which is the last one. '
        "A model that doesn't stream gives one event.",
        body=json_body("GenerateRequest", examples.GENERATE_STREAM),
    )
    return operation | {"parameters": [_TIMEOUT_HEADER]}


def _error(status: str, meaning: str) -> Operation:
    answer = content_object(meaning, json_content("Error"))
    if status == "429":
        answer["headers"] |= {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    return answer
