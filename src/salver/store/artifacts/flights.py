"""One of many who want the same does it; the others wait for what comes of it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path

from salver.store.artifacts.transfer import Cancelled

Progress = Callable[[int, int], None]

_POLL_SECONDS = 0.1


class Flights:
    """What is being done, by key. Waiters have no deadline of their own: who does it has."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[str, _Flight] = {}

    def run(
        self,
        key: str,
        action: Callable[[Progress], Path],
        *,
        progress: Progress | None,
        cancelled: Callable[[], bool],
    ) -> Path:
        """Run an action, or wait for the one that runs with this key.

        Args:
            key: what is done.
            action: does it on this thread; is handed what it tells the progress to.
            progress: told of the progress, whoever does it; a slow one slows the action.
            cancelled: asked now and then whether to give up waiting. When the one that does it gives up, another does.

        Raises:
            Cancelled: this caller gave up.
            Exception: what the action raised.
        """
        while True:
            with self._lock:
                flight = self._flights.get(key)
                leads = flight is None
                if flight is None:
                    flight = self._flights[key] = _Flight()
                if progress is not None:
                    flight.listeners.append(progress)
            if leads:
                return self._lead(key, flight, action)
            while not flight.ended.wait(_POLL_SECONDS):
                if cancelled():
                    with self._lock:
                        if progress is not None:
                            flight.listeners.remove(progress)
                    raise Cancelled
            if isinstance(flight.error, Cancelled):
                continue
            if flight.error is not None:
                raise copy.copy(flight.error)
            assert flight.path is not None
            return flight.path

    def _lead(self, key: str, flight: _Flight, action: Callable[[Progress], Path]) -> Path:
        def tell(done: int, total: int) -> None:
            with self._lock:
                listeners = list(flight.listeners)
            for each in listeners:
                each(done, total)

        try:
            flight.path = action(tell)
            return flight.path
        except BaseException as error:
            # A waiter mustn't be stopped by what stops only this thread.
            flight.error = error if isinstance(error, Exception) else Cancelled()
            raise
        finally:
            with self._lock:
                del self._flights[key]
            flight.ended.set()


class _Flight:
    def __init__(self) -> None:
        self.ended = threading.Event()
        self.listeners: list[Progress] = []
        self.path: Path | None = None
        self.error: Exception | None = None
