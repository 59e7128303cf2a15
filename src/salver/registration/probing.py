"""Probes registered versions one after the other, shared with the other servers over the registry."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from salver.core.errors import LoadError, ModelUnavailable, Overloaded, SalverError, StoreUnavailable
from salver.core.registry import ModelVersion
from salver.graph.runtime import GraphRuntime
from salver.registration.graphs import RegisteredGraphs
from salver.registration.probe.limits import ProbeLimits
from salver.registration.probe.prober import Prober
from salver.registration.probe.result import ProbeResult
from salver.runtimes.detect import detect
from salver.store.artifacts.disk_cache import DiskCache
from salver.store.registered import spec_of
from salver.store.registry.registry import Registry

_log = logging.getLogger("salver.models")

ACTOR = "probe"
"""Who the history says has made a version READY or FAILED."""

_MAX_BACKLOG = 1000
_NOT_NOW = (StoreUnavailable, Overloaded, ModelUnavailable)


class ProbeQueue:
    """Takes PENDING versions from the registry, probes them, and writes down what was found.

    The registry itself is the queue: nothing is lost when a server dies, and of several servers one probes a version.
    A server's claim on a version runs out soon after the server does.

    Args:
        registry: where versions wait.
        cache: where their files are probed.
        prober: probes them.
        graphs: checks graphs, and whether a version would break one.
        run: calls a blocking function on a thread.
        run_long: the same for what may take minutes.
        changed: called when a version's state has changed.
        node: this server's id, unique and new with each start.
        allow_code: whether models may bring code of their own.
        limits: what a probe may take; None for the defaults.
        parallel: versions that are probed at a time.
        poll_seconds: between two looks for versions that other servers took in, or have left.
        claim_seconds: for which a version is this server's without another word.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        cache: DiskCache,
        prober: Prober,
        graphs: RegisteredGraphs,
        run: Callable[..., Awaitable[Any]],
        run_long: Callable[..., Awaitable[Any]],
        changed: Callable[[], Awaitable[None]],
        node: str,
        allow_code: bool,
        limits: ProbeLimits | None = None,
        parallel: int = 1,
        poll_seconds: float = 5.0,
        claim_seconds: float = 15.0,
    ) -> None:
        self._registry = registry
        self._cache = cache
        self._prober = prober
        self._graphs = graphs
        self._run = run
        self._run_long = run_long
        self._changed = changed
        self._node = node
        self._allow_code = allow_code
        self._limits = limits
        self._parallel = parallel
        self._poll_seconds = poll_seconds
        self._claim_seconds = claim_seconds
        self._wake = asyncio.Event()
        self._backlog: deque[ModelVersion] = deque()
        self._looking: asyncio.Task[None] | None = None
        self._probing: dict[tuple[str, str], asyncio.Task[None]] = {}

    def start(self) -> None:
        """Begin to probe."""
        self._looking = asyncio.create_task(self._look_for_ever())

    def wake(self) -> None:
        """There is a new version."""
        self._wake.set()

    async def close(self) -> None:
        """Stop. What is being probed is PENDING again at once, for other servers or the next start."""
        tasks = [*self._probing.values(), *([] if self._looking is None else [self._looking])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_for_ever(self) -> None:
        troubled = False
        while True:
            self._wake.clear()
            try:
                await self._look()
                troubled = False
            except SalverError as error:
                if not troubled:  # once, not every few seconds
                    _log.error("can't look for versions to probe: %s", error)
                troubled = True
            except Exception:  # noqa: BLE001  the next look may go better
                _log.exception("looking for versions to probe failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._wake.wait()

    async def _look(self) -> None:
        while len(self._probing) < self._parallel:
            if not self._backlog:
                waiting: list[ModelVersion] = await self._run(self._registry.pending)
                self._backlog.extend(each for each in waiting[:_MAX_BACKLOG] if _key(each) not in self._probing)
            if not self._backlog:
                return
            version = self._backlog.popleft()
            if _key(version) not in self._probing and await self._claim(version, self._claim_seconds):
                task = self._probing[_key(version)] = asyncio.create_task(self._probe(version))
                task.add_done_callback(partial(self._ended, _key(version)))

    def _ended(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        del self._probing[key]
        self._wake.set()

    async def _claim(self, version: ModelVersion, seconds: float) -> bool:
        claimed: bool = await self._run(
            self._registry.claim, version.name, version.version, node=self._node, seconds=seconds
        )
        return claimed

    async def _probe(self, version: ModelVersion) -> None:
        which = (version.name, version.version)
        keeping = asyncio.create_task(self._keep_claim(version))
        try:
            await self._settle(version)
        except asyncio.CancelledError:
            keeping.cancel()
            with suppress(SalverError):
                await self._claim(version, 0.0)
            raise
        except _NOT_NOW as error:
            # Nothing is wrong with the version. It stays PENDING, and its turn comes again when the claim has run out.
            _log.error("model '%s' version %s can't be probed now: %s", *which, error)
        except SalverError as error:  # it was deleted, or another server was faster
            _log.warning("model '%s' version %s was probed in vain: %s", *which, error)
        except Exception:  # noqa: BLE001  one version must not keep others from being probed
            _log.exception("probing model '%s' version %s failed", *which)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _settle(self, version: ModelVersion) -> None:
        which = (version.name, version.version)
        try:
            result = await self._measure(version)
        except _NOT_NOW:
            raise
        except Exception as error:  # noqa: BLE001  left PENDING, it would be probed again and again
            if isinstance(error, SalverError):
                _log.warning("model '%s' version %s failed its probe: %s", *which, error)
                reason = str(error)
            else:
                _log.error("probing model '%s' version %s failed", *which, exc_info=error)
                reason = "the probe failed by a fault of the server's own, which its log has"
            await self._run(self._registry.set_failed, *which, reason=reason, actor=ACTOR)
            await self._changed()
            return
        for note in result.notes:
            _log.info("model '%s' version %s: %s", *which, note)
        await self._run(
            self._registry.set_ready,
            *which,
            runtime=result.runtime,
            signature=result.signature,
            probe=result.probe,
            actor=ACTOR,
        )
        await self._changed()
        _log.info("model '%s' version %s is ready", *which)

    async def _measure(self, version: ModelVersion) -> ProbeResult:
        given_up = threading.Event()
        try:
            holding = asyncio.ensure_future(self._run_long(self._cache.hold, version.digest, cancelled=given_up.is_set))
            folder: Path = await asyncio.shield(holding)
        except asyncio.CancelledError:
            given_up.set()
            holding.add_done_callback(lambda task: self._release_late(task, version.digest))
            raise
        try:
            spec = await self._run(spec_of, version, folder, detect=detect)
            if spec.runtime == GraphRuntime.name:
                result = await self._graphs.probe(version, spec)
            else:
                result = await self._prober.probe(spec, allow_code=self._allow_code, limits=self._limits)
            await self._graphs.check_version(version, result.signature)
            return result
        except LoadError as error:
            # Where the files lie here is nothing to anybody.
            text = str(error).replace(f"{folder}/", "").replace(str(folder), "the artifact")
            raise type(error)(text.replace(f"{folder.name}/", "")) from error
        finally:
            await asyncio.shield(asyncio.ensure_future(self._run(self._cache.release, version.digest)))

    def _release_late(self, task: asyncio.Future[Path], digest: str) -> None:
        if not task.cancelled() and task.exception() is None:
            self._cache.release(digest)

    async def _keep_claim(self, version: ModelVersion) -> None:
        while True:
            await asyncio.sleep(self._claim_seconds / 3)
            with suppress(SalverError):  # the registry can't be reached just now
                await self._claim(version, self._claim_seconds)


def _key(version: ModelVersion) -> tuple[str, str]:
    return (version.name, version.version)
