"""What a probe may take."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

_SHARE = 0.8
"""What a probe may have of the free memory, where nobody has set a limit."""


@dataclass(frozen=True, slots=True)
class ProbeLimits:
    """Bounds of one probe.

    Attributes:
        memory_bytes: memory that loading and running the model may take, its framework not counted; None for
            four fifths of what is free.
        seconds: for all of it, without the time in which it waits for its turn to measure.
        latency_seconds: for measuring latencies, as far as that goes.
        processes: that the model may have started at a time.
        file_bytes: the largest file that it may write.
        open_files: that it may have at a time.
        finite: whether a version fails whose outputs hold NaN or infinity on every input that was tried.
    """

    memory_bytes: int | None = None
    seconds: float = 300.0
    latency_seconds: float = 2.0
    processes: int = 64
    file_bytes: int = 1 << 30
    open_files: int = 4096
    finite: bool = True


def describe_limits(limits: ProbeLimits, memory_bytes: int) -> dict[str, Any]:
    """The limits as the probe's process gets them, with the memory that was decided on."""
    return asdict(limits) | {"memory_bytes": memory_bytes}


def free_share() -> int:
    """Bytes that a probe may take where nobody has set a limit; practically none where the system doesn't tell."""
    free = [_meminfo("MemAvailable"), _cgroup_free()]
    known = [each for each in free if each is not None]
    return int(_SHARE * min(known)) if known else 1 << 60


def _meminfo(name: str) -> int | None:
    try:
        with open("/proc/meminfo") as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
    except OSError:
        return None


def _cgroup_free() -> int | None:
    """What the control group's limit (cgroup v2, as a container sees it) leaves; page cache counts as free."""
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            limit = file.read().strip()
        with open("/sys/fs/cgroup/memory.current") as file:
            current = int(file.read())
        with open("/sys/fs/cgroup/memory.stat") as lines:
            cache = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    except (OSError, ValueError):
        return None
    return max(0, int(limit) - current + cache) if limit.isdecimal() else None


def show_size(size: float) -> str:
    """Bytes for people: "3.2 GiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}" if size < 1000 else f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"
