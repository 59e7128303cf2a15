"""The threads that a model's calls run on."""

from __future__ import annotations

import asyncio
import threading

from gates import until

from salver.runtimes.workers import SharedWorkers, Workers


def threads(name: str) -> int:
    return sum(thread.name.startswith(name) for thread in threading.enumerate())


async def test_threads_end_after_their_calls_and_those_of_later_calls_do_too() -> None:
    workers = Workers(3, name="ending")
    ended: list[int] = []
    first = workers.start(lambda: 1, ended=lambda: ended.append(1))
    assert threads("ending") == 3
    workers.stop()
    assert await first == 1
    await until(lambda: threads("ending") == 0)
    assert await workers.start(lambda: 2, ended=lambda: ended.append(2)) == 2
    await until(lambda: threads("ending") == 0)
    assert ended == [1, 2]


async def test_whatever_a_call_raises_is_raised_where_it_is_awaited() -> None:
    workers = Workers(1, name="raising")

    def stop() -> None:
        raise StopIteration

    def leave() -> None:
        raise SystemExit(3)

    ended: list[object] = []
    outcomes = [workers.start(call, ended=lambda: ended.append(None)) for call in (stop, leave)]
    assert not outcomes[0].cancel()
    await until(lambda: all(outcome.done() for outcome in outcomes))
    assert [type(outcome.exception()) for outcome in outcomes] == [RuntimeError, SystemExit]
    assert len(ended) == 2
    workers.stop()


async def test_shared_threads_are_as_many_as_calls_run_and_serve_those_that_come_next() -> None:
    workers = SharedWorkers(name="shared")
    gates = [threading.Event() for _ in range(3)]
    running = [workers.start(gate.wait, ended=lambda: None) for gate in gates]
    assert threads("shared") == 3
    for gate in gates:
        gate.set()
    await asyncio.gather(*running)
    seen = {await workers.start(threading.get_ident, ended=lambda: None) for _ in range(50)}
    assert len(seen) == 1  # the one that was busy last
    assert threads("shared") == 3
    workers.end()
    await until(lambda: threads("shared") == 0)


async def test_shared_threads_end_when_they_are_idle_and_a_call_that_comes_just_then_is_run() -> None:
    workers = SharedWorkers(name="idle", idle_seconds=0.0005)
    done: list[int] = []
    for number in range(300):  # some of them at the very end of a thread's wait
        assert await workers.start(lambda number=number: number, ended=lambda: done.append(1)) == number  # type: ignore[misc]
        await asyncio.sleep(0.0002 + 0.000003 * number)
    assert len(done) == 300
    await until(lambda: threads("idle") == 0)


async def test_a_shared_thread_that_hangs_keeps_nobody_waiting() -> None:
    workers = SharedWorkers(name="hangs")
    gate = threading.Event()
    hanging = workers.start(gate.wait, ended=lambda: None)
    assert await workers.start(lambda: 7, ended=lambda: None) == 7
    gate.set()
    assert await hanging is True
    workers.end()
