"""Who waits for files, or for its own share of the memory, keeps no other load waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cache_node import BUDGET, Node
from gates import Gate, fresh_gates, gate, until

from salver.cache.offer import Offer
from salver.core.errors import Overloaded
from salver.core.model import ModelSpec

__all__ = ["fresh_gates"]

PLACES = 2


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node(concurrent_loads=PLACES, shares={"acme": 0.3})
    yield made
    for each in made.gates.values():
        each.set()
    await made.cache.close(5.0)
    assert made.alive == []
    assert made.budget.known_bytes() == 0


class Files:
    """A version's files, which come through a gate, and may go again."""

    def __init__(self, name: str, *, held_at: Gate, goes: int = 0) -> None:
        self.brought = 0
        self._here = False
        self._gate = held_at
        self._goes = goes
        self._spec = ModelSpec(name, "1", Path(name), "sized", options={"size": 100})

    async def bring(self) -> None:
        await self._gate.arrive_async()
        self.brought += 1
        self._here = self.brought > self._goes

    async def fetch(self) -> ModelSpec | None:
        return self._spec if self._here else None


def offer_far(node: Node, name: str, *, held_at: Gate, goes: int = 0) -> Files:
    files = Files(name, held_at=held_at, goes=goes)
    node.offer(name, fetch=files.fetch, bring=files.bring)
    return files


async def test_loads_whose_files_are_slow_to_come_keep_nobody_waiting(node: Node) -> None:
    for number in range(2 * PLACES):
        offer_far(node, f"far{number}", held_at=gate("network"))
    node.offer("near")
    asking = [asyncio.create_task(node.ask(f"far{number}")) for number in range(2 * PLACES)]
    for _ in asking:
        await gate("network").reached_async()
    assert await node.ask("near") == "near:1"
    assert not any(task.done() for task in asking)
    gate("network").open()
    assert await asyncio.gather(*asking) == [f"far{number}:1" for number in range(2 * PLACES)]


async def test_loads_that_wait_for_their_tenants_share_keep_nobody_waiting(node: Node) -> None:
    for number in range(3):
        node.offer(f"held{number}", tenant="acme")
    for number in range(2 * PLACES):
        node.offer(f"more{number}", tenant="acme")
        node.offer(f"other{number}", tenant="zeta")
    held = [await node.cache.acquire(f"held{number}") for number in range(3)]
    asking = [asyncio.create_task(node.ask(f"more{number}")) for number in range(2 * PLACES)]
    await until(lambda: len(node.cache.loading()) == 2 * PLACES and all(each.idle is not None for each in held))
    for number in range(2 * PLACES):
        assert await node.ask(f"other{number}") == f"other{number}:1"
    assert not any(task.done() for task in asking)
    assert node.budget.tenant_bytes("acme") == 300
    held[0].unpin()
    assert await asyncio.gather(*asking) == [f"more{number}:1" for number in range(2 * PLACES)]
    assert node.loads[-2 * PLACES :] == [f"more{number}" for number in range(2 * PLACES)]  # who came first was first
    assert node.budget.tenant_bytes("acme") <= 300
    assert node.budget.known_bytes() <= BUDGET
    for each in held[1:]:
        each.unpin()


async def test_a_load_that_waited_for_its_share_keeps_its_tenants_next_one_waiting_no_longer(node: Node) -> None:
    for name in ("a", "b"):
        node.offer(name, size=150, tenant="acme")
    for name in ("first", "second"):
        node.offer(name, tenant="acme")
    node.gates["first"] = threading.Event()
    a, b = await node.cache.acquire("a"), await node.cache.acquire("b")
    first = asyncio.create_task(node.ask("first"))
    await until(lambda: a.idle is not None)
    second = asyncio.create_task(node.ask("second"))
    a.unpin()
    await until(lambda: "first" in node.loads)
    b.unpin()
    assert await second == "second:1"
    assert not first.done()
    node.gates["first"].set()
    assert await first == "first:1"


async def test_files_that_go_before_they_are_used_are_brought_again_but_not_for_ever(node: Node) -> None:
    gate("network").open()
    some = offer_far(node, "some", held_at=gate("network"), goes=1)
    assert await node.ask("some") == "some:1"
    assert some.brought == 2
    never = offer_far(node, "never", held_at=gate("network"), goes=100)
    with pytest.raises(Overloaded, match="were brought 3 times"):
        await node.ask("never")
    assert never.brought == 3
    assert isinstance(node.cache.find("never"), Offer)


async def test_who_leaves_while_its_files_are_brought_or_its_share_is_taken_leaves_nothing(node: Node) -> None:
    offer_far(node, "far", held_at=gate("network"))
    node.offer("held", size=300, tenant="acme")
    node.offer("more", tenant="acme")
    node.offer("most", tenant="acme")
    held = await node.cache.acquire("held")
    asking = [asyncio.create_task(node.ask(name)) for name in ("far", "more", "most")]
    await gate("network").reached_async()
    await until(lambda: held.idle is not None)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    await until(lambda: node.cache.loading() == [] and held.idle is None)
    gate("network").open()
    held.unpin()
    for name in ("more", "most", "far"):
        assert await node.ask(name) == f"{name}:1"
