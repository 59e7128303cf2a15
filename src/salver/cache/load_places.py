"""The places for loads side by side."""

from __future__ import annotations

import asyncio
from types import TracebackType


class LoadPlace:
    """A place among the loads that run side by side: ``async with LoadPlace(places) as place``.

    Nobody is to wait in one for anything but memory that its device hasn't free: other loads could use it.

    Args:
        places: as many loads may run side by side.
    """

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        self._is_held = False

    async def __aenter__(self) -> LoadPlace:
        await self._places.acquire()
        self._is_held = True
        return self

    def leave(self) -> None:
        """Give the place up before the end."""
        if self._is_held:
            self._is_held = False
            self._places.release()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()
