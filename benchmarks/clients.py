"""A load generator that remembers when each request should have been sent, was sent and was answered.

wrk tells nothing of single requests, waits for answers before it sends more, and counts nothing of a batch in which its
time is over. This one costs some 30 microseconds of CPU time a request: too much for a tiny model, next to nothing for
one that computes for a millisecond. One thread, one epoll, HTTP/1.1 with connections that are kept.
"""

from __future__ import annotations

import errno
import heapq
import re
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from harness import BenchmarkError
from numpy.typing import NDArray

MAX_CONNECTIONS = 8000

NO_ANSWER = 0  # the connection broke, or nothing came until the end of the patience
NOT_SENT = -1  # no connection was free

_RECONNECT = 0.05  # seconds; a server that is down would be asked in a loop otherwise

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSING = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request; times are of ``time.perf_counter``, in seconds.

    Attributes:
        client: the index of the request that was sent, among those that were given; of the arrival, in an open loop.
        scheduled: when it should have been sent, whatever the server was doing then.
        sent: when it was sent.
        done: when its answer had come, or its connection was found broken.
        status: of HTTP; NO_ANSWER or NOT_SENT.
        body: of the answer.
    """

    client: int
    scheduled: float
    sent: float
    done: float
    status: int
    body: bytes = field(repr=False)

    @property
    def latency(self) -> float:
        """Seconds from when it should have been sent."""
        return self.done - self.scheduled


def http_request(path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """The bytes of a POST request."""
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


def poisson(rate: float, seconds: float, *, seed: int) -> NDArray[np.float64]:
    """Times of arrivals, from 0 to ``seconds``, ``rate`` a second on average and independent of each other."""
    random = np.random.default_rng(seed)
    return np.sort(random.uniform(0, seconds, random.poisson(rate * seconds)))


class _Connection:
    __slots__ = ("busy", "client", "received", "scheduled", "sent", "socket", "unsent")

    def __init__(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(("127.0.0.1", port))  # in progress; writing waits for it
        self.unsent = memoryview(b"")
        self.received = bytearray()
        self.busy = False
        self.client = 0
        self.scheduled = self.sent = 0.0


class Clients:
    """Clients of one server.

    Args:
        port: where the server speaks HTTP, on this machine.
        seen: is given each answer as it comes.
    """

    def __init__(self, port: int, seen: Callable[[Answer], None]) -> None:
        self._port = port
        self._seen = seen
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}

    def once(self, request: bytes, *, patience: float) -> None:
        """One request, whose answer is waited for."""
        self._send(self._connect(), 0, request, time.perf_counter())
        self._drain(patience)
        self.leave()

    def closed_loop(
        self,
        requests: Sequence[bytes],
        seconds: float,
        *,
        pause: float = 0.0,
        patience: float = 0.0,
    ) -> None:
        """One client for each request, which sends it again as soon as the answer to the last has come.

        Args:
            seconds: how long they send.
            pause: seconds that a client waits after an answer that isn't a 200, as well-behaved ones do.
            patience: seconds that they wait for the last answers, which are NO_ANSWER after that. With 0 they leave
                without a word.
        """
        start = time.perf_counter()
        end = start + seconds
        waiting: list[tuple[float, int, _Connection | None]] = [
            (start, client, None) for client in range(len(requests))
        ]
        while (now := time.perf_counter()) < end:
            while waiting and waiting[0][0] <= now:
                due, client, connection = heapq.heappop(waiting)
                if connection is None or connection.socket.fileno() < 0:
                    connection = self._connect()
                self._send(connection, client, requests[client], due)
            for connection, answer in self._poll(min(end, waiting[0][0] if waiting else end) - now):
                self._seen(answer)
                if answer.status == 200 and connection is not None:
                    if answer.done < end:
                        self._send(connection, answer.client, requests[answer.client], answer.done)
                else:
                    rest = {200: 0.0, NO_ANSWER: max(pause, _RECONNECT)}.get(answer.status, pause)
                    heapq.heappush(waiting, (answer.done + rest, answer.client, connection))
        if patience:
            self._drain(patience)
        self.leave()

    def replay(self, requests: Iterator[bytes], seconds: float, *, connections: int, patience: float) -> None:
        """So many clients, each of which sends the next of the requests as soon as it has an answer.

        Requests are numbered as they are sent. Connections that break are made anew.

        Args:
            seconds: how long they send.
            patience: seconds that they wait for the last answers, which are NO_ANSWER after that.
        """
        end = time.perf_counter() + seconds
        idle: list[_Connection | None] = [None] * connections
        number = 0
        while (now := time.perf_counter()) < end:
            while idle:
                connection = idle.pop() or self._connect()
                self._send(connection, number, next(requests), time.perf_counter())
                number += 1
            for free, answer in self._poll(end - now):
                self._seen(answer)
                idle.append(free)
                if answer.status == NO_ANSWER:
                    time.sleep(_RECONNECT)
        self._drain(patience)
        self.leave()

    def open_loop(self, request: bytes | Sequence[bytes], arrivals: NDArray[np.float64], *, patience: float) -> float:
        """Requests at given times, whatever the server does. Each takes a connection that is free, or a new one.

        Args:
            request: the same each time, or one for each arrival.
            arrivals: seconds from now, ascending.
            patience: seconds that the last answers are waited for.

        Returns:
            When the first second began.
        """
        requests = [request] * len(arrivals) if isinstance(request, bytes) else request
        idle = [self._connect() for _ in range(64)]
        start = time.perf_counter() + 0.05
        times: list[float] = (arrivals + start).tolist()
        index = 0
        while index < len(times):
            now = time.perf_counter()
            while index < len(times) and times[index] <= now:
                number, scheduled = index, times[index]
                index += 1
                while idle and idle[-1].socket.fileno() < 0:
                    idle.pop()
                if idle:
                    self._send(idle.pop(), number, requests[number], scheduled)
                elif len(self._connections) < MAX_CONNECTIONS:
                    self._send(self._connect(), number, requests[number], scheduled)
                else:
                    self._seen(Answer(number, scheduled, now, now, NOT_SENT, b""))
            timeout = times[index] - time.perf_counter() if index < len(times) else 0
            for connection, answer in self._poll(timeout):
                self._seen(answer)
                if connection is not None:
                    idle.append(connection)
        self._drain(patience)
        self.leave()
        return start

    def leave(self) -> None:
        """Close all connections, whether anything is waited for or not."""
        for connection in list(self._connections.values()):
            self._drop(connection)

    def _drain(self, patience: float) -> None:
        end = time.perf_counter() + patience
        while any(connection.busy for connection in self._connections.values()):
            timeout = end - time.perf_counter()
            if timeout <= 0:
                break
            for _, answer in self._poll(timeout):
                self._seen(answer)
        for connection in self._connections.values():
            if connection.busy:
                self._seen(self._answer(connection, NO_ANSWER, b""))

    def _connect(self) -> _Connection:
        connection = _Connection(self._port)
        number = connection.socket.fileno()
        self._connections[number] = connection
        self._epoll.register(number, select.EPOLLIN)
        return connection

    def _drop(self, connection: _Connection) -> None:
        number = connection.socket.fileno()
        if number >= 0:
            del self._connections[number]
            self._epoll.unregister(number)
            connection.socket.close()

    def _send(self, connection: _Connection, client: int, request: bytes, scheduled: float) -> None:
        connection.client, connection.scheduled, connection.busy = client, scheduled, True
        connection.unsent = memoryview(request)
        connection.sent = time.perf_counter()
        self._write(connection)
        if connection.unsent:
            self._epoll.modify(connection.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _write(self, connection: _Connection) -> None:
        try:
            connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED):
                raise
            # Reading will find out, and may find an answer that was given before the request had been sent in full.
            connection.unsent = memoryview(b"")

    def _poll(self, timeout: float) -> Iterator[tuple[_Connection | None, Answer]]:
        """Answers that have come, with their connections; None for one that is closed now."""
        for number, events in self._epoll.poll(max(timeout, 0)):
            connection = self._connections.get(number)
            if connection is None:
                continue
            if events & select.EPOLLOUT and connection.unsent:
                self._write(connection)
                if not connection.unsent:
                    self._epoll.modify(number, select.EPOLLIN)
            if events & ~select.EPOLLOUT:
                yield from self._read(connection)

    def _read(self, connection: _Connection) -> Iterator[tuple[_Connection | None, Answer]]:
        try:
            data = connection.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            if connection.busy:
                yield None, self._answer(connection, NO_ANSWER, b"")
            return
        received = connection.received
        received += data
        head = received.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _CONTENT_LENGTH.search(received, 0, head)
        if length is None:
            raise BenchmarkError(f"an answer without a content-length: {bytes(received[:300])!r}")
        end = head + 4 + int(length[1])
        if len(received) < end:
            return
        answer = self._answer(connection, int(received[9:12]), bytes(received[head + 4 : end]))
        closing = _CLOSING.search(received, 0, head) is not None
        received.clear()
        if closing:
            self._drop(connection)
        yield None if closing else connection, answer

    def _answer(self, connection: _Connection, status: int, body: bytes) -> Answer:
        connection.busy = False
        now = time.perf_counter()
        return Answer(connection.client, connection.scheduled, connection.sent, now, status, body)


@contextmanager
def many_files() -> Iterator[None]:
    """Inside of the block the process may have as many connections as the system lets it have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def steady_rate(times: Sequence[float]) -> float:
    """Answers a second.

    Batches are answered in bursts. The rate is that from the begin of one burst to the begin of another, each behind
    the longest gap of its third of the time, so that it makes no difference where in a batch the clock was started.

    Args:
        times: when they came, in seconds, ascending, over a time in which the load didn't change.
    """
    if len(times) < 10:
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0
    come = np.asarray(times)
    gaps = np.diff(come)
    third = (come[-1] - come[0]) / 3
    early = int(np.searchsorted(come, come[0] + third))
    late = int(np.searchsorted(come, come[-1] - third))
    first = int(np.argmax(gaps[: max(early, 1)])) + 1
    last = max(late - 1, first) + int(np.argmax(gaps[max(late - 1, first) :])) + 1
    return float((last - first) / (come[last] - come[first]))
