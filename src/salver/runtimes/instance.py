"""The one adapter from loaded models, sync or async, to the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from functools import partial
from statistics import median
from time import perf_counter_ns, thread_time_ns
from typing import Literal

from salver.core.errors import ModelFailed, SalverError, UnsupportedRequest
from salver.core.model import Isolation
from salver.core.request import Parameters
from salver.runtimes.base import Inputs, LoadedModel, Outputs
from salver.runtimes.warm_up import probing
from salver.runtimes.workers import Threads, Workers

logger = logging.getLogger(__name__)

INLINE_NS = 100_000
"""A model that takes less runs on the event loop. A hop to a thread and back costs 10 to 20 us where nothing else runs,
and two to five times as much where other threads want the cores and the GIL too (measured with 16 callers)."""

_DOUBTED_CALLS = 15
_SMALL_BYTES = 4096
_WARM_UP_RUNS = 15
_WARM_UP_NS = 50_000_000


class Instance:
    """One executor of a loaded model in this process; see :class:`salver.batching.executor.Executor`.

    Args:
        model: what to run.
        name: names it in errors and logs.
        isolation: "inline" runs a sync model on the event loop, "thread" on threads. "auto" is "thread"
            until :meth:`warm_up` has found a model that may run inline to be fast enough; it goes back to "thread" for
            inputs much larger than the ones measured, and for good where the model turns out to take longer.
        capacity: executions that it takes at a time.
        threads: shared with other models, for one that is thread-safe; None for threads of its own.

    Async models run on the event loop whatever ``isolation`` says.

    Attributes:
        capacity: executions that it takes at a time.
        failure: None: threads don't die.
        generation: 0: nor are they started anew.
    """

    failure: SalverError | None = None
    generation = 0

    def __init__(
        self,
        model: LoadedModel,
        *,
        name: str,
        isolation: Isolation = "auto",
        capacity: int = 1,
        threads: Threads | None = None,
    ) -> None:
        self.capacity = capacity
        self._model = model
        self._name = name
        self._kind = model.kind
        self._call = model.predict
        self._is_async = model.kind in ("async", "async_stream")
        self._inline = isolation == "inline" and model.kind == "sync"
        self._inline_bytes: float = float("inf")
        # Decided by measuring, and then watched. Models that aren't thread-safe can't run here and there.
        self._measured = isolation == "auto" and model.may_run_inline and model.max_concurrency is None
        self._doubts: list[int] = []  # nanoseconds of the calls since a slow one
        # On the CPU, other threads and processes that want it must not count as the model's time.
        self._clock = thread_time_ns if model.device == "cpu" else perf_counter_ns
        self._used = 0
        self._listeners: list[Callable[[], None]] = []
        self._all_free: asyncio.Event | None = None
        self._workers: Threads | None = None
        if not self._is_async:
            # What isn't thread-safe may mind which thread it runs on.
            is_shared = threads is not None and model.max_concurrency is None
            self._workers = threads if is_shared else Workers(capacity, name=f"salver-{name}")

    @property
    def isolation(self) -> Literal["inline", "thread"]:
        """Where the model's calls run now."""
        return "inline" if self._inline or self._is_async else "thread"

    @property
    def runs_inline(self) -> bool:
        """:meth:`predict_inline` runs at least its smaller inputs."""
        return self._inline

    @property
    def free(self) -> int:
        """How many more executions it takes now."""
        return self.capacity - self._used

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever a place has become free."""
        self._listeners.append(callback)

    def start(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> asyncio.Future[Outputs]:
        """Begin an execution, in the caller's context, where there is a free place.

        Cancelling the future of an async model cancels the model's coroutine; a sync model runs to its end, and its
        future can't be cancelled.

        The future fails with:
            InvalidRequest: the model refuses the inputs.
            ModelFailed: it fails.
        """
        if self._kind not in ("sync", "async"):
            raise UnsupportedRequest(
                f"model {self._name!r} streams its answers; ask it by ModelStreamInfer (gRPC) or /generate_stream"
            )
        self._used += 1
        if self._workers is not None:
            return self._workers.start(partial(self.run, inputs, asked, parameters), ended=self._release)
        task = asyncio.get_running_loop().create_task(self._run_async(inputs, asked, parameters))
        task.add_done_callback(lambda _: self._release())
        return task

    def predict_inline(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs | None:
        """Run the model once, right here, if that is its way; None where :meth:`predict` has to be awaited.

        Raises what :meth:`predict` raises.
        """
        if not self._inline:
            return None
        size = 0
        for array in inputs.values():
            size += array.nbytes
        if size > self._inline_bytes:
            return None
        if self._doubts:
            return self._run_doubted(inputs, asked, parameters)
        return self.run(inputs, asked, parameters)

    def took(self, ns: int) -> None:
        """Hear how long a call of :meth:`predict_inline` has taken: what is slow has to go to a thread."""
        if ns > INLINE_NS and self._measured and not self._doubts:
            self._doubts.append(0)

    def run(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        """Run a sync model once on the calling thread, past the queue. The caller keeps to its ``max_concurrency``.

        Raises:
            InvalidRequest: the model refuses the inputs.
            ModelFailed: it fails.
        """
        try:
            return self._call(inputs, asked, parameters)
        except SalverError:
            raise
        except Exception as error:
            raise self._failure(error) from error

    async def stream(
        self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters
    ) -> AsyncGenerator[Outputs, None]:
        """Run the model, giving one set of outputs after another, in a place that is free; a model that doesn't stream
        gives one.

        The model works on the next outputs when they are asked for, and its generator is closed when the caller leaves.

        Raises:
            InvalidRequest: the model refuses the inputs.
            ModelFailed: it fails.
        """
        if self._kind == "async_stream":
            parts = self._stream_async(inputs, asked, parameters)
        elif self._kind == "stream":
            parts = self._stream_sync(inputs, asked, parameters)
        else:
            yield await self.start(inputs, asked, parameters)
            return
        async with aclosing(parts):
            async for outputs in parts:
                yield outputs

    async def warm_up(self, inputs: Inputs) -> float | None:
        """Run a model that may run inline a few times, and decide where it runs.

        Returns the median of its times in seconds; None for models that have to run on threads whatever their time
        (those that read texts are run once, all the same), and for those that fail on these inputs (synthetic ones may
        make no sense to them).
        """
        if self._workers is None or not self._model.may_run_inline or self._kind != "sync":
            return None
        self._used += 1
        try:
            if _holds_text(inputs):  # however fast it is with this one, others are longer
                once = partial(self._call, inputs, None, {})
                await asyncio.shield(self._workers.start(once, ended=self._release))
                return None
            measuring = self._workers.start(partial(self._measure, inputs), ended=self._release)
            measured = await asyncio.shield(measuring)
        except Exception as error:  # noqa: BLE001 - a probe, whose failure says nothing about real inputs
            logger.debug("model %r can't be warmed up: %s", self._name, error)
            return None
        if self._measured and measured < INLINE_NS:
            self._inline = True
            self._inline_bytes = max(4 * sum(array.nbytes for array in inputs.values()), _SMALL_BYTES)
        return measured / 1e9

    async def close(self, within: float = 30.0) -> bool:
        """Wait for what runs, ``within`` seconds at most, and let the threads end; False where something still runs."""
        if self._used:
            self._all_free = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await self._all_free.wait()
        if self._used:
            logger.warning("model %r still runs %d calls; they are left to themselves", self._name, self._used)
        if self._workers is not None:
            self._workers.stop()
        return not self._used

    def _release(self) -> None:
        self._used -= 1
        for listener in self._listeners:
            listener()
        if not self._used and self._all_free is not None:
            self._all_free.set()

    def _run_doubted(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        """Run on the loop, and time it by the right clock: a call before was slow, and the machine may be to blame."""
        started = self._clock()
        outputs = self.run(inputs, asked, parameters)
        self._doubts.append(self._clock() - started)
        if len(self._doubts) > _DOUBTED_CALLS:
            if median(self._doubts) > INLINE_NS:
                self._inline = False
                logger.info("model %r takes over %d us a call, and moves to a thread", self._name, INLINE_NS // 1000)
            self._doubts.clear()
        return outputs

    def _measure(self, inputs: Inputs) -> float:
        self._call(inputs, None, {})
        times: list[int] = []
        begun = perf_counter_ns()
        while len(times) < _WARM_UP_RUNS and perf_counter_ns() - begun < _WARM_UP_NS:
            started = self._clock()
            self._call(inputs, None, {})
            times.append(self._clock() - started)
        return median(times)

    async def _run_async(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        try:
            return await self._model.predict_async(inputs, asked, parameters)
        except SalverError:
            raise
        except Exception as error:
            raise self._failure(error) from error

    async def _stream_async(
        self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters
    ) -> AsyncGenerator[Outputs, None]:
        self._used += 1
        try:
            parts = self._model.stream_async(inputs, asked, parameters)
            try:
                async for outputs in parts:
                    yield outputs
            finally:
                if isinstance(parts, AsyncGenerator):
                    await parts.aclose()
        except SalverError:
            raise
        except Exception as error:
            raise self._failure(error) from error
        finally:
            self._release()

    async def _stream_sync(
        self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters
    ) -> AsyncGenerator[Outputs, None]:
        assert self._workers is not None
        self._used += 1
        steps = _Steps(partial(self._model.stream, inputs, asked, parameters), self._workers, self._release)
        try:
            while (outputs := await steps.next()) is not None:
                yield outputs
        except SalverError:
            raise
        except Exception as error:
            raise self._failure(error) from error
        finally:
            steps.leave()

    def _failure(self, error: Exception) -> ModelFailed:
        """What the caller is told of an error that the runtime didn't translate; it is logged."""
        message = f"model {self._name!r} failed: {type(error).__name__}: {str(error)[:1000]}"
        logger.log(logging.DEBUG if probing.get() else logging.ERROR, "%s", message, exc_info=error)
        return ModelFailed(message)


class _Steps:
    """A sync model's stream, run step by step on threads. Its slot is given back when its generator is closed."""

    def __init__(self, begin: Callable[[], Iterator[Outputs]], workers: Threads, release: Callable[[], None]) -> None:
        self._begin = begin
        self._workers = workers
        self._release = release
        self._iterator: Iterator[Outputs] | None = None
        self._running = False
        self._left = False

    async def next(self) -> Outputs | None:
        """The next outputs; None at the end."""
        self._running = True
        return await asyncio.shield(self._workers.start(self._step, ended=self._ended))

    def leave(self) -> None:
        """Close the generator: now, or once its running step has ended. Doesn't wait for that."""
        self._left = True
        if not self._running:
            self._close()

    def _step(self) -> Outputs | None:
        if self._iterator is None:
            self._iterator = iter(self._begin())
        return next(self._iterator, None)

    def _ended(self) -> None:
        self._running = False
        if self._left:
            self._close()

    def _close(self) -> None:
        close = getattr(self._iterator, "close", None)
        if close is None:
            self._release()
        else:
            closing = self._workers.start(close, ended=self._release)
            closing.add_done_callback(_log_failed_close)


def _log_failed_close(closing: object) -> None:
    error = closing.exception()  # type: ignore[attr-defined]
    if error is not None:
        logger.error("a model's generator failed when it was closed: %s", error, exc_info=error)


def _holds_text(inputs: Inputs) -> bool:
    """Whether the size of the arrays doesn't tell how much there is to do."""
    return any(array.dtype.hasobject for array in inputs.values())
