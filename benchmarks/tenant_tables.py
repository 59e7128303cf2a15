"""What the benchmark of many tenants tells: tables, figures, memory over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from command import Results
from harness import BenchmarkError
from hindsight import least_cost
from report import Figure, Report, Wanted, number
from tenant_load import Seen
from traces import Ordered, Trace, play

from salver.cache.eviction import EvictionOrder

ALL_LOADED = "all loaded"
MEBIBYTE = 1 << 20

_COLUMNS = (
    *("served", "answers/s", "hits", "hit p50/p99 ms", "miss p50/p99 ms", "loads/s", "load ms", "CPU"),
    *("loaded", "peak MiB", "failed"),
)
_SPARKS = " ▁▂▃▄▅▆▇█"


def add_latencies(results: Results, title: str, key: str, seen: Mapping[str, Seen]) -> None:
    """A row for each way in which the models were served."""
    rows = []
    figures: dict[str, float] = {}
    for name, each in seen.items():
        values = _values(each)
        misses = "-" if not each.waited.any() else f"{number(values['miss_p50'])}/{number(values['miss_p99'])}"
        rows.append(
            (
                name,
                number(each.rate),
                f"{each.hit_ratio:.1%}",
                f"{number(values['hit_p50'])}/{number(values['hit_p99'])}",
                misses,
                number(values["loads_per_second"]),
                number(values["load_ms"]),
                number(each.cpu),
                str(each.loaded),
                number(values["peak_mib"]),
                str(each.failures.total() + each.foreign),
            )
        )
        figures |= {f"{key}/{name}/{figure}": value for figure, value in values.items() if not np.isnan(value)}
        for (status, text), count in each.failures.most_common(3):
            results.console.print(f"[red]{key}, {name}: {count} times {status} {text}[/red]")
    results.add(Report(title, _COLUMNS, rows), figures)


def _values(seen: Seen) -> dict[str, float]:
    loads = len(seen.load_seconds)
    return {
        "hit_p50": seen.latency(50, waited=False),
        "hit_p99": seen.latency(99, waited=False),
        "miss_p50": seen.latency(50, waited=True),
        "miss_p99": seen.latency(99, waited=True),
        "requests_per_second": seen.rate,
        "hit_ratio": seen.hit_ratio,
        "loads_per_second": loads / seen.duration,
        "load_ms": 1e3 * float(np.median(seen.load_seconds)) if loads else 0.0,
        "evictions": float(seen.evictions),
        "cpu": seen.cpu,
        "loaded": float(seen.loaded),
        "peak_mib": seen.peak / MEBIBYTE,
        "failed": float(seen.failures.total()),
        "foreign": float(seen.foreign),
        "right": seen.right / max(int(seen.good.sum()), 1),
        "waited": float(seen.waited.sum()),
        "misses": float(seen.misses),
    }


def add_hit_ratios(results: Results, closed: Mapping[str, Seen], trace: Trace) -> None:
    """What the server made of the requests, and what could have been made of them.

    Args:
        trace: the first requests that the first policy got.
    """
    figures = []
    for name, seen in closed.items():
        if name != ALL_LOADED:
            figures.append(Figure(f"hits/served/{name}", f"served, {name}", 100 * seen.hit_ratio, "%"))
            without = 100 * (1 - len(seen.load_seconds) / len(seen.tenants))
            figures.append(Figure(f"hits/loads/{name}", f"served, {name}, each load counted once", without, "%"))
    count = len(trace.requests)
    cost = play(trace, Ordered(trace, lambda now: EvictionOrder("cost", now=now))).hit_ratio
    lru = play(trace, Ordered(trace, lambda now: EvictionOrder("lru", now=now))).hit_ratio
    best = 1.0 - least_cost(trace, np.ones(count)) / count
    figures += [
        Figure("hits/simulated/cost", "simulated, cost", 100 * cost, "%"),
        Figure("hits/simulated/lru", "simulated, lru", 100 * lru, "%"),
        Figure("hits/optimum", "optimum in hindsight", 100 * best, "%"),
    ]
    title = f"Questions that found their model loaded. Simulated: the first {count:,}, if loads took no time"
    results.add_figures(title, figures)


def add_wanted(
    results: Results, policy: str, closed: Mapping[str, Seen], opened: Mapping[str, Seen], budget: int
) -> None:
    """What a policy is judged by."""
    failed = sum(each.failures.total() + each.foreign for each in (*closed.values(), *opened.values()))
    peak = max(closed[policy].peak, opened[policy].peak)
    size = f"{budget / MEBIBYTE:.0f} MiB"
    at_most = {limit: Wanted(limit, at_least=False) for limit in (0, 1.1, 3)}
    figures = [
        Figure("wanted/failed", "failed, or answered by another tenant's model", failed, "requests", at_most[0]),
        Figure("wanted/memory", f"most memory, of a budget of {size}", peak / budget, "times", at_most[1.1]),
    ]
    for key, title, seen in (("closed", "closed loop", closed), ("open", "open loop", opened)):
        ratio = seen[policy].latency(99, waited=False) / seen[ALL_LOADED].latency(99, waited=False)
        text = f"hits' p99, of that with all loaded, {title}"
        figures.append(Figure(f"wanted/{key}_p99", text, ratio, "times", at_most[3]))
    if "lru" in closed and policy != "lru":
        over = 100 * (closed[policy].hit_ratio - closed["lru"].hit_ratio)
        wanted = Wanted(0, at_least=True)
        figures.append(Figure("wanted/over_lru", f"hit ratio, {policy}, above LRU's", over, "points", wanted))
    results.add_figures("What is wanted", figures)


def sparkline(seen: Seen, budget: int) -> str:
    """Resident memory over time, the most in each of 60 parts. A full block is the budget plus 10%."""
    highest = [float(part.max()) / (1.1 * budget) for part in np.array_split(seen.memory[:, 1], 60) if len(part)]
    top = len(_SPARKS) - 1
    return "".join(_SPARKS[min(top, int(part * top))] for part in highest)


def plot(runs: Mapping[str, Seen], budget: int, file: Path) -> None:
    """Resident memory over time, as a picture.

    Raises:
        BenchmarkError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure as Picture
    except ImportError as error:
        raise BenchmarkError("--plot needs matplotlib: pip install matplotlib") from error
    picture = Picture(figsize=(8, 4), layout="tight")
    axes = picture.subplots()
    for name, seen in runs.items():
        axes.plot(seen.memory[:, 0], seen.memory[:, 1] / MEBIBYTE, label=name, linewidth=1)
    axes.axhline(budget / MEBIBYTE, color="black", linewidth=1, label="budget")
    axes.axhline(1.1 * budget / MEBIBYTE, color="black", linewidth=1, linestyle=":", label="budget plus 10%")
    axes.set(xlabel="seconds", ylabel="resident MiB", ylim=(0, None))
    axes.legend(loc="lower right")
    picture.savefig(file, dpi=120)


def size_figures(idle: int, base: int, model: int, told: Sequence[int]) -> list[Figure]:
    """What memory a server takes, in bytes; ``told`` is what it says of each loaded model."""
    return [
        Figure("memory/idle", "idle server, resident", idle / MEBIBYTE, "MiB"),
        Figure("memory/base", "with ONNX Runtime, without a model", base / MEBIBYTE, "MiB"),
        Figure("memory/model", "a model, by the server's growth", model / MEBIBYTE, "MiB"),
        Figure("memory/model_told", "a model, as the server counts it", float(np.mean(told)) / MEBIBYTE, "MiB"),
    ]
