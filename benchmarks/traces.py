"""Requests for models, made up by chance, and what a model cache makes of them, without any model or clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from salver.cache.eviction import EvictionOrder
from salver.cache.usage import Usage

REQUEST_NS = 10_000_000
"""Between two requests."""

Numbers = NDArray[Any]


@dataclass(frozen=True)
class Trace:
    """Requests for models.

    Attributes:
        name: what the tables call it.
        requests: the index of a model for each.
        sizes: bytes of each model.
        load_seconds: of each model.
        capacity: bytes of the memory budget.
    """

    name: str
    requests: Numbers
    sizes: Numbers
    load_seconds: Numbers
    capacity: int

    @property
    def is_equal(self) -> bool:
        """Whether all models are alike in size and cost."""
        return len(set(self.sizes.tolist())) == len(set(self.load_seconds.tolist())) == 1


@dataclass(frozen=True)
class Outcome:
    """What came of a trace.

    Attributes:
        hit_ratio: part of the requests whose model was loaded.
        byte_hit_ratio: the same, each request weighted with the bytes of its model.
        load_seconds: of loading, per 1,000 requests.
    """

    hit_ratio: float
    byte_hit_ratio: float
    load_seconds: float


def outcome(trace: Trace, is_hit: Numbers) -> Outcome:
    sizes = trace.sizes[trace.requests]
    seconds = trace.load_seconds[trace.requests][~is_hit].sum()
    return Outcome(
        float(is_hit.mean()), float(sizes[is_hit].sum() / sizes.sum()), float(1000 * seconds / len(trace.requests))
    )


# Policies


class Policy(Protocol):
    """Who is loaded; told of each request in turn."""

    def request(self, model: int) -> bool:
        """Whether the model was loaded. It is afterwards."""


class Ordered:
    """A model cache's own order of eviction."""

    def __init__(self, trace: Trace, order: Callable[[Callable[[], int]], EvictionOrder]) -> None:
        self._trace = trace
        self._now = 0
        self._order = order(lambda: self._now)
        self._free = trace.capacity
        self._usages: dict[int, Usage] = {}

    def request(self, model: int) -> bool:
        self._now += REQUEST_NS
        usage = self._usages.get(model)
        is_hit = usage is not None
        if usage is None:
            size = int(self._trace.sizes[model])
            if size > self._free:
                victims = self._order.victims(size - self._free, may_go=lambda _: True)
                assert victims is not None, "a model is larger than the budget"
                for victim in victims:
                    self._order.remove(victim, evicted=True)
                    del self._usages[int(victim.key[0])]
                    self._free += victim.size
            usage = Usage((str(model), "1"), size, float(self._trace.load_seconds[model]))
            self._usages[model] = usage
            self._order.add(usage)
            self._free -= size
        usage.uses += 1
        usage.last_used_ns = self._now
        return is_hit


class GreedyDual:
    """GreedyDual-Size-Frequency (Cherkasova 1998); as it was published, it forgets what has gone.

    Args:
        trace: tells sizes and costs.
        ages: whether the clock goes; without it, what was used often once stays for ever.
        weighs: whether sizes and costs count. With neither, it is LFU.
    """

    def __init__(self, trace: Trace, *, ages: bool = True, weighs: bool = True) -> None:
        self._sizes = trace.sizes
        self._weights = trace.load_seconds / trace.sizes if weighs else np.ones(len(trace.sizes))
        self._free = trace.capacity
        self._ages = ages
        self._clock = 0.0
        self._uses: dict[int, int] = {}
        self._loaded: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []

    def request(self, model: int) -> bool:
        is_hit = model in self._loaded
        while not is_hit and self._free < self._sizes[model]:
            known, other = heapq.heappop(self._heap)
            if self._loaded.get(other) == known:
                del self._loaded[other]
                self._free += self._sizes[other]
                self._clock = known if self._ages else 0.0
                del self._uses[other]
        if not is_hit:
            self._free -= self._sizes[model]
        self._uses[model] = self._uses.get(model, 0) + 1
        self._loaded[model] = self._clock + self._uses[model] * float(self._weights[model])
        heapq.heappush(self._heap, (self._loaded[model], model))
        return is_hit


def play(trace: Trace, policy: Policy) -> Outcome:
    """Put a trace's requests to a policy."""
    return outcome(trace, np.fromiter(map(policy.request, trace.requests.tolist()), bool, len(trace.requests)))


# Traces


def all_traces(count: int, *, models: int = 500, seed: int = 2026) -> list[Trace]:
    """Traces of some requests for some models, of which a tenth fits into memory."""
    chance = np.random.default_rng(seed)
    traces = []
    for exponent in (0.6, 0.8, 1.0, 1.2):
        requests = _by_popularity(chance, count, _shuffled(chance, models), exponent)
        traces += _both(chance, f"Zipf {exponent:g}", requests, models)
    kinds = {
        "sudden shifts": _sudden_shifts(chance, count, models),
        "slow drift": _slow_drift(chance, count, models),
        "scans": _scans(chance, count, models),
        "periodic tenants": _periodic_tenants(chance, count, models),
        "sessions": _sessions(chance, count, models),
    }
    for name, requests in kinds.items():
        traces += _both(chance, name, requests, models)
    return traces


def _both(chance: np.random.Generator, name: str, requests: Numbers, models: int) -> list[Trace]:
    """The same requests for models that are alike, and for models that aren't: 20 MB to 5 GB, loaded in 0.2 to 60 s."""
    equal = Trace(f"{name}, equal", requests, np.full(models, 100_000_000), np.ones(models), models * 10_000_000)
    sizes = np.clip(chance.lognormal(np.log(2e8), 1.0, models), 2e7, 5e9).astype(np.int64)
    seconds = 0.2 + sizes / 1e9 * chance.lognormal(np.log(4.0), 0.7, models)
    capacity = max(int(sizes.sum()) // 10, int(sizes.max()))
    return [equal, Trace(f"{name}, varied", requests, sizes, seconds, capacity)]


def _shuffled(chance: np.random.Generator, models: int) -> Numbers:
    return chance.permutation(models)


def _by_popularity(chance: np.random.Generator, count: int, order: Numbers, exponent: float) -> Numbers:
    """Independent requests; the n-th model of the order is asked for in proportion to 1 / n ** exponent."""
    weights = np.arange(1, len(order) + 1) ** -exponent
    return np.asarray(order[chance.choice(len(order), count, p=weights / weights.sum())])


def _sudden_shifts(chance: np.random.Generator, count: int, models: int) -> Numbers:
    """Ten times, all models change their popularity at once."""
    return np.concatenate(
        [_by_popularity(chance, len(part), _shuffled(chance, models), 1.0) for part in np.array_split(range(count), 10)]
    )


def _slow_drift(chance: np.random.Generator, count: int, models: int) -> Numbers:
    """A hundred times, a twentieth of the models change their popularity with others."""
    order = _shuffled(chance, models)
    parts = []
    for part in np.array_split(range(count), 100):
        changed = chance.choice(models, models // 20, replace=False)
        order[changed] = order[chance.permutation(changed)]
        parts.append(_by_popularity(chance, len(part), order, 1.0))
    return np.concatenate(parts)


def _scans(chance: np.random.Generator, count: int, models: int) -> Numbers:
    """Zipf 1.0, and after three requests for each model on average every one is asked for, one after the other."""
    order = _shuffled(chance, models)
    parts = []
    for _ in range(0, count, 4 * models):
        parts += [_by_popularity(chance, 3 * models, order, 1.0), np.arange(models)]
    return np.concatenate(parts)[:count]


def _periodic_tenants(chance: np.random.Generator, count: int, models: int) -> Numbers:
    """Ten tenants with as many models each, asked for by Zipf 0.8; three of them are awake, then the next three."""
    tenants = np.array_split(_shuffled(chance, models), 10)
    parts = []
    for index, part in enumerate(np.array_split(range(count), 40)):
        awake = [tenants[(index + each) % 10] for each in range(3)]
        # The n-th models of the three are equally popular.
        parts.append(_by_popularity(chance, len(part), np.stack(awake, axis=1).ravel(), 0.8))
    return np.concatenate(parts)


def _sessions(chance: np.random.Generator, count: int, models: int) -> Numbers:
    """Five clients at any time, each with about twenty requests for one model, which it chose by Zipf 0.8."""
    chosen = iter(_by_popularity(chance, count, _shuffled(chance, models), 0.8).tolist())
    clients = [next(chosen) for _ in range(5)]
    requests = np.empty(count, np.int64)
    for index, (client, ends) in enumerate(
        zip(chance.integers(5, size=count), chance.random(count) < 0.05, strict=True)
    ):
        requests[index] = clients[client]
        if ends:
            clients[client] = next(chosen)
    return requests
