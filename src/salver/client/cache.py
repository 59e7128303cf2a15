"""A client of a server's model cache, ``/api/v1/cache``."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from salver.client.model_store import ModelStoreClient, quoted


class CacheClient:
    """Shows what a server has loaded, and hints what it should.

    Args:
        url: where the server listens.
        timeout: seconds that each call may take.

    Every method raises ServerUnreachable where there is no connection, and otherwise the error that the server's
    status stands for.
    """

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        self._client = ModelStoreClient(url, timeout=timeout)

    def show(self) -> dict[str, Any]:
        """Budgets, loaded versions in the order in which they would go, loads under way, and the last evictions."""
        return self._client.call("GET", "/cache")

    def prefetch(self, models: Sequence[str]) -> dict[str, Any]:
        """Begin to load models: ``NAME``, ``NAME:VERSION`` or ``NAME@ALIAS``; which were refused and why."""
        return self._client.call("POST", "/cache/prefetch", {"models": list(models)})

    def evict(self, name: str, version: str) -> dict[str, Any]:
        """Give a version's memory back. Raises UnknownModel, Conflict."""
        return self._client.call("DELETE", _path(name, version), model=name)

    def pin(self, name: str, version: str, *, pinned: bool) -> dict[str, Any]:
        """Say whether a version may be evicted. Raises UnknownModel."""
        return self._client.call("PUT" if pinned else "DELETE", f"{_path(name, version)}/pin", model=name)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _path(name: str, version: str) -> str:
    return f"/cache/models/{quoted(name)}/versions/{quoted(version)}"
