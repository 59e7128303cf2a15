"""The way of answers from a model's own threads to the one that waits for them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_WAITING = 16
"""Answers that may wait for their reader: a model that gives more of them waits itself."""


class Channel(Generic[T]):
    """A queue with a bound and two ends: the writer's, which finishes it, and the reader's, which may close it.

    Attributes:
        is_used: somebody has asked for a writing end.
    """

    def __init__(self) -> None:
        self.is_used = False
        self._changed = threading.Condition(threading.RLock())  # a sender may be collected within one of these calls
        self._waiting: deque[T] = deque()
        self._finished = False
        self._closed = False
        self._error: BaseException | None = None

    def put(self, item: T) -> None:
        """Add an item; waits for room. Once the reader has closed its end, items are dropped."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < MAX_WAITING or self._closed)
            if not self._closed:
                self._waiting.append(item)
                self._changed.notify_all()

    def finish(self, error: BaseException | None = None) -> None:
        """Say that no more items come; with an error, that the reader is to raise it."""
        with self._changed:
            if not self._finished:
                self._finished, self._error = True, error
                self._changed.notify_all()

    def close(self) -> None:
        """(Reader) Say that no more items are wanted."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def is_finished(self) -> bool:
        """Whether the writer has said that no more items come."""
        return self._finished

    def is_closed(self) -> bool:
        """Whether the reader has gone."""
        return self._closed

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._finished)
                if not self._waiting:
                    if self._error is not None:
                        raise self._error
                    return
                item = self._waiting.popleft()
                self._changed.notify_all()
            yield item
