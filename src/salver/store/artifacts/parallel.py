"""Many small files at a time, and the count of bytes that have come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from salver.store.artifacts.transfer import PARALLEL

T = TypeVar("T")


class Count:
    """Bytes that have come, told to whoever listens."""

    def __init__(self, total: int, tell: Callable[[int, int], None]) -> None:
        self._lock = threading.Lock()
        self._total = total
        self._tell = tell
        self._count = 0

    def add(self, count: int) -> None:
        """Count more bytes, or fewer."""
        with self._lock:
            self._count += count
            self._tell(self._count, max(self._count, self._total))


class Part:
    """The bytes of one file, which may turn out to be wrong."""

    def __init__(self, whole: Count) -> None:
        self._lock = threading.Lock()
        self._whole = whole
        self._count = 0

    def add(self, count: int) -> None:
        """Count more bytes."""
        with self._lock:
            self._count += count
        self._whole.add(count)

    def take_back(self) -> None:
        """Count none of them."""
        self._whole.add(-self._count)


def in_parallel(action: Callable[[T], None], items: Sequence[T]) -> None:
    """Do something with each item, a few at a time; after an error, none is begun. Raises the first error."""
    if len(items) <= 1:
        for item in items:
            action(item)
        return
    with ThreadPoolExecutor(min(PARALLEL, len(items)), "salver-fetch") as pool:
        try:
            for future in [pool.submit(action, item) for item in items]:
                future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
