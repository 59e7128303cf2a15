"""The threads that models' calls run on."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

IDLE_SECONDS = 30.0
"""A shared thread that had nothing to do for so long ends."""


class Threads(Protocol):
    """Where calls run."""

    def start(self, call: Callable[[], T], *, ended: Callable[[], None]) -> asyncio.Future[T]:
        """Run ``call`` on a thread, in a copy of the caller's context.

        Nothing stops the call: its future can't be cancelled (who awaits it can be). ``ended`` is called on the event
        loop when the call has ended, before the future is settled.
        """

    def stop(self) -> None:
        """Nobody needs the threads any more, but for calls that still run, and what these leave to do."""


class Workers:
    """A fixed number of threads of one model, started on first use.

    They are daemons, and no ThreadPoolExecutor, whose threads the interpreter joins when it exits: a model that hangs
    must not keep a stopping server from ending. This is also the shorter hop: there and back takes 10 us on uvloop
    and 20 us on asyncio, where ThreadPoolExecutor takes 20 and 30 (2 idle cores).
    """

    def __init__(self, count: int, *, name: str) -> None:
        self._count = count
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def start(self, call: Callable[[], T], *, ended: Callable[[], None]) -> asyncio.Future[T]:
        """Run ``call`` on a thread; see :meth:`Threads.start`."""
        job = _Job(call, ended)
        if not self._threads:
            self._start_threads()
        self._jobs.put(job)
        if self._stopped:  # what a model's last call has left to do, such as closing its generator
            self.stop()
        return job.future

    def stop(self) -> None:
        """Let the threads end after the calls they have; so do those of calls that come later."""
        self._stopped = True
        for _ in self._threads:
            self._jobs.put(None)
        self._threads.clear()

    def _start_threads(self) -> None:
        for number in range(self._count):
            thread = threading.Thread(target=_work, args=(self._jobs,), name=f"{self._name}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()


class SharedWorkers:
    """Threads for the calls of many models, none of which minds on which of them it runs.

    A call never waits for a thread: where none is idle, one is started, and who starts calls sees to their number. A
    model that is loaded finds threads that are there already (starting one stops the event loop for up to a
    millisecond), and a thousand models that are idle have none. The thread that was busy last is the first to get the
    next call, so that those which aren't needed any more fall idle, and end.

    Args:
        name: of the threads.
        idle_seconds: how long a thread waits for its next call before it ends.
    """

    def __init__(self, *, name: str, idle_seconds: float = IDLE_SECONDS) -> None:
        self._name = name
        self._idle_seconds = idle_seconds
        self._numbers = count()
        # Only appended to, popped from and removed from: each is one step to other threads.
        self._idle: list[_SharedWorker] = []

    def start(self, call: Callable[[], T], *, ended: Callable[[], None]) -> asyncio.Future[T]:
        """Run ``call`` on a thread; see :meth:`Threads.start`."""
        job = _Job(call, ended)
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _SharedWorker(self._idle, self._idle_seconds)
            thread = threading.Thread(target=worker.work, name=f"{self._name}-{next(self._numbers)}", daemon=True)
            thread.start()
        worker.jobs.put(job)
        return job.future

    def stop(self) -> None:
        """One model less: nothing to do, since others may use the threads."""

    def end(self) -> None:
        """Let the threads that are idle end now."""
        while self._idle:
            self._idle.pop().jobs.put(None)


class _SharedWorker:
    """What one of :class:`SharedWorkers`' threads does."""

    def __init__(self, idle: list[_SharedWorker], idle_seconds: float) -> None:
        self.jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._idle = idle
        self._idle_seconds = idle_seconds

    def work(self) -> None:
        """Run one call after another, until none comes for a while."""
        while True:
            try:
                job = self.jobs.get(timeout=self._idle_seconds)
            except Empty:
                try:
                    self._idle.remove(self)
                except ValueError:  # somebody has taken this thread just now, and its call is about to come
                    continue
                return
            if job is None:
                return
            job.run()
            self._idle.append(self)  # before the loop hears of it, which may start the next call
            job.tell()
            del job  # or the thread would hold a call's tensors until its next one


def _work(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()
        job.tell()
        del job  # or the thread would hold a call's tensors until its next one


class _Future(asyncio.Future[Any]):
    """What a call on a thread will give."""

    def cancel(self, msg: Any | None = None) -> bool:
        """Do nothing: a thread can't be told to stop."""
        return False


class _Job:
    """A call that a thread runs, and that the event loop is told the outcome of."""

    __slots__ = ("_call", "_context", "_ended", "_error", "_loop", "_result", "future")

    def __init__(self, call: Callable[[], Any], ended: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self.future = _Future(loop=self._loop)
        self._call = call
        self._ended = ended
        self._context = contextvars.copy_context()
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """(Thread) Call."""
        try:
            self._result = self._context.run(self._call)
        except StopIteration as error:  # which no future takes
            self._error = RuntimeError("the call raised StopIteration")
            self._error.__cause__ = error
        except BaseException as error:  # noqa: BLE001 - raised where the future is awaited
            self._error = error

    def tell(self) -> None:
        """(Thread) Tell the loop; where it was closed meanwhile, nobody waits for the outcome."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        self._ended()
        if self._error is not None:
            self.future.set_exception(self._error)
        else:
            self.future.set_result(self._result)
