"""Asks many tenants' models of one server, and sees who waited for a load, what failed, and what memory was taken."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx2
import numpy as np
import orjson
from clients import NO_ANSWER, Answer, Clients, poisson
from harness import BenchmarkError, Running
from numpy.typing import NDArray
from tenant_store import Tenant

LOG_OPTIONS = ("--log-format", "json", "--log-level", "debug")
"""Options of a server whose log tells of each load and eviction."""

SAMPLE_SECONDS = 0.1
PATIENCE = 70.0
"""Longer than the server lets a request wait for a load."""

_CHANGE = re.compile(r"model '(.+)' version \S+ is (ready|evicted)")

Numbers = NDArray[Any]


@dataclass(frozen=True)
class Seen:
    """What came of a load.

    Attributes:
        tenants: the index of the tenant of each request, in the order in which they were sent.
        seconds: from when a request should have been sent to its answer.
        waited: whether its model became ready meanwhile; good answers only.
        good: whether it was answered with 200.
        failures: how many there were of each status and text.
        foreign: answers with another tenant's label.
        right: good answers with the label that was wanted.
        duration: seconds from the first request to the last answer.
        load_seconds: of each load.
        evictions: how many models went.
        memory: seconds since the begin, and the server's resident bytes, [n, 2].
        loaded: models that were loaded at the end.
        cpu: cores that the server used.
        hits, misses: as the server counts them.
    """

    tenants: Numbers
    seconds: Numbers
    waited: Numbers
    good: Numbers
    failures: Counter[tuple[int, str]]
    foreign: int
    right: int
    duration: float
    load_seconds: list[float]
    evictions: int
    memory: Numbers
    loaded: int
    cpu: float
    hits: int
    misses: int

    @property
    def hit_ratio(self) -> float:
        """Part of the requests that found their model loaded, as the server counts them."""
        return self.hits / max(self.hits + self.misses, 1)

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return float(self.good.sum()) / self.duration

    @property
    def peak(self) -> int:
        """The largest resident memory that was seen, in bytes."""
        return int(self.memory[:, 1].max())

    def latency(self, percent: float, *, waited: bool) -> float:
        """A percentile in milliseconds, of requests that waited for a load or that didn't; nan where there is none."""
        chosen = self.seconds[self.good & (self.waited == waited)]
        return float(np.percentile(chosen, percent)) * 1e3 if len(chosen) else float("nan")


def closed_loop(
    server: Running, tenants: Sequence[Tenant], order: Sequence[int], seconds: float, *, clients: int, seed: int
) -> Seen:
    """So many clients, each of which asks the next question as soon as it is answered.

    Raises:
        BenchmarkError: there are too few requests in the order.
    """
    numbers = _questions(tenants, order, seed)

    def requests() -> Iterator[bytes]:
        for tenant, question in zip(order, numbers, strict=True):
            yield tenants[tenant].requests[question]
        raise BenchmarkError(f"{len(order)} requests were sent before the time was over")

    def run(seen: Callable[[Answer], None]) -> None:
        Clients(server.port, seen).replay(requests(), seconds, connections=clients, patience=PATIENCE)

    return _measure(server, tenants, order, numbers, run)


def open_loop(
    server: Running, tenants: Sequence[Tenant], order: Sequence[int], seconds: float, *, rate: float, seed: int
) -> Seen:
    """Questions that arrive by chance, so many a second, whatever the server does."""
    arrivals = poisson(rate, seconds, seed=seed)
    order = order[: len(arrivals)]
    numbers = _questions(tenants, order, seed)
    requests = [tenants[tenant].requests[question] for tenant, question in zip(order, numbers, strict=True)]

    def run(seen: Callable[[Answer], None]) -> None:
        Clients(server.port, seen).open_loop(requests, arrivals, patience=PATIENCE)

    return _measure(server, tenants, order, numbers, run)


def cache_of(server: Running) -> dict[str, Any]:
    """What the server tells of its model cache."""
    cache: dict[str, Any] = httpx2.get(f"http://127.0.0.1:{server.port}/api/v1/cache", timeout=60).json()
    return cache


def load_all(server: Running, tenants: Sequence[Tenant]) -> None:
    """Have models loaded, and wait until they are.

    Raises:
        BenchmarkError: they aren't.
    """
    names = [tenant.name for tenant in tenants]
    for begin in range(0, len(names), 1000):
        url = f"http://127.0.0.1:{server.port}/api/v1/cache/prefetch"
        answer = httpx2.post(url, json={"models": names[begin : begin + 1000]}, timeout=60).raise_for_status().json()
        if answer["refused"]:
            raise BenchmarkError(f"the server won't load: {answer['refused'][:3]}")
        while cache_of(server)["loading"]:
            time.sleep(0.5)
    missing = set(names) - {each["name"] for each in cache_of(server)["loaded"]}
    if missing:
        raise BenchmarkError(f"{len(missing)} of {len(names)} models weren't loaded")


def resident_once_quiet(server: Running) -> int:
    """Resident bytes, once they don't change any more."""
    before = server.memory()
    for _ in range(20):
        time.sleep(0.5)
        now = server.memory()
        if abs(now - before) < 1 << 20:
            return now
        before = now
    return before


def _questions(tenants: Sequence[Tenant], order: Sequence[int], seed: int) -> list[int]:
    chance = np.random.default_rng(seed)
    return [
        int(part * len(tenants[tenant].requests)) for part, tenant in zip(chance.random(len(order)), order, strict=True)
    ]


def _measure(
    server: Running,
    tenants: Sequence[Tenant],
    order: Sequence[int],
    numbers: Sequence[int],
    run: Callable[[Callable[[Answer], None]], None],
) -> Seen:
    answers: list[Answer] = []
    failures: Counter[tuple[int, str]] = Counter()
    foreign = right = 0

    def seen(answer: Answer) -> None:
        nonlocal foreign, right
        tenant = tenants[order[answer.client]]
        if answer.status != 200:
            failures[answer.status, answer.body[:200].decode(errors="replace")] += 1
        elif tenant.labels[numbers[answer.client]] in answer.body:
            right += 1
        elif f'"{tenant.name}/'.encode() not in answer.body:
            foreign += 1
        answers.append(answer)

    wall = time.time() - time.perf_counter()
    read_from = server.log.stat().st_size
    before, cpu = cache_of(server), server.cpu_seconds()
    with _Memory(server) as memory:
        begin = time.perf_counter()
        run(seen)
        end = max((answer.done for answer in answers if answer.status != NO_ANSWER), default=begin)
    cpu = server.cpu_seconds() - cpu
    after = cache_of(server)
    answers.sort(key=lambda answer: answer.client)
    ready, load_seconds, evictions = _changes(server, read_from)
    waited = [_waited(ready.get(tenants[order[each.client]].name, []), each, wall) for each in answers]
    return Seen(
        tenants=np.array([order[each.client] for each in answers]),
        seconds=np.array([each.latency for each in answers]),
        waited=np.array(waited, bool),
        good=np.array([each.status == 200 for each in answers], bool),
        failures=failures,
        foreign=foreign,
        right=right,
        duration=end - begin,
        load_seconds=load_seconds,
        evictions=evictions,
        memory=np.array([(moment - begin, taken) for moment, taken in memory.samples]),
        loaded=len(after["loaded"]),
        cpu=cpu / (end - begin),
        hits=after["hits"] - before["hits"],
        misses=after["misses"] - before["misses"],
    )


def _waited(ready: Sequence[float], answer: Answer, wall: float) -> bool:
    """Whether the model became ready between request and answer. The log's times are cut off to milliseconds."""
    return any(answer.sent + wall < moment <= answer.done + wall for moment in ready)


def _changes(server: Running, read_from: int) -> tuple[dict[str, list[float]], list[float], int]:
    """Of each model when it became ready; how long each load took; evictions."""
    ready: dict[str, list[float]] = {}
    load_seconds = []
    evictions = 0
    with server.log.open("rb") as log:
        log.seek(read_from)
        for line in log:
            event = orjson.loads(line) if line.startswith(b"{") else {}
            found = _CHANGE.match(event.get("message", ""))
            if found is None:
                continue
            if found[2] == "evicted":
                evictions += 1
            else:
                ready.setdefault(found[1], []).append(datetime.fromisoformat(event["time"]).timestamp())
                load_seconds.append(float(event["seconds"]))
    return ready, load_seconds, evictions


class _Memory:
    """Looks at a server's resident memory ten times a second, on a thread."""

    def __init__(self, server: Running) -> None:
        self.samples: list[tuple[float, int]] = []
        self._server = server
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while True:
            self.samples.append((time.perf_counter(), self._server.memory()))
            if self._end.wait(SAMPLE_SECONDS):
                return

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
