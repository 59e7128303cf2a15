"""The server's side of one probe: starts its process, keeps it within its limits, hears its result, ends it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import re
import signal
import socket
from contextlib import AsyncExitStack, suppress
from time import monotonic
from typing import Any

from salver.core.errors import LoadError
from salver.core.model import ModelSpec
from salver.registration.probe.child import describe_order
from salver.registration.probe.limits import ProbeLimits, describe_limits, free_share, show_size
from salver.registration.probe.memory import descendants, share_bytes, start_of, written_bytes
from salver.registration.probe.result import ProbeResult, read_result
from salver.runtimes.process.description import describe_spec, read_error
from salver.runtimes.process.fork_client import ForkServer

logger = logging.getLogger("salver.models")

_TICK = 0.01
_TREE_TICKS = 10
_MESSAGE_BYTES = 4 << 20
_MOST_MESSAGES = 1000
_PIPE_BYTES = 1 << 20
_TAIL_BYTES = 16 << 10
_LAST_LINES = 3
_LAST_CHARACTERS = 400
_MOST_LINES = 100
_SETTLE_SECONDS = 1.0
_END_SECONDS = 30.0
_FRAME = re.compile(r'File "([^"]+)", line (\d+) in (\S+)')  # as faulthandler writes it


class ProbeProcess:
    """One probe, from the fork to the end of its process; :meth:`run` is called once."""

    def __init__(self, spec: ModelSpec, limits: ProbeLimits, *, measuring: asyncio.Lock) -> None:
        """Nothing is started yet.

        Args:
            spec: the version.
            limits: that it keeps to.
            measuring: held while it measures times.
        """
        self._spec = spec
        self._limits = limits
        self._memory = self._memory_limit()
        self._measuring: asyncio.Lock | None = measuring  # None once it has its turn
        self._doing = "it was started"
        self._waits = False
        self._pid = 0
        self._first_bytes = 0
        self._first_share = 0
        self._tail = bytearray()
        self._tree: dict[int, str] = {}  # by process id: when it started
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def run(self, fork_server: ForkServer) -> ProbeResult:
        """Fork the process, and return what it found. However this ends, the process and what it started have ended.

        Raises:
            LoadError: the version can't serve.
        """
        mine, other = socket.socketpair()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reader, False)
        with suppress(OSError):  # users have a bound for all of their pipes together
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        number: int | None = None
        try:
            try:
                number, self._pid = await fork_server.fork(other, writer, self._process_ended)
            finally:
                other.close()
                os.close(writer)
            self._first_bytes = written_bytes(self._pid)
            self._first_share = await asyncio.to_thread(share_bytes, self._pid)
            return await self._supervise(mine, reader)
        finally:
            if number is not None and not self._ended.done():
                # Snapshot, kill, wait: then nothing new can come of it, and what left its group is ended one by one.
                self._look_at_tree()
                fork_server.kill(number)
            if number is not None:
                await asyncio.shield(self._wait_for_end())
            mine.close()
            self._read_output(reader)
            os.close(reader)
            self._log_output()

    def _memory_limit(self) -> int:
        own = self._spec.scheduling.memory_limit
        limit = free_share() if self._limits.memory_bytes is None else self._limits.memory_bytes
        return limit if own is None else min(limit, own)

    async def _supervise(self, mine: socket.socket, reader: int) -> ProbeResult:
        conversation = asyncio.ensure_future(self._converse(mine))
        watch = asyncio.ensure_future(self._watch(reader))
        tasks = (conversation, watch)
        try:
            await asyncio.wait((*tasks, self._ended), return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                watch.result()  # it raises
            if not conversation.done():
                # It has ended. What it said last may not be read yet.
                await asyncio.wait((conversation,), timeout=_SETTLE_SECONDS)
            if conversation.done() and (told := conversation.result()) is not None:
                return self._read(told)
            with suppress(TimeoutError):
                async with asyncio.timeout(_SETTLE_SECONDS):
                    await asyncio.shield(self._ended)
            cause = self._ended.result() if self._ended.done() else "closed its connection to the server"
            self._read_output(reader)
            raise LoadError(f"its process {cause} while {self._doing}{self._how(cause)}")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _converse(self, mine: socket.socket) -> dict[str, Any] | None:
        """The last message of the process; None where it hung up before."""
        reader, writer = await asyncio.open_connection(sock=mine, limit=_MESSAGE_BYTES)
        try:
            async with AsyncExitStack() as turn:
                limits = describe_limits(self._limits, self._memory)
                order = describe_order(describe_spec(self._spec), self._spec.scheduling, limits)
                writer.write(json.dumps(order).encode() + b"\n")
                for _ in range(_MOST_MESSAGES):
                    message = await self._receive(reader)
                    if message is None or "result" in message or "failed" in message:
                        return message
                    if "turn" in message and self._measuring is not None:
                        self._waits = True
                        await turn.enter_async_context(self._measuring)
                        self._measuring, self._waits = None, False
                        writer.write(b'{"go": true}\n')
                    else:
                        self._doing = str(message.get("doing"))[:_LAST_CHARACTERS]
                raise self._garbage()
        except ConnectionError:
            return None
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _receive(self, reader: asyncio.StreamReader) -> dict[str, Any] | None:
        """A message; None where the process has hung up."""
        try:
            line = await reader.readline()
            message = json.loads(line) if line else None
        except (ValueError, RecursionError):  # too long, or no JSON
            raise self._garbage() from None
        if not isinstance(message, dict | None):
            raise self._garbage()
        return message

    def _read(self, told: dict[str, Any]) -> ProbeResult:
        """The result in a last message.

        Raises:
            LoadError: it tells of a failure, or is no result.
        """
        try:
            if "failed" in told:
                failure = read_error(told["failed"], LoadError)
                raise failure if isinstance(failure, LoadError) else LoadError(str(failure))
            return read_result(told["result"], runtime=self._spec.runtime)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise self._garbage() from None

    def _garbage(self) -> LoadError:
        return LoadError(f"its process sent something that is no report while {self._doing}")

    async def _watch(self, reader: int) -> None:
        """Read what it prints, and hold it to its limits.

        Raises:
            LoadError: it is over one of them.
        """
        spent, last, tick = 0.0, monotonic(), 0
        while True:
            # Where it prints more than is read in a tick, it is held up, not the server.
            await asyncio.sleep(_TICK)
            now = monotonic()
            spent += 0.0 if self._waits else now - last
            last = now
            self._read_output(reader)
            if spent > self._limits.seconds:
                raise LoadError(f"it took longer than {self._limits.seconds:g} s, and was ended while {self._doing}")
            if tick % _TREE_TICKS == 0:
                self._look_at_tree()
                if len(self._tree) > self._limits.processes:
                    raise LoadError(f"it started more than {self._limits.processes} processes while {self._doing}")
            if await self._takes_too_much():
                raise LoadError(f"it needs more than {show_size(self._memory)} of memory while {self._doing}")
            tick += 1

    async def _takes_too_much(self) -> bool:
        own = written_bytes(self._pid) - self._first_bytes
        if own > self._memory:
            return True
        if own + sum(written_bytes(pid) for pid in self._tree) <= self._memory:
            return False
        # Processes that it forked share memory with it; what is shared is counted once here.
        pids = (self._pid, *self._tree)
        shares = await asyncio.to_thread(lambda: sum(map(share_bytes, pids)))
        return shares - self._first_share > self._memory

    def _look_at_tree(self) -> None:
        found = descendants(self._pid, most=self._limits.processes + 1)
        # What was found before counts while it lives: where the process has ended, its children have other parents.
        known = {pid: start for pid, start in self._tree.items() if start_of(pid) == start}
        self._tree = known | {pid: start for pid in found if (start := start_of(pid)) is not None}

    def _process_ended(self, status: str) -> None:
        if not self._ended.done():
            self._ended.set_result(status)

    async def _wait_for_end(self) -> None:
        """Return when the process has ended, and end what it started: its group is gone, and others may be left."""
        try:
            async with asyncio.timeout(_END_SECONDS):
                await asyncio.shield(self._ended)
        except TimeoutError:
            logger.error("the process %d that probed model %s can't be ended", self._pid, self._spec.name)
        for pid, start in self._tree.items():
            if start_of(pid) == start:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)

    def _read_output(self, reader: int) -> None:
        with suppress(BlockingIOError):
            self._tail += os.read(reader, _PIPE_BYTES)
            del self._tail[:-_TAIL_BYTES]

    def _log_output(self) -> None:
        for line in self._tail.decode(errors="replace").splitlines()[-_MOST_LINES:]:
            logger.info("model %s, being probed: %s", self._spec.name, line)

    def _how(self, cause: str) -> str:
        """More on a death: where in the model's code it came, else the last that was printed."""
        hint = " (the system may have run out of memory)" if cause == "was killed by SIGKILL" else ""
        text = self._tail.decode(errors="replace")
        _, _, stack = text.rpartition("Fatal Python error:")
        frames = _FRAME.findall(stack) if len(stack) < len(text) else []
        if frames:
            folder = str(self._spec.path if self._spec.path.is_dir() else self._spec.path.parent)
            file, line, function = next((each for each in frames if each[0].startswith(folder)), frames[0])
            return f"{hint}, in line {line} of {os.path.basename(file)} ({function})"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines:
            return hint
        last = " / ".join(lines[-_LAST_LINES:])[-_LAST_CHARACTERS:]
        return f"{hint}; the last that it printed: {last}"
