"""The cache's and the cluster's part of the OpenAPI document says what there is."""

from __future__ import annotations

from typing import Any

from asgi import call
from jsonschema import Draft202012Validator

from salver.cache.model_cache import ModelCache
from salver.core.registry import Node
from salver.frontends.cache_api import CacheApi, cache_app
from salver.frontends.cluster_api import cluster_app
from salver.frontends.openapi import document
from salver.monitoring.metrics import FailedRequests
from salver.runtimes.table import create

DOCUMENT = document()


def check(schema: str, value: Any) -> None:
    whole = {"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]}
    Draft202012Validator(whole).validate(value)


async def test_the_document_has_the_routes_that_there_are() -> None:
    models = ModelCache(create_runtime=create, emit=lambda _: None)
    cluster = cluster_app(list, lambda *_: None, node_id="me", failed=FailedRequests())
    routes = cache_app(models, failed=FailedRequests(), known=lambda: True).routes() | cluster.routes()
    documented = {
        (path, method.upper())
        for path, item in DOCUMENT["paths"].items()
        for method in item
        if method != "parameters" and path.startswith(("/api/v1/cache", "/api/v1/cluster"))
    }
    assert routes == documented
    check("ModelCache", CacheApi(models).show())
    await models.close()


async def test_hints_are_refused_until_the_models_are_known() -> None:
    models = ModelCache(create_runtime=create, emit=lambda _: None)
    looked = False
    app = cache_app(models, failed=FailedRequests(), known=lambda: looked)
    hints = {"models": ["m"]}
    early = await call(app, "POST", "/api/v1/cache/prefetch", hints)
    assert (early.status, "is starting" in early.error) == (503, True)
    looked = True
    known = await call(app, "POST", "/api/v1/cache/prefetch", hints)
    assert [each["model"] for each in known.json()["refused"]] == ["m"]
    await models.close()


async def test_a_node_is_shown_as_documented() -> None:
    node = Node("me", "http://10.0.0.1:8000", 100, 50, {"iris/1": 0.5}, False, 0.25)
    app = cluster_app(lambda: [node], lambda *_: None, node_id="me", failed=FailedRequests())
    shown = await call(app, "GET", "/api/v1/cluster")
    check("Cluster", shown.json())
    assert shown.json()["nodes"][0]["loaded"] == ["iris/1"]
    route = await call(app, "GET", "/api/v1/cluster/route", query="model=iris")
    check("Route", route.json())
    assert route.json()["url"] == "http://10.0.0.1:8000"
