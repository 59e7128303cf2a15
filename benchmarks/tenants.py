"""Thousands of tenants with a model each, and memory for some of them.

2,000 intent classifiers (``examples/intents``), a memory budget for 200, 64 clients, Zipf: the n-th most popular
tenant is asked in proportion to 1 / n. The server is a process of its own, and so are the clients, on the same cores.

1. *What a model takes*: by how much the idle server grows as it loads. The budget is what it has without a model, and
   that times 200.
2. *Closed loop*: each client asks as soon as it is answered. With the budget, by each policy; then with all models
   loaded, which is what hits are held against.
3. *Open loop*: questions come by chance, half as many a second as the closed loop got answered.

A request has **waited** (is a miss) if the server's log says that its model became ready between request and answer.
The requests of the closed loop are also played to the simulator of ``cache.py``: what the policies would make of them
if loads took no time, and what the optimum in hindsight is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from command import BUILD, Results, describe_machine, fill
from harness import BenchmarkError, Running
from report import number
from rich.console import Console
from tenant_load import LOG_OPTIONS, Seen, cache_of, closed_loop, load_all, open_loop, resident_once_quiet
from tenant_store import Tenant, prepare, started, zipf
from tenant_tables import ALL_LOADED, add_hit_ratios, add_latencies, add_wanted, plot, size_figures, sparkline
from traces import Trace

FIRST = 20
"""Models that are loaded before the growth of memory is measured: with the first comes the framework."""

HINDSIGHT_REQUESTS = 20_000
ENOUGH_A_SECOND = 20_000
"""Requests a second that no server on such a machine answers."""


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        budget_models: how many models the memory budget is for.
        seconds: of each load.
        clients: of the closed loop.
        policies: of eviction; the first is judged.
        exponent: of the popularity.
    """

    budget_models: int
    seconds: float
    clients: int
    policies: Sequence[str]
    exponent: float
    seed: int = 2026


class Bench:
    """The measurement.

    Args:
        store: a model store of the tenants.
        tenants: all of them.
    """

    def __init__(self, store: Path, tenants: Sequence[Tenant], options: Options, results: Results) -> None:
        self._store = store
        self._tenants = tenants
        self._options = options
        self._results = results
        chance = np.random.default_rng(options.seed)
        self._order = zipf(chance, len(tenants), options.exponent, int(ENOUGH_A_SECOND * options.seconds))

    def run(self, picture: Path | None) -> None:
        """All of it; memory over time goes into the picture, a PNG."""
        budget = self._budget()
        closed: dict[str, Seen] = {}
        opened: dict[str, Seen] = {}
        first = self._options.policies[0]
        rate = 0.0
        for policy in self._options.policies:
            with started(self._store, "--memory-budget", str(budget), "--eviction", policy, *LOG_OPTIONS) as server:
                closed[policy] = self._closed(server)
                if policy == first:
                    rate = closed[policy].rate / 2
                    opened[policy] = self._opened(server, rate)
        with started(self._store, *LOG_OPTIONS) as server:
            load_all(server, self._tenants)
            told = cache_of(server)["loaded"]
            closed[ALL_LOADED] = self._closed(server)
            opened[ALL_LOADED] = self._opened(server, rate)
        add_latencies(self._results, f"Closed loop, {self._options.clients} clients", "closed", closed)
        add_latencies(self._results, f"Open loop, {number(rate)} questions a second", "open", opened)
        add_hit_ratios(self._results, closed, self._trace(closed[first], told))
        add_wanted(self._results, first, closed, opened, budget)
        for name, seen in (("closed", closed[first]), ("open", opened[first])):
            memory = sparkline(seen, budget)
            self._results.console.print(
                f"Memory in {seen.duration:.0f} s, {name} loop, of the budget + 10%: |{memory}|"
            )
        if picture is not None:
            plot({f"closed loop, {first}": closed[first], f"open loop, {first}": opened[first]}, budget, picture)

    def _closed(self, server: Running) -> Seen:
        options = self._options
        return closed_loop(
            server, self._tenants, self._order, options.seconds, clients=options.clients, seed=options.seed
        )

    def _opened(self, server: Running, rate: float) -> Seen:
        return open_loop(server, self._tenants, self._order, self._options.seconds, rate=rate, seed=self._options.seed)

    def _budget(self) -> int:
        """Bytes that the server has without a model, and takes for as many as there is to be memory for."""
        count = min(self._options.budget_models, len(self._tenants) - FIRST)
        with started(self._store) as server:
            idle = resident_once_quiet(server)
            load_all(server, self._tenants[:FIRST])
            some = resident_once_quiet(server)
            load_all(server, self._tenants[FIRST : FIRST + count])
            more = resident_once_quiet(server)
            told = [each["memory_bytes"] for each in cache_of(server)["loaded"]]
        model = (more - some) // count
        base = some - FIRST * model
        title = f"{len(self._tenants):,} tenants, a budget for {self._options.budget_models}"
        self._results.add_figures(title, size_figures(idle, base, model, told))
        return base + self._options.budget_models * model

    def _trace(self, seen: Seen, told: Sequence[Mapping[str, Any]]) -> Trace:
        """The first requests, for models of the sizes and costs that the server has measured."""
        loaded = {each["name"]: each for each in told}
        sizes = np.array([loaded[tenant.name]["memory_bytes"] for tenant in self._tenants])
        seconds = np.array([loaded[tenant.name]["load_seconds"] for tenant in self._tenants])
        capacity = int(self._options.budget_models * sizes.mean())
        return Trace("closed loop", seen.tenants[:HINDSIGHT_REQUESTS], sizes, seconds, capacity)


def main() -> int:
    """The command; its exit code is 1 where something couldn't be measured."""
    parser = argparse.ArgumentParser(description="Measures thousands of tenants' models with memory for some of them.")
    parser.add_argument("--quick", action="store_true", help="200 tenants, a budget for 20, six seconds each; rough")
    parser.add_argument("--tenants", type=int, help="how many; 2,000 by default")
    parser.add_argument("--budget-models", type=int, help="models that memory is for; a tenth of all by default")
    parser.add_argument("--seconds", type=float, help="of each load; 60 by default")
    parser.add_argument("--clients", type=int, default=64, help="of the closed loop; 64 by default")
    parser.add_argument("--exponent", type=float, default=1.0, help="of the popularity; 1 by default")
    parser.add_argument(
        "--policy", nargs="+", choices=["cost", "lru"], default=["cost", "lru"], help="of eviction; the first is judged"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, by name, to FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write memory over time to FILE, a PNG")
    parser.add_argument("--document", type=Path, metavar="FILE", help="put the tables into a Markdown file")
    arguments = parser.parse_args()
    results = Results(Console(width=None if sys.stdout.isatty() else 150))
    count = arguments.tenants or (200 if arguments.quick else 2000)
    options = Options(
        budget_models=arguments.budget_models or max(count // 10, 1),
        seconds=arguments.seconds or (6.0 if arguments.quick else 60.0),
        clients=arguments.clients,
        policies=list(dict.fromkeys(arguments.policy)),
        exponent=arguments.exponent,
    )
    if count <= FIRST:
        parser.error(f"--tenants: at least {FIRST + 1}")
    try:
        store, tenants = prepare(BUILD / "tenants", count, in_haste=arguments.quick, console=results.console)
        machine = describe_machine()
        results.console.print(machine)
        Bench(store, tenants, options, results).run(arguments.plot)
        if arguments.json:
            arguments.json.write_bytes(orjson.dumps(results.figures, option=orjson.OPT_INDENT_2))
        if arguments.document:
            markers = ("<!-- tenants: begin -->", "<!-- tenants: end -->")
            fill(arguments.document, [machine, *(report.markdown() for report in results.reports)], markers)
    except BenchmarkError as error:
        results.console.print(f"[red]{error}[/red]")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
