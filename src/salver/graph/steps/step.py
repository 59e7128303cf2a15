"""A step, made ready to run: when it runs, and what happens where it fails."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from time import monotonic, perf_counter_ns

from salver.core.errors import DeadlineExceeded, InvalidRequest, ModelFailed, SalverError, UnsupportedRequest
from salver.core.tensor import Array
from salver.graph.expressions import Expression, ExpressionError
from salver.graph.scope import Answered, Scope, StepFailed, StepRecord
from salver.graph.spec import StepConfig
from salver.graph.transforms import CompiledSource
from salver.monitoring.step_statistics import StepStatistics
from salver.runtimes.base import Inputs, Outputs

_OFF_LOOP = 1 << 20
"""Bytes from which putting tensors together would hold up the event loop too long."""


class Step(ABC):
    """One step of a graph.

    Args:
        config: what the graph says of it.
        name: what errors and statistics call it; steps inside others are OUTER/INNER.
        fallback: what answers where it fails; None where nothing does.

    Attributes:
        name: as above.
        kind: as in its ``config``.
        key: what references in its graph call it.
        statistics: its counters.
        takes_graph_inputs: its tensors are all the caller's own, and so are the faults in them.
    """

    takes_graph_inputs = False

    def __init__(self, config: StepConfig, name: str, fallback: Step | None = None) -> None:
        self.config = config
        self.name = name
        self.key = config.name or ""
        self.kind = config.kind
        self.statistics = StepStatistics(config.kind)
        self._when = None if config.when is None else Expression.parse(config.when)
        self._outputs = config.outputs
        self._fallback = fallback
        self._guarded = bool(config.timeout or config.retries or config.fallback)
        self._optional = config.optional

    @abstractmethod
    async def compute(self, scope: Scope) -> tuple[Outputs | None, str]:
        """Run once: the outputs, None where a tensor is missing that it needs; and a word on what happened.

        Raises:
            SalverError, StepFailed: it fails, or a step inside it.
            Answered: it has answered for the whole graph.
        """

    @property
    def fallback(self) -> Step | None:
        """What answers where it fails."""
        return self._fallback

    def own_references(self) -> frozenset[str]:
        """References that it reads itself, but for ``when``; those of steps inside come with :meth:`inner`."""
        return frozenset()

    def inner(self) -> Iterator[Step]:
        """Steps inside it that see the same tensors."""
        return iter(())

    def all(self) -> Iterator[Step]:
        """It and all steps inside it, those of inline graphs too."""
        yield self
        for step in self.inner():
            yield from step.all()
        if self._fallback is not None:
            yield from self._fallback.all()

    def references(self) -> frozenset[str]:
        """References to tensors of its graph that it, or a step inside it, may read."""
        found = set(self.own_references())
        if self._when is not None:
            found |= self._when.references
        for step in self.inner():
            found |= step.references()
        if self._fallback is not None:
            found |= self._fallback.references()
        return frozenset(found)

    async def run(self, scope: Scope) -> Outputs | None:
        """The step's outputs; None where it is skipped, or is optional and fails.

        Raises:
            StepFailed: it fails.
            Answered: it has answered for the whole graph.
        """
        if self._when is not None and not self.is_wanted(scope):
            self.statistics.skipped += 1
            if scope.trace is not None:
                now = perf_counter_ns()
                scope.trace.add(
                    StepRecord(self.name + scope.item, self.kind, now, now, "skipped", "its condition is false")
                )
            return None
        return await self.run_wanted(scope)

    def is_wanted(self, scope: Scope) -> bool:
        """Whether its condition is true; it is where it has none.

        Raises:
            StepFailed: there is no telling.
        """
        if self._when is None:
            return True
        try:
            return self._when.evaluate(scope.values.get, scope.parameters)
        except ExpressionError as error:
            self.statistics.failed += 1
            raise StepFailed(self, ModelFailed(f"its condition {self._when.text!r}: {error}")) from None

    async def run_wanted(self, scope: Scope) -> Outputs | None:
        """As :meth:`run`, where the condition is known to be true."""
        started = perf_counter_ns()
        trace = scope.trace
        try:
            if self._guarded:
                outputs, detail, attempts = await self._try(scope)
                status = "fallback" if attempts == 0 else "ok"
            else:
                outputs, detail = await self.compute(scope)
                attempts, status = 1, "ok"
                if outputs is not None and self._outputs is not None:
                    outputs = self._renamed(outputs)
            if outputs is None:
                self.statistics.skipped += 1
                status = "skipped"
            else:
                self.statistics.ok.add(perf_counter_ns() - started)
        except Answered as answer:
            self.statistics.ok.add(perf_counter_ns() - started)
            if trace is not None:
                self._note(scope, started, "answered", "", 1, answer.outputs)
            raise
        except (SalverError, StepFailed) as error:
            self._failed(scope, started, error)
            if self._optional:
                return None
            raise error if isinstance(error, StepFailed) else StepFailed(self, error) from error
        if trace is not None:
            self._note(scope, started, status, detail, attempts, outputs)
        return outputs

    async def _try(self, scope: Scope) -> tuple[Outputs | None, str, int]:
        """The outputs, a word, and the number of tries; 0 where the fallback has answered."""
        config = self.config
        for attempt in range(config.retries + 1):
            within = scope if config.timeout is None else scope.until(monotonic() + config.timeout)
            try:
                async with asyncio.timeout_at(_loop_time(within.deadline) if config.timeout else None) as timeout:
                    outputs, detail = await self.compute(within)
                return None if outputs is None else self._renamed(outputs), detail, attempt + 1
            except TimeoutError as error:
                if not timeout.expired():
                    raise
                failure: SalverError | StepFailed = DeadlineExceeded(f"it took more than {config.timeout:g} s")
                failure.__cause__ = error
            except (SalverError, StepFailed) as error:
                failure = error
            is_last = attempt == config.retries or not _may_go_better(failure)
            scope_is_late = scope.deadline is not None and monotonic() >= scope.deadline
            if is_last or scope_is_late:
                break
            self.statistics.retries += 1
            # Spread out, so that those who failed together don't come back together.
            await asyncio.sleep(config.retry_delay * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311
        fallback = config.fallback
        if fallback is None or scope_is_late or _what(failure) not in fallback.on:
            raise failure
        assert self._fallback is not None
        self.statistics.fallbacks += 1
        return await self._fallback.run(scope), f"after: {failure}", 0

    def _renamed(self, outputs: Outputs) -> Outputs:
        if self._outputs is None:
            return outputs
        try:
            return {name: outputs[own] for name, own in self._outputs.items()}
        except KeyError as error:
            came = ", ".join(map(repr, outputs)) or "nothing"
            raise ModelFailed(f"it gave no output {error}, but {came}") from None

    def _failed(self, scope: Scope, started: int, error: SalverError | StepFailed) -> None:
        ended = perf_counter_ns()
        self.statistics.failed += 1
        self.statistics.failed_ns += ended - started
        if scope.trace is not None:
            self._note(scope, started, "failed" if self._optional else "error", str(error), 1, None)

    def _note(
        self, scope: Scope, started: int, status: str, detail: str, attempts: int, outputs: Outputs | None
    ) -> None:
        assert scope.trace is not None
        record = StepRecord(self.name + scope.item, self.kind, started, perf_counter_ns(), status, detail, attempts)
        if scope.trace.keeps_tensors:
            reads = {name: scope.values[name] for name in sorted(self.references()) if name in scope.values}
            record.inputs, record.outputs = reads, outputs
        scope.trace.add(record)


def _loop_time(deadline: float | None) -> float | None:
    """A time of ``time.monotonic`` by the event loop's clock."""
    return None if deadline is None else asyncio.get_running_loop().time() + deadline - monotonic()


def _may_go_better(failure: SalverError | StepFailed) -> bool:
    error = failure.error if isinstance(failure, StepFailed) else failure
    return not isinstance(error, InvalidRequest | UnsupportedRequest)


def _what(failure: SalverError | StepFailed) -> str:
    error = failure.error if isinstance(failure, StepFailed) else failure
    return "timeout" if isinstance(error, DeadlineExceeded) else "error"


async def gather(sources: Mapping[str, CompiledSource], scope: Scope) -> dict[str, Array | None]:
    """The tensors of sources by name, None for those that are missing.

    Raises:
        ModelFailed: one can't be made of what there is.
    """
    tensor = scope.values.get
    plain = True
    result: dict[str, Array | None] = {}
    for name, source in sources.items():
        if source.plain is not None:
            result[name] = tensor(source.plain)
        else:
            plain = False
            result[name] = None
    if plain:
        return result

    def evaluate() -> None:
        for name, source in sources.items():
            if source.plain is None:
                try:
                    result[name] = source.evaluate(tensor, scope.parameters)
                except ValueError as error:
                    raise ModelFailed(f"{name!r}: {error}") from None

    size = sum(
        array.nbytes
        for source in sources.values()
        if source.plain is None
        for reference in source.parts
        if (array := tensor(reference)) is not None
    )
    if size > _OFF_LOOP:
        await asyncio.to_thread(evaluate)
    else:
        evaluate()
    return result


def present(tensors: Mapping[str, Array | None], required: frozenset[str]) -> Inputs | None:
    """The tensors that are there; None where a required one isn't."""
    inputs: Inputs = {}
    for name, array in tensors.items():
        if array is not None:
            inputs[name] = array
        elif name in required:
            return None
    return inputs
