"""Which loaded versions go first when others need the room.

The policy "cost" is GreedyDual-Size-Frequency (Cherkasova 1998, "Improving WWW Proxies Performance with Greedy-Dual-
Size-Frequency Caching Policy", HP Labs HPL-98-69R1), with four changes:

- What was used ages by a factor, not by a difference (as in LRFU: Lee et al. 2001). The past of a version that nobody
  uses any more is forgotten at one speed, however much it was used.
- How often a version was used is remembered when it goes (as "perfect" LFU and TinyLFU do: Einziger et al. 2017): it
  need not prove itself again.
- Uses in quick succession count as one (as in LRU-K: O'Neil et al. 1993): once the first of them has loaded a version,
  the others cost nothing, so they say little of what it will cost to let it go.
- For the same reason a version that was used just now stays, whatever it is worth: its session may go on.

Time is a clock that counts *turnovers*: loading as many versions as are loaded advances it by one. A cache that has
room for what is used remembers for long; one that hasn't, since the requests have changed, forgets fast.

There is no admission: a version that a request needs has to be loaded, however rarely it is used. So what a policy
chooses is only who stays beside it.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count, islice
from math import exp, inf, log
from operator import itemgetter
from time import perf_counter_ns
from typing import ClassVar, Literal

from salver.cache.usage import Usage

MEMORY_TURNOVERS = 3.0
"""A use counts 1/e of a new one when so many turnovers have passed."""

LOOKS_PER_TURNOVER = 10
"""How often a version's uses are counted. Those between two looks count as one."""

SESSION_PART = 0.05
"""A version stays, if others may go, until this many times as many loads as versions are loaded came after its use."""

_FEWEST_LOADS = 32
"""Make a turnover, where fewer versions are loaded: what a handful of loads tells of them is mostly chance."""

_TURNOVER_NS = 24 * 3600 * 10**9
"""The clock also goes by one each day, so that what is idle ages where nothing is loaded."""

_LEAST_LOAD_SECONDS = 1e-3
_REMEMBERED = 32_768
_CLOCK_READINGS = 16_384
_STEP = 500


def decayed(frequency: float, turnovers: float) -> float:
    """What is left of a frequency after some turnovers without use."""
    return frequency * exp(-turnovers / MEMORY_TURNOVERS)


def frequency_after(frequency: float, uses: int, turnovers: float) -> float:
    """The frequency of a version that was used again.

    Args:
        frequency: at the last use that is known.
        uses: how many there were since then.
        turnovers: from that use to the last of them.

    Returns:
        The decayed number of uses, where no more count than one for each look that is due in a turnover.
    """
    most = LOOKS_PER_TURNOVER * MEMORY_TURNOVERS * (1.0 - exp(-turnovers / MEMORY_TURNOVERS))
    return decayed(frequency, turnovers) + min(float(uses), most)


def value(frequency: float, load_seconds: float, size: int) -> float:
    """What a byte of a version is worth: seconds of loading that keeping it saves in a few turnovers."""
    return frequency * max(load_seconds, _LEAST_LOAD_SECONDS) / max(size, 1)


def rank(value: float, clock: float) -> float:
    """Orders versions by what they are worth at any one time; the value was worked out at ``clock``, in turnovers.

    All values decay by the same factor: of two versions, the one that is worth more stays so until the other is used.
    """
    return log(value) + clock / MEMORY_TURNOVERS


class EvictionOrder:
    """The versions that are loaded, by who goes first.

    Requests only write to a :class:`Usage`. The order looks at what has changed of a few versions at each load, one
    after the other, and of a version whose turn to go seems to have come: one that was used since it was last looked
    at is worth more than the order knows, never less.

    Args:
        policy: "cost": by frequency x seconds to load it back / bytes. "lru": the least recently used goes first.
        now: the clock of :attr:`Usage.last_used_ns`.
    """

    def __init__(self, policy: Literal["cost", "lru"] = "cost", *, now: Callable[[], int] = perf_counter_ns) -> None:
        self._policy = policy
        self._now = now
        self._clock = _TurnoverClock(now())
        self._entries: dict[int, _Entry] = {}
        # Whom to look at next: all entries, and some that were taken out.
        self._rounds: deque[_Entry] = deque()
        self._all = _Heap()
        self._tenants: dict[str, _Heap] = {}
        # Versions that were pinned when their turn seemed to have come.
        self._aside: dict[int, _Entry] = {}
        # Frequencies of what was evicted, and when they were worked out; what was evicted first stands first.
        self._remembered: dict[tuple[str, str], tuple[float, float]] = {}

    def add(self, usage: Usage) -> None:
        """A version was loaded. The load counts as the use that it was for."""
        now = self._now()
        self._clock.advance(now, 1.0 / max(_FEWEST_LOADS, len(self._entries) + 1))
        clock = self._clock.at(now)
        frequency, since = self._remembered.pop(usage.key, (0.0, clock))
        self._put_in(_Entry(usage, 1.0 + decayed(frequency, clock - since), clock, now))
        self._look_at_next()

    def remove(self, usage: Usage, *, evicted: bool) -> None:
        """A version was taken out; where it was evicted, how often it was used is remembered."""
        entry = self._entries.get(id(usage))
        if entry is None:
            return
        self._look_at(entry)
        self._take_out(entry)
        if evicted:
            self._remembered.pop(usage.key, None)
            self._remembered[usage.key] = (entry.frequency, entry.clock)
            if len(self._remembered) > _REMEMBERED:
                del self._remembered[next(iter(self._remembered))]

    def update(self, usage: Usage) -> None:
        """A version's size, load time, tenant or pin was corrected."""
        entry = self._entries.get(id(usage))
        if entry is not None:
            self._look_at(entry)
            self._take_out(entry)
            self._put_in(_Entry(usage, entry.frequency, entry.clock, entry.used_ns))

    def victims(self, need: int, *, may_go: Callable[[Usage], bool], tenant: str | None = None) -> list[Usage] | None:
        """Versions that should go to free some bytes; they stay in the order until they are removed.

        Args:
            need: bytes to free.
            may_go: whether a version may go now. Pinned ones never do, and it isn't asked about them.
            tenant: whose versions may go; None for everybody's.

        Returns:
            Those whose bytes are worth least, none of them superfluous. None where all that may go don't free enough.
        """
        self._take_back_unpinned()
        heap = self._all if tenant is None else self._tenants.get(tenant, _Heap())
        session = self._session()
        heap.let_go(session)
        found: list[Usage] = []
        kept: list[_Entry] = []
        freed = 0
        try:
            while freed < need and (entry := heap.pop(self._look_at, session)) is not None:
                if entry.usage.pinned:
                    self._aside[id(entry.usage)] = entry
                    continue
                kept.append(entry)
                if may_go(entry.usage):
                    found.append(entry.usage)
                    freed += entry.usage.size
        finally:
            for entry in kept:
                heap.push(entry)
        if freed < need:
            return None
        return _without_superfluous(found, freed - need)

    def ranking(self) -> list[tuple[Usage, float]]:
        """All versions, those that are worth least first, with what they are worth.

        That is, for "cost", the seconds of loading that keeping a GiB of them saves in a few turnovers; for "lru",
        the seconds since their last use, negated.
        """
        now = self._now()
        past = self._clock.at(now) / MEMORY_TURNOVERS
        for entry in self._entries.values():
            self._look_at(entry)
        entries = sorted(self._entries.values(), key=lambda entry: entry.rank)
        if self._policy == "lru":
            return [(entry.usage, (entry.used_ns - now) / 1e9) for entry in entries]
        return [(entry.usage, exp(entry.rank - past) * (1 << 30)) for entry in entries]

    def hottest(self, limit: int) -> list[tuple[str, str]]:
        """Names and versions of what is used most often, loaded or evicted, the most frequent first."""
        *_, found = self.hottest_in_steps(limit)
        return found

    def hottest_in_steps(self, limit: int) -> Iterator[list[tuple[str, str]]]:
        """The same in steps of about a millisecond, between which others may do something; the last one gives it."""
        clock = self._clock.at(self._now())
        best: dict[tuple[str, str], float] = {}
        threshold = 0.0
        evicted = iter(list(self._remembered.items()))
        loaded = iter(list(self._entries.values()))
        while step := list(islice(evicted, _STEP)):
            for key, (frequency, since) in step:
                now = decayed(frequency, clock - since)
                if now > threshold:
                    best[key] = now
            if len(best) > 2 * limit:
                best, threshold = _most(best, limit)
            yield []
        while entries := list(islice(loaded, _STEP)):
            for entry in entries:
                self._look_at(entry)
                now = decayed(entry.frequency, clock - entry.clock)
                if now > threshold:
                    best[entry.usage.key] = now
            if len(best) > 2 * limit:
                best, threshold = _most(best, limit)
            yield []
        best, _ = _most(best, limit)
        yield list(best)

    def _put_in(self, entry: _Entry) -> None:
        self._entries[id(entry.usage)] = entry
        self._rounds.append(entry)
        entry.rank = self._rank(entry)
        for heap in self._heaps(entry):
            heap.members += 1
            heap.push(entry)

    def _take_out(self, entry: _Entry) -> None:
        del self._entries[id(entry.usage)]
        self._aside.pop(id(entry.usage), None)
        entry.is_out = True
        if len(self._rounds) > 2 * len(self._entries) + 16:
            self._rounds = deque(entry for entry in self._rounds if not entry.is_out)
        for heap in self._heaps(entry):
            heap.members -= 1
            heap.sweep()
        if entry.tenant and not self._tenants[entry.tenant].members:
            del self._tenants[entry.tenant]

    def _heaps(self, entry: _Entry) -> list[_Heap]:
        if not entry.tenant:
            return [self._all]
        return [self._all, self._tenants.setdefault(entry.tenant, _Heap())]

    def _session(self) -> float:
        """What was used since this reading of the clock may be in use still."""
        if self._policy == "lru":
            return inf
        loaded = len(self._entries)
        return self._clock.at(self._now()) - SESSION_PART * loaded / max(_FEWEST_LOADS, loaded)

    def _take_back_unpinned(self) -> None:
        for entry in [entry for entry in self._aside.values() if not entry.usage.pinned]:
            self.update(entry.usage)

    def _look_at_next(self) -> None:
        for _ in range(min(LOOKS_PER_TURNOVER, len(self._entries))):
            while (entry := self._rounds.popleft()).is_out:
                pass
            self._look_at(entry)
            self._rounds.append(entry)

    def _look_at(self, entry: _Entry) -> None:
        """Take in how a version was used since it was looked at."""
        usage = entry.usage
        used_ns, uses = usage.last_used_ns, usage.uses
        if uses == entry.uses:
            return
        clock = max(entry.clock, self._clock.at(used_ns))
        entry.frequency = frequency_after(entry.frequency, uses - entry.uses, clock - entry.clock)
        entry.clock, entry.uses, entry.used_ns = clock, uses, max(entry.used_ns, used_ns)
        entry.rank = self._rank(entry)

    def _rank(self, entry: _Entry) -> float:
        if self._policy == "lru":
            return float(entry.used_ns)
        return rank(value(entry.frequency, entry.usage.load_seconds, entry.usage.size), entry.clock)


class _Entry:
    """What the order knows of a version. Its rank only ever rises."""

    __slots__ = ("clock", "frequency", "is_out", "number", "rank", "tenant", "usage", "used_ns", "uses")

    numbers: ClassVar[Iterator[int]] = count()

    def __init__(self, usage: Usage, frequency: float, clock: float, used_ns: int) -> None:
        self.usage = usage
        self.frequency = frequency
        self.clock = clock
        self.used_ns = used_ns
        self.uses = usage.uses
        self.tenant = usage.tenant
        self.rank = 0.0
        self.number = next(self.numbers)
        self.is_out = False


class _Heap:
    """Entries by the ranks that they had when they were put there, the lowest first.

    Attributes:
        members: how many entries belong here, set by who owns the heap; others in it were taken out.
    """

    def __init__(self) -> None:
        self.members = 0
        self._items: list[tuple[float, int, _Entry]] = []
        # Entries whose turn would have come, had they not been in use, by the clock of their last use.
        self._in_use: list[tuple[float, int, _Entry]] = []

    def push(self, entry: _Entry) -> None:
        heapq.heappush(self._items, (entry.rank, entry.number, entry))

    def let_go(self, session: float) -> None:
        """Entries that haven't been used since a time, in turnovers, aren't in use any more."""
        while self._in_use and self._in_use[0][0] < session:
            self.push(heapq.heappop(self._in_use)[2])

    def pop(self, look_at: Callable[[_Entry], None], session: float) -> _Entry | None:
        """Take the entry whose rank is lowest once it was looked at; those in use since ``session`` come last.

        Of them, those come first whose last use is longest ago.
        """
        while self._items:
            known, number, entry = self._items[0]
            if not entry.is_out:
                look_at(entry)
                if entry.rank > known:
                    heapq.heapreplace(self._items, (entry.rank, number, entry))
                    continue
            heapq.heappop(self._items)
            if entry.is_out:
                continue
            if entry.clock < session:
                return entry
            heapq.heappush(self._in_use, (entry.clock, number, entry))
        while self._in_use:
            last_use, number, entry = self._in_use[0]
            if not entry.is_out:
                look_at(entry)
                if entry.clock > last_use:
                    heapq.heapreplace(self._in_use, (entry.clock, number, entry))
                    continue
            heapq.heappop(self._in_use)
            if not entry.is_out:
                return entry
        return None

    def sweep(self) -> None:
        """Forget entries that were taken out, once they are more than half."""
        if len(self._items) + len(self._in_use) > 2 * self.members + 16:
            self._items = [item for item in self._items if not item[2].is_out]
            self._in_use = [item for item in self._in_use if not item[2].is_out]
            heapq.heapify(self._items)
            heapq.heapify(self._in_use)


class _TurnoverClock:
    """Tells how many turnovers had passed at a time, now or in the past.

    Args:
        now: nanoseconds; the clock stands at 0 then.
    """

    def __init__(self, now: int) -> None:
        self._times = [now]
        self._readings = [0.0]

    def advance(self, now: int, turnovers: float) -> None:
        self._readings.append(self.at(now) + turnovers)
        self._times.append(max(now, self._times[-1]))
        if len(self._times) > 2 * _CLOCK_READINGS:
            del self._times[:_CLOCK_READINGS]
            del self._readings[:_CLOCK_READINGS]

    def at(self, time: int) -> float:
        """A time before those that are kept reads as the first of them."""
        index = max(0, bisect_right(self._times, time) - 1)
        return self._readings[index] + max(0, time - self._times[index]) / _TURNOVER_NS


def _most(frequencies: dict[tuple[str, str], float], limit: int) -> tuple[dict[tuple[str, str], float], float]:
    """The largest of them, the largest first, and what a further one has to exceed to be among them."""
    most = dict(heapq.nlargest(limit, frequencies.items(), key=itemgetter(1)))
    return most, min(most.values(), default=inf) if len(most) >= limit else 0.0


def _without_superfluous(found: list[Usage], surplus: int) -> list[Usage]:
    """Spare versions that needn't go, since a large one that is worth more does; the most valuable stand last."""
    needed = []
    for usage in reversed(found):
        if usage.size <= surplus:
            surplus -= usage.size
        else:
            needed.append(usage)
    needed.reverse()
    return needed
