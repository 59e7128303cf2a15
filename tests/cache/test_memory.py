"""What memory there is, and what of it is in use."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gates import until

from salver.cache.memory import ProcessMemory, machine_bytes
from salver.cache.memory_budget import MemoryBudget
from salver.cache.reservations import Reservations

ALL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_without_limits_it_is_the_machines(tmp_path: Path) -> None:
    assert machine_bytes(cgroup=tmp_path, own=tmp_path / "none") == ALL


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "1000000\n"}, 1_000_000),
        ("0::/a/b\n", {"a/memory.max": "3000000\n", "a/b/memory.max": "max\n"}, 3_000_000),
        ("0::/a/b\n", {"a/memory.max": "3000000\n", "a/b/memory.max": "4000000\n"}, 3_000_000),
        ("0::/\n", {"memory.max": "5000000\n"}, 5_000_000),
        ("0::/a\n", {"a/memory.max": "max\n"}, ALL),
        ("4:memory:/c\n3:cpu:/d\n", {"memory/c/memory.limit_in_bytes": "2000000\n"}, 2_000_000),
        ("4:memory:/c\n", {"memory/c/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, ALL),
    ],
)
def test_limits_of_control_groups_count(tmp_path: Path, own: str, files: dict[str, str], expected: int) -> None:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert machine_bytes(cgroup=tmp_path / "cgroup", own=tmp_path / "own") == expected


def test_what_is_taken_and_given_back_is_seen() -> None:
    memory = ProcessMemory()
    before = memory.used_bytes()
    taken = bytearray(os.urandom(1 << 20) * 64)
    assert 50 << 20 < memory.used_bytes() - before < 80 << 20
    del taken
    memory.trim()
    assert abs(memory.used_bytes() - before) < 10 << 20
    assert memory.spare_bytes() < 5 << 20


def test_what_the_allocator_says_is_kept_for_a_moment_unless_it_has_to_be_exact() -> None:
    clock = [0.0]
    memory = ProcessMemory(keep_seconds=0.1, now=lambda: clock[0])
    # Small pieces, between others that stay: freed, they are the allocator's, and nothing goes back to the system.
    pieces = [bytes(1000 + number % 7) for number in range(40_000)]
    kept = pieces[::2]
    memory.look()
    taken = memory.spare_bytes()
    del pieces
    assert memory.spare_bytes() == taken
    clock[0] = 0.09
    assert memory.spare_bytes() == taken
    clock[0] = 0.11
    freed = memory.spare_bytes() - taken
    assert freed > 10_000_000
    assert len(kept) == 20_000


def test_memory_that_grows_is_seen_at_once() -> None:
    memory = ProcessMemory(now=lambda: 0.0)
    before = memory.used_bytes()
    taken = bytearray(os.urandom(1 << 20) * 64)
    assert 50 << 20 < memory.used_bytes() - before < 80 << 20
    assert len(taken) == 64 << 20


class Seen:
    """A process with a memory that tests set."""

    def __init__(self) -> None:
        self.used = 100


def test_a_budget_counts_what_was_there_before() -> None:
    seen = Seen()
    budget = MemoryBudget(1000, used=lambda: seen.used)
    assert budget.room() == 900
    budget.reserve(300)
    assert budget.room() == 600


def test_a_load_isnt_counted_twice_while_it_becomes_visible() -> None:
    seen = Seen()
    budget = MemoryBudget(1000, used=lambda: seen.used)
    reservation = budget.reserve(300)
    seen.used = 390
    assert budget.room() == 600
    budget.charge(reservation, 290, outside=False)
    assert 600 <= budget.room() <= 612


def test_what_nobody_accounts_for_is_seen() -> None:
    seen = Seen()
    budget = MemoryBudget(1000, used=lambda: seen.used)
    budget.release(budget.reserve(10))
    seen.used = 990
    assert budget.room() == 60  # 5% of slack
    seen.used = 1300
    assert budget.room() < 0


def test_another_look_is_taken_before_what_is_only_seen_is_held_against_a_load() -> None:
    looks: list[int] = []
    seen = Seen()

    def look() -> None:
        looks.append(seen.used)
        seen.used = 200

    budget = MemoryBudget(1000, used=lambda: seen.used, look=look)
    budget.charge(budget.reserve(100), 100, outside=False)
    assert budget.lacking(100) < 0
    assert looks == []
    seen.used = 990  # as it was a moment ago
    assert budget.lacking(100) < 0
    assert looks == [990]
    budget.reserve(750)
    assert budget.lacking(100) > 0  # whatever is seen
    assert looks == [990]


def test_what_is_measured_wrong_is_corrected() -> None:
    seen = Seen()
    budget = MemoryBudget(10_000, used=lambda: seen.used)
    held = []
    for _ in range(200):
        held.append(budget.reserve(100))
        seen.used += 50  # half of what each is said to take
        budget.charge(held[-1], 100, outside=False)
        if len(held) > 50:
            budget.release(held.pop(0))
            seen.used -= 50
    assert budget.known_bytes() == 5000
    assert 2400 < budget.taken_bytes() - 100 < 2700


def test_processes_count_with_what_they_take() -> None:
    seen = Seen()
    budget = MemoryBudget(1000, used=lambda: seen.used)
    reservation = budget.reserve(300, tenant="acme")
    budget.charge(reservation, 400, outside=True)
    assert (budget.room(), budget.tenant_bytes("acme"), budget.loads) == (500, 400, 0)
    budget.release(reservation)
    budget.release(reservation)
    assert (budget.room(), budget.tenant_bytes("acme"), budget.known_bytes()) == (900, 0, 0)


async def test_memory_goes_back_once_loading_and_closing_have_come_to_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salver.cache.reservations._BALANCE_SECONDS", 0.001)
    trimmed: list[int] = []

    class Memory(ProcessMemory):
        def trim(self) -> None:
            trimmed.append(1)

    budget = MemoryBudget(1000, used=lambda: 0)
    reservations = Reservations({"cpu": budget}, memory=Memory())
    loading = budget.reserve(100)
    looking_after = asyncio.create_task(reservations.balance())
    gone: Any = SimpleNamespace(usage=object(), budget=None, reservation=None)
    reservations.retire(gone, evicted=True)
    await asyncio.sleep(0.05)
    assert not trimmed, "it is being closed"
    reservations.release(gone)
    await asyncio.sleep(0.05)
    assert not trimmed, "another is being loaded"
    budget.release(loading)
    await until(lambda: bool(trimmed))
    await asyncio.sleep(0.05)
    assert trimmed == [1], "there was nothing more to give back"
    looking_after.cancel()
