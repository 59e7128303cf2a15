"""Locks that several processes share, many of them in one file: a byte of it is locked per key.

They are open file description locks of Linux: the kernel releases them when the process ends, however it ends, and one
file descriptor serves any number of keys.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from salver.core.errors import StoreUnavailable

_FLOCK = struct.Struct("hhqqi4x")
_LONGEST_POLL = 0.05
_BUSY = (errno.EAGAIN, errno.EACCES)


class KeyLocks:
    """Shared and exclusive locks by key, among threads and processes.

    Keys begin with hexadecimal digits, of which 15 tell the place in the file.
    """

    def __init__(self, path: Path) -> None:
        """The file is made by the first lock that is taken."""
        self._path = path
        self._changed = threading.Condition()
        self._held: dict[str, int] = {}  # how many share it, or -1
        self._handle = -1
        self._pid = 0

    def try_lock(self, key: str, *, exclusive: bool) -> bool:
        """Take a lock if it is free now. Raises OSError where the file can't be made."""
        with self._changed:
            return self._try(key, exclusive=exclusive)

    def lock(self, key: str, *, exclusive: bool, seconds: float, cancelled: Callable[[], bool] | None = None) -> bool:
        """Take a lock, and wait for it; False where ``cancelled`` said so.

        Raises:
            StoreUnavailable: it wasn't free for so many seconds.
            OSError: the file can't be made.
        """
        deadline, poll = time.monotonic() + seconds, 0.001
        while True:
            with self._changed:
                if self._try(key, exclusive=exclusive):
                    return True
                # Threads tell each other; other processes have to be asked.
                self._changed.wait(poll)
            poll = min(2 * poll, _LONGEST_POLL)
            if cancelled is not None and cancelled():
                return False
            if time.monotonic() > deadline:
                raise StoreUnavailable(f"{self._path}: another process has held {key[:12]} for {seconds:.0f} seconds")

    def unlock(self, key: str) -> None:
        """Give a lock back."""
        with self._changed:
            if self._handle < 0:
                return  # all were given back
            count = self._held.pop(key)
            if count > 1:
                self._held[key] = count - 1
            else:
                self._set(key, fcntl.F_UNLCK)
            self._changed.notify_all()

    def holds(self, key: str) -> bool:
        """Whether this process has the lock."""
        with self._changed:
            return key in self._held

    @contextlib.contextmanager
    def locked(self, key: str, *, seconds: float) -> Iterator[None]:
        """Hold a lock that nobody else has. Raises like :meth:`lock`."""
        self.lock(key, exclusive=True, seconds=seconds)
        try:
            yield
        finally:
            self.unlock(key)

    def close(self) -> None:
        """Give all locks back."""
        with self._changed:
            self._held.clear()
            if self._handle >= 0:
                os.close(self._handle)
            self._handle = -1

    def _try(self, key: str, *, exclusive: bool) -> bool:
        self._open()
        count = self._held.get(key, 0)
        if count < 0 or (exclusive and count):
            return False
        if count == 0 and not self._set(key, fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK):
            return False
        self._held[key] = -1 if exclusive else count + 1
        return True

    def _open(self) -> None:
        if self._handle >= 0 and self._pid == os.getpid():
            return
        # A forked child shares its parent's locks: it leaves those alone and takes its own.
        self._held.clear()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._pid = os.getpid()

    def _set(self, key: str, mode: int) -> bool:
        order = _FLOCK.pack(mode, os.SEEK_SET, int(key[:15], 16), 1, 0)
        try:
            fcntl.fcntl(self._handle, fcntl.F_OFD_SETLK, order)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True
