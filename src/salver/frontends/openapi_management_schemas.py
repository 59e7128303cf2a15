"""Schemas of the management API: models, versions, pushes and history as its requests and answers have them."""

from __future__ import annotations

from typing import Final

from salver.core.registry import VersionState
from salver.frontends.openapi_schemas import Schema, reference, schema_count, schema_list, schema_object, schema_text
from salver.wire.model_store_json import METADATA_TEXTS

_NULL: Final[Schema] = {"type": "null"}
_TIME: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}
_FREE: Final[Schema] = {"type": "object", "additionalProperties": True}
_STATE: Final[Schema] = {"type": "string", "enum": [state.value for state in VersionState]}

MANAGEMENT_SCHEMAS: Final[dict[str, Schema]] = {
    "ArtifactFile": schema_object(
        "One file of a version.",
        {
            "path": schema_text("Relative, with / between its parts."),
            "size": schema_count("Bytes."),
            "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        },
        "path",
        "size",
        "sha256",
    ),
    "VersionMetadata": schema_object(
        "What whoever pushes a version tells of it; all of it may be left out.",
        {name: schema_text() for name in METADATA_TEXTS}
        | {
            "tags": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "Short texts by name, which lists can be filtered by.",
            },
            "properties": _FREE | {"description": "Any JSON."},
        },
    ),
    "PushRequest": schema_object(
        "A version that is to be pushed.",
        {
            "version": schema_text("Left out: the next number, or the version that has these files already."),
            "files": schema_list(reference("ArtifactFile")),
            "metadata": reference("VersionMetadata"),
        },
        "files",
    ),
    "Upload": schema_object(
        "A push that is under way.",
        {
            "upload": schema_text("Its id."),
            "name": schema_text(),
            "version": schema_text("Empty for the next number."),
            "digest": schema_text("Of the version's files."),
            "size": schema_count("Bytes of all files."),
            "missing": schema_list(
                schema_object(
                    "",
                    {"sha256": schema_text(), "size": schema_count(), "received": schema_count()},
                    "sha256",
                    "size",
                    "received",
                ),
                "What is still to be sent: files that neither the store nor this upload has as a whole.",
            ),
        },
        "upload",
        "name",
        "version",
        "digest",
        "size",
        "missing",
    ),
    "Received": schema_object("", {"received": schema_count("Bytes of the file that are here.")}, "received"),
    "WrongOffset": schema_object(
        "Bytes were sent for another place than the file's end.",
        {"error": schema_text(), "received": schema_count("Bytes of the file that are here: go on from there.")},
        "error",
    ),
    "VersionSignature": schema_object(
        "As the probe has found it.",
        {
            "inputs": schema_list(reference("TensorMetadata")),
            "outputs": schema_list(reference("TensorMetadata")),
            "batched": {"type": "boolean", "description": "The first dimension is a batch dimension."},
        },
        "inputs",
        "outputs",
        "batched",
    ),
    "Probe": schema_object(
        "What was measured when the version was loaded and run in a process of its own.",
        {
            "memory_bytes": schema_count("That it takes, its framework not counted."),
            "peak_memory_bytes": schema_count("The most that loading and running took."),
            "device_memory_bytes": schema_count("On the accelerator."),
            "load_seconds": {"type": "number"},
            "latency_seconds": {
                "type": "object",
                "description": "Rows of a batch -> median seconds of an execution.",
                "additionalProperties": {"type": "number"},
            },
            "max_batch_size": schema_count("Rows of the largest batch that pays."),
            "efficient_batch_size": {"type": ["integer", "null"]},
            "batch_size_reason": schema_text(),
            "threads": {"type": ["integer", "null"]},
            "device": schema_text(),
            "platform": schema_text(),
            "framework": schema_text(),
            "framework_version": schema_text(),
            "streams": {"type": "boolean", "description": "It answers with one response after another."},
        },
        "memory_bytes",
        "load_seconds",
        "latency_seconds",
    ),
    "ModelVersion": schema_object(
        "All that is known of a version.",
        {
            "name": schema_text(),
            "version": schema_text(),
            "state": _STATE,
            "reason": schema_text("Why it FAILED."),
            "digest": schema_text("The SHA-256 of its files' paths, sizes and SHA-256."),
            "size": schema_count("Bytes of all files."),
            "runtime": schema_text("What loads it; empty before it was probed."),
            "config": _FREE | {"description": "What its model.yaml says."},
            "metadata": reference("VersionMetadata"),
            "signature": {"anyOf": [reference("VersionSignature"), _NULL]},
            "probe": {"anyOf": [reference("Probe"), _NULL]},
            "created_at": _TIME,
            "updated_at": _TIME,
            "revision": schema_count("Of the registry, when this was last changed."),
        },
        "name",
        "version",
        "state",
        "reason",
        "digest",
        "size",
        "metadata",
    ),
    "RegisteredModel": schema_object(
        "A model and its versions.",
        {
            "name": schema_text(),
            "description": schema_text(),
            "owner": schema_text(),
            "aliases": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "Alias -> version.",
            },
            "versions": schema_list(
                schema_object(
                    "What matters most of a version.",
                    {
                        "version": schema_text(),
                        "state": _STATE,
                        "reason": schema_text(),
                        "digest": schema_text(),
                        "size": schema_count(),
                        "memory_bytes": {"type": ["integer", "null"]},
                        "runtime": schema_text(),
                        "owner": schema_text(),
                        "tenant": schema_text(),
                        "tags": {"type": "object", "additionalProperties": {"type": "string"}},
                        "created_at": _TIME,
                    },
                    "version",
                    "state",
                    "size",
                ),
                "Oldest first.",
            ),
            "created_at": _TIME,
        },
        "name",
        "aliases",
        "versions",
    ),
    "RegisteredModels": schema_object(
        "A page of models, by name.",
        {
            "models": schema_list(reference("RegisteredModel")),
            "next": {"type": ["string", "null"], "description": "`after` of the next page; null where there is none."},
        },
        "models",
        "next",
    ),
    "AliasRequest": schema_object(
        "", {"version": schema_text('A version that is READY, or "@ALIAS" for the one of another alias.')}, "version"
    ),
    "Alias": schema_object(
        "", {"name": schema_text(), "alias": schema_text(), "version": schema_text()}, "name", "alias", "version"
    ),
    "VersionFiles": schema_object(
        "The files of a version.",
        {
            "name": schema_text(),
            "version": schema_text(),
            "digest": schema_text(),
            "size": schema_count(),
            "files": schema_list(reference("ArtifactFile")),
        },
        "name",
        "version",
        "digest",
        "size",
        "files",
    ),
    "History": schema_object(
        "A page of changes, newest first.",
        {
            "entries": schema_list(
                schema_object(
                    "",
                    {
                        "at": _TIME,
                        "actor": schema_text("`X-Salver-Actor` of the request, else api; probe for the server's own."),
                        "action": schema_text(),
                        "name": schema_text(),
                        "version": schema_text(),
                        "details": _FREE,
                        "revision": schema_count(),
                    },
                    "at",
                    "actor",
                    "action",
                    "name",
                    "revision",
                )
            ),
            "next": {
                "type": ["integer", "null"],
                "description": "`before` of the next page; null where there is none.",
            },
        },
        "entries",
        "next",
    ),
}
