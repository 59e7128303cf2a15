"""The model versions of this node: loading them, and swapping them within the memory budget.

A request pins the version it uses; a version that was replaced, unloaded or evicted is closed when nobody holds it any
more. A version's entry changes in one step: requests meet the old one or the new one, never neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic, perf_counter
from weakref import WeakValueDictionary

from salver.batching.resources import Resources
from salver.cache.catalogue import Catalogue
from salver.cache.known import UNLOADED, Key, KnownVersion, Loading
from salver.cache.load_places import LoadPlace
from salver.cache.loaded_version import LoadedVersion
from salver.cache.loader import Loader
from salver.cache.offer import Offer
from salver.cache.reservations import WAIT_SECONDS, Reservations
from salver.core.errors import (
    DeadlineExceeded,
    InvalidArtifact,
    LoadError,
    ModelUnavailable,
    Overloaded,
    SalverError,
    StoreUnavailable,
)
from salver.core.events import (
    Emit,
    ModelCrashed,
    ModelEvicted,
    ModelLoading,
    ModelReady,
    ModelUnloaded,
)
from salver.core.model import ModelSpec, ModelState, version_order
from salver.core.signature import Signature
from salver.monitoring.metrics import CacheSnapshot
from salver.monitoring.statistics import ModelStatistics
from salver.runtimes.base import Runtime
from salver.runtimes.process.launcher import ProcessLauncher

_LOAD_WAIT_SECONDS = 60.0
_RETRY_SECONDS = 5.0
_EVICTION_SECONDS = 30.0
_MOST_BRINGS = 3


class ModelCache(Catalogue):
    """The model versions of a node.

    Some were loaded because somebody said so (:meth:`load`), and stay until somebody says otherwise. Others are
    offered (:meth:`offer`): they are loaded when a request asks for them, and evicted when others need the room.

    Args:
        create_runtime: gives the runtime of a name.
        emit: is told what happens.
        max_queue: how many requests may wait for a version, where its model doesn't say; and for its load.
        resources: what executions of several models share; None for nothing.
        processes: starts models in processes of their own; None where none may be.
        allow_code: whether those may bring code of their own.
        batches: whether requests go through the versions' queues, and batches are to be measured.
        concurrent_loads: how many versions load side by side; further ones wait.
        root: a folder that clients aren't told the way to: paths in it are shown from there on.
        reservations: makes room in memory; None where memory isn't looked after.

    Attributes:
        reservations: the memory budgets, and who has what of them.
    """

    def __init__(
        self,
        *,
        create_runtime: Callable[[str], Runtime],
        emit: Emit,
        max_queue: int = 1000,
        resources: Resources | None = None,
        processes: ProcessLauncher | None = None,
        allow_code: bool = False,
        batches: bool = True,
        concurrent_loads: int = 4,
        root: str = "",
        reservations: Reservations | None = None,
    ) -> None:
        super().__init__(emit=emit, root=root)
        self._max_queue = max_queue
        self.reservations = Reservations({}) if reservations is None else reservations
        self.reservations.evict = self._evict
        self._loader = Loader(
            create_runtime=create_runtime,
            emit=emit,
            max_queue=max_queue,
            resources=resources,
            processes=processes,
            allow_code=allow_code,
            batches=batches,
            concurrent_loads=concurrent_loads,
        )
        # A lock lives as long as somebody holds or awaits it.
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()
        self._side_by_side = asyncio.Semaphore(concurrent_loads)
        self._misses = 0
        self._loaded_count = 0
        self._failed_count = 0
        self._load_seconds = 0.0
        self._waits_for: dict[Key, list[Key]] = {}  # versions whose load waits for the load of others
        self._hinted = 0  # bytes that the loads need which were hinted, and haven't ended
        self._loads: set[asyncio.Task[LoadedVersion]] = set()
        self._balancing: asyncio.Task[None] | None = None
        self._closed = False

    # Requests

    def admit(self, name: str, version: str) -> None:
        """Refuse a request for a version that would have to be loaded, where it can't be or too many wait for it.

        Raises:
            UnknownModel, ModelUnavailable, Overloaded: as :meth:`acquire`.
        """
        self._check_waiting(self._to_load(name, version))

    async def acquire(self, name: str, version: str = "", *, deadline: float | None = None) -> LoadedVersion:
        """The version that a request gets, pinned; it is loaded first where it isn't, however many wait for it.

        Args:
            name, version: as the request has them.
            deadline: by :func:`time.monotonic`, how long the request may wait; None for a minute.

        Raises:
            UnknownModel: there is no such model or version.
            ModelUnavailable: there is, and it can't be loaded.
            Overloaded: too many wait for it, or memory is taken by models that are in use.
            DeadlineExceeded: the load took too long.
        """
        loaded = self.routes.get((name, version))
        if loaded is not None:
            loaded.pins += 1
            return loaded
        entry = self._to_load(name, version)
        self._check_waiting(entry)
        loading = self._begin_loading(entry)
        self._misses += 1
        loading.waiters += 1
        until = monotonic() + _LOAD_WAIT_SECONDS if deadline is None else deadline
        try:
            async with asyncio.timeout(until - monotonic()):
                return await asyncio.shield(loading.task)
        except BaseException as error:
            self._leave(entry, loading)
            if isinstance(error, TimeoutError):
                waited = "the deadline passed" if deadline is not None else f"{_LOAD_WAIT_SECONDS:g} s passed"
                raise DeadlineExceeded(f"{waited} while model '{name}' was being loaded") from None
            if isinstance(error, LoadError):
                raise ModelUnavailable(f"model '{name}' is not ready: {self.shown(str(error))}") from error
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and not task.cancelling():
                raise ModelUnavailable(f"model '{name}' is not ready: its loading was broken off") from None
            raise

    async def describe(self, name: str, version: str = "") -> LoadedVersion | Offer:
        """A version whose signature is known; it is loaded where that takes it.

        Raises:
            SalverError: as :meth:`acquire`.
        """
        found = self.find(name, version)
        if isinstance(found, Offer) and found.signature is None:
            loaded = await self.acquire(name, version)
            loaded.unpin()
            return loaded
        return found

    async def load_for(self, asker: Key, name: str, version: str = "") -> LoadedVersion:
        """A version that is loaded first where it isn't, for a version that is being loaded and has to know it.

        Raises:
            ModelUnavailable: it waits for the asker itself; and as :meth:`acquire`.
        """
        found = self.find(name, version)
        wanted = (found.name, found.version)
        if way := self._way(wanted, asker):
            names = " -> ".join(each for each, _ in (asker, *way))
            raise ModelUnavailable(f"model '{asker[0]}' asks itself: {names}")
        waits = self._waits_for.setdefault(asker, [])
        waits.append(wanted)
        try:
            loaded = await self.acquire(name, version)
        finally:
            waits.remove(wanted)
            if not waits:
                self._waits_for.pop(asker, None)
        loaded.unpin()
        return loaded

    def _way(self, start: Key, end: Key) -> list[Key]:
        """The way from a version to one that its load waits for, both with it; empty where there is none."""
        ways, seen = [[start]], {start}
        while ways:
            way = ways.pop()
            if way[-1] == end:
                return way
            following = [each for each in self._waits_for.get(way[-1], ()) if each not in seen]
            seen.update(following)
            ways += [[*way, each] for each in following]
        return []

    async def signature(self, name: str, version: str = "") -> Signature:
        """The signature of a version, which is loaded where it takes that to know it.

        Raises:
            SalverError: as :meth:`acquire`.
        """
        found = await self.describe(name, version)
        assert found.signature is not None
        return found.signature

    # Offers

    def offer(self, offer: Offer) -> None:
        """From now on, load a version when it is asked for. One that is loaded stays as it is until it is evicted."""
        entry = self._known(offer.name, offer.version)
        entry.offer = offer
        entry.unloaded = False
        entry.failed_until = 0.0
        if entry.loaded is None:
            entry.set(ModelState.READY)
        else:
            self.reservations.repin(entry.loaded, offer)
        self._route(offer.name)

    async def withdraw(self, name: str, version: str) -> None:
        """A version doesn't exist any more: take it out of service, and forget it."""
        await self.unload(name, version, forget=True)

    def prefetch(self, name: str, version: str = "") -> None:
        """Load a version that is about to be asked for, without waiting for it.

        Raises:
            UnknownModel, ModelUnavailable: there is none, or it can't be loaded.
        """
        if (name, version) not in self.routes:
            self._begin_loading(self._to_load(name, version)).is_wanted = True

    def hint(self, name: str, version: str = "") -> None:
        """Load a version that will perhaps be asked for, where nothing has to go for it.

        Raises:
            UnknownModel, ModelUnavailable: there is none, or it can't be loaded.
        """
        known = self._to_load(name, version)
        offer = known.offer
        if known.loading is not None or offer is None or not self.reservations.has_room(offer, besides=self._hinted):
            return
        need = max(offer.memory_bytes, offer.peak_memory_bytes)
        self._hinted += need
        loading = self._begin_loading(known)
        loading.is_wanted = True
        loading.task.add_done_callback(lambda _: self._hint_ended(need))

    def _hint_ended(self, need: int) -> None:
        self._hinted -= need

    async def preload(self, name: str, version: str) -> bool:
        """Load a version where nothing has to go for it; False where there is no room. Its load may fail in silence.

        Raises:
            UnknownModel, ModelUnavailable: there is no such version, or it can't be loaded.
        """
        if (name, version) in self.routes:
            return True
        known = self._to_load(name, version)
        if known.offer is not None and not self.reservations.has_room(known.offer):
            return False
        loading = self._begin_loading(known)
        loading.is_wanted = True
        await asyncio.wait([loading.task])
        return True

    def pin(self, name: str, version: str, pinned: bool) -> None:
        """Say whether a version may be evicted, until the server ends.

        Raises:
            UnknownModel: there is no such version that is loaded on demand.
        """
        known = self._find(name, version)
        if known is None or known.offer is None:
            raise self._why_not(name, version)
        known.offer.pinned = pinned
        if known.loaded is not None:
            self.reservations.repin(known.loaded, known.offer)

    def cache_snapshot(self) -> CacheSnapshot:
        """The cache as metrics see it."""
        return CacheSnapshot(
            hits=max(0, self.reservations.uses() - self._misses),
            misses=self._misses,
            loads=self._loaded_count,
            failed_loads=self._failed_count,
            load_seconds=self._load_seconds,
            evictions=self.reservations.evictions,
            loading=len(self.loading()),
            loaded=self.reservations.enrolled,
            memory={
                device: (budget.limit, budget.known_bytes(), budget.seen_bytes())
                for device, budget in self.reservations.budgets.items()
            },
        )

    async def evict(self, name: str, version: str) -> bool:
        """Give a version's memory back; the next request loads it again. False where it isn't loaded, or is in use.

        Raises:
            UnknownModel: there is no such version.
        """
        entry = self._find(name, version)
        if entry is None:
            raise self._why_not(name, version)
        if entry.loaded is None or entry.offer is None or entry.loaded.pins:
            return False
        self.reservations.note(entry.loaded, "on request")
        await self._evict(entry.loaded, "on request")
        return True

    # Loading and unloading because somebody says so

    async def load(self, spec: ModelSpec) -> LoadedVersion:
        """Load a version; where it is loaded already, the new one takes its place once it is ready.

        Raises:
            LoadError: it can't be loaded. What served before still serves.
        """
        key = (spec.name, spec.version)
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self._known(*key)
            known.unloaded = False
            loaded = await self._load(known, spec, offer=None)
            assert loaded is not None  # it counts to nobody's share
            return loaded

    async def load_private(self, spec: ModelSpec) -> LoadedVersion:
        """Load what no request can ask for: a function that comes with a graph. :meth:`retire_private` ends it.

        Raises:
            LoadError: it can't be loaded.
        """
        return await self._loader.load(spec, statistics=ModelStatistics(), on_change=_nothing_changes)

    async def retire_private(self, loaded: LoadedVersion) -> None:
        """Close what :meth:`load_private` has given, once its requests have ended."""
        await asyncio.shield(self._loader.retire(loaded))

    async def unload(self, name: str, version: str, *, forget: bool = False, timeout: float = 30.0) -> None:
        """Take a version out of service, and close it when the requests that use it have ended.

        Args:
            forget: the version doesn't exist any more; else it stays known as unloaded.
            timeout: seconds to wait for those requests. The version is closed later where they take longer.
        """
        key = (name, version)
        entry = self._find(name, version)
        if entry is None:
            return
        offer = None if forget else entry.offer
        entry.offer, entry.unloaded = offer, True
        if entry.loading is not None:
            entry.loading.task.cancel()
            entry.loading = None
        async with self._locks.setdefault(key, asyncio.Lock()):
            loaded, entry.loaded = entry.loaded, None
            if loaded is not None:
                entry.set(ModelState.UNLOADING)
                self._route(name)
                await asyncio.wait([self._retire(loaded, evicted=False)], timeout=timeout)
            if entry.offer is not offer:
                entry.set(ModelState.READY)  # it was offered again meanwhile
            elif not forget:
                entry.unloaded = True
                entry.set(ModelState.UNAVAILABLE, UNLOADED)
            elif self._find(name, version) is entry:
                del self._models[name].versions[version]
            self._route(name)
            self._drop_if_empty(name)
        if loaded is not None:
            self._emit(ModelUnloaded(name, version))

    def start(self) -> None:
        """Begin to hold the budget also where loaded models grow."""
        self._balancing = asyncio.create_task(self.reservations.balance())

    async def close(self, timeout: float = 30.0) -> None:
        """Unload everything. Requests that still run get ``timeout`` seconds."""
        self._closed = True
        tasks: list[asyncio.Task[LoadedVersion] | asyncio.Task[None]] = list(self._loads)
        if self._balancing is not None:
            tasks.append(self._balancing)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
        for loaded in self.loaded():
            self._retire(loaded, evicted=False)
        self.routes.clear()
        self._models.clear()
        await self._loader.close(timeout)

    # How a version is loaded

    def _begin_loading(self, entry: KnownVersion) -> Loading:
        if entry.loading is None:
            assert entry.offer is not None
            loading = entry.loading = Loading()
            loading.task = asyncio.create_task(self._load_offered(entry, entry.offer, loading))
            self._loads.add(loading.task)
            loading.task.add_done_callback(partial(self._loading_ended, entry, loading))
        return entry.loading

    def _loading_ended(self, entry: KnownVersion, loading: Loading, task: asyncio.Task[LoadedVersion]) -> None:
        self._loads.discard(task)
        if entry.loading is loading:
            entry.loading = None
        # Whoever waits for it is told; a load that nobody waits for has been told of by its event.
        if not task.cancelled():
            task.exception()

    def _leave(self, entry: KnownVersion, loading: Loading) -> None:
        """One that waited has left. Who comes after the last of them doesn't wait for a load that is broken off."""
        if loading.leave():
            loading.task.cancel()
            if entry.loading is loading:
                entry.loading = None

    async def _load_offered(self, known: KnownVersion, offer: Offer, loading: Loading) -> LoadedVersion:
        key = (offer.name, offer.version)
        async with self._locks.setdefault(key, asyncio.Lock()):
            loaded = known.loaded  # by somebody who said so, meanwhile
            try:
                while loaded is None:
                    loaded = await self._load_in_turn(known, offer, loading)
                    if known.offer is not None and known.offer.files != offer.files:  # they have changed meanwhile
                        offer, loaded = known.offer, None
            except SalverError as error:
                if not isinstance(error, Overloaded):
                    self.mark_failed(*key, str(error))
                if not isinstance(error, Overloaded | StoreUnavailable):
                    # Those who come soon are told so, without another try.
                    known.failed_until = monotonic() + _RETRY_SECONDS
                raise
            loading.hand_over(loaded)
            if known.loading is loading:
                known.loading = None
            return loaded

    async def _load_in_turn(self, known: KnownVersion, offer: Offer, loading: Loading) -> LoadedVersion:
        """Load in a place among the loads side by side, which nobody has while its files are brought, or while its
        tenant has no room in its share: neither is a reason for others to wait.
        """
        deadline = monotonic() + WAIT_SECONDS
        brought = 0
        try:
            while True:
                async with LoadPlace(self._side_by_side) as place:
                    spec = await offer.fetch()
                    loaded = None if spec is None else await self._fetched(known, spec, offer, loading, place)
                if loaded is not None:
                    return loaded
                if spec is not None:
                    await loading.enter(self.reservations.line(offer.tenant))
                    await self.reservations.until_share_changes(spec, offer, deadline)
                elif brought < _MOST_BRINGS:
                    brought += 1
                    await offer.bring()
                else:
                    raise Overloaded(
                        f"the files of model '{offer.name}' version {offer.version} were brought {brought} times, and "
                        "had to go for others before it could be loaded; allow the disk cache more, or try again later"
                    )
        finally:
            loading.leave_line()

    async def _fetched(
        self, known: KnownVersion, spec: ModelSpec, offer: Offer, loading: Loading, place: LoadPlace
    ) -> LoadedVersion | None:
        """Load what was fetched; None where the tenant's share hasn't the room now."""
        loaded = None
        try:
            if spec.runtime == "graph":
                place.leave()  # it may wait for models that it asks to be loaded
            loaded = await self._load(known, spec, offer=offer, loading=loading)
        finally:
            if loaded is None:
                offer.release()
        if loaded is not None:
            loaded.release = offer.release
        return loaded

    async def _load(
        self, known: KnownVersion, spec: ModelSpec, *, offer: Offer | None, loading: Loading | None = None
    ) -> LoadedVersion | None:
        """Load a version and put it in place; the caller holds its lock. None where its tenant's share hasn't the room
        now; what isn't on offer counts to nobody's share.
        """
        key = (spec.name, spec.version)
        before = (
            (known.state, known.reason) if offer is not None else (ModelState.UNAVAILABLE, "its loading was broken off")
        )
        if known.loaded is None:
            known.set(ModelState.LOADING)
        reserved = None
        try:
            reserved = await self.reservations.reserve(spec, offer)
            if reserved is None:
                if known.loaded is None:
                    known.set(*before)
                return None
            self._emit(ModelLoading(*key))
            if loading is not None:
                loading.leave_line()
                loading.is_wanted = True  # nothing stops a runtime that loads
            started = perf_counter()
            known.statistics = known.statistics or ModelStatistics()
            loaded = await self._loader.load(spec, statistics=known.statistics, on_change=self._instance_changed)
            if offer is None:
                self._check_graphs(loaded)
        except BaseException as error:
            if reserved is not None:
                reserved.give_up()
            if known.loaded is None:
                known.set(*before)
            self._failed_count += isinstance(error, Exception)
            if offer is None and isinstance(error, SalverError):
                self.mark_failed(*key, str(error))
            raise
        seconds = perf_counter() - started
        self._loaded_count += 1
        self._load_seconds += seconds
        reserved.settle(loaded, seconds, offer or known.offer)
        replaced, known.loaded = known.loaded, loaded
        known.unloaded, known.failed_until = False, 0.0
        known.set(ModelState.READY)
        self._models[spec.name].failure = ""
        self._route(spec.name)
        on_demand = offer is not None
        self._emit(ModelReady(*key, seconds, loaded.memory_bytes, loaded.model.device, loaded.isolation, on_demand))
        if replaced is not None:
            self._retire(replaced, evicted=False)
        self._instance_changed(loaded)  # while it was made ready, it may have died
        return loaded

    def _check_graphs(self, loaded: LoadedVersion) -> None:
        """Refuse a version that a graph which serves couldn't work with; it is closed.

        Raises:
            InvalidArtifact: there is such a graph.
        """

        def leads_here(version: str) -> bool:
            known = self._models[loaded.name]
            if version:
                return loaded.version in (version, known.aliases.get(version, version))
            newest = max([loaded.version, *known.usable()], key=version_order)
            return newest == loaded.version

        for graph in self.loaded():
            if graph.composed is None or (graph.name, graph.version) == (loaded.name, loaded.version):
                continue
            try:
                graph.composed.check_change(loaded.name, leads_here, loaded.signature)
            except LoadError as error:
                self._loader.retire(loaded)
                raise InvalidArtifact(
                    f"it would break graph '{graph.name}' version {graph.version}, which asks this model: {error}; let "
                    "the graph name the version that it needs, or change both under new names"
                ) from error

    async def _evict(self, loaded: LoadedVersion, reason: str) -> None:
        """Take a version that nobody holds out of service, and wait until it is closed."""
        known = self._find(loaded.name, loaded.version)
        if known is None or known.loaded is not loaded:
            return
        known.loaded = None
        known.set(ModelState.READY if known.offer is not None else ModelState.UNAVAILABLE, "")
        self._route(loaded.name)
        closing = self._retire(loaded, evicted=True)
        self._emit(ModelEvicted(loaded.name, loaded.version, reason, loaded.usage.size))
        await asyncio.wait([closing], timeout=_EVICTION_SECONDS)

    def _retire(self, loaded: LoadedVersion, *, evicted: bool) -> asyncio.Task[None]:
        self.reservations.retire(loaded, evicted=evicted)
        return self._loader.retire(loaded, closed=partial(self._was_closed, loaded))

    def _was_closed(self, loaded: LoadedVersion) -> None:
        self.reservations.release(loaded)
        loaded.release()

    def _instance_changed(self, loaded: LoadedVersion) -> None:
        """Where no instance will ever run again, the version isn't ready any more, and says why."""
        failure = loaded.failure
        known = self._find(loaded.name, loaded.version)
        if failure is None or known is None or known.loaded is not loaded:
            return
        if known.state == ModelState.READY:
            known.set(ModelState.UNAVAILABLE, self.shown(str(failure)))
            self._emit(ModelCrashed(loaded.name, loaded.version, str(failure)))

    def _check_waiting(self, known: KnownVersion) -> None:
        if known.loading is not None and known.loading.waiters >= self._max_queue:
            raise Overloaded(
                f"{known.loading.waiters} requests wait for model '{known.name}' to be loaded, as many as may "
                "(max_queue); try again later"
            )


def _nothing_changes(loaded: LoadedVersion) -> None:
    """Nobody is told of its instances."""
