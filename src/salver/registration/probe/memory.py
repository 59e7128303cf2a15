"""What processes take, read from /proc: in the probe's process of itself, and by the server of the probe's process."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S{4} \S+ \S+ \d+\s*(.*)")
_MOST_PROCESSES = 4096


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of this process, in bytes.

    Attributes:
        own: what it wrote to: anonymous and shared memory, swapped or not. Pages that it still shares with the process
            that it was forked from count, so only differences mean something.
        resident: all of its memory that is in RAM, code and mapped files with it.
        peak: the most that ``resident`` was.
    """

    own: int
    resident: int
    peak: int


def own_memory() -> Memory:
    """Memory of this process now."""
    status = status_bytes(os.getpid(), ("VmRSS", "VmHWM", "RssAnon", "RssShmem", "VmSwap"))
    try:
        # The counters in status may be off by megabytes for each core.
        rollup = _fields("/proc/self/smaps_rollup", ("Rss", "Anonymous", "Pss_Shmem", "Swap"))
        resident, own = rollup["Rss"], rollup["Anonymous"] + rollup["Pss_Shmem"] + rollup["Swap"]
    except (OSError, KeyError):
        resident, own = status["VmRSS"], status["RssAnon"] + status["RssShmem"] + status["VmSwap"]
    return Memory(own, resident, max(resident, status["VmHWM"]))


class MemoryGrowth:
    """What this process takes more than at first.

    Args:
        artifact: its files count where they are mapped into memory: no request is answered without them.
    """

    def __init__(self, artifact: Path) -> None:
        self._files = files_of(artifact)
        self._first = own_memory()
        self._first_share = share_bytes(os.getpid())
        self._notes: list[tuple[int, int, int]] = []  # rows, memory after they ran, peak of it

    def note(self, rows: int) -> None:
        """Remember what is taken now, after batches of so many rows have run."""
        now = own_memory()
        mapped = mapped_bytes(self._files)
        started = descendants(os.getpid())
        if started:
            taken = sum(map(share_bytes, (os.getpid(), *started))) - self._first_share
        else:
            taken = now.own - self._first.own
        taken = max(0, taken) + mapped
        # Code that was read from libraries is none of the model's.
        code = (now.resident - now.own) - (self._first.resident - self._first.own) - mapped
        self._notes.append((rows, taken, max(taken, now.peak - self._first.resident - max(0, code))))

    def expected(self, rows: int) -> int:
        """What will be taken at most while so many rows run, twice as many as before."""
        if not self._notes:
            return 0
        before = self._notes[-2][2] if len(self._notes) > 1 else self._notes[-1][1]
        return self._notes[-1][2] + 2 * max(0, self._notes[-1][2] - before)

    def after(self, rows: int) -> tuple[int, int]:
        """What was taken after the largest batches up to so many rows had run, and the most that was until then."""
        if not self._notes:
            self.note(1)
        known = [each for each in self._notes if each[0] <= rows] or self._notes[:1]
        return known[-1][1], known[-1][2]


def mapped_bytes(files: Collection[str]) -> int:
    """Bytes of these files, by their real paths, that are in RAM because this process has them mapped."""
    total, counts = 0, False
    with suppress(OSError), open("/proc/self/smaps", errors="surrogateescape") as lines:
        for line in lines:
            if match := _MAPPING.match(line):
                counts = match[1] in files
            elif counts and line.startswith("Rss:"):
                total += int(line.split()[1]) * 1024
    return total


def files_of(artifact: Path) -> set[str]:
    """Real paths of an artifact's files."""
    files = [artifact] if artifact.is_file() else [each for each in artifact.rglob("*") if each.is_file()]
    return {os.path.realpath(each) for each in files}


def status_bytes(pid: int, names: Collection[str]) -> dict[str, int]:
    """Fields of a process's status, in bytes; 0 for those that the kernel doesn't tell.

    Raises:
        OSError: there is no such process.
    """
    return dict.fromkeys(names, 0) | _fields(f"/proc/{pid}/status", names)


def written_bytes(pid: int) -> int:
    """What a process wrote to, as its cheap counters have it; 0 for one that has ended."""
    try:
        return sum(status_bytes(pid, ("RssAnon", "RssShmem", "VmSwap")).values())
    except OSError:
        return 0


def share_bytes(pid: int) -> int:
    """A process's memory, with its part of what it shares; 0 for one that has ended. Slow for large ones."""
    try:
        rollup = _fields(f"/proc/{pid}/smaps_rollup", ("Pss_Anon", "Pss_Shmem", "Swap"))
    except OSError:
        return 0
    return sum(rollup.values())


def descendants(pid: int, most: int = _MOST_PROCESSES) -> list[int]:
    """Processes that a process and its descendants have started and that haven't ended, up to ``most`` of them."""
    found: list[int] = []
    ahead = [pid]
    while ahead and len(found) < most:
        parent = ahead.pop()
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{parent}/task"):
                with suppress(OSError), open(f"/proc/{parent}/task/{thread}/children") as file:
                    children = [int(each) for each in file.read().split()]
                    found += children
                    ahead += children
    return found


def start_of(pid: int) -> str | None:
    """When a process started, to tell it from a later one of its number; None where it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def device_bytes(device: str) -> int | None:
    """Bytes in use on a GPU: this process's own where PyTorch keeps count, else all of it; None where nobody tells."""
    torch = sys.modules.get("torch")
    index = int(device.partition(":")[2] or 0)
    if torch is not None and torch.cuda.is_initialized():
        return int(torch.cuda.memory_reserved(index))
    try:
        import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]

        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index)).used)
    except Exception:  # noqa: BLE001  no driver, no package, no such GPU: then nothing is known
        return None


def _fields(file: str, names: Collection[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    with open(file) as lines:
        for line in lines:
            name, _, rest = line.partition(":")
            if name in names:
                found[name] = int(rest.split()[0]) * 1024
    return found
