"""In the probe's process: what executions take, by the rows of a batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

from salver.batching.batch_size import MakeInputs, probe_batch_size
from salver.core.errors import SalverError
from salver.core.model import ModelSpec
from salver.registration.probe.memory import MemoryGrowth
from salver.runtimes.base import Inputs, LoadedModel, Outputs
from salver.runtimes.instance import Instance

_LARGEST_BATCH = 128
_BATCH_SECONDS = 0.3
_RUNS = 15
_MEMORY_SHARE = 0.9
_STREAM_PARTS = 1000


@dataclass(frozen=True, slots=True)
class Latencies:
    """What was found; see :class:`salver.core.registry.Probe`."""

    seconds: Mapping[int, float]
    max_batch_size: int
    reason: str
    efficient_batch_size: int | None


async def measure_latencies(
    spec: ModelSpec,
    model: LoadedModel,
    instance: Instance,
    inputs_of: MakeInputs,
    memory: MemoryGrowth,
    limits: Mapping[str, Any],
) -> Latencies:
    """Measure a model that runs on made-up inputs: on one row, and, where it batches, on growing numbers of them.

    Args:
        spec, model: which; ``spec.scheduling.max_batch_size`` is what its model.yaml says.
        instance: runs it, and was warmed up.
        inputs_of: makes inputs up.
        memory: told after each size, so that it knows what batches take.
        limits: of the probe; a batch that would need more memory than they leave isn't tried.
    """
    wanted = spec.scheduling.max_batch_size
    clock = _Clock(model, instance, ends=perf_counter() + limits["latency_seconds"])
    if not model.signature.batched or model.kind != "sync":
        inputs = inputs_of(1)
        assert inputs is not None
        await clock.top_up(1, inputs)
        memory.note(1)
        if wanted is not None:
            return Latencies(clock.medians(), wanted, "model.yaml says so", None)
        if not model.signature.batched:
            return Latencies(clock.medians(), 1, "the model has no batch dimension", None)
        reason = "async models run requests side by side; set max_batch_size to batch them"
        return Latencies(clock.medians(), 1, reason, None)

    full: list[int] = []
    tried: list[int] = []

    def bounded(rows: int, seed: int | None = None) -> Inputs | None:
        if seed is None:
            if tried:
                memory.note(tried[-1])
            if memory.expected(rows) > _MEMORY_SHARE * limits["memory_bytes"]:
                full.append(rows)
                return None
            tried.append(rows)
        return inputs_of(rows, seed)

    largest = min(_LARGEST_BATCH, wanted or _LARGEST_BATCH)
    found = await probe_batch_size(clock.run, inputs_of=bounded, budget=_BATCH_SECONDS, largest=largest)
    memory.note(tried[-1] if tried else 1)
    for rows in found.seconds:
        inputs = inputs_of(rows)
        if inputs is not None:
            await clock.top_up(rows, inputs)
    seconds = {rows: taken for rows, taken in clock.medians().items() if rows in found.seconds}
    if wanted is not None:
        return Latencies(seconds, wanted, "model.yaml says so", None)
    if instance.runs_inline:
        reason = "it takes so little time that requests don't wait for each other"
        return Latencies(seconds, 1, reason, None)
    reason = f"{full[0]} rows would take more memory than the probe may" if full else found.reason
    return Latencies(seconds, found.max_batch_size, reason, found.efficient_batch_size)


class _Clock:
    """Runs a model, and keeps what each execution took."""

    def __init__(self, model: LoadedModel, instance: Instance, *, ends: float) -> None:
        self._model = model
        self._instance = instance
        self._ends = ends
        self._times: defaultdict[int, list[float]] = defaultdict(list)

    async def run(self, inputs: Inputs) -> Outputs:
        """One execution; the last outputs of a model that streams."""
        started = perf_counter()
        outputs: Outputs = {}
        if self._model.kind == "sync":
            outputs = self._instance.run(inputs, None, {})
        elif self._model.kind == "async":
            outputs = await self._instance.start(inputs, None, {})
        else:
            outputs = await self._stream(inputs)
        self._times[self._model.signature.batch_size(inputs)].append(perf_counter() - started)
        return outputs

    async def top_up(self, rows: int, inputs: Inputs) -> None:
        """Run until there are enough times of so many rows, or no more time."""
        try:
            while not self._times[rows] or (len(self._times[rows]) < _RUNS and perf_counter() < self._ends):
                await self.run(inputs)
        except SalverError:
            return  # it has run before; a model that fails now and then is measured by what it did

    def medians(self) -> dict[int, float]:
        """Rows -> median seconds, without the first execution, which may have warmed something up."""
        return {rows: median(times[1:] or times) for rows, times in sorted(self._times.items()) if times}

    async def _stream(self, inputs: Inputs) -> Outputs:
        outputs: Outputs = {}
        parts = self._instance.stream(inputs, None, {})
        try:
            count = 0
            async for outputs in parts:  # noqa: B007 - the last ones are given back
                count += 1
                if count >= _STREAM_PARTS or perf_counter() > self._ends:
                    break
        finally:
            await parts.aclose()
        return outputs
