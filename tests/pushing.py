"""Pushes models to servers, as `salver push` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from salver.client.model_store import ModelStoreClient
from salver.store.artifacts.describe import describe

PROBE_SECONDS = 100.0


def push(url: str, path: Path, name: str, *, version: str = "", **metadata: Any) -> dict[str, Any]:
    """Push a version, and wait for its probe; the version as the server tells of it, READY or FAILED."""
    with ModelStoreClient(url) as store:
        pushed = store.push(name, path, describe(path), version=version, metadata=metadata)
        return store.wait(name, pushed["version"], timeout=PROBE_SECONDS)
