"""Builds an engine from settings: the one place where the parts meet."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from salver.batching.resources import Resources
from salver.cache.devices import gpus
from salver.cache.eviction import EvictionOrder
from salver.cache.graph_host import GraphHost
from salver.cache.memory import ProcessMemory, machine_bytes
from salver.cache.memory_budget import MemoryBudget
from salver.cache.model_cache import ModelCache
from salver.cache.registered_models import RegisteredModels
from salver.cache.repository import ServedRepository
from salver.cache.reservations import Reservations
from salver.config import ServerSettings
from salver.core.errors import InvalidConfig, StoreUnavailable
from salver.core.events import EventHub
from salver.engine import Engine
from salver.monitoring.logs import log_event
from salver.registration.model_store import ModelStore
from salver.registration.probe.limits import ProbeLimits
from salver.registration.uploads import Uploads
from salver.runtimes.base import Runtime
from salver.runtimes.process.launcher import ProcessLauncher
from salver.runtimes.table import create
from salver.store.artifacts.artifact_store import ArtifactStore
from salver.store.artifacts.disk_cache import DiskCache
from salver.store.registry.registry import Registry

_DATA_FOLDER = Path("~/.local/share/salver")


def build_engine(settings: ServerSettings, *, embedded: bool = False, store: ModelStore | None = None) -> Engine:
    """An engine over the settings' repository or store; nothing is loaded before its ``start``.

    Args:
        settings: the server's.
        embedded: requests mostly run on their callers' threads, past the queues, and memory is the caller's business.
        store: the model store that the settings name, see :func:`open_store`.
    """
    events = EventHub()
    events.listen(log_event)
    path = settings.repository
    # Who names a Python file means to run it; a folder's content needs permission.
    allow_code = settings.allow_code or (path is not None and path.suffix == ".py" and not path.is_dir())
    host = GraphHost()
    models = ModelCache(
        create_runtime=partial(_create_runtime, host=host, allow_code=allow_code),
        emit=events.emit,
        max_queue=settings.max_queue,
        resources=Resources(settings.resources),
        processes=ProcessLauncher(),
        allow_code=allow_code,
        batches=not embedded,
        concurrent_loads=settings.concurrent_loads,
        root="" if path is None else os.path.abspath(path if path.is_dir() else path.parent),
        reservations=None if embedded else _reservations(settings),
    )
    source: ServedRepository | RegisteredModels
    if store is not None:
        source = RegisteredModels(
            store.registry,
            store.disk_cache,
            models=models,
            hot_file=data_folder(settings) / "hottest.json",
            concurrent_fetches=settings.concurrent_loads,
        )
        store.changed = source.refresh
    else:
        assert path is not None
        source = ServedRepository(
            path,
            models=models,
            watch_interval=settings.watch_interval if settings.watch else None,
            on_demand=settings.load == "on_demand",
        )
    engine = Engine(models=models, repository=source, max_concurrent_requests=settings.max_concurrent_requests)
    host.connect(models, predict=engine.predict, stream=engine.stream, hint=engine.hint)
    return engine


def open_store(settings: ServerSettings, *, node_id: str) -> ModelStore:
    """The model store that the settings name. Blocks on the disk and on the network.

    Args:
        settings: the server's.
        node_id: the server's, new with each start.

    Raises:
        InvalidConfig: a URL can't be understood.
        MissingDependency: a URL needs a package that isn't installed.
        StoreUnavailable: the registry or the data folder can't be reached.
    """
    assert settings.store is not None
    folder = data_folder(settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"the data folder, {folder}, can't be made: {error.strerror}") from error
    is_folder = "://" not in settings.store
    artifacts = ArtifactStore(
        str(Path(settings.store).expanduser() / "artifacts") if is_folder else settings.store,
        options=settings.store_options,
    )
    limit = settings.memory_budget
    memory = limit if isinstance(limit, int) else int(limit * machine_bytes())
    return ModelStore(
        registry=Registry.open(settings.registry or f"sqlite:///{(folder / 'registry.db').absolute()}"),
        artifacts=artifacts,
        cache=DiskCache(folder / "cache", max_bytes=settings.disk_cache, store=artifacts),
        uploads=Uploads(folder / "uploads", max_bytes=settings.max_artifact_bytes),
        node=node_id,
        allow_code=settings.allow_code,
        limits=ProbeLimits(memory_bytes=settings.probe_memory or memory, seconds=settings.probe_timeout),
    )


def data_folder(settings: ServerSettings) -> Path:
    """Where a store's server keeps what is its own."""
    if settings.data_folder is not None:
        return settings.data_folder
    assert settings.store is not None
    return (_DATA_FOLDER if "://" in settings.store else Path(settings.store)).expanduser()


def _create_runtime(name: str, *, host: GraphHost, allow_code: bool) -> Runtime:
    if name == "graph":
        from salver.graph.runtime import GraphRuntime

        return GraphRuntime(host, allow_code=allow_code)
    return create(name, allow_code=allow_code)


def _reservations(settings: ServerSettings) -> Reservations:
    memory = ProcessMemory()
    budgets = {"cpu": _budget("memory_budget", settings.memory_budget, machine_bytes(), memory.used_bytes, memory.look)}
    for device, (size, used) in gpus().items():
        budgets[device] = _budget("device_memory_budget", settings.device_memory_budget, size, used)
    return Reservations(
        budgets,
        order=lambda: EvictionOrder(settings.eviction),
        shares=settings.memory_shares,
        memory=memory,
    )


def _budget(
    name: str, setting: float, size: int, used: Callable[[], int], look: Callable[[], None] | None = None
) -> MemoryBudget:
    limit = setting if isinstance(setting, int) else int(setting * size)
    if limit <= used():
        raise InvalidConfig(f"'{name}' is {limit} bytes, and the server itself takes {used()} already; give it more")
    return MemoryBudget(limit, used=used, look=look)
