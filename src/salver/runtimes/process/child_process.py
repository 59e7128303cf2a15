"""One life of an instance: from the fork to the end of its process."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from salver.core.errors import LoadError, SalverError
from salver.core.model import ModelSpec
from salver.runtimes.process.channel import Channel
from salver.runtimes.process.description import describe_spec, read_error
from salver.runtimes.process.fork_client import ForkServer
from salver.runtimes.process.messages import BadMessage, Kind, Message, Outgoing
from salver.runtimes.process.output import OutputLog

_HANG_UP_SECONDS = 0.5
"""A process that has closed its end of the socket has so long to end by itself, so that its own cause is told."""


class ChildProcess:
    """A process that has loaded a model.

    Args:
        on_message: called with what it sends once it has loaded the model; see :class:`Channel`.
        on_ended: called once when it has ended, with its cause as the end of a sentence ("was killed by SIGKILL").

    Attributes:
        channel: to send with.
        described: what it told of the model.
        pid: its process id; 0 before it was forked.
        up: it takes executions.
    """

    def __init__(
        self,
        fork_server: ForkServer,
        *,
        on_message: Callable[[Message], None],
        on_ended: Callable[[str], None],
    ) -> None:
        self.described: dict[str, Any] = {}
        self.pid = 0
        self.up = False
        self._fork_server = fork_server
        self._number = 0
        self._on_message = on_message
        self._on_ended = on_ended
        self._cause = ""
        self._hanging_up: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        mine, self._other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel = Channel(mine, on_message=self._hear, on_closed=self._hung_up)

    async def start(self, spec: ModelSpec, concurrency: int | None, output: OutputLog) -> None:
        """Fork it and have it load the model.

        Raises:
            LoadError: as the runtime's ``load`` does, or since the process ended.
        """
        writer = output.open(spec.name)
        try:
            self._number, self.pid = await self._fork_server.fork(self._other, writer, self._process_ended)
        except BaseException:
            self._settle()
            self.channel.close()
            raise
        finally:
            os.close(writer)
            self._other.close()
        limit = spec.scheduling.memory_limit
        order = {
            "name": spec.name,
            "spec": describe_spec(spec),
            "concurrency": concurrency,
            "log_level": logging.getLogger("salver.models").getEffectiveLevel(),
            "memory_limit": limit,
            "memory_limit_text": None if limit is None else show_bytes(limit),
        }
        try:
            self._send_order(Outgoing(Kind.LOAD, 0, order))
            await self._loaded
        except BaseException:
            await self.end()
            raise

    def kill(self, cause: str) -> None:
        """End the process now; ``cause`` is told, in place of the signal."""
        self.up = False
        self._cause = self._cause or cause
        self._fork_server.kill(self._number)

    async def wait(self) -> None:
        """Return when it has ended."""
        await asyncio.shield(self._ended)

    async def end(self) -> None:
        """Kill it, and return when it has ended."""
        self.kill("was ended")
        await self.wait()

    def _send_order(self, order: Outgoing) -> None:
        if order.arena_bytes:  # a signature may have thousands of tensors
            arena = self.channel.arenas.take(order.arena_bytes)
            order.write(arena.view(), arena.number)
        self.channel.send_prepared(order)

    def _hear(self, message: Message) -> None:
        if message.kind is Kind.LAST:
            self._cause = self._cause or str(message.body["text"])[:1000]
        elif self._loaded.done():
            self._on_message(message)
        elif message.kind is Kind.NEED:
            arena = self.channel.arenas.take(message.body["bytes"])
            self.channel.send(Kind.GRANT, 0, {"arena": arena.number, "reason": ""})
        elif message.kind is Kind.LOADED:
            self.described = message.body
            self.up = True
            self._loaded.set_result(None)
        elif message.kind is Kind.FAILED:
            self._loaded.set_exception(read_error(message.body, LoadError))
        else:
            raise BadMessage(f"{message.kind.name} comes before the model is loaded")

    def _hung_up(self, wrong: str) -> None:
        self.up = False
        if wrong:
            self.kill(wrong)
        elif not self._ended.done():
            cause = "closed its connection to the server, and was ended"
            self._hanging_up = self._loop.call_later(_HANG_UP_SECONDS, self.kill, cause)

    def _process_ended(self, status: str) -> None:
        self.channel.drain()  # answers that it gave before it died
        self.up = False
        self.channel.close()
        cause = self._cause or status
        if not self._loaded.done():
            self._loaded.set_exception(LoadError(f"its process {cause} while it loaded the model"))
        self._settle()
        self._on_ended(cause)

    def _settle(self) -> None:
        if self._loaded.done() and not self._loaded.cancelled():
            self._loaded.exception()  # whoever waited for it has been told
        if self._hanging_up is not None:
            self._hanging_up.cancel()
        if not self._ended.done():
            self._ended.set_result(None)


def show_bytes(size: int) -> str:
    """Bytes as an operator writes them: "256 MiB", "100 MB"."""
    for unit, factor in (("GiB", 1 << 30), ("GB", 10**9), ("MiB", 1 << 20), ("MB", 10**6), ("KiB", 1 << 10)):
        if size >= factor and size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} bytes"


def named(model: str, error: SalverError) -> SalverError:
    """The same error, with the model's name in it."""
    text = str(error)
    return error if repr(model) in text else type(error)(f"model {model!r}: {text}")
