"""Model stores over a folder, and pushing to them through the management API as a client does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from asgi import Answer, App, call

from salver.core.artifact import Manifest
from salver.frontends.management_api import ManagementApp
from salver.monitoring.metrics import FailedRequests
from salver.registration.model_store import ModelStore
from salver.registration.uploads import Uploads
from salver.store.artifacts.artifact_store import ArtifactStore
from salver.store.artifacts.describe import describe
from salver.store.artifacts.disk_cache import DiskCache
from salver.store.registry.registry import Registry
from salver.wire.model_store_json import encode_manifest

LIMIT = 1 << 20
MAX_ARTIFACT = 1 << 22


@asynccontextmanager
async def open_store(folder: Path, *, max_open: int = 64, **settings: Any) -> AsyncIterator[ModelStore]:
    """A model store that lies in a folder: twice the same folder, twice the same store."""
    registry = Registry.open(f"sqlite:///{folder}/registry.db")
    artifacts = ArtifactStore(str(folder / "artifacts"))
    store = ModelStore(
        registry=registry,
        artifacts=artifacts,
        cache=DiskCache(folder / "cache", max_bytes=1 << 30, store=artifacts),
        uploads=Uploads(folder / "uploads", max_bytes=MAX_ARTIFACT, max_open=max_open),
        **settings,
    )
    try:
        await store.start()
        yield store
    finally:
        await store.close()
        registry.close()


def management_app(store: ModelStore) -> ManagementApp:
    """The management API of a store."""
    return ManagementApp(store, max_request_bytes=LIMIT, failed=FailedRequests())


def push_body(manifest: Manifest, version: str = "", **metadata: Any) -> dict[str, Any]:
    """What begins a push."""
    return {"version": version, "files": encode_manifest(manifest), "metadata": metadata}


def contents(path: Path, manifest: Manifest) -> dict[str, bytes]:
    """The bytes of an artifact's files by their SHA-256."""
    return {file.sha256: (path / file.path if path.is_dir() else path).read_bytes() for file in manifest.files}


async def push(app: App, name: str, path: Path, version: str = "", **metadata: Any) -> Answer:
    """Push a file or folder; the answer to the commit."""
    manifest = describe(path)
    begun = await call(app, "POST", f"/api/v1/models/{name}/versions", push_body(manifest, version, **metadata))
    assert begun.status == 200, begun.body
    upload = begun.json()
    bytes_of = contents(path, manifest)
    for each in upload["missing"]:
        sent = await call(
            app,
            "PUT",
            f"/api/v1/uploads/{upload['upload']}/blobs/{each['sha256']}",
            bytes_of[each["sha256"]][each["received"] :],
            query=f"offset={each['received']}",
        )
        assert sent.json() == {"received": each["size"]}
    return await call(app, "POST", f"/api/v1/uploads/{upload['upload']}/commit")


async def settled(app: App, name: str, version: str) -> dict[str, Any]:
    """A version once it is READY or FAILED."""
    async with asyncio.timeout(60):
        while True:
            answer = await call(app, "GET", f"/api/v1/models/{name}/versions/{version}")
            assert answer.status == 200, answer.body
            found: dict[str, Any] = answer.json()
            if found["state"] != "PENDING":
                return found
            await asyncio.sleep(0.02)


async def push_ready(app: App, name: str, path: Path, version: str = "", **metadata: Any) -> dict[str, Any]:
    """Push, and wait until it is READY."""
    committed = await push(app, name, path, version, **metadata)
    found = await settled(app, name, committed.json()["version"])
    assert found["state"] == "READY", found["reason"]
    return found
