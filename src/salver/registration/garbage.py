"""Removes artifacts that no version needs any more, and uploads that nobody goes on with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from salver.core.errors import SalverError
from salver.registration.uploads import Uploads
from salver.store.artifacts.artifact_store import ArtifactStore
from salver.store.registry.registry import Registry

_log = logging.getLogger("salver.models")


class GarbageCollector:
    """Looks now and then, and soon after a version was deleted.

    Args:
        registry: tells which artifacts are needed.
        artifacts: where the others are removed.
        uploads: expired ones are removed.
        run: calls a blocking function on a thread.
        min_age: seconds that files stay in the artifact store at least: longer than a push takes.
        interval: seconds between two looks.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        artifacts: ArtifactStore,
        uploads: Uploads,
        run: Callable[..., Awaitable[Any]],
        min_age: float = 24 * 3600.0,
        interval: float = 3600.0,
    ) -> None:
        self._registry = registry
        self._artifacts = artifacts
        self._uploads = uploads
        self._run = run
        self._min_age = min_age
        self._interval = interval
        self._needed = True
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._look_for_ever())

    def note_deletion(self) -> None:
        """Something was deleted: the next look is at the artifacts, too, which takes a while where they are many."""
        self._needed = True

    async def collect(self) -> int:
        """Look at the artifacts now; the number of files removed."""
        self._needed = False
        return int(await self._run(self._collect))

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self._run(self._uploads.remove_expired)
                if self._needed:
                    await self.collect()
            except SalverError as error:
                self._needed = True
                _log.error("can't remove what isn't needed any more: %s", error)
            except Exception:  # noqa: BLE001  the next look may go better
                _log.exception("removing what isn't needed any more failed")

    def _collect(self) -> int:
        if self._artifacts.read_only:
            return 0
        removed = self._artifacts.collect_garbage(live=self._registry.live_digests(), older_than=self._min_age)
        if removed:
            _log.info("%d files that no version needs were removed from %s", removed, self._artifacts.name)
        return removed
