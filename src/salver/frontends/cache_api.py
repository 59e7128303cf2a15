"""The model cache over HTTP: ``/api/v1/cache``."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

from salver.cache.loaded_version import LoadedVersion
from salver.cache.model_cache import ModelCache
from salver.core.errors import InvalidRequest, ModelInUse, ModelUnavailable, SalverError
from salver.frontends.json_api import JsonApi, JsonCall
from salver.monitoring.metrics import FailedRequests

MAX_HINTS = 1000
"""Models that one request may name."""


class CacheApi:
    """What is loaded, what went and why, and hints of what will be asked for.

    Args:
        models: the cache.
    """

    def __init__(self, models: ModelCache) -> None:
        self._models = models

    def show(self) -> dict[str, Any]:
        """Budgets, loaded versions in the order in which they would go, loads under way and the last evictions."""
        snapshot = self._models.cache_snapshot()
        reservations = self._models.reservations
        return {
            "memory": {
                device: {"budget_bytes": limit, "models_bytes": known, "used_bytes": used}
                for device, (limit, known, used) in snapshot.memory.items()
            },
            "hits": snapshot.hits,
            "misses": snapshot.misses,
            "loads": snapshot.loads,
            "failed_loads": snapshot.failed_loads,
            "evictions": snapshot.evictions,
            "known_versions": self._models.known_count(),
            "loaded": [_loaded(loaded, value) for loaded, value in reservations.ranking()],
            "loading": [
                {"name": name, "version": version, "waiting": waiting}
                for name, version, waiting in self._models.loading()
            ],
            "last_evictions": [
                {
                    "name": record.name,
                    "version": record.version,
                    "at": record.at,
                    "reason": record.reason,
                    "freed_bytes": record.freed_bytes,
                    "idle_seconds": round(record.idle_seconds, 3),
                }
                for record in reversed(reservations.records)
            ],
        }

    def prefetch(self, wanted: Any) -> dict[str, Any]:
        """Begin to load versions that are about to be asked for.

        Args:
            wanted: ``{"models": ["NAME", "NAME:VERSION", "NAME@ALIAS", ...]}``.

        Raises:
            InvalidRequest: it is something else.
        """
        names = wanted.get("models") if isinstance(wanted, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InvalidRequest('expected {"models": ["NAME", "NAME:VERSION", "NAME@ALIAS", ...]}')
        if len(names) > MAX_HINTS:
            raise InvalidRequest(f"{len(names)} models are named; {MAX_HINTS} are allowed at a time")
        refused = []
        for reference in names:
            name, _, version = reference.partition(":")
            try:
                self._models.prefetch(name, version)
            except SalverError as error:
                refused.append({"model": reference, "error": str(error)})
        return {"accepted": len(names) - len(refused), "refused": refused}

    async def evict(self, name: str, version: str) -> dict[str, Any]:
        """Give a version's memory back; the next request loads it again.

        Raises:
            UnknownModel: there is no such version.
            ModelInUse: requests use it now, or it isn't loaded on demand.
        """
        loaded = self._models.routes.get((name, version))
        if not await self._models.evict(name, version) and loaded is not None:
            raise ModelInUse(
                f"model '{name}' version {version} can't be evicted: requests use it now, or it isn't loaded on demand"
            )
        return {"name": name, "version": version, "evicted": loaded is not None}

    def pin(self, name: str, version: str, *, pinned: bool) -> dict[str, Any]:
        """Say whether a version may be evicted, until the server ends.

        Raises:
            UnknownModel: there is no such version that is loaded on demand.
        """
        self._models.pin(name, version, pinned)
        return {"name": name, "version": version, "pinned": pinned}


def cache_app(models: ModelCache, *, failed: FailedRequests, known: Callable[[], bool]) -> JsonApi:
    """The ASGI application of ``/api/v1/cache``.

    Args:
        models: the cache.
        failed: counts the requests that are answered with an error.
        known: whether the server has looked yet which models there are.
    """
    api = CacheApi(models)

    async def show(_: JsonCall) -> tuple[int, Any]:
        return 200, api.show()

    async def prefetch(call: JsonCall) -> tuple[int, Any]:
        if not known():
            raise ModelUnavailable("the server is starting and doesn't know its models yet; try again when it is ready")
        return 200, api.prefetch(call.body)

    async def evict(call: JsonCall) -> tuple[int, Any]:
        return 200, await api.evict(call.names["model"], call.names["version"])

    async def pin(call: JsonCall) -> tuple[int, Any]:
        return 200, api.pin(call.names["model"], call.names["version"], pinned=True)

    async def unpin(call: JsonCall) -> tuple[int, Any]:
        return 200, api.pin(call.names["model"], call.names["version"], pinned=False)

    version = "/api/v1/cache/models/{model}/versions/{version}"
    return JsonApi(
        {
            ("GET", "/api/v1/cache"): show,
            ("POST", "/api/v1/cache/prefetch"): prefetch,
            ("DELETE", version): evict,
            ("PUT", f"{version}/pin"): pin,
            ("DELETE", f"{version}/pin"): unpin,
        },
        front_end="cache",
        failed=failed,
    )


def _loaded(loaded: LoadedVersion, value: float) -> dict[str, Any]:
    usage = loaded.usage
    idle = (perf_counter_ns() - usage.last_used_ns) / 1e9 if usage.last_used_ns else None
    return {
        "name": loaded.name,
        "version": loaded.version,
        "memory_bytes": loaded.memory_bytes,
        "requests": usage.uses,
        "held_by": loaded.pins,
        "idle_seconds": None if idle is None else round(idle, 3),
        "load_seconds": round(usage.load_seconds, 4),
        "tenant": usage.tenant,
        "pinned": usage.pinned,
        "device": loaded.model.device,
        "value": value,
    }
