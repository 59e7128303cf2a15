"""The server's end of the socket to one child. Nothing here blocks."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from array import array
from collections import deque
from collections.abc import Callable

from salver.runtimes.process.arena import Arena
from salver.runtimes.process.arena_pool import ArenaPool
from salver.runtimes.process.messages import PACKET_BYTES, Body, Kind, Message, Outgoing, parse

logger = logging.getLogger(__name__)

_PACKETS_A_TURN = 64


class Channel:
    """Sends messages to a child and hears its own.

    Args:
        end: a SOCK_SEQPACKET socket; it is closed with the channel.
        on_message: called with each message, which is valid until it returns. It raises an Exception where the message
            makes no sense.
        on_closed: called once when the child's end is closed, with what it did wrong, or "".

    Attributes:
        arenas: the shared memory.
    """

    def __init__(
        self, end: socket.socket, *, on_message: Callable[[Message], None], on_closed: Callable[[str], None]
    ) -> None:
        end.setblocking(False)
        self.arenas = ArenaPool(announce=self._announce, drop=lambda number: self.send(Kind.DROP, number))
        self._socket = end
        self._on_message = on_message
        self._on_closed = on_closed
        self._buffer = bytearray(PACKET_BYTES)
        self._pending: deque[tuple[list[bytes | memoryview], int | None]] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(end.fileno(), self._readable)
        self._open = True

    def send(self, kind: Kind, execution: int = 0, body: Body | None = None) -> None:
        """Send a message without tensors; its JSON has to be small."""
        self.send_prepared(Outgoing(kind, execution, body or {}))

    def send_prepared(self, outgoing: Outgoing) -> None:
        """Send a message that was written to its arena where it wants one."""
        self._send(outgoing.packet(), None)

    def drain(self) -> None:
        """Hear all that has come up to now."""
        while self._open and self._read_some():
            pass

    def close(self) -> None:
        """Close this end. Nothing is called any more."""
        if self._socket.fileno() < 0:
            return
        if self._open:
            self._stop_reading()
        self._loop.remove_writer(self._socket.fileno())
        for _, fd in self._pending:
            if fd is not None:
                os.close(fd)
        self._pending.clear()
        self.arenas.close()
        self._socket.close()

    def _announce(self, arena: Arena, fd: int) -> None:
        self._send(Outgoing(Kind.ARENA, arena.number, {"size": arena.size}).packet(), fd)

    def _send(self, packet: list[bytes | memoryview], fd: int | None) -> None:
        if self._socket.fileno() < 0:
            if fd is not None:
                os.close(fd)
            return
        self._pending.append((packet, fd))
        if len(self._pending) == 1 and not self._send_pending():
            self._loop.add_writer(self._socket.fileno(), self._writable)

    def _send_pending(self) -> bool:
        """Send as much as can be; whether that is everything."""
        while self._pending:
            packet, fd = self._pending[0]
            try:
                if fd is None:
                    self._socket.sendmsg(packet)
                else:
                    self._socket.sendmsg(packet, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd]))])
            except BlockingIOError:
                return False
            except ConnectionError:
                pass  # the child is gone, which its end's closing tells
            except OSError as error:
                logger.error("a model's process can't be reached", exc_info=error)
                if self._open:
                    self._closed(f"can't be reached ({error.strerror}), and was ended")
            self._pending.popleft()
            if fd is not None:
                os.close(fd)
        return True

    def _writable(self) -> None:
        if self._send_pending():
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        for _ in range(_PACKETS_A_TURN):
            if not self._open or not self._read_some():
                return

    def _read_some(self) -> bool:
        """Read a packet; false where there is none now."""
        try:
            size = self._socket.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionResetError:
            return True  # told once where the child died with something unread; what it has sent comes after this
        except OSError as error:
            self._closed(str(error))
            return False
        if size == 0:
            self._closed("")
            return False
        packet = memoryview(self._buffer)[:size]
        try:
            self._on_message(parse(packet, self.arenas.views() if size > 1 and packet[1] else {}))
        except Exception as error:
            logger.warning("a model's process sent what makes no sense", exc_info=error)
            self._closed("sent something that makes no sense, and was ended")
            return False
        return True

    def _stop_reading(self) -> None:
        self._open = False
        self._buffer = bytearray()  # who is closed may be known of for long: until its cycles are collected
        self._loop.remove_reader(self._socket.fileno())

    def _closed(self, wrong: str) -> None:
        self._stop_reading()
        self._on_closed(wrong)
