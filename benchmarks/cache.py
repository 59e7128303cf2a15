"""Which models go from memory: the order of eviction against LRU, the published GDSF, LFU and the optimum in hindsight.

Simulated: 20,000 requests (``--quick``: 4,000) for 500 models of which a tenth fits into memory, at the model cache's
own :class:`salver.cache.eviction.EvictionOrder`. Loads cost what the trace says, and no time passes, so that other work
on the machine changes nothing but the last table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter, perf_counter_ns

import numpy as np
from command import Part, Results, run
from harness import BenchmarkError
from hindsight import farthest, least_cost, optimum
from report import Figure, Report, Wanted, number
from traces import GreedyDual, Ordered, Outcome, Policy, Trace, all_traces, play

from salver.cache.eviction import EvictionOrder
from salver.cache.usage import Usage

REQUESTS, QUICK_REQUESTS = 20_000, 4_000

POLICIES: dict[str, Callable[[Trace], Policy]] = {
    "cost": lambda trace: Ordered(trace, lambda now: EvictionOrder("cost", now=now)),
    "lru": lambda trace: Ordered(trace, lambda now: EvictionOrder("lru", now=now)),
    "gdsf": GreedyDual,
    "lfu": partial(GreedyDual, ages=False, weighs=False),
}
TITLES = {
    "hit_ratio": "Hit ratio",
    "byte_hit_ratio": "Byte hit ratio",
    "load_seconds": "Seconds of loading per 1,000 requests",
}


def policies(kinds: Sequence[str], quick: bool, results: Results) -> None:
    """Traces whose names begin in one of some ways: every policy, and the optimum."""
    outcomes: dict[str, dict[str, Outcome]] = {}
    for trace in all_traces(QUICK_REQUESTS if quick else REQUESTS):
        if trace.name.startswith(tuple(kinds)):
            check_optimum(trace)
            outcomes[trace.name] = {name: play(trace, policy(trace)) for name, policy in POLICIES.items()}
            outcomes[trace.name]["optimum"] = optimum(trace)
    for field, title in TITLES.items():
        columns = ("trace", *POLICIES, "optimum")
        rows = []
        figures: dict[str, float] = {}
        for trace_name, by_policy in outcomes.items():
            values = {name: float(getattr(each, field)) for name, each in by_policy.items()}
            rows.append((trace_name, *(number(values[name]) for name in columns[1:])))
            figures |= {f"{trace_name}/{name}/{field}": value for name, value in values.items()}
        results.add(Report(title, columns, rows), figures)


def check_optimum(trace: Trace) -> None:
    """Both ways to the optimum agree where both can be gone.

    Raises:
        BenchmarkError: they don't.
    """
    if trace.is_equal:
        short = Trace(trace.name, trace.requests[:2000], trace.sizes, trace.load_seconds, trace.capacity)
        missed = round(2000 * (1.0 - farthest(short).hit_ratio))
        bound = least_cost(short, np.ones(2000))
        if abs(missed - bound) > 0.01:
            raise BenchmarkError(f"{trace.name}: MIN misses {missed} times, and the linear program says {bound}")


def speed(quick: bool, results: Results) -> None:
    """How long the order takes where 10,000 models are loaded, and each load needs another's room."""
    loaded, loads = 10_000, 2_000 if quick else 20_000
    chance = np.random.default_rng(2026)
    order = EvictionOrder()
    usages = [Usage((str(index), "1"), int(size), 1.0) for index, size in enumerate(chance.lognormal(18, 1, loaded))]
    for usage in usages:
        order.add(usage)
    times = np.zeros((loads, 4))
    free = 0
    for load in range(loads):
        for index in chance.integers(len(usages), size=10).tolist():
            usages[index].uses += 1
            usages[index].last_used_ns = perf_counter_ns()
        usage = Usage((str(loaded + load), "1"), int(chance.lognormal(18, 1)), 1.0)
        times[load, 0] = perf_counter()
        victims = order.victims(usage.size - free, may_go=lambda _: True) or []
        times[load, 1] = perf_counter()
        for victim in victims:
            order.remove(victim, evicted=True)
        times[load, 2] = perf_counter()
        order.add(usage)
        times[load, 3] = perf_counter()
        free += sum(victim.size for victim in victims) - usage.size
        usages.append(usage)
    means = 1e6 * np.diff(times, axis=1).mean(axis=0)
    figures = [
        Figure(f"eviction/{name}_us", f"{name}, mean", float(mean), "us", Wanted(1000, at_least=False))
        for name, mean in zip(("victims", "remove", "add"), means, strict=True)
    ]
    results.add_figures("The order's own time, for each load, 10,000 models loaded", figures)


PARTS: dict[str, Part] = {
    "zipf": partial(policies, ["Zipf"]),
    "changes": partial(policies, ["sudden", "slow"]),
    "patterns": partial(policies, ["scans", "periodic", "sessions"]),
    "speed": speed,
}


if __name__ == "__main__":
    sys.exit(run("cache", "Measures which models go from memory, against other policies and the optimum.", PARTS))
