"""How much memory models may take on one device, and what is spoken for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

_SLACK = 0.05
"""Part of the limit by which the process may be seen over it before models go for it: requests come and go."""

_LEARNING = 0.05
_LEAST = 0.25
_MOST = 2.0
"""How fast the factor follows what is seen, and its bounds."""


class Reservation:
    """Memory that is set aside for a version, first for its load, then for itself.

    Attributes:
        size: bytes.
        tenant: whose share it counts to.
        is_loading: the version is being loaded.
        outside: the version lies in processes of its own.
    """

    __slots__ = ("is_loading", "outside", "size", "tenant")

    def __init__(self, size: int, tenant: str) -> None:
        self.size = size
        self.tenant = tenant
        self.is_loading = True
        self.outside = False


class MemoryBudget:
    """The memory of one device that models may take.

    What is spoken for is the larger of two sums: what the process had before it loaded anything, with what the loaded
    versions take and what loads have reserved; and what the process is seen to have. The first knows of loads before
    they happen, the second of everything else: a framework, requests' tensors, a model that has grown.

    What each version was measured to take is not exact: allocators round up, and versions share. So the sum of the
    loaded versions is held against what the process is seen to have grown by, and corrected by that factor.

    Args:
        limit: bytes.
        used: what this process has of the device's memory, in bytes; it may be some moments old.
        look: has ``used`` tell what is so now; None where it always does.
    """

    def __init__(self, limit: int, *, used: Callable[[], int], look: Callable[[], None] | None = None) -> None:
        self.limit = limit
        self.look = _always_exact if look is None else look
        self._used = used
        self._inside = 0
        self._outside = 0
        self._loading = 0
        self._reserved = 0
        self._base: int | None = None
        self._factor = 1.0
        self._tenants: defaultdict[str, int] = defaultdict(int)
        self._loads_begun = 0

    def reserve(self, size: int, *, tenant: str = "") -> Reservation:
        """Set ``size`` bytes aside for a version that is about to be loaded."""
        if self._base is None:
            self._base = self._used()
        reservation = Reservation(size, tenant)
        self._count(reservation, size)
        self._loading += 1
        self._reserved += size
        self._loads_begun += 1
        return reservation

    def charge(self, reservation: Reservation, size: int, *, outside: bool) -> None:
        """The version was loaded and takes ``size`` bytes, in processes of its own (``outside``) or in this one."""
        self._end_loading(reservation)
        self._count(reservation, -reservation.size)
        reservation.size, reservation.outside = size, outside
        self._count(reservation, size)
        self._correct()

    def release(self, reservation: Reservation) -> None:
        """The version was closed, or its load has failed."""
        self._end_loading(reservation)
        self._count(reservation, -reservation.size)
        reservation.size = 0

    @property
    def loads(self) -> int:
        """Loads under way."""
        return self._loading

    @property
    def loads_begun(self) -> int:
        """Loads ever begun: what was seen before and after one is its own where this hasn't changed meanwhile."""
        return self._loads_begun

    def seen_bytes(self) -> int:
        """What is in use, as far as can be seen: by the process, and by models in processes of their own."""
        return self._used() + self._outside

    def known_bytes(self) -> int:
        """What the loaded versions take, and loads have reserved."""
        return self._inside + self._outside

    def room(self) -> int:
        """Bytes that are left; negative where more is taken than should be."""
        return self.limit - self.taken_bytes()

    def lacking(self, need: int) -> int:
        """Bytes that are missing for a load of so many; 0 or less where there is room.

        Where more is seen in the process than it should have, another look is taken: it may be given back by now.
        """
        accounted, seen = self._accounted(), self._seen()
        if need > self.limit - self._outside - max(accounted, seen) and seen > accounted:
            self.look()
            seen = self._seen()
        return need - (self.limit - self._outside - max(accounted, seen))

    def taken_bytes(self) -> int:
        """What is spoken for."""
        return max(self._accounted(), self._seen()) + self._outside

    def _accounted(self) -> int:
        """What this process should have: what it had before, what its versions take, and what loads have reserved."""
        base = self._base if self._base is not None else self._used()
        return int(base + self._factor * (self._inside - self._reserved) + self._reserved)

    def _seen(self) -> int:
        """What this process is seen to have, beyond what requests may take for a while."""
        return self._used() - int(self.limit * _SLACK)

    def _correct(self) -> None:
        """Learn by what factor the loaded versions take more or less than they were measured to."""
        loaded = self._inside - self._reserved
        grown = self._used() - (self._base or 0)
        if loaded > 0 and grown > 0:
            seen = min(_MOST, max(_LEAST, grown / loaded))
            self._factor += _LEARNING * (seen - self._factor)

    def tenant_bytes(self, tenant: str) -> int:
        """What a tenant's versions have and have reserved."""
        return self._tenants.get(tenant, 0)

    def _end_loading(self, reservation: Reservation) -> None:
        if reservation.is_loading:
            reservation.is_loading = False
            self._loading -= 1
            self._reserved -= reservation.size

    def _count(self, reservation: Reservation, size: int) -> None:
        if reservation.outside:
            self._outside += size
        else:
            self._inside += size
        if reservation.tenant:
            self._tenants[reservation.tenant] += size
            if not self._tenants[reservation.tenant]:
                del self._tenants[reservation.tenant]


def _always_exact() -> None:
    """Nothing is kept that would have to be read again."""
