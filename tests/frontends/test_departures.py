"""Connections that are watched while their requests run: real ones, between sockets of this process."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, aclosing
from typing import Any

import pytest
from gates import until

from salver.frontends.departures import INTERVAL, Connections, Departed, Departures, resume
from salver.frontends.http import Scope


class Connection:
    """A connection as a server has it: its two sockets, and the scope of a request on it."""

    def __init__(self, listener: socket.socket, host: str, http_version: str = "1.1") -> None:
        self.client = socket.create_connection((host, listener.getsockname()[1]))
        self.server, peer = listener.accept()
        self.scope: Scope = {
            "type": "http",
            "http_version": http_version,
            "client": peer[:2],
            "server": self.server.getsockname()[:2],
        }

    @property
    def ends(self) -> Any:
        return self.scope["client"], self.scope["server"]

    def reset(self) -> None:
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()

    def half_close(self) -> None:
        self.client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.client.close()


Connect = Callable[..., Connection]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes connections: to ``"127.0.0.1"``, ``"::1"``, and to the former where the listener is an IPv6 one."""
    with ExitStack() as sockets:
        plain = sockets.enter_context(socket.create_server(("127.0.0.1", 0)))
        dual = sockets.enter_context(socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True))

        def make(host: str = "127.0.0.1", *, dualstack: bool = False, http_version: str = "1.1") -> Connection:
            made = Connection(dual if dualstack else plain, host, http_version)
            sockets.enter_context(made.client)
            sockets.enter_context(made.server)
            return made

        yield make


class Work:
    """Takes until it is cancelled, or told to end."""

    def __init__(self) -> None:
        self.cancelled = False
        self.end = asyncio.Event()

    async def run(self) -> str:
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return "done"


async def outcome(departures: Departures, scope: Scope, work: Work) -> str:
    """What becomes of a request, and that its task is no worse for it."""
    task = asyncio.current_task()
    assert task is not None
    try:
        return await departures.guard(scope, work.run())
    except Departed:
        assert task.cancelling() == 0
        await asyncio.sleep(0)  # and may go on
        return "departed"


async def looks(departures: Departures, count: int) -> None:
    """Let so many looks at the requests pass."""
    timers = []
    while len(timers) <= count:
        timer = departures._timer
        assert timer is not None
        if timer not in timers:
            timers.append(timer)
        await asyncio.sleep(INTERVAL / 5)


@pytest.mark.parametrize(("host", "dualstack"), [("127.0.0.1", False), ("127.0.0.1", True), ("::1", True)])
@pytest.mark.parametrize("leave", [Connection.close, Connection.reset, Connection.half_close])
@pytest.mark.parametrize("looked_at", [0, 3])
async def test_who_leaves_is_noticed(
    connect: Connect, leave: Callable[[Connection], None], host: str, dualstack: bool, looked_at: int
) -> None:
    departures = Departures()
    staying, leaving = connect(host, dualstack=dualstack), connect(host, dualstack=dualstack)
    stays, leaves = Work(), Work()
    async with asyncio.timeout(30):
        tasks = [
            asyncio.create_task(outcome(departures, each.scope, work))
            for each, work in ((staying, stays), (leaving, leaves))
        ]
        await asyncio.sleep(0)
        await looks(departures, looked_at)
        leave(leaving)
        assert await tasks[1] == "departed"
        assert leaves.cancelled
        stays.end.set()
        assert await tasks[0] == "done"
    left = (departures._running, departures._watched, departures._watchers, departures._left)
    assert not any(left)


async def test_connections_are_left_as_they_are(connect: Connect) -> None:
    departures = Departures()
    connection = connect()
    for _ in range(3):  # the second and third time it is known
        work = Work()
        task = asyncio.create_task(outcome(departures, connection.scope, work))
        await asyncio.sleep(0)
        await looks(departures, 3)
        assert departures._watchers == {connection.server.fileno(): task}
        work.end.set()
        assert await task == "done"
    connection.client.sendall(b"ping")
    assert connection.server.recv(10) == b"ping"
    connection.server.close()  # which nobody else holds open
    assert connection.client.recv(10) == b""


async def test_descriptors_that_are_used_again(connect: Connect) -> None:
    departures = Departures()
    numbers: Counter[int] = Counter()
    while max(numbers.values(), default=0) < 3:  # what else opens something meanwhile may get the number first
        connection, work = connect(), Work()
        numbers[connection.server.fileno()] += 1
        task = asyncio.create_task(outcome(departures, connection.scope, work))
        await asyncio.sleep(0)
        await looks(departures, 3)
        connection.close()
        assert await task == "departed"
        connection.server.close()


@pytest.mark.parametrize("missing", ["client", "HTTP/2"])
async def test_connections_that_arent_watched(connect: Connect, missing: str) -> None:
    departures, work = Departures(), Work()
    connection = connect(http_version="2" if missing == "HTTP/2" else "1.1")
    if missing == "client":  # as over UNIX sockets
        del connection.scope["client"]
    task = asyncio.create_task(outcome(departures, connection.scope, work))
    await asyncio.sleep(0)
    connection.close()
    await looks(departures, 4)
    work.end.set()
    assert await task == "done"


async def test_a_connection_that_isnt_this_processs_is_let_be(connect: Connect) -> None:
    departures, work = Departures(), Work()
    scope = {**connect().scope, "client": ("192.0.2.1", 1234)}
    task = asyncio.create_task(outcome(departures, scope, work))
    await asyncio.sleep(0)
    await looks(departures, 4)
    work.end.set()
    assert await task == "done"


@pytest.mark.parametrize("lacking", ["/proc", "epoll"])
async def test_systems_that_dont_tell(connect: Connect, monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    if lacking == "epoll":
        monkeypatch.delattr(select, "epoll")
    else:
        listed = os.listdir

        def no_proc(path: str) -> list[str]:
            if path.startswith("/proc"):
                raise FileNotFoundError(path)
            return listed(path)

        monkeypatch.setattr(os, "listdir", no_proc)
    departures, work = Departures(), Work()
    connection = connect()
    connection.close()
    task = asyncio.create_task(outcome(departures, connection.scope, work))
    await asyncio.sleep(0)
    await until(lambda: departures._epoll is None)
    timer = departures._timer
    await asyncio.sleep(INTERVAL * 2)
    work.end.set()
    assert await task == "done"
    assert await outcome(departures, connection.scope, work) == "done"
    assert departures._timer is timer  # nobody looks any more


async def test_nothing_is_scheduled_where_nothing_runs() -> None:
    departures = Departures()
    work = Work()
    work.end.set()
    assert await outcome(departures, {}, work) == "done"
    await until(lambda: departures._timer is None)


async def test_a_cancellation_by_others_stays_one(connect: Connect) -> None:
    departures, work = Departures(), Work()
    task = asyncio.create_task(outcome(departures, connect().scope, work))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not departures._running


async def test_a_cancellation_at_the_same_time_wins(connect: Connect) -> None:
    departures, work = Departures(), Work()
    connection = connect()
    task = asyncio.create_task(outcome(departures, connection.scope, work))
    await asyncio.sleep(0)
    departures._watched[task] = -1
    departures._depart(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_work_that_ignores_its_cancellation(connect: Connect) -> None:
    departures = Departures()
    connection = connect()

    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "anyway"
        return ""

    async def request() -> tuple[str, int]:
        task = asyncio.current_task()
        assert task is not None
        answer = await departures.guard(connection.scope, stubborn())
        return answer, task.cancelling()

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    connection.close()
    assert await task == ("anyway", 0)


async def test_streams_are_watched_and_closed(connect: Connect) -> None:
    departures = Departures()
    connection = connect()
    closed = asyncio.Event()

    async def parts() -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with asyncio.timeout(30), aclosing(departures.guard_stream(connection.scope, parts())) as guarded:
        assert [await anext(guarded), await anext(guarded)] == [1, 2]
        connection.close()
        with pytest.raises(Departed):
            await anext(guarded)
    assert closed.is_set()
    assert not departures._running


async def test_a_stream_ends_as_it_does(connect: Connect) -> None:
    async def parts() -> AsyncGenerator[int, None]:
        yield 1

    assert [part async for part in Departures().guard_stream(connect().scope, parts())] == [1]


async def test_listing_takes_a_bounded_share_of_the_time() -> None:
    connections = Connections()
    assert connections.list_all()
    assert not connections.list_all()


async def test_a_resumed_coroutine_is_the_same_one() -> None:
    async def work(first: asyncio.Future[int], second: asyncio.Future[int]) -> int:
        try:
            return await first
        except ValueError:
            return await second + 1
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            return -1

    loop = asyncio.get_running_loop()

    async def run(first: asyncio.Future[int], second: asyncio.Future[int]) -> int:
        coroutine = work(first, second)
        return await resume(coroutine, coroutine.send(None))

    for settle, answer in (
        (lambda first, task: first.set_result(1), 1),
        (lambda first, task: first.set_exception(ValueError()), 11),
        (lambda first, task: task.cancel(), -1),
    ):
        first, second = loop.create_future(), loop.create_future()
        task = asyncio.create_task(run(first, second))
        await asyncio.sleep(0)
        settle(first, task)  # type: ignore[no-untyped-call]
        await asyncio.sleep(0)
        second.set_result(10)
        assert await task == answer
