"""Downloads of one file: in chunks, in parallel, and resumed where they were left.

A download goes into a partial file. Which of its chunks are there stands in a log beside it, written after the chunk
was: a process may be killed at any time.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from salver.core.errors import StoreUnavailable
from salver.store.artifacts.backend import Backend, StoredFile
from salver.store.artifacts.retries import Backoff

CHUNK = 8 << 20
"""Bytes that are asked for at a time."""
PARALLEL = 8
"""Chunks that are asked for at the same time."""

_HEADER = struct.Struct("<8sQ")
_INDEX = struct.Struct("<I")
_MAGIC = b"salver1\n"
_POLL_SECONDS = 0.1
_STREAM_ATTEMPTS = 3


class Cancelled(Exception):
    """Whoever wanted the download has left."""


class WrongSize(Exception):
    """The file doesn't have the bytes that it has to have."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file at a URL."""

    backend: Backend
    path: str

    def info(self) -> StoredFile | None:
        """What is known of it; None where it doesn't exist."""
        return self.backend.info(self.path)


def chunk_log(partial: Path) -> Path:
    """Where it stands which chunks of a partial file are there."""
    return partial.with_name(f"{partial.name}.chunks")


def reserve(partial: Path, size: int) -> None:
    """Take the disk space of a file, so that it can't run out later. Raises OSError."""
    handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if os.fstat(handle).st_size >= size:
            return
        try:
            os.posix_fallocate(handle, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
            os.ftruncate(handle, size)
    finally:
        os.close(handle)


def fill(
    partial: Path,
    source: Source,
    size: int,
    *,
    on_bytes: Callable[[int], None],
    cancelled: Callable[[], bool],
    durable: bool = False,
) -> str:
    """Bring a partial file to be whole; its SHA-256.

    Args:
        partial: the file; what of it is there already isn't asked for again.
        source: what is downloaded.
        size: in bytes.
        on_bytes: called with the number of bytes that have come; on several threads.
        cancelled: asked now and then whether to give up.
        durable: whether chunks reach the disk before they are said to be there.

    Raises:
        FileNotFoundError: the source isn't there.
        StoreUnavailable: it can't be reached.
        WrongSize: it has fewer bytes.
        Cancelled: it was asked to give up.
        OSError: the disk is full or can't be written.
    """
    if size <= CHUNK:
        return _fill_at_once(partial, source, size, on_bytes, cancelled)
    found = source.info()
    if found is None:
        raise FileNotFoundError(source.path)
    if found.size is not None and found.size != size:
        raise WrongSize
    if not found.ranges:
        return _fill_in_order(partial, source, size, on_bytes, cancelled)
    with _ChunkLog(partial, size, durable=durable) as log:
        return _fill_in_parallel(log, source, on_bytes, cancelled)


def _fill_at_once(
    partial: Path, source: Source, size: int, on_bytes: Callable[[int], None], cancelled: Callable[[], bool]
) -> str:
    if cancelled():
        raise Cancelled
    data = source.backend.read(source.path, 0, size) if size else b""
    if len(data) != size:
        raise WrongSize
    with _opened(partial) as handle:
        _write(handle, data, 0)
        os.ftruncate(handle, size)
    on_bytes(size)
    return hashlib.sha256(data).hexdigest()


def _fill_in_order(
    partial: Path, source: Source, size: int, on_bytes: Callable[[int], None], cancelled: Callable[[], bool]
) -> str:
    """From a server that knows no ranges: from the start, every time."""
    chunk_log(partial).unlink(missing_ok=True)
    most = 0
    for attempt in range(_STREAM_ATTEMPTS):
        digest, offset = hashlib.sha256(), 0
        try:
            with _opened(partial) as handle:
                for part in source.backend.stream(source.path):
                    if cancelled():
                        raise Cancelled
                    if offset + len(part) > size:
                        raise WrongSize
                    _write(handle, part, offset)
                    digest.update(part)
                    offset += len(part)
                    if offset > most:
                        on_bytes(offset - most)
                        most = offset
                if offset != size:
                    raise WrongSize
                os.ftruncate(handle, size)
        except StoreUnavailable:
            if attempt == _STREAM_ATTEMPTS - 1:
                raise
            time.sleep(Backoff().delay(attempt + 3))
        else:
            return digest.hexdigest()
    raise AssertionError("there is at least one attempt")


def _fill_in_parallel(
    log: _ChunkLog, source: Source, on_bytes: Callable[[int], None], cancelled: Callable[[], bool]
) -> str:
    ended: queue.SimpleQueue[tuple[int, BaseException | None]] = queue.SimpleQueue()

    def work(index: int) -> None:
        try:
            start = index * CHUNK
            end = min(start + CHUNK, log.size)
            data = source.backend.read(source.path, start, end)
            if len(data) != end - start:
                raise WrongSize
            log.put(index, data)
            on_bytes(len(data))
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            ended.put((index, error))
        else:
            ended.put((index, None))

    missing = [index for index in range(log.count) if index not in log.there]
    there = set(log.there)
    on_bytes(sum(log.length(index) for index in there))
    digest, hashed = hashlib.sha256(), 0
    with ThreadPoolExecutor(min(PARALLEL, len(missing) or 1), "salver-download") as pool:
        try:
            for index in missing:
                pool.submit(work, index)
            while hashed < log.count:
                # The hash follows the chunks while others come.
                if hashed in there:
                    digest.update(log.get(hashed))
                    hashed += 1
                    continue
                if cancelled():
                    raise Cancelled
                try:
                    index, error = ended.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    continue
                if error is not None:
                    raise error
                there.add(index)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return digest.hexdigest()


class _ChunkLog:
    """A partial file, and which of its chunks are there."""

    def __init__(self, partial: Path, size: int, *, durable: bool) -> None:
        self.size = size
        self.count = -(-size // CHUNK)
        self.there: set[int] = set()
        self._durable = durable
        self._partial = partial
        self._file = self._log = -1

    def __enter__(self) -> _ChunkLog:
        path = chunk_log(self._partial)
        known = path.read_bytes() if path.exists() and self._partial.exists() else b""
        if known[: _HEADER.size] != _HEADER.pack(_MAGIC, CHUNK):
            known = b""
        indices = known[_HEADER.size :]
        whole = indices[: len(indices) // _INDEX.size * _INDEX.size]
        self.there = {index for (index,) in _INDEX.iter_unpack(whole) if index < self.count}
        self._file = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.ftruncate(self._file, self.size)
            self._log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND, 0o644)
            # What a kill left of an index that wasn't written whole must not shift those that follow.
            os.ftruncate(self._log, _HEADER.size + len(whole) if known else 0)
            if not known:
                os.write(self._log, _HEADER.pack(_MAGIC, CHUNK))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for handle in (self._file, self._log):
            if handle >= 0:
                os.close(handle)
        self._file = self._log = -1

    def length(self, index: int) -> int:
        return min(CHUNK, self.size - index * CHUNK)

    def put(self, index: int, data: bytes) -> None:
        _write(self._file, data, index * CHUNK)
        if self._durable:
            os.fdatasync(self._file)
        os.write(self._log, _INDEX.pack(index))

    def get(self, index: int) -> bytes:
        data = os.pread(self._file, self.length(index), index * CHUNK)
        if len(data) != self.length(index):
            raise StoreUnavailable(f"{self._partial}: it is written by somebody else; use a folder of its own")
        return data


@contextmanager
def _opened(partial: Path) -> Iterator[int]:
    handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield handle
    finally:
        os.close(handle)


def _write(handle: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(handle, view, offset)
        view, offset = view[count:], offset + count
