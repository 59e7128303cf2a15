"""Makes room in memory before a version is loaded: who has to go, and who has to wait."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from weakref import WeakValueDictionary

from salver.cache.eviction import EvictionOrder
from salver.cache.loaded_version import LoadedVersion
from salver.cache.memory import ProcessMemory
from salver.cache.memory_budget import MemoryBudget, Reservation
from salver.cache.offer import Offer
from salver.cache.usage import Usage
from salver.core.errors import LoadError, Overloaded
from salver.core.model import ModelSpec

WAIT_SECONDS = 30.0
"""How long a load waits for memory that is in use."""

_LOOK_SECONDS = 0.5
_BALANCE_SECONDS = 1.0
_RECORDS = 200
_SMALL_BYTES = 1 << 20
_FILE_FACTOR = 1.5
"""Memory that a version takes for each byte of its files, before any of its runtime was seen."""

_TRIM_PART = 0.02
"""Part of the budget that the allocator may keep at hand before it is asked to give it back."""

EVERY_OTHER_TENANT = "*"
"""Stands in the shares for tenants that have none of their own there."""

_log = logging.getLogger("salver.cache")


@dataclass(frozen=True, slots=True)
class EvictionRecord:
    """A version that had to go.

    Attributes:
        at: when, in seconds since the epoch.
        reason: why.
        freed_bytes: what it took.
        idle_seconds: since its last request.
    """

    name: str
    version: str
    at: float
    reason: str
    freed_bytes: int
    idle_seconds: float


class Reservations:
    """Who has what of the memory budgets, and who goes when somebody else needs the room.

    Args:
        budgets: by device: "cpu", "cuda:0", ... Devices that aren't named have no budget; {} looks after none.
        policy: which versions go first, see :class:`salver.cache.eviction.EvictionOrder`.
        shares: tenant -> part of the budget that its versions may take; "*" for those that aren't named.
        memory: the process's, to be trimmed after evictions; None to leave it.

    Attributes:
        evict: set by who owns the versions: takes one out of service, and ends once it is closed.
        records: the last evictions, the newest last.
        evictions: how many there were.
    """

    def __init__(
        self,
        budgets: Mapping[str, MemoryBudget],
        *,
        order: Callable[[], EvictionOrder] = EvictionOrder,
        shares: Mapping[str, float] | None = None,
        memory: ProcessMemory | None = None,
    ) -> None:
        self.budgets = budgets
        self.records: deque[EvictionRecord] = deque(maxlen=_RECORDS)
        self.evictions = 0
        self.evict: Callable[[LoadedVersion, str], Awaitable[None]] | None = None
        self._orders = {device: order() for device in (*budgets, "")}
        self._turns = {device: asyncio.Lock() for device in budgets}
        self._lines: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._shares = dict(shares or {})
        self._memory = memory
        self._versions: dict[int, LoadedVersion] = {}
        self._factors: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._waiting = 0
        self._closing = 0
        self._closed = 0
        self._closed_before = 0
        self._closed_and_trimmed = 0
        self._uses_before = 0

    async def reserve(self, spec: ModelSpec, offer: Offer | None) -> Reserved | None:
        """Set memory aside for a load, once there is room for it.

        Args:
            spec: what is to be loaded.
            offer: what it is expected to take; None where somebody wants it loaded, and nobody waits for a request.

        Returns:
            None where its tenant's versions are in use that would have to go: see :meth:`until_share_changes`.

        Raises:
            LoadError: the budget will never have the room.
            Overloaded: it doesn't have it for now: the memory is taken by versions that are in use.
        """
        device, budget = self._budget_of(spec)
        if budget is None:
            return Reserved(self, "", None, spec, None, 0)
        if spec.runtime == "graph":
            # It takes next to nothing, and its load waits for those of its models, which would wait for what it held.
            return Reserved(self, device, None, spec, None, 0)
        need, files = await self._expected(spec, offer)
        tenant = offer.tenant if offer is not None else ""
        deadline = time.monotonic() + (WAIT_SECONDS if offer is not None else 0.0)
        async with self._turns[device]:  # who came first gets room first
            if not await self._make_room(device, budget, need, spec, tenant, deadline):
                return None
            return Reserved(self, device, budget, spec, budget.reserve(need, tenant=tenant), files)

    def line(self, tenant: str) -> asyncio.Lock:
        """Held by the first of a tenant's loads that wait for its share; the others wait for that."""
        return self._lines.setdefault(tenant, asyncio.Lock())

    async def until_share_changes(self, spec: ModelSpec, offer: Offer, deadline: float) -> None:
        """Wait until something has changed since :meth:`reserve` gave None.

        Args:
            deadline: by :func:`time.monotonic`.

        Raises:
            Overloaded: the time is over.
        """
        device, budget = self._budget_of(spec)
        if budget is not None and not await self._until_changed(deadline):
            need, _ = await self._expected(spec, offer)
            raise self._no_room(device, budget, need, spec)

    def _budget_of(self, spec: ModelSpec) -> tuple[str, MemoryBudget | None]:
        device = spec.device if spec.device in self.budgets else "cpu"
        return device, self.budgets.get(device)

    def has_room(self, offer: Offer, *, besides: int = 0) -> bool:
        """Whether a version can probably be loaded without any other going, where others are about to take bytes."""
        budget = self.budgets.get("cpu")
        return budget is None or budget.room() >= besides + max(offer.memory_bytes, offer.peak_memory_bytes)

    def repin(self, loaded: LoadedVersion, offer: Offer) -> None:
        """What is said of a loaded version has changed."""
        loaded.is_evictable = not offer.pinned
        loaded.usage.pinned = offer.pinned
        self._changed.set()

    def release(self, loaded: LoadedVersion) -> None:
        """A version was closed."""
        self._closing -= 1
        self._closed += 1
        budget, reservation = loaded.budget, loaded.reservation
        if budget is not None and reservation is not None:
            budget.release(reservation)
            loaded.reservation = None
        self._changed.set()

    def retire(self, loaded: LoadedVersion, *, evicted: bool) -> None:
        """A version was taken out of service: it can't be asked to go any more. Once it is closed, :meth:`release`."""
        self._closing += 1
        if self._versions.pop(id(loaded.usage), None) is not None:
            self._uses_before += loaded.usage.uses
            self._orders[loaded.device_budget].remove(loaded.usage, evicted=evicted)

    def enrol(self, device: str, loaded: LoadedVersion) -> None:
        """A version is in service: it may be asked to go."""
        loaded.device_budget = device
        self._versions[id(loaded.usage)] = loaded
        self._orders[device].add(loaded.usage)
        self._changed.set()

    @property
    def enrolled(self) -> int:
        """Versions in service."""
        return len(self._versions)

    def uses(self) -> int:
        """Requests that versions in service had, and those before them."""
        return self._uses_before + sum(loaded.usage.uses for loaded in self._versions.values())

    def ranking(self) -> Iterator[tuple[LoadedVersion, float]]:
        """Loaded versions and their values, those that go first before others."""
        for order in self._orders.values():
            for usage, value in order.ranking():
                if (loaded := self._versions.get(id(usage))) is not None:
                    yield loaded, value

    def hottest(self, limit: int) -> list[tuple[str, str]]:
        """Names and versions of what is asked for most, loaded or not."""
        return [key for order in self._orders.values() for key in order.hottest(limit)][:limit]

    async def find_hottest(self, limit: int) -> list[tuple[str, str]]:
        """The same, without keeping the event loop for longer than about a millisecond."""
        found: list[tuple[str, str]] = []
        for order in self._orders.values():
            keys: list[tuple[str, str]] = []
            for keys in order.hottest_in_steps(limit):  # noqa: B007
                await asyncio.sleep(0)
            found += keys
        return found[:limit]

    async def balance(self) -> None:
        """Evict where more memory is in use than the budget has: models grow while they work. Ends when cancelled."""
        while True:
            await asyncio.sleep(_BALANCE_SECONDS)
            for device, budget in self.budgets.items():
                try:
                    await self._balance(device, budget)
                except Exception:  # noqa: BLE001  the next look may go better, and serving goes on
                    _log.exception("looking after the memory budget failed")
            await self._trim_at_rest()

    async def _trim_at_rest(self) -> None:
        """Once loading and closing has come to rest, what closed versions have left goes back to the system."""
        is_at_rest = self._closed == self._closed_before and not self._closing
        self._closed_before = self._closed
        if is_at_rest and self._closed != self._closed_and_trimmed:
            if any(budget.loads for budget in self.budgets.values()):
                return
            self._closed_and_trimmed = self._closed
            await self._trim()

    async def _balance(self, device: str, budget: MemoryBudget) -> None:
        if budget.loads or budget.lacking(0) <= 0:
            return
        async with self._turns[device]:
            await self._trim()
            if (missing := -budget.room()) > 0:
                order = self._orders[device]
                victims = order.victims(missing, may_go=self._may_go)
                if victims is None:
                    victims = [usage for usage, _ in order.ranking() if self._may_go(usage)]
                await self._evict_all(victims, f"{_readable(missing)} more are in use than the budget has")

    def learn(self, spec: ModelSpec, files_bytes: int, size: int) -> None:
        """Note what a version of a runtime takes for the bytes of its files."""
        if files_bytes > 0:
            seen = min(20.0, max(0.1, (size - _SMALL_BYTES) / files_bytes))
            self._factors[spec.runtime] = 0.8 * self._factors.get(spec.runtime, seen) + 0.2 * seen

    async def _expected(self, spec: ModelSpec, offer: Offer | None) -> tuple[int, int]:
        """Bytes that a load is expected to take, and the bytes of its files where that was worked out from them."""
        if offer is not None and offer.memory_bytes:
            return max(offer.memory_bytes, offer.peak_memory_bytes), 0
        if spec.measured is not None:
            return max(spec.measured.memory_bytes, spec.measured.peak_memory_bytes), 0
        files = await asyncio.to_thread(files_bytes, spec.path)
        return int(files * self._factors.get(spec.runtime, _FILE_FACTOR)) + _SMALL_BYTES, files

    async def _make_room(
        self, device: str, budget: MemoryBudget, need: int, spec: ModelSpec, tenant: str, deadline: float
    ) -> bool:
        """Return once there is room; False where the tenant has used up its share with versions that are in use."""
        share = self._share(tenant, budget)
        if need > min(budget.limit, share):
            of = "the memory budget is" if share >= budget.limit else f"the share of tenant {tenant!r} is"
            raise LoadError(
                f"model '{spec.name}' version {spec.version} needs about {_readable(need)} of memory, and {of} "
                f"{_readable(min(budget.limit, share))}"
            )
        order = self._orders[device]
        is_trimmed = False
        while True:
            over_share = budget.tenant_bytes(tenant) + need - share
            missing = budget.lacking(need)
            if over_share <= 0 and missing <= 0:
                return True
            if over_share > 0:
                reason = f"tenant {tenant!r} has used up its share"
                victims = order.victims(int(over_share), may_go=self._may_go, tenant=tenant)
            else:
                reason = f"'{spec.name}' version {spec.version} needed the room"
                victims = order.victims(missing, may_go=self._may_go)
            if victims:
                await self._evict_all(victims, reason)
            elif over_share > 0:
                return False
            elif not is_trimmed:
                is_trimmed = True
                await self._trim()
            elif not self._is_worth_waiting(device, budget, need) or not await self._until_changed(deadline):
                raise self._no_room(device, budget, need, spec)

    def _is_worth_waiting(self, device: str, budget: MemoryBudget, need: int) -> bool:
        """Whether versions in use, and what ends or begins now, may give back enough."""
        if budget.loads or self._closing:
            return True
        loaded = list(self._on(device))
        missing = budget.known_bytes() + need - budget.limit
        return any(each.pins for each in loaded) and missing <= sum(
            each.usage.size for each in loaded if each.is_evictable
        )

    def _no_room(self, device: str, budget: MemoryBudget, need: int, spec: ModelSpec) -> LoadError | Overloaded:
        text = (
            f"model '{spec.name}' version {spec.version} needs about {_readable(need)} of memory; of the budget, "
            f"{_readable(budget.limit)}, {_readable(max(0, budget.room()))} are left"
        )
        evictable = [loaded for loaded in self._on(device) if loaded.is_evictable]
        if any(loaded.pins for loaded in evictable) or budget.loads or self._closing:
            return Overloaded(f"{text}, and the models that could go are in use; try again later")
        if evictable:
            return Overloaded(
                f"{text}, and evicting all models that may go isn't enough: the server takes "
                f"{_readable(budget.seen_bytes())} in all; give it a larger budget"
            )
        return LoadError(f"{text}, and no loaded model may be evicted for it")

    async def _until_changed(self, deadline: float) -> bool:
        """Wait until a version is let go, closed or loaded, or for a while; False where the time is over."""
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        self._changed.clear()
        self._waiting += 1
        for loaded in self._versions.values():
            if loaded.idle is None:
                loaded.idle = self._changed
        try:
            # Nothing tells when requests give back what they had besides.
            async with asyncio.timeout(min(left, _LOOK_SECONDS)):
                await self._changed.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting -= 1
            if not self._waiting:
                for loaded in self._versions.values():
                    if loaded.idle is self._changed:
                        loaded.idle = None
        return True

    def _on(self, device: str) -> Iterator[LoadedVersion]:
        return (loaded for loaded in self._versions.values() if loaded.device_budget == device)

    def _may_go(self, usage: Usage) -> bool:
        loaded = self._versions.get(id(usage))
        return loaded is not None and loaded.pins == 0 and loaded.is_evictable

    async def _evict_all(self, victims: list[Usage], reason: str) -> None:
        assert self.evict is not None
        closing = []
        for usage in victims:
            loaded = self._versions.get(id(usage))
            if loaded is not None:
                self.note(loaded, reason)
                closing.append(self.evict(loaded, reason))
        await asyncio.gather(*closing)
        await self._trim_if_worth_it(freed=sum(usage.size for usage in victims))

    def note(self, loaded: LoadedVersion, reason: str) -> None:
        """Keep a record of an eviction."""
        self.evictions += 1
        idle = (perf_counter_ns() - loaded.usage.last_used_ns) / 1e9 if loaded.usage.last_used_ns else 0.0
        freed = loaded.usage.size
        self.records.append(EvictionRecord(loaded.name, loaded.version, time.time(), reason, freed, idle))

    async def _trim_if_worth_it(self, *, freed: int) -> None:
        if self._memory is None:
            return
        worth_it = _TRIM_PART * (self.budgets["cpu"].limit if "cpu" in self.budgets else 0)
        if freed > worth_it:
            self._memory.look()
        if self._memory.spare_bytes() > worth_it:
            await self._trim()

    async def _trim(self) -> None:
        if self._memory is not None:
            await asyncio.to_thread(self._memory.trim)

    def _share(self, tenant: str, budget: MemoryBudget) -> float:
        if not tenant:
            return budget.limit
        return self._shares.get(tenant, self._shares.get(EVERY_OTHER_TENANT, 1.0)) * budget.limit


class Reserved:
    """Memory that was set aside for a load.

    It ends with :meth:`settle` or :meth:`give_up`.
    """

    def __init__(
        self,
        reservations: Reservations,
        device: str,
        budget: MemoryBudget | None,
        spec: ModelSpec,
        reservation: Reservation | None,
        files: int,
    ) -> None:
        self._reservations = reservations
        self._device = device
        self._budget = budget
        self._spec = spec
        self._reservation = reservation
        self._files = files
        self._alone = False
        self._before = 0
        self._loads_begun = 0
        if budget is not None:
            self._loads_begun = budget.loads_begun
            self._alone = budget.loads == 1
            if self._alone:
                budget.look()
            self._before = budget.seen_bytes()

    def settle(self, loaded: LoadedVersion, seconds: float, offer: Offer | None) -> None:
        """The version is loaded: from now on it counts for what it was measured to take."""
        if self._budget is not None and self._reservation is not None:
            outside = loaded.isolation == "process"
            size = self._measured(loaded, outside=outside)
            self._budget.charge(self._reservation, size, outside=outside)
            loaded.budget, loaded.reservation = self._budget, self._reservation
            loaded.memory_bytes = size
            self._reservations.learn(self._spec, self._files, size)
        loaded.is_evictable = offer is not None and not offer.pinned
        if offer is not None:
            offer.memory_bytes = loaded.memory_bytes
            offer.load_seconds = seconds if not offer.load_seconds else 0.5 * (seconds + offer.load_seconds)
        usage = loaded.usage
        usage.size = max(1, loaded.memory_bytes)
        usage.load_seconds = seconds if offer is None else offer.load_seconds
        usage.last_used_ns = usage.last_used_ns or perf_counter_ns()
        usage.pinned = not loaded.is_evictable
        usage.tenant = "" if offer is None else offer.tenant
        self._reservations.enrol(self._device, loaded)

    def give_up(self) -> None:
        """The version wasn't loaded."""
        if self._budget is not None and self._reservation is not None:
            self._budget.release(self._reservation)

    def _measured(self, loaded: LoadedVersion, *, outside: bool) -> int:
        """What the version takes: what the process grew by where this load was the only one, else what is known."""
        assert self._budget is not None
        assert self._reservation is not None
        told = loaded.memory_bytes
        if outside:
            return told
        if self._alone and self._budget.loads_begun == self._loads_begun:
            self._budget.look()
            grown = self._budget.seen_bytes() - self._before
            if grown <= max(4 * self._reservation.size, 4 * told):
                return max(told, grown)
        return max(told, 0 if self._spec.measured is None else self._spec.measured.memory_bytes)


def files_bytes(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _readable(size: int | float) -> str:
    for unit, bytes_of in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size >= bytes_of:
            return f"{size / bytes_of:.1f} {unit}"
    return f"{size / 1024:.0f} KiB"
