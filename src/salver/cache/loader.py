"""Loads a model version: its runtime, its instances, and their orderly end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Protocol
from weakref import WeakSet

from salver.batching.executor import Executor
from salver.batching.resources import Resources
from salver.cache.loaded_version import LoadedVersion
from salver.cache.preparation import copies, make_instances, prepare, with_threads
from salver.core.errors import InvalidConfig, LoadError, SalverError
from salver.core.events import Emit, InstanceRestarted
from salver.core.model import ModelSpec
from salver.monitoring.statistics import ModelStatistics
from salver.runtimes.base import ComposedModel, LoadedModel, Runtime
from salver.runtimes.instance import Instance
from salver.runtimes.process.launcher import ProcessLauncher
from salver.runtimes.table import carries_code
from salver.runtimes.workers import SharedWorkers, Workers

_CLOSE_SECONDS = 30.0

_ABANDONED_SECONDS = 0.5

_log = logging.getLogger("salver.cache")


class ClosingExecutor(Executor, Protocol):
    """An instance, as who made it sees it."""

    async def close(self, within: float) -> bool:
        """Let what runs end, ``within`` seconds at most, and end; False where something still runs."""


class Loader:
    """Loads versions, and closes them.

    Args:
        create_runtime: gives the runtime of a name.
        emit: is told of instances that come back.
        max_queue: how many requests may wait for a version, where its model doesn't say.
        resources: what executions of several models share; None for nothing.
        processes: starts models in processes of their own; None where none may be.
        allow_code: whether those may bring code of their own.
        batches: whether requests go through the versions' queues, and batches are to be measured.
        concurrent_loads: how many versions load side by side; further ones wait.
    """

    def __init__(
        self,
        *,
        create_runtime: Callable[[str], Runtime],
        emit: Emit,
        max_queue: int,
        resources: Resources | None,
        processes: ProcessLauncher | None,
        allow_code: bool,
        batches: bool,
        concurrent_loads: int,
    ) -> None:
        self._create_runtime = create_runtime
        self._emit = emit
        self._max_queue = max_queue
        self._resources = Resources({}) if resources is None else resources
        self._processes = processes
        self._allow_code = allow_code
        self._measuring = asyncio.Lock() if batches else None
        self._workers = Workers(concurrent_loads, name="salver-load")
        # What frameworks keep by thread (their number of threads, for one) doesn't meet models of another kind.
        self._shared: dict[tuple[str, int | None], SharedWorkers] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._abandoned: WeakSet[asyncio.Task[None]] = WeakSet()  # of those, the ones that wait for a load to end

    async def load(
        self, spec: ModelSpec, *, statistics: ModelStatistics, on_change: Callable[[LoadedVersion], None]
    ) -> LoadedVersion:
        """Load a version and make it ready for requests.

        Args:
            spec: what to load.
            statistics: counts its requests.
            on_change: is told when its instances come, go or fail.

        Raises:
            LoadError: it can't be loaded.
        """
        spec = _isolated(with_threads(spec))
        models: list[LoadedModel] = []
        executors: Sequence[ClosingExecutor] = []
        instance: Instance | None = None
        try:
            if spec.isolation == "process":
                model, executors, memory_bytes = await self._load_processes(spec, statistics)
            else:
                model, memory_bytes = await self._load_model(spec)
                models.append(model)
                if isinstance(model, ComposedModel):
                    await model.connect()
                for _ in range(copies(spec, model) - 1 if self._measuring is not None else 0):
                    copy, more = await self._load_model(spec)
                    models.append(copy)
                    memory_bytes += more
                max_queue = spec.scheduling.max_queue or self._max_queue
                instances = make_instances(spec, models, max_queue, self._threads(spec))
                executors, instance = instances, instances[0]
            loaded = await prepare(
                spec,
                model,
                executors,
                instance=instance,
                statistics=statistics,
                resources=self._resources,
                memory_bytes=memory_bytes,
                max_queue=self._max_queue,
                measuring=self._measuring,
            )
        except BaseException:
            self._start_closing(_close_all(spec, executors, models))
            raise
        loaded.close = partial(_close_all, spec, executors, models)
        for executor in executors:
            executor.on_change(partial(on_change, loaded))
        return loaded

    def retire(self, loaded: LoadedVersion, *, closed: Callable[[], None] | None = None) -> asyncio.Task[None]:
        """Close a version once nobody holds it; ``closed`` is called then."""
        loaded.idle = asyncio.Event()
        if loaded.pins == 0:
            loaded.idle.set()
        task = self._start_closing(_close_when_idle(loaded))
        if closed is not None:
            task.add_done_callback(lambda _: closed())
        return task

    async def close(self, timeout: float) -> None:
        """Wait for what is being closed, ``timeout`` seconds at most, and end."""
        ending = self._closing - set(self._abandoned)
        if ending:
            await asyncio.wait(ending, timeout=timeout)
        # Nothing stops a load, and who stops a server that still loads isn't to wait for it.
        if self._closing:
            await asyncio.wait(list(self._closing), timeout=min(timeout, _ABANDONED_SECONDS))
        for task in self._closing:
            task.cancel()
        self._workers.stop()
        for threads in self._shared.values():
            threads.end()
        if self._processes is not None:
            await self._processes.close()

    def _threads(self, spec: ModelSpec) -> SharedWorkers:
        key = (spec.runtime, spec.threads)
        if key not in self._shared:
            self._shared[key] = SharedWorkers(name=f"salver-{spec.runtime}")
        return self._shared[key]

    async def _load_processes(
        self, spec: ModelSpec, statistics: ModelStatistics
    ) -> tuple[LoadedModel, Sequence[ClosingExecutor], int]:
        """Start a model in processes of its own: its description, its instances, and the bytes that they take."""
        if self._processes is None:
            raise InvalidConfig(f"model {spec.name!r}: 'isolation: process' isn't supported here")

        def restarted(cause: str) -> None:
            statistics.restarts += 1
            self._emit(InstanceRestarted(spec.name, spec.version, cause))

        number = spec.scheduling.instances or 1
        model, instances = await self._processes.launch(
            replace(spec, one_at_a_time=number == 1),
            allow_code=self._allow_code,
            number=number,
            on_restart=restarted,
        )
        return model, instances, await asyncio.to_thread(model.memory_bytes)

    async def _load_model(self, spec: ModelSpec) -> tuple[LoadedModel, int]:
        """Load on a thread; the model, and the bytes that it takes.

        Nothing can stop a runtime that loads: where the caller is cancelled, what comes of it is closed.
        """
        models: list[LoadedModel] = []
        finished = asyncio.Event()

        def load() -> tuple[LoadedModel, int]:
            model = self._create_runtime(spec.runtime).load(spec)
            try:
                memory_bytes = model.memory_bytes()
            except BaseException:
                with suppress(Exception):  # the first error says more
                    model.close()
                raise
            models.append(model)
            return model, memory_bytes

        async def close_when_loaded() -> None:
            await finished.wait()
            if models:
                await _close(spec, models.pop())

        loading = self._workers.start(load, ended=finished.set)
        try:
            result = await asyncio.shield(loading)
        except asyncio.CancelledError:
            self._abandoned.add(self._start_closing(close_when_loaded()))
            raise
        except SalverError:
            raise
        except (Exception, SystemExit) as error:
            _log.exception("loading model '%s' version %s failed", spec.name, spec.version)
            raise LoadError(f"{type(error).__name__}: {error}") from error
        return result

    def _start_closing(self, closing: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task


def _isolated(spec: ModelSpec) -> ModelSpec:
    """The spec with the isolation that a format demands which brings code of its own."""
    if not carries_code(spec.runtime) or spec.isolation == "process":
        return spec
    if spec.isolation != "auto":
        raise InvalidConfig(
            f"model {spec.name!r}: 'isolation: {spec.isolation}' isn't possible for the {spec.runtime} runtime, whose "
            "models bring code of their own; leave it out, or set it to process"
        )
    return replace(spec, isolation="process")


async def _close_when_idle(loaded: LoadedVersion) -> None:
    assert loaded.idle is not None
    await loaded.idle.wait()
    await loaded.scheduler.close(_CLOSE_SECONDS)
    if loaded.responses is not None:
        await loaded.responses.close()
    await loaded.close()


async def _close_all(spec: ModelSpec, executors: Sequence[ClosingExecutor], models: Sequence[LoadedModel]) -> None:
    """Let what runs end, and close the models; those that still run are left to themselves."""
    ended = await asyncio.gather(*(executor.close(_CLOSE_SECONDS) for executor in executors))
    if all(ended):
        for model in models:
            await _close(spec, model)


async def _close(spec: ModelSpec, model: LoadedModel) -> None:
    try:
        if isinstance(model, ComposedModel):
            await model.disconnect()
        await asyncio.get_running_loop().run_in_executor(None, model.close)
    except Exception:  # noqa: BLE001  nobody waits for it who could do more than read the log
        _log.exception("closing model '%s' version %s failed", spec.name, spec.version)
