"""The way in: versions are probed in processes of their own."""

from __future__ import annotations

import asyncio
import os

from salver.core.errors import InvalidConfig, LoadError
from salver.core.model import ModelSpec
from salver.registration.probe.limits import ProbeLimits
from salver.registration.probe.result import ProbeResult
from salver.registration.probe.supervision import ProbeProcess
from salver.runtimes.process.child_process import named
from salver.runtimes.process.fork_client import ForkServer, ForkServerKey, find_python
from salver.runtimes.process.output import OutputLog

_CHILD = "salver.registration.probe.child"


class Prober:
    """Probes versions; one event loop uses it.

    The processes are forked from fork servers that have a framework imported and have never run a model. They live on
    for a minute, so that the next version of their runtime is probed within milliseconds.

    Args:
        parallel: probes that may run at the same time. Only one of them measures times.
    """

    def __init__(self, *, parallel: int = 2) -> None:
        self._slots = asyncio.Semaphore(parallel)
        self._measuring = asyncio.Lock()
        self._output = OutputLog()
        self._fork_servers: dict[ForkServerKey, asyncio.Task[ForkServer]] = {}

    async def probe(self, spec: ModelSpec, *, allow_code: bool, limits: ProbeLimits | None = None) -> ProbeResult:
        """Load and run a version in a process of its own, and measure it. Cancelling this ends the process.

        Args:
            spec: the version. Of ``scheduling``, ``python``, ``memory_limit``, ``max_batch_size`` and ``warm_up``
                matter here.
            allow_code: whether the operator allows models that bring code of their own.
            limits: what it may take; None for the defaults.

        Raises:
            InvalidArtifact: its files are missing or corrupt; or its outputs aren't what its signature promises, or
                aren't finite.
            CodeNotAllowed: loading would run code from the model.
            MissingDependency: a package that the model needs isn't installed.
            InvalidConfig: its model.yaml asks for what can't be done, or a warm-up request fails.
            LoadError: its process crashed, or needed more than the limits.
        """
        if not hasattr(os, "pidfd_open"):
            raise InvalidConfig("models are probed in processes of their own, which needs Linux")
        python = find_python(spec.name, spec.scheduling.python, allow_code=allow_code)
        key = ForkServerKey(python, spec.runtime, allow_code, _CHILD)
        async with self._slots:
            try:
                fork_server = await self._fork_server(key)
                return await ProbeProcess(spec, limits or ProbeLimits(), measuring=self._measuring).run(fork_server)
            except LoadError as error:
                better = named(spec.name, error)
                if better is error:
                    raise
                raise better from error

    async def close(self) -> None:
        """End all fork servers, and with them what is probed."""
        starting, self._fork_servers = list(self._fork_servers.values()), {}
        for task in starting:
            task.cancel()  # those that still start
        for found in await asyncio.gather(*starting, return_exceptions=True):
            if isinstance(found, ForkServer):
                await found.close()
        await asyncio.to_thread(self._output.close)

    async def _fork_server(self, key: ForkServerKey) -> ForkServer:
        """The fork server of a key; it is started where there is none that lives."""
        starting = self._fork_servers.get(key)
        if starting is None or (starting.done() and not _lives(starting)):
            starting = asyncio.ensure_future(ForkServer.start(key, self._output))
            self._fork_servers[key] = starting
        # Shielded: others may wait for it, too.
        return await asyncio.shield(starting)


async def probe_version(spec: ModelSpec, *, allow_code: bool, limits: ProbeLimits | None = None) -> ProbeResult:
    """Probe one version; see :meth:`Prober.probe`. For several, a :class:`Prober` is much faster."""
    prober = Prober()
    try:
        return await prober.probe(spec, allow_code=allow_code, limits=limits)
    finally:
        await prober.close()


def _lives(starting: asyncio.Task[ForkServer]) -> bool:
    return not starting.cancelled() and starting.exception() is None and starting.result().alive
