"""The way in: models in processes of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from weakref import WeakSet

from salver.core.errors import InvalidConfig, SalverError
from salver.core.model import ModelSpec
from salver.runtimes.process.child_process import ChildProcess, named
from salver.runtimes.process.description import ProcessModel
from salver.runtimes.process.fork_client import ForkServer, ForkServerKey, find_python
from salver.runtimes.process.instance import ProcessInstance
from salver.runtimes.process.messages import Message
from salver.runtimes.process.output import OutputLog


class ProcessLauncher:
    """Starts instances in processes of their own, with the fork servers that they come from. One event loop uses it."""

    def __init__(self) -> None:
        self._output = OutputLog()
        self._instances: WeakSet[ProcessInstance] = WeakSet()
        self._fork_servers: dict[ForkServerKey, asyncio.Task[ForkServer]] = {}

    async def launch(
        self,
        spec: ModelSpec,
        *,
        allow_code: bool,
        number: int,
        concurrency: int | None = None,
        on_restart: Callable[[str], None] | None = None,
    ) -> tuple[ProcessModel, list[ProcessInstance]]:
        """Load a model in ``number`` processes, side by side. Who gets the instances closes them.

        Args:
            spec: what to load; of ``scheduling``, ``python``, ``memory_limit`` and ``execution_timeout`` matter here.
            allow_code: whether the operator allows models that bring code of their own.
            number: of instances.
            concurrency: executions that each takes at a time; None for the model's ``max_concurrency``, and where it
                has none, for 1 (sync) or ASYNC_CONCURRENCY (async).
            on_restart: told the cause whenever an instance is back after its process had ended.

        Raises:
            LoadError: as the runtime's ``load`` does; or a process ended, or ``scheduling.python`` can't run models.
        """
        if not hasattr(os, "pidfd_open") or not hasattr(os, "memfd_create"):
            raise InvalidConfig(f"model {spec.name!r}: isolation: process needs Linux; expected thread or inline here")
        python = find_python(spec.name, spec.scheduling.python, allow_code=allow_code)
        key = ForkServerKey(python, spec.runtime, allow_code)
        start_child = partial(self._start_child, key, spec, concurrency)
        instances = [
            ProcessInstance(spec, concurrency=concurrency, start_child=start_child, on_restart=on_restart)
            for _ in range(number)
        ]
        self._instances.update(instances)
        beginning = [asyncio.ensure_future(instance.begin()) for instance in instances]
        try:
            models = await asyncio.gather(*beginning)
        except BaseException as error:
            for task in beginning:
                task.cancel()
            await asyncio.gather(*beginning, return_exceptions=True)
            await asyncio.gather(*(instance.close(0.0) for instance in instances))
            if isinstance(error, SalverError) and (better := named(spec.name, error)) is not error:
                raise better from error
            raise
        model = models[0]
        for other in models[1:]:
            model.add_instance(other)
        return model, instances

    async def close(self) -> None:
        """End all fork servers, and whatever instance nobody has closed."""
        await asyncio.gather(*(instance.close(0.0) for instance in self._instances))
        starting, self._fork_servers = list(self._fork_servers.values()), {}
        for task in starting:
            task.cancel()  # those that still start
        for found in await asyncio.gather(*starting, return_exceptions=True):
            if isinstance(found, ForkServer):
                await found.close()
        await asyncio.to_thread(self._output.close)

    async def _start_child(
        self,
        key: ForkServerKey,
        spec: ModelSpec,
        concurrency: int | None,
        on_message: Callable[[Message], None],
        on_ended: Callable[[str], None],
    ) -> ChildProcess:
        child = ChildProcess(await self._fork_server(key), on_message=on_message, on_ended=on_ended)
        await child.start(spec, concurrency, self._output)
        return child

    async def _fork_server(self, key: ForkServerKey) -> ForkServer:
        """The fork server of a key; it is started where there is none that lives."""
        starting = self._fork_servers.get(key)
        if starting is None or (starting.done() and not _lives(starting)):
            starting = asyncio.ensure_future(ForkServer.start(key, self._output))
            self._fork_servers[key] = starting
        # Shielded: others may wait for it, too.
        return await asyncio.shield(starting)


def _lives(starting: asyncio.Task[ForkServer]) -> bool:
    return not starting.cancelled() and starting.exception() is None and starting.result().alive
