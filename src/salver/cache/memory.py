"""What memory there is, what this process has of it, and giving back to the system what the allocator keeps."""

from __future__ import annotations

import ctypes
import math
import os
import weakref
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from time import monotonic

_UNLIMITED = 1 << 60  # what cgroup v1 says where there is no limit is about 2**63
_CGROUP = Path("/sys/fs/cgroup")

KEEP_SECONDS = 0.1
"""How old what the allocator says may be, where it needn't be exact."""


class _MallocInfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def machine_bytes(*, cgroup: Path = _CGROUP, own: Path = Path("/proc/self/cgroup")) -> int:
    """Memory that this process may use: the machine's, or what the limits of its control groups leave of it."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limits += [limit for file in _limit_files(cgroup, own) if (limit := _read_limit(file)) is not None]
    return min(limits)


def _limit_files(cgroup: Path, own: Path) -> Iterable[Path]:
    """Files that may hold a limit: of this process's group and of all those around it (cgroup v2 and v1)."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            root, name = cgroup, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = cgroup / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = root / path.lstrip("/")
        while folder != root:
            yield folder / name
            folder = folder.parent
        yield root / name


def _read_limit(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() and int(text) < _UNLIMITED else None


class ProcessMemory:
    """The resident memory of this process.

    What the allocator has at hand for the next model isn't in use, but it isn't anybody else's either: :meth:`trim`
    gives it back.

    Asking the allocator takes up to a millisecond, for it counts its free pieces one by one. So its answer is kept for
    a moment, unless :meth:`look` is called. What the process has is always read anew, in two microseconds.

    Args:
        keep_seconds: how long the allocator's answer is kept.
        now: a clock, in seconds.
    """

    def __init__(self, *, keep_seconds: float = KEEP_SECONDS, now: Callable[[], float] = monotonic) -> None:
        self._keep_seconds = keep_seconds
        self._now = now
        self._given_back = 0
        self._free = 0
        self._looked_at = -math.inf
        self._statm: int | None = None
        self._page = os.sysconf("SC_PAGE_SIZE")

    def used_bytes(self) -> int:
        """Bytes that are resident, less those that the allocator has at hand."""
        if self._statm is None:
            self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._statm)
        _, resident, _ = os.pread(self._statm, 100, 0).split(maxsplit=2)
        return max(0, int(resident) * self._page - self.spare_bytes())

    def spare_bytes(self) -> int:
        """Bytes that the allocator has at hand. Of what it calls free, as much was given back before as was free right
        after the last :meth:`trim`.
        """
        if self._now() - self._looked_at > self._keep_seconds:
            self.look()
        return self._free - self._given_back

    def look(self) -> None:
        """Ask the allocator now, for what has to be exact. Blocks for up to a millisecond."""
        self._free = _free_in_allocator()
        self._looked_at = self._now()
        self._given_back = min(self._given_back, self._free)

    def trim(self) -> None:
        """Give memory that nothing in this process uses back to the system. Blocks for some milliseconds."""
        functions = _allocator()
        if functions is not None:
            functions[1](0)
            self.look()
            self._given_back = self._free


def _free_in_allocator() -> int:
    functions = _allocator()
    return 0 if functions is None else int(functions[0]().fordblks)


@cache
def _allocator() -> tuple[Callable[[], _MallocInfo], Callable[[int], int]] | None:
    """glibc's ``mallinfo2`` and ``malloc_trim``; None where the allocator is another one."""
    library = ctypes.CDLL(None)
    try:
        info, give_back = library.mallinfo2, library.malloc_trim
    except AttributeError:
        return None
    info.restype = _MallocInfo
    give_back.argtypes = [ctypes.c_size_t]
    return info, give_back
