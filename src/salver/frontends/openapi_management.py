"""The management API's part of the OpenAPI document: its paths, parameters and examples."""

from __future__ import annotations

from typing import Any, Final

from salver.frontends.openapi_examples import Examples
from salver.frontends.openapi_parts import (
    Operation,
    content_object,
    error_answers,
    json_answers,
    json_body,
    json_content,
    operation_object,
    parameter_reference,
)
from salver.frontends.openapi_schemas import Schema

TAG: Final = ("model store", "Push, name and delete model versions. Only of servers with a model store.")

_SHA256: Final = "0b54bba3a3c2cb4ac0ef4ed2a5a3ad2e8a2eab4ac4b0b0cfc7b4ba67e2e5b8aa"
_FILE: Final = {"path": "model.onnx", "size": 14551, "sha256": _SHA256}

_EXAMPLES: Final[dict[str, Examples]] = {
    "PushRequest": {
        "digits": {
            "summary": "one file, as the next version",
            "value": {"files": [_FILE], "metadata": {"owner": "ada", "tags": {"team": "vision"}}},
        }
    },
    "Upload": {
        "digits": {
            "summary": "nothing has been sent yet",
            "value": {
                "upload": "3f0a6d5be8f34c1c9b1d2f3a4b5c6d7e",
                "name": "digits",
                "version": "",
                "digest": _SHA256,
                "size": 14551,
                "missing": [{"sha256": _SHA256, "size": 14551, "received": 0}],
            },
        }
    },
    "AliasRequest": {"digits": {"summary": "version 3", "value": {"version": "3"}}},
}

MANAGEMENT_PARAMETERS: Final[dict[str, Any]] = {
    name: {"name": name, "in": "path", "required": True, "description": description, "schema": schema}
    for name, description, schema in (
        ("alias", "An alias: letters, digits, '_', '-' and '.', a letter first.", {"type": "string"}),
        ("path", "The path of a file, as `files` lists it.", {"type": "string"}),
        ("upload", "The id of an upload.", {"type": "string", "pattern": "^[0-9a-f]{32}$"}),
        ("sha256", "The SHA-256 of a file.", {"type": "string", "pattern": "^[0-9a-f]{64}$"}),
    )
} | {
    "reference": {
        "name": "version",
        "in": "path",
        "required": True,
        "description": "A version, or `@ALIAS`.",
        "schema": {"type": "string"},
    }
}


_MODEL: Final = "/api/v1/models/{model}"
_VERSION: Final = _MODEL + "/versions/{version}"
_UPLOAD: Final = "/api/v1/uploads/{upload}"


def management_paths() -> dict[str, Operation]:
    """The paths of the model store."""
    return _model_paths() | _version_paths() | _upload_paths()


def _model_paths() -> dict[str, Operation]:
    model = {"parameters": [parameter_reference("model")]}
    history = json_answers("History", "400", "404", "503")
    paging = {"parameters": [_LIMIT, _query("before", "Only changes before this revision.", _COUNT)]}
    alias = [parameter_reference("model"), parameter_reference("alias")]
    return {
        "/api/v1/models": {
            "get": _operation("listModels", "Models by name", json_answers("RegisteredModels", "400", "404", "503"))
            | {
                "parameters": [
                    _query("prefix", "Only models whose names begin with this.", _TEXT),
                    _query("tag", "`NAME:VALUE`: only models that have a version with this tag.", _TEXT),
                    _query("after", "Only models after this name: `next` of the page before.", _TEXT),
                    _LIMIT,
                ]
            }
        },
        _MODEL: model
        | {
            "get": _operation("showModel", "A model and its versions", json_answers("RegisteredModel", "404", "503")),
            "delete": _operation("deleteModel", "Delete a model", json_answers("Empty", "400", "404", "409", "503"))
            | {"parameters": [_FORCE], "description": "With all its versions and aliases."},
        },
        f"{_MODEL}/aliases/{{alias}}": {
            "parameters": alias,
            "put": _operation(
                "setAlias",
                "Let an alias point to a version",
                json_answers("Alias", "400", "404", "409", "503"),
                body="AliasRequest",
            ),
            "delete": _operation("deleteAlias", "Take an alias away", json_answers("Empty", "404", "503")),
        },
        f"{_MODEL}/audit": model | {"get": _operation("modelHistory", "What was changed in a model", history) | paging},
        "/api/v1/audit": {"get": _operation("history", "What was changed in all models", history) | paging},
    }


def _version_paths() -> dict[str, Operation]:
    by_reference = {"parameters": [parameter_reference("model"), parameter_reference("reference")]}
    file = content_object("The file's bytes.", {"application/octet-stream": {"schema": {"type": "string"}}})
    part = content_object("The part of the file that `Range` asks for.", file["content"])
    outside = content_object("The range isn't in the file.", json_content("Error"))
    return {
        f"{_MODEL}/versions": {
            "parameters": [parameter_reference("model")],
            "post": _operation(
                "beginPush",
                "Begin to push a version, or go on with it",
                json_answers("Upload", "400", "404", "409", "429", "501", "503"),
                body="PushRequest",
                description="Answers what is still to be sent. Asking again with the same files goes on with the same "
                "upload.",
            ),
        },
        _VERSION: by_reference
        | {
            "get": _operation("showVersion", "All about a version", json_answers("ModelVersion", "404", "503")),
            "delete": _operation("deleteVersion", "Delete a version", json_answers("Empty", "400", "404", "409", "503"))
            | {"parameters": [_FORCE]},
        },
        f"{_VERSION}/files": by_reference
        | {"get": _operation("listFiles", "The files of a version", json_answers("VersionFiles", "400", "404", "503"))},
        f"{_VERSION}/files/{{path}}": {
            "parameters": [*by_reference["parameters"], parameter_reference("path")],
            "get": _operation(
                "downloadFile",
                "A file of a version",
                {"200": file, "206": part, "416": outside} | error_answers("400", "404", "503"),
            )
            | {
                "parameters": [
                    {
                        "name": "Range",
                        "in": "header",
                        "description": "One range of bytes, such as `bytes=1000-`.",
                        "schema": _TEXT,
                    }
                ]
            },
        },
    }


def _upload_paths() -> dict[str, Operation]:
    upload = [parameter_reference("upload")]
    wrong = content_object("The offset isn't where the file ends.", json_content("WrongOffset"))
    version = json_content("ModelVersion")
    committed = {
        "200": content_object("The version was there already.", version),
        "202": content_object("The version is registered, and waits for its probe.", version),
    }
    blob = _operation(
        "sendFile",
        "Send bytes of a file",
        json_answers("Received", "400", "404", "503", "504") | {"409": wrong},
    ) | {
        "description": "Appends to what has come. What came stays where the connection breaks.",
        "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string"}}}},
        "parameters": [_query("offset", "Where in the file the bytes belong.", _COUNT | {"default": 0})],
    }
    return {
        _UPLOAD: {
            "parameters": upload,
            "get": _operation("showUpload", "What is still to be sent", json_answers("Upload", "404", "503")),
            "delete": _operation("giveUpUpload", "Give an upload up", json_answers("Empty", "404")),
        },
        f"{_UPLOAD}/blobs/{{sha256}}": {"parameters": [*upload, parameter_reference("sha256")], "put": blob},
        f"{_UPLOAD}/commit": {
            "parameters": upload,
            "post": _operation(
                "commitUpload",
                "Make a version of what was sent",
                committed | error_answers("400", "404", "409", "503"),
            ),
        },
    }


def _query(name: str, description: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _operation(operation: str, summary: str, answers: Operation, *, body: str = "", description: str = "") -> Operation:
    request = json_body(body, _EXAMPLES[body]) if body else None
    return operation_object(operation, TAG[0], summary, answers, body=request, description=description)


_TEXT: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_LIMIT: Final = _query("limit", "Entries of a page.", _COUNT | {"minimum": 1, "maximum": 1000, "default": 100})
_FORCE: Final = _query("force", "Also what was used in the last minute.", {"type": "boolean", "default": False})
