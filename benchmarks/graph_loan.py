"""The loan example under load: the whole graph, against its slowest step alone."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import uvloop
from command import BUILD, Results
from harness import BenchmarkError
from report import Figure, Wanted

from salver.assembly import build_engine
from salver.config import ServerSettings
from salver.core.request import InferenceRequest
from salver.core.tensor import Array
from salver.engine import Engine
from salver.graph.model import GraphModel
from salver.graph.scope import Scope
from salver.graph.steps.call import Call

LOAN = Path(__file__).resolve().parent.parent / "examples" / "loan"
sys.path.insert(0, str(LOAN))

from ask_for_loans import samples  # noqa: E402

CLIENTS = 64
QUICK_CLIENTS = 6
QUICK_REQUESTS = 3
FOLDER = BUILD / "loan"

Inputs = dict[str, Array]


@dataclass(frozen=True)
class Asked:
    """What a step was asked while the graph answered a request.

    Attributes:
        step: it.
        inputs, scope: what it was asked with.
        seconds: that it took.
    """

    step: Call
    inputs: Inputs
    scope: Scope
    seconds: float

    async def again(self) -> None:
        """Ask it the same once more."""
        await self.step._call(self.inputs, replace(self.scope, deadline=None))


@contextmanager
def recording(graph: GraphModel) -> Iterator[list[Asked]]:
    """Note what the graph's steps that call something are asked."""
    noted: list[Asked] = []
    usual = {step: step._call for step in graph.steps() if isinstance(step, Call)}

    def noting(step: Call) -> Callable[..., Coroutine[Any, Any, tuple[Inputs, str]]]:
        async def call(inputs: Inputs, scope: Scope) -> tuple[Inputs, str]:
            begun = perf_counter()
            result = await usual[step](inputs, scope)
            noted.append(Asked(step, inputs, scope, perf_counter() - begun))
            return result

        return call

    for step in usual:
        step._call = noting(step)  # type: ignore[method-assign]
    try:
        yield noted
    finally:
        for step, call in usual.items():
            step._call = call  # type: ignore[method-assign]


async def per_second(works: Sequence[Callable[[], Awaitable[object]]], *, clients: int, times: int) -> float:
    """How many of the works so many clients get done in a second, where each does some."""
    waiting = cycle(works)

    async def client() -> None:
        for _ in range(times):
            await next(waiting)()

    begun = perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return clients * times / (perf_counter() - begun)


def prepare() -> list[Inputs]:
    """Make the example's models where there are none; requests about applications that are made up.

    Time limits are taken out: so many clients wait longer than the example's users would.

    Raises:
        BenchmarkError: the models can't be made.
    """
    done = subprocess.run(
        [sys.executable, LOAN / "make_models.py", FOLDER / "models"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"the loan example's models can't be made: {done.stderr.strip()}")
    document = FOLDER / "models" / "loan" / "1" / "graph.yaml"
    document.write_text(re.sub(r"timeout: \d+s", "timeout: 1h", document.read_text()))
    pdfs = [sample.pdf for sample in samples() if sample.applicant is not None and sample.applicant.employer]
    return [{"pdf": np.array([pdf], dtype=object)} for pdf in pdfs]


@dataclass(frozen=True)
class Measured:
    """Requests a second.

    Attributes:
        slowest: the name of the slowest step.
        alone: that it would answer alone.
        steps: that all steps would answer, asked the same without the graph.
        graph: that the graph answers.
    """

    slowest: str
    alone: float
    steps: float
    graph: float


async def measure(quick: bool) -> Measured:
    """Measure the graph and its steps in turns."""
    requests = await asyncio.to_thread(prepare)
    engine = build_engine(ServerSettings(repository=FOLDER / "models", allow_code=True))
    await engine.start()
    try:
        return await _measure(engine, requests, quick)
    finally:
        await engine.close()


async def _measure(engine: Engine, requests: Sequence[Inputs], quick: bool) -> Measured:
    works = [_ask(engine, inputs) for inputs in (requests[:QUICK_REQUESTS] if quick else requests)]
    for work in works:
        await work()
    graph = engine.models.lookup("loan").composed
    assert isinstance(graph, GraphModel)
    by_request: list[list[Asked]] = []
    for work in works:
        with recording(graph) as noted:
            await work()
        by_request.append(noted)
    taken: dict[Call, float] = {}
    for asked in (each for noted in by_request for each in noted):
        taken[asked.step] = taken.get(asked.step, 0.0) + asked.seconds
    slowest = max(taken, key=lambda step: taken[step])
    alone = [_again([each for each in noted if each.step is slowest]) for noted in by_request]
    steps = [_again(noted) for noted in by_request]
    clients, times, rounds = (QUICK_CLIENTS, 1, 1) if quick else (CLIENTS, 1, 2)
    found: list[list[float]] = [[], [], []]
    for _ in range(rounds):
        for results, each in zip(found, (alone, steps, works), strict=True):
            results.append(await per_second(each, clients=clients, times=times))
    return Measured(slowest.name, *map(median, found))


def _ask(engine: Engine, inputs: Inputs) -> Callable[[], Awaitable[object]]:
    return lambda: engine.predict(InferenceRequest("loan", "", inputs))


def _again(noted: Sequence[Asked]) -> Callable[[], Awaitable[object]]:
    async def work() -> None:
        for asked in noted:
            await asked.again()

    return work


def measure_loan(quick: bool, results: Results) -> None:
    """The third part."""
    found = uvloop.run(measure(quick))
    results.add_figures(
        f"The loan example, {QUICK_CLIENTS if quick else CLIENTS} clients",
        [
            Figure("graph/loan/slowest", f"its slowest step, {found.slowest}, alone", found.alone, "requests/s"),
            Figure("graph/loan/steps", "all its steps, asked without the graph", found.steps, "requests/s"),
            Figure("graph/loan/graph", "the graph", found.graph, "requests/s"),
            Figure(
                "graph/loan/over_slowest",
                "the graph over its slowest step",
                found.graph / found.alone,
                "times",
                Wanted(0.9, at_least=True),
            ),
            Figure("graph/loan/over_steps", "the graph over its steps", found.graph / found.steps, "times"),
        ],
    )
