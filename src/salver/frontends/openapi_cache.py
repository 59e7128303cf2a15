"""The part of the OpenAPI document that is about the model cache and the servers over one registry."""

from __future__ import annotations

from typing import Any, Final

from salver.frontends.openapi_parts import (
    Operation,
    json_answers,
    json_body,
    operation_object,
    parameter_reference,
)
from salver.frontends.openapi_schemas import (
    Schema,
    reference,
    schema_count,
    schema_list,
    schema_object,
    schema_text,
)

CACHE_TAG: Final = ("model cache", "What is loaded, what went and why, and hints of what will be asked for.")
CLUSTER_TAG: Final = ("cluster", "Servers over one registry. Only of servers with a model store.")

_SECONDS: Final[Schema] = {"type": ["number", "null"]}
_YES_NO: Final[Schema] = {"type": "boolean"}
_WHICH: Final[dict[str, Schema]] = {"name": schema_text(), "version": schema_text()}

CACHE_SCHEMAS: Final[dict[str, Schema]] = {
    "ModelCache": schema_object(
        "The model cache.",
        {
            "memory": {
                "type": "object",
                "description": "By device.",
                "additionalProperties": schema_object(
                    "",
                    {
                        "budget_bytes": schema_count("What the server may take."),
                        "models_bytes": schema_count("What loaded versions take, and loads have reserved."),
                        "used_bytes": schema_count("What the server is seen to have."),
                    },
                ),
            },
            "hits": schema_count("Requests that found their version loaded."),
            "misses": schema_count("Requests that had to wait for it."),
            "loads": schema_count(),
            "failed_loads": schema_count(),
            "evictions": schema_count(),
            "known_versions": schema_count("Versions that requests can have, loaded or not."),
            "loaded": schema_list(reference("CachedVersion")),
            "loading": schema_list(schema_object("", _WHICH | {"waiting": schema_count("Requests that wait for it.")})),
            "last_evictions": schema_list(
                schema_object(
                    "",
                    _WHICH
                    | {
                        "at": {"type": "number", "description": "Seconds since 1970."},
                        "reason": schema_text(),
                        "freed_bytes": schema_count(),
                        "idle_seconds": _SECONDS,
                    },
                )
            ),
        },
    ),
    "CachedVersion": schema_object(
        "A loaded version. Those that would go first come first.",
        _WHICH
        | {
            "memory_bytes": schema_count(),
            "requests": schema_count("Since it was loaded."),
            "held_by": schema_count("Requests that use it now."),
            "idle_seconds": _SECONDS,
            "load_seconds": _SECONDS,
            "tenant": schema_text(),
            "pinned": _YES_NO,
            "device": schema_text(),
            "value": {"type": "number", "description": "The order's own measure: the lowest goes first."},
        },
    ),
    "PrefetchRequest": schema_object(
        "Models that are about to be asked for.",
        {"models": schema_list(schema_text("`NAME`, `NAME:VERSION` or `NAME@ALIAS`."))},
        "models",
    ),
    "Prefetch": schema_object(
        "",
        {
            "accepted": schema_count("Models that are loaded, or being loaded."),
            "refused": schema_list(schema_object("", {"model": schema_text(), "error": schema_text()})),
        },
    ),
    "Evicted": schema_object("", _WHICH | {"evicted": _YES_NO}),
    "Pinned": schema_object("", _WHICH | {"pinned": _YES_NO}),
    "Cluster": schema_object(
        "The servers over one registry.",
        {
            "node_id": schema_text("Of the server that answers."),
            "nodes": schema_list(
                schema_object(
                    "",
                    {
                        "node_id": schema_text(),
                        "url": schema_text("Where it answers; empty where others send it nothing."),
                        "budget_bytes": schema_count(),
                        "used_bytes": schema_count(),
                        "draining": _YES_NO,
                        "age_seconds": _SECONDS,
                        "loaded": schema_list(schema_text("`NAME/VERSION`.")),
                    },
                )
            ),
        },
    ),
    "Route": schema_object(
        "The server that requests for a model should go to.",
        {"model": schema_text(), "version": schema_text(), "node_id": schema_text(), "url": schema_text()},
    ),
}

_VERSION: Final = "/api/v1/cache/models/{model}/versions/{version}"


def cache_paths() -> dict[str, Operation]:
    """The paths of the model cache and of the cluster."""
    version: dict[str, Any] = {"parameters": [parameter_reference("model"), parameter_reference("version")]}
    sample = {"hint": {"summary": "two models", "value": {"models": ["digits", "iris@production"]}}}
    cache, cluster = CACHE_TAG[0], CLUSTER_TAG[0]
    return {
        "/api/v1/cache": {
            "get": operation_object("showCache", cache, "What is loaded, and what went", json_answers("ModelCache"))
        },
        "/api/v1/cache/prefetch": {
            "post": operation_object(
                "prefetch",
                cache,
                "Load models that are about to be asked for",
                json_answers("Prefetch", "400"),
                body=json_body("PrefetchRequest", sample),
            )
        },
        _VERSION: version
        | {
            "delete": operation_object(
                "evictVersion", cache, "Evict a version that nobody uses now", json_answers("Evicted", "404", "409")
            )
        },
        f"{_VERSION}/pin": version
        | {
            "put": operation_object("pinVersion", cache, "Never evict a version", json_answers("Pinned", "404")),
            "delete": operation_object("unpinVersion", cache, "Let it be evicted again", json_answers("Pinned", "404")),
        },
        "/api/v1/cluster": {
            "get": operation_object("showCluster", cluster, "The servers over one registry", json_answers("Cluster"))
        },
        "/api/v1/cluster/route": {
            "get": operation_object(
                "routeModel", cluster, "Which server has a model", json_answers("Route", "400", "404", "503")
            )
            | {
                "parameters": [
                    {"name": "model", "in": "query", "required": True, "schema": {"type": "string"}},
                    {"name": "version", "in": "query", "schema": {"type": "string"}},
                ]
            }
        },
    }
