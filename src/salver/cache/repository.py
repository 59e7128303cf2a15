"""Keeps what is loaded in step with a model repository: at the start, on request, and, if wanted, by watching it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from salver.cache.model_cache import ModelCache
from salver.cache.offer import Offer
from salver.core.errors import InvalidArtifact, LoadError, SalverError, UnknownModel
from salver.core.model import ModelSpec, ModelState
from salver.runtimes.detect import detect
from salver.store.changes import Key, changes
from salver.store.repository import Layout, Listing, ModelEntry, VersionEntry, scan, to_spec

_log = logging.getLogger("salver.repository")


class ServedRepository:
    """A model repository that is served.

    Args:
        path: the repository, a model folder or a model file.
        models: where its versions are loaded.
        watch_interval: seconds between two looks at the path; None to look only when told.
        on_demand: load versions when they are asked for, not at the start.

    Attributes:
        loaded: what the repository held at the start has been loaded, or has failed to.
    """

    def __init__(
        self, path: Path, *, models: ModelCache, watch_interval: float | None, on_demand: bool = False
    ) -> None:
        self._path = path
        self._models = models
        self._watch_interval = watch_interval
        self._on_demand = on_demand
        self._listing: Listing | None = None
        self._serving: dict[Key, str] = {}
        self._failed: dict[Key, str] = {}
        self._waiting_graphs: dict[Key, frozenset[str]] = {}  # those that failed, and the models that they ask
        self._waits_for: dict[str, frozenset[str]] = {}  # graphs that wait for their models to be loaded
        self._unloaded: set[str] = set()  # by request: watching doesn't bring these back
        # One change of a model at a time. A lock lives as long as somebody holds or awaits it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._changing: set[asyncio.Task[None]] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._seen_changes: dict[Key, asyncio.Task[None]] = {}  # by watching
        self.loaded = False

    async def start(self) -> None:
        """Load everything, and begin to watch if that is wanted.

        Raises:
            LoadError: the path is no repository, or, unless it is watched, nothing in it could be loaded.
        """
        watched = self._watch_interval is not None
        listing = self._listing = await asyncio.to_thread(scan, self._path, may_be_empty=watched)
        failures: list[str] = []
        for entry in listing.models.values():
            self._report(entry, before=None)
            if entry.error:
                failures.append(entry.error)
        for failed in await asyncio.gather(*map(self._load_first, listing.models.values())):
            failures += failed
        if failures and not watched and not any(map(self._models.versions, listing.models)):
            what = "nothing could be loaded: " if listing.layout is Layout.REPOSITORY else ""
            raise LoadError(what + "; ".join(failures))
        self.loaded = True
        if self._watch_interval is not None:
            self._watcher = asyncio.create_task(self._watch(self._watch_interval))

    async def load(self, name: str) -> None:
        """Load, or load again, a model's versions as they are on disk now; unload those that are gone.

        Goes on where the caller leaves: half of it would be neither the old state nor the new one.

        Raises:
            UnknownModel: the repository has no such model.
            LoadError: a version can't be loaded. What served before still serves.
        """
        await self._to_the_end(self._load(name))

    async def unload(self, name: str) -> None:
        """Unload a model's versions; watching doesn't bring them back, :meth:`load` does.

        Goes on where the caller leaves.
        """
        await self._to_the_end(self._unload(name))

    async def close(self) -> None:
        """Stop watching, and break off what changes."""
        tasks = [*self._changing, *self._seen_changes.values(), *([] if self._watcher is None else [self._watcher])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _to_the_end(self, change: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(change)
        self._changing.add(task)
        task.add_done_callback(self._changing.discard)
        await asyncio.shield(task)

    async def _load(self, name: str) -> None:
        async with self._lock(name):
            # What is found of other models is left to the watcher, which compares it to what it saw itself.
            listing = await asyncio.to_thread(scan, self._path, previous=self._listing)
            self._forget_missing(listing, only=name)
            entry = listing.models.get(name)
            if entry is None:
                raise UnknownModel(
                    f"failed to load '{name}': Request for unknown model: '{name}' is not found in the repository"
                )
            self._unloaded.discard(name)
            if entry.error:
                self._models.mark_failed(name, "", entry.error)
                raise LoadError(f"failed to load '{name}': {self._models.shown(entry.error)}")
            failures = await self._load_all(entry, entry.versions.values(), now=True)
            if failures:
                raise LoadError(self._models.shown("; ".join(failures)))
            await self._unload_all(key for key in self._serving if key[0] == name and key[1] not in entry.versions)

    async def _unload(self, name: str) -> None:
        async with self._lock(name):
            self._unloaded.add(name)
            await self._unload_all((key for key in self._serving if key[0] == name), forget=False)

    async def _load_first(self, entry: ModelEntry) -> list[str]:
        async with self._lock(entry.name):
            return await self._load_all(entry, entry.versions.values())

    async def _watch(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            try:
                await self._look()
            except SalverError as error:
                _log.error("can't look at the repository: %s", error)
            except Exception:  # noqa: BLE001  the next look may go better, and serving goes on
                _log.exception("looking at the repository failed")

    async def _look(self) -> None:
        previous = self._listing
        current = await asyncio.to_thread(scan, self._path, previous=previous)
        found = changes(serving=self._serving, failed=self._failed, previous=previous, current=current)
        self._listing = current
        for entry in current.models.values():
            if entry.name not in self._unloaded:
                self._report(entry, before=None if previous is None else previous.models.get(entry.name))
        # Nothing is waited for: a model that takes long to load must not keep others from being seen. What is to be
        # unloaded once a load has succeeded is found by a later look.
        for key in found.load:
            self._begin(key, self._load_seen(key, current))
        for key in found.unload:
            self._begin(key, self._unload_seen(key))
        self._forget_missing(current)

    def _begin(self, key: Key, change: Coroutine[None, None, None]) -> None:
        """Start a change of a version, unless one is under way."""
        if key in self._seen_changes:
            change.close()
            return
        task = self._seen_changes[key] = asyncio.create_task(change)
        task.add_done_callback(partial(self._ended, key))

    def _ended(self, key: Key, task: asyncio.Task[None]) -> None:
        del self._seen_changes[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("changing model '%s' version %s failed", *key, exc_info=error)

    async def _load_seen(self, key: Key, listing: Listing) -> None:
        entry = listing.models[key[0]]
        async with self._lock(entry.name):
            version = entry.versions[key[1]]
            # Both may have changed while this waited for a load or unload on request.
            if entry.name not in self._unloaded and self._serving.get(key) != version.fingerprint:
                await self._load_all(entry, [version])

    async def _unload_seen(self, key: Key) -> None:
        async with self._lock(key[0]):
            await self._unload_all([key])

    async def _load_all(self, entry: ModelEntry, versions: Iterable[VersionEntry], *, now: bool = False) -> list[str]:
        """Load versions of a model side by side; what went wrong, a text each.

        Args:
            now: load them also where they needn't be before they are asked for.
        """
        results = await asyncio.gather(*(self._load_version(entry, version, now=now) for version in versions))
        self._models.set_aliases(entry.name, entry.aliases)
        return [failure for failure in results if failure]

    async def _load_version(self, entry: ModelEntry, version: VersionEntry, *, now: bool) -> str:
        key = (entry.name, version.version)
        asks: frozenset[str] = frozenset()
        try:
            # What serves an older state of the files is replaced at once, without a gap.
            if self._on_demand and not now and not entry.config.pinned and key not in self._models.routes:
                self._offer(entry, version)
            else:
                spec = await self._find(entry, version)
                if self._on_demand:
                    self._offer(entry, version)
                if spec.runtime == "graph":
                    from salver.graph.runtime import asked_models

                    asks = await asyncio.to_thread(asked_models, spec)
                    await self._wait_for(entry.name, asks)
                await self._models.load(spec)
        except SalverError as error:
            self._failed[key] = version.fingerprint
            if asks:
                self._waiting_graphs[key] = asks
            return f"failed to load '{entry.name}' version {version.version}: {error}"
        self._serving[key] = version.fingerprint
        self._failed.pop(key, None)
        self._waiting_graphs.pop(key, None)
        for graph, models in list(self._waiting_graphs.items()):
            if entry.name in models:  # it may hold now: the next look tries it again
                self._failed.pop(graph, None)
        return ""

    async def _wait_for(self, graph: str, models: frozenset[str]) -> None:
        """Wait until the models that a graph asks have been loaded, or have failed to be.

        Of graphs that ask each other, the one that closes the circle doesn't wait: its check says what is wrong.
        """
        self._waits_for[graph] = models
        try:
            for model in sorted(models):
                if model in self._locks and not self._is_behind(model, graph):
                    async with self._lock(model):
                        pass
        finally:
            del self._waits_for[graph]

    def _is_behind(self, model: str, graph: str) -> bool:
        """Whether a model is, or waits for, a graph."""
        reached, waiting = {model}, [model]
        while waiting:
            more = self._waits_for.get(waiting.pop(), frozenset()) - reached
            reached |= more
            waiting += more
        return graph in reached

    def _offer(self, entry: ModelEntry, version: VersionEntry) -> None:
        if version.error:
            self._models.mark_failed(entry.name, version.version, version.error)
            raise InvalidArtifact(version.error)
        fetch = partial(self._find, entry, version)
        config = entry.config
        offer = Offer(entry.name, version.version, fetch=fetch, tenant=config.tenant, pinned=config.pinned)
        offer.files = version.fingerprint
        self._models.offer(offer)

    async def _find(self, entry: ModelEntry, version: VersionEntry) -> ModelSpec:
        try:
            if version.error:
                raise InvalidArtifact(version.error)
            runtime, artifact = await asyncio.to_thread(detect, version.path, entry.config.runtime)
            return to_spec(entry, version.version, runtime=runtime, artifact=artifact)
        except (SalverError, OSError) as error:
            self._models.mark_failed(entry.name, version.version, str(error))
            raise InvalidArtifact(str(error)) from error

    async def _unload_all(self, keys: Iterable[Key], *, forget: bool = True) -> None:
        """Unload versions side by side: the model's requests don't go from one to the next of them."""
        going = list(keys)
        for key in going:
            self._serving.pop(key, None)
        await asyncio.gather(*(self._models.unload(*key, forget=forget) for key in going))

    def _report(self, entry: ModelEntry, *, before: ModelEntry | None) -> None:
        """Tell what is new about a model that can't be served, or is strange."""
        if entry.error and (before is None or before.error != entry.error):
            self._models.mark_failed(entry.name, "", entry.error)
        elif before is not None and before.error and not entry.error:
            self._models.clear_failure(entry.name)
        for problem in entry.problems:
            if before is None or problem not in before.problems:
                _log.warning("%s", problem)

    def _forget_missing(self, listing: Listing, *, only: str | None = None) -> None:
        """Versions that aren't loaded and that the repository doesn't have, or doesn't want any more, don't exist."""
        for status in self._models.statuses():
            key = (status.name, status.version)
            if status.state is ModelState.UNAVAILABLE and only in (None, status.name) and not _is_listed(key, listing):
                self._failed.pop(key, None)
                self._models.forget(*key)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())


def _is_listed(key: Key, listing: Listing) -> bool:
    """Whether a version ("": a model that can't be served) is there, as far as can be known."""
    name, version = key
    entry = listing.models.get(name)
    if entry is None:
        return False
    if entry.error:
        return version == "" or entry.found is None or version in entry.found
    return version in entry.versions
