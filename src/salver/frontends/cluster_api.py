"""The servers over one registry, over HTTP: ``/api/v1/cluster``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs

from salver.core.errors import InvalidRequest
from salver.core.registry import Node
from salver.frontends.json_api import JsonApi, JsonCall
from salver.monitoring.metrics import FailedRequests


def cluster_app(
    nodes: Callable[[], Sequence[Node]],
    place: Callable[[str, str], Node | None],
    *,
    node_id: str,
    failed: FailedRequests,
) -> JsonApi:
    """The ASGI application of ``/api/v1/cluster``.

    Args:
        nodes: the servers that are alive.
        place: the server that a request for a model and version should go to; None for this one.
        node_id: this server's.
        failed: counts the requests that are answered with an error.
    """

    async def show(_: JsonCall) -> tuple[int, Any]:
        return 200, {"node_id": node_id, "nodes": [_node(node) for node in nodes()]}

    async def route(call: JsonCall) -> tuple[int, Any]:
        query = parse_qs(call.query.decode("latin-1"))
        model = query.get("model", [""])[0]
        version = query.get("version", [""])[0]
        if not model:
            raise InvalidRequest("'model' is missing; ask for /api/v1/cluster/route?model=NAME")
        there = place(model, version)
        mine = next((node for node in nodes() if node.node_id == node_id), None)
        chosen = there or mine
        return 200, {
            "model": model,
            "version": version,
            "node_id": node_id if there is None else there.node_id,
            "url": "" if chosen is None else chosen.url,
        }

    return JsonApi(
        {("GET", "/api/v1/cluster"): show, ("GET", "/api/v1/cluster/route"): route},
        front_end="cluster",
        failed=failed,
    )


def _node(node: Node) -> dict[str, Any]:
    return {
        "node_id": node.node_id,
        "url": node.url,
        "budget_bytes": node.budget_bytes,
        "used_bytes": node.used_bytes,
        "draining": node.draining,
        "age_seconds": round(node.age_seconds, 3),
        "loaded": sorted(node.loaded),
    }
