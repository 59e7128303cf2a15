"""From models of every kind to the event loop: threads, queues, streams, cancellation, inline calls."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salver.batching.policy import BatchPolicy
from salver.batching.scheduler import Limits, Scheduler
from salver.cache.preparation import make_instances
from salver.core.errors import InvalidInput, ModelFailed, Overloaded
from salver.core.model import Isolation, ModelSpec
from salver.core.scheduling import Scheduling
from salver.core.signature import Signature, TensorSpec
from salver.monitoring.statistics import ModelStatistics
from salver.runtimes.base import Inputs, Kind, LoadedModel, Outputs
from salver.runtimes.instance import INLINE_NS
from salver.runtimes.workers import SharedWorkers

X: Inputs = {"x": np.zeros(4, np.float32)}
SOON = 10.0
variable = contextvars.ContextVar("variable", default="nobody")


class Model(LoadedModel):
    """Calls a function; ``streams`` gives what it gives, item by item."""

    signature = Signature((TensorSpec("x", "FP32", (-1,)),), ())
    platform = "test"

    def __init__(
        self,
        function: Callable[[Inputs], Any],
        *,
        kind: Kind = "sync",
        max_concurrency: int | None = None,
        may_run_inline: bool = False,
    ) -> None:
        self.function = function
        self.kind = kind
        self.max_concurrency = max_concurrency
        self.may_run_inline = may_run_inline

    def predict(self, inputs: Inputs, asked: object, parameters: object) -> Outputs:
        result: Outputs = self.function(inputs)
        return result

    async def predict_async(self, inputs: Inputs, asked: object, parameters: object) -> Outputs:
        result: Outputs = await self.function(inputs)
        return result

    def stream(self, inputs: Inputs, asked: object, parameters: object) -> Iterator[Outputs]:
        result: Iterator[Outputs] = self.function(inputs)
        return result

    def stream_async(self, inputs: Inputs, asked: object, parameters: object) -> AsyncIterator[Outputs]:
        result: AsyncIterator[Outputs] = self.function(inputs)
        return result

    def memory_bytes(self) -> int:
        return 0


class Gate:
    """A model function that says when it runs, and goes on when it is told to."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.running = 0
        self.most = 0
        self.calls = 0
        self._lock = threading.Lock()

    def __call__(self, inputs: Inputs) -> Outputs:
        with self._lock:
            self.calls += 1
            self.running += 1
            self.most = max(self.most, self.running)
        self.entered.release()
        assert self.open.wait(SOON)
        with self._lock:
            self.running -= 1
        return inputs

    async def wait_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=SOON)


class Instance:
    """An instance behind its queue, as a model version has it."""

    def __init__(self, model: Model, *, name: str, isolation: Isolation = "auto", max_queue: int = 1000) -> None:
        spec = ModelSpec(name, "1", Path(), "test", isolation=isolation)
        self.model = model
        (self.instance,) = make_instances(spec, [model], max_queue)
        self.scheduler = Scheduler(
            [self.instance],
            name=name,
            scheduling=Scheduling(),
            limits=Limits(
                BatchPolicy(), max_queue, counts_running=model.kind == "async" and model.max_concurrency is None
            ),
            observer=ModelStatistics(),
        )

    @property
    def isolation(self) -> str:
        return self.instance.isolation

    async def predict(self, inputs: Inputs, asked: None, parameters: Any) -> tuple[Outputs, int]:
        started = time.perf_counter_ns()
        outputs = self.instance.predict_inline(inputs, asked, parameters)
        if outputs is None:
            return await self.scheduler.predict(inputs, asked, parameters, rows=1)
        self.instance.took(time.perf_counter_ns() - started)
        return outputs, 0

    def stream(self, inputs: Inputs, asked: None, parameters: Any) -> AsyncIterator[Outputs]:
        if self.model.kind in ("sync", "async"):
            return self.instance.stream(inputs, asked, parameters)
        return self.scheduler.stream(inputs, asked, parameters)

    async def warm_up(self, inputs: Inputs) -> float | None:
        return await self.instance.warm_up(inputs)

    async def close(self, within: float = 30.0) -> None:
        await self.instance.close(within)


def call(instance: Instance, inputs: Inputs = X) -> asyncio.Task[tuple[Outputs, int]]:
    return asyncio.create_task(instance.predict(inputs, None, {}))


async def test_a_sync_model_runs_on_a_thread_in_the_callers_context() -> None:
    seen: list[Any] = []

    def function(inputs: Inputs) -> Outputs:
        seen.extend((threading.current_thread().name, variable.get()))
        return inputs

    instance = Instance(Model(function), name="m")
    variable.set("somebody")
    outputs, queue_ns = await instance.predict(X, None, {})
    assert outputs is X
    assert 0 <= queue_ns < SOON * 1e9
    assert seen in (["salver-m-0", "somebody"], ["salver-m-1", "somebody"])
    assert instance.isolation == "thread"
    await instance.close()


async def test_calls_beyond_the_bound_are_refused_and_the_queue_is_served_in_order() -> None:
    gate = Gate()
    order: list[int] = []

    def function(inputs: Inputs) -> Outputs:
        order.append(len(inputs["x"]))
        return gate(inputs)

    instance = Instance(Model(function, max_concurrency=1), name="m", max_queue=2)
    calls = [call(instance, {"x": np.zeros(n)}) for n in (1, 2, 3)]
    await gate.wait_entered()
    with pytest.raises(Overloaded, match="'m' has 1 running and 2 waiting"):
        await instance.predict(X, None, {})
    gate.open.set()
    async with asyncio.timeout(SOON):
        results = await asyncio.gather(*calls)
    assert order == [1, 2, 3]
    assert gate.most == 1
    assert results[2][1] > 0
    await instance.predict(X, None, {})
    await instance.close()


async def test_a_caller_that_leaves_the_queue_costs_nothing_more() -> None:
    gate = Gate()
    instance = Instance(Model(gate, max_concurrency=1), name="m", max_queue=2)
    running, leaving, staying = (call(instance, {"x": np.zeros(4)}) for _ in range(3))
    await gate.wait_entered()
    tensor = np.zeros(1000)
    held = weakref.ref(tensor)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    also_leaving = call(instance, {"x": tensor})
    await asyncio.sleep(0)
    del tensor
    also_leaving.cancel()
    await asyncio.wait([also_leaving])
    assert also_leaving.cancelled()
    del also_leaving
    gc.collect()
    assert held() is None, "the queue still holds the tensor of a caller that has left"
    gate.open.set()
    async with asyncio.timeout(SOON):
        await asyncio.gather(running, staying)
    assert gate.calls == 2
    await instance.close()


async def test_a_running_call_keeps_its_slot_until_it_ends_though_its_caller_has_left() -> None:
    gate = Gate()
    instance = Instance(Model(gate, max_concurrency=1), name="m")
    leaving = call(instance)
    await gate.wait_entered()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    waiting = call(instance)
    await asyncio.sleep(0.01)
    assert gate.calls == 1
    gate.open.set()
    await asyncio.wait_for(waiting, SOON)
    assert gate.most == 1
    await instance.close()


async def test_a_slot_handed_to_a_caller_that_leaves_at_that_moment_goes_to_the_next() -> None:
    gate = Gate()
    instance = Instance(Model(gate, max_concurrency=1), name="m")
    running, leaving, staying = (call(instance) for _ in range(3))
    await gate.wait_entered()
    running.add_done_callback(lambda _: leaving.cancel())  # its slot was handed to `leaving` just before
    gate.open.set()
    await asyncio.wait_for(staying, SOON)
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await asyncio.wait_for(instance.predict(X, None, {}), SOON)
    await instance.close()


async def test_close_waits_for_what_runs_until_its_deadline(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    instance = Instance(Model(gate), name="m")
    running = call(instance)
    await gate.wait_entered()
    with caplog.at_level(logging.WARNING):
        await instance.close(within=0.01)
    assert "'m' still runs 1 calls" in caplog.text
    closing = asyncio.create_task(instance.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    gate.open.set()
    await asyncio.wait_for(closing, SOON)
    await running


async def test_threads_end_with_the_instance() -> None:
    instance = Instance(Model(lambda inputs: inputs), name="ending")
    await instance.predict(X, None, {})
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("salver-ending")]
    assert threads
    await instance.close()
    for thread in threads:
        thread.join(SOON)
        assert not thread.is_alive()


async def test_what_isnt_thread_safe_has_threads_of_its_own() -> None:
    shared = SharedWorkers(name="salver-common")
    names: list[str] = []

    def predict(inputs: Inputs) -> Outputs:
        names.append(threading.current_thread().name)
        return inputs

    spec = ModelSpec("own", "1", Path(), "test")
    models = [Model(predict), Model(predict, max_concurrency=1)]
    instances = [make_instances(spec, [model], 1000, shared)[0] for model in models]
    for instance in instances * 2:
        await instance.start(X, None, {})
    assert names == ["salver-common-0", "salver-own-0"] * 2
    for instance in instances:
        assert await instance.close(SOON)
    shared.end()


async def test_a_model_that_reads_texts_is_warmed_up_once() -> None:
    calls: list[Inputs] = []

    def predict(inputs: Inputs) -> Outputs:
        calls.append(inputs)
        return inputs

    instance = Instance(Model(predict, may_run_inline=True), name="m")
    await instance.warm_up({"x": np.array([b"text"], object)})
    assert len(calls) == 1
    assert instance.isolation == "thread"
    await instance.close(within=SOON)


@pytest.mark.parametrize("isolation", ["thread", "inline"])
async def test_exceptions_that_no_runtime_translated(isolation: Any, caplog: pytest.LogCaptureFixture) -> None:
    def function(inputs: Inputs) -> Outputs:
        if len(inputs["x"]):
            raise KeyError("lost")
        raise InvalidInput("empty")

    instance = Instance(Model(function), name="m", isolation=isolation)
    with caplog.at_level(logging.ERROR), pytest.raises(ModelFailed, match="model 'm' failed: KeyError: 'lost'"):
        await instance.predict(X, None, {})
    assert "Traceback" in caplog.text
    with pytest.raises(InvalidInput, match="empty"):
        await instance.predict({"x": np.zeros(0)}, None, {})
    await instance.close()


async def test_an_async_model_runs_on_the_loop_with_its_bounds() -> None:
    started = asyncio.Semaphore(0)
    go = asyncio.Event()

    async def function(inputs: Inputs) -> Outputs:
        started.release()
        await go.wait()
        if not len(inputs["x"]):
            raise KeyError("lost")
        return inputs

    instance = Instance(Model(function, kind="async", max_concurrency=2), name="m", max_queue=1)
    calls = [call(instance) for _ in range(2)]
    await asyncio.wait_for(started.acquire(), SOON)
    await asyncio.wait_for(started.acquire(), SOON)
    third = call(instance)
    await asyncio.sleep(0)
    assert started.locked()
    with pytest.raises(Overloaded):
        await instance.predict(X, None, {})
    calls[0].cancel()
    await asyncio.wait_for(started.acquire(), SOON)
    go.set()
    assert (await calls[1])[0] is X
    assert (await third)[0] is X
    with pytest.raises(ModelFailed, match="KeyError"):
        await instance.predict({"x": np.zeros(0)}, None, {})
    assert instance.isolation == "inline"
    await instance.close()


async def test_async_calls_without_a_bound_of_their_own_are_bounded_by_the_queues() -> None:
    go = asyncio.Event()

    async def function(inputs: Inputs) -> Outputs:
        await go.wait()
        return inputs

    instance = Instance(Model(function, kind="async"), name="m", max_queue=3)
    calls = [call(instance) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await instance.predict(X, None, {})
    go.set()
    await asyncio.gather(*calls)
    await instance.close()


async def collect(instance: Instance) -> list[int]:
    return [int(outputs["y"][0]) async for outputs in instance.stream(X, None, {})]


def numbers(count: int, log: list[str], fail: bool = False) -> Callable[[Inputs], Iterator[Outputs]]:
    def function(inputs: Inputs) -> Iterator[Outputs]:
        try:
            for number in range(count):
                log.append(threading.current_thread().name)
                yield {"y": np.array([number])}
            if fail:
                raise KeyError("lost")
        finally:
            log.append("closed")

    return function


def async_numbers(count: int, log: list[str], fail: bool = False) -> Callable[[Inputs], AsyncIterator[Outputs]]:
    async def function(inputs: Inputs) -> AsyncIterator[Outputs]:
        for outputs in numbers(count, log, fail)(inputs):
            await asyncio.sleep(0)
            yield outputs

    return function


@pytest.mark.parametrize(("make", "kind"), [(numbers, "stream"), (async_numbers, "async_stream")])
async def test_streams(make: Any, kind: Any) -> None:
    log: list[str] = []
    instance = Instance(Model(make(3, log), kind=kind, max_concurrency=1), name="m")
    assert await collect(instance) == [0, 1, 2]
    where = "MainThread" if kind == "async_stream" else "salver-m-0"
    assert log == [where] * 3 + ["closed"]
    failing = Instance(Model(make(1, log, fail=True), kind=kind, max_concurrency=1), name="m")
    with pytest.raises(ModelFailed, match="KeyError"):
        await collect(failing)
    for each in (instance, failing):
        await each.close(within=SOON)


@pytest.mark.parametrize(("make", "kind"), [(numbers, "stream"), (async_numbers, "async_stream")])
async def test_a_stream_is_closed_when_its_consumer_leaves(make: Any, kind: Any) -> None:
    log: list[str] = []
    instance = Instance(Model(make(1000, log), kind=kind, max_concurrency=1), name="m")
    stream = instance.stream(X, None, {})
    assert int((await anext(stream))["y"][0]) == 0
    await stream.aclose()
    assert await asyncio.wait_for(collect(instance), SOON) == list(range(1000))  # the slot is free again
    assert log.count("closed") == 2
    assert log[1] == "closed"
    await instance.close()


async def test_a_stream_left_during_a_step_is_closed_after_it() -> None:
    gate = Gate()
    closed = threading.Event()

    def function(inputs: Inputs) -> Iterator[Outputs]:
        try:
            yield gate(inputs)
        finally:
            closed.set()

    instance = Instance(Model(function, kind="stream", max_concurrency=1), name="m")
    consumer = asyncio.create_task(collect(instance))
    await gate.wait_entered()
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    assert not closed.is_set()
    gate.open.set()
    assert await asyncio.to_thread(closed.wait, SOON)
    await instance.close(within=SOON)


async def test_a_model_that_does_not_stream_gives_one_answer() -> None:
    instance = Instance(Model(lambda inputs: {"y": np.array([7])}), name="m")
    assert await collect(instance) == [7]
    await instance.close()


async def test_inline_runs_on_the_loops_thread() -> None:
    seen: list[threading.Thread] = []

    def function(inputs: Inputs) -> Outputs:
        seen.append(threading.current_thread())
        return inputs

    instance = Instance(Model(function), name="m", isolation="inline")
    assert await instance.predict(X, None, {}) == (X, 0)
    assert seen == [threading.current_thread()]
    assert instance.isolation == "inline"
    await instance.close()


def busy(seconds: float) -> None:
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        pass


async def test_auto_runs_a_fast_model_inline_once_it_was_measured() -> None:
    threads: list[threading.Thread] = []

    def function(inputs: Inputs) -> Outputs:
        threads.append(threading.current_thread())
        return inputs

    instance = Instance(Model(function, may_run_inline=True), name="m")
    assert instance.isolation == "thread"
    measured = await instance.warm_up(X)
    assert measured is not None
    assert measured < INLINE_NS / 1e9
    assert instance.isolation == "inline"
    await instance.predict(X, None, {})
    assert threads[-1] is threading.main_thread()
    await instance.predict({"x": np.zeros(100_000)}, None, {})  # much larger than what was measured
    assert threads[-1] is not threading.main_thread()
    assert instance.isolation == "inline"
    await instance.close()


async def test_auto_leaves_a_slow_model_on_its_threads() -> None:
    def function(inputs: Inputs) -> Outputs:
        busy(0.001)
        return inputs

    instance = Instance(Model(function, may_run_inline=True), name="m")
    measured = await instance.warm_up(X)
    assert measured is not None
    assert measured >= 0.001
    assert instance.isolation == "thread"
    await instance.close()


async def test_auto_moves_a_model_that_turns_out_slow_to_its_threads_for_good() -> None:
    def function(inputs: Inputs) -> Outputs:
        busy(float(inputs["x"][0]))
        return inputs

    async def take(seconds: float, times: int) -> None:
        for _ in range(times):
            await instance.predict({"x": np.array([seconds])}, None, {})

    instance = Instance(Model(function, may_run_inline=True), name="m")
    await instance.warm_up(X)
    await take(0.1, times=1)  # one hiccup is none of the model's
    await take(0.0, times=50)
    assert instance.isolation == "inline"
    await take(0.001, times=50)
    assert instance.isolation == "thread"
    await take(0.0, times=100)
    assert instance.isolation == "thread"
    await instance.close()


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (Model(lambda inputs: inputs), X),
        (Model(lambda inputs: inputs, may_run_inline=True, max_concurrency=1), X),
        (Model(lambda inputs: inputs, may_run_inline=True), {"x": np.array([b"text"], object)}),
        (Model(lambda inputs: 1 / 0, may_run_inline=True), X),  # type: ignore[arg-type, return-value]
        (Model(lambda inputs: inputs, kind="stream", may_run_inline=True), X),
    ],
)
async def test_what_warm_up_never_moves_to_the_loop(model: Model, inputs: Inputs) -> None:
    instance = Instance(model, name="m")
    await instance.warm_up(inputs)
    assert instance.isolation == "thread"
    await instance.close(within=SOON)


async def test_thread_isolation_stays() -> None:
    instance = Instance(Model(lambda inputs: inputs, may_run_inline=True), name="m", isolation="thread")
    assert await instance.warm_up(X) is not None
    assert instance.isolation == "thread"
    await instance.close()


def test_a_loop_that_is_closed_while_a_call_runs_leaves_nothing_behind() -> None:
    gate = Gate()

    async def leave() -> Instance:
        instance = Instance(Model(gate), name="m")
        call(instance)
        await gate.wait_entered()
        return instance

    instance = asyncio.run(leave())
    gate.open.set()
    threads = list(instance.instance._workers._threads)  # type: ignore[union-attr]
    asyncio.run(instance.close(within=0.01))
    for thread in threads:
        thread.join(SOON)
        assert not thread.is_alive()
