"""Versions that are loaded when they are asked for, within a budget, and evicted for others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from cache_node import BUDGET, Node
from gates import until

from salver.cache.offer import Offer
from salver.core.errors import (
    DeadlineExceeded,
    InvalidArtifact,
    LoadError,
    ModelUnavailable,
    Overloaded,
    UnknownModel,
)
from salver.core.model import ModelSpec, ModelState


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node()
    yield made
    for gate in made.gates.values():
        gate.set()
    await made.cache.close(5.0)
    assert made.alive == []
    assert made.budget.known_bytes() == 0


async def test_what_is_offered_is_loaded_when_it_is_asked_for(node: Node) -> None:
    node.offer("a")
    assert node.loads == []
    assert isinstance(node.cache.find("a"), Offer)
    assert [(each.name, each.state) for each in node.cache.statuses()] == [("a", ModelState.READY)]
    assert await node.ask("a") == "a:1"
    assert await node.ask("a", "1") == "a:1"
    assert node.loads == ["a"]
    assert node.cache.lookup("a").is_evictable


async def test_many_wait_for_one_load(node: Node) -> None:
    node.offer("a")
    gate = node.gates["a"] = threading.Event()
    asking = [asyncio.create_task(node.ask("a", "1" if number % 2 else "")) for number in range(100)]
    await until(lambda: node.cache.loading() == [("a", "1", 100)])
    gate.set()
    assert set(await asyncio.gather(*asking)) == {"a:1"}
    assert node.loads == ["a"]
    assert node.cache.lookup("a").pins == 0


async def test_loads_of_different_models_run_side_by_side_within_a_bound() -> None:
    node = Node(concurrent_loads=2)
    for name in "abc":
        node.offer(name)
        node.gates[name] = threading.Event()
    asking = [asyncio.create_task(node.ask(name)) for name in "abc"]
    await until(lambda: len(node.loads) == 2)
    node.gates["b"].set()
    assert await asking[1] == "b:1"
    await until(lambda: node.loads == ["a", "b", "c"])
    for gate in node.gates.values():
        gate.set()
    await asyncio.gather(*asking)
    await node.cache.close(5.0)


async def test_the_budget_holds(node: Node) -> None:
    for number in range(30):
        node.offer(f"m{number}")
    for number in range(30):
        await node.ask(f"m{number}")
        assert node.budget.known_bytes() <= BUDGET
    assert len(node.alive) == 10
    assert len(node.evicted()) == 20
    assert sorted(node.released) == sorted(node.evicted())


async def test_what_is_evicted_comes_back(node: Node) -> None:
    for name in ("a", "b"):
        node.offer(name, size=600)
    for _ in range(3):
        assert await node.ask("a") == "a:1"
        assert await node.ask("b") == "b:1"
    assert node.loads == ["a", "b"] * 3
    assert node.alive == ["b"]
    assert [(each.name, each.state) for each in node.cache.statuses()] == [
        ("a", ModelState.READY),
        ("b", ModelState.READY),
    ]


async def test_nothing_that_is_held_is_evicted_and_who_needs_the_room_waits(node: Node) -> None:
    node.offer("a", size=600)
    node.offer("b", size=600)
    held = await node.cache.acquire("a")
    asking = asyncio.create_task(node.ask("b"))
    await until(lambda: held.idle is not None)  # somebody waits for it to be let go
    assert node.names() == ["a"]
    assert not asking.done()
    held.unpin()
    assert await asking == "b:1"
    assert node.names() == ["b"]


async def test_who_waits_for_room_waits_to_its_deadline(node: Node) -> None:
    node.offer("a", size=600)
    node.offer("b", size=600)
    held = await node.cache.acquire("a")
    with pytest.raises(DeadlineExceeded, match="while model 'b' was being loaded"):
        await node.ask("b", deadline=monotonic() + 0.05)
    await until(lambda: held.idle is None)  # nobody wants it any more
    assert node.cache.loading() == []
    assert node.names() == ["a"]
    held.unpin()


async def test_a_load_goes_on_for_those_who_come_next(node: Node) -> None:
    node.offer("a")
    gate = node.gates["a"] = threading.Event()
    with pytest.raises(DeadlineExceeded):
        await node.ask("a", deadline=monotonic() + 0.05)
    gate.set()
    await until(lambda: node.names() == ["a"])
    assert await node.ask("a") == "a:1"
    assert node.loads == ["a"]


async def test_what_never_fits_is_refused_and_nothing_goes_for_it(node: Node) -> None:
    node.offer("small")
    node.offer("huge", size=BUDGET + 1)
    await node.ask("small")
    with pytest.raises(ModelUnavailable, match="needs about 1 KiB of memory, and the memory budget is 1 KiB"):
        await node.ask("huge")
    assert node.names() == ["small"]


async def test_a_failed_load_is_told_to_all_and_not_tried_at_once_again(node: Node) -> None:
    node.offer("a")
    node.broken["a"] = InvalidArtifact("half of it is missing")
    answers = await asyncio.gather(*(node.ask("a") for _ in range(5)), return_exceptions=True)
    assert all(isinstance(each, ModelUnavailable) and "half of it is missing" in str(each) for each in answers)
    with pytest.raises(ModelUnavailable, match=r"failed to load .half of it is missing"):
        await node.ask("a")
    assert node.loads == ["a"]
    assert node.budget.known_bytes() == 0
    assert node.released == ["a"]
    node.broken.clear()
    node.offer("a")  # something has changed: it is tried again
    assert await node.ask("a") == "a:1"


async def test_too_many_are_not_let_wait() -> None:
    node = Node(max_queue=3)
    node.offer("a")
    gate = node.gates["a"] = threading.Event()
    asking = [asyncio.create_task(node.ask("a")) for _ in range(3)]
    await until(lambda: node.cache.loading() == [("a", "1", 3)])
    with pytest.raises(Overloaded, match="3 requests wait for model 'a' to be loaded"):
        await node.ask("a")
    with pytest.raises(Overloaded):
        node.cache.admit("a", "")
    gate.set()
    await asyncio.gather(*asking)
    await node.cache.close(5.0)


async def test_what_a_load_shows_corrects_what_was_expected(node: Node) -> None:
    offer = node.offer("a", size=100, real=500)
    await node.ask("a")
    assert offer.memory_bytes == 500
    assert node.budget.known_bytes() == 500
    assert node.cache.lookup("a").memory_bytes == 500


async def test_models_go_where_the_process_is_seen_to_have_too_much(node: Node) -> None:
    for name in "abc":
        node.offer(name, size=200)
        await node.ask(name)
    assert node.names() == ["a", "b", "c"]
    node.memory = 1300  # 600 are known of
    node.cache.start()
    await until(lambda: node.names() == [])  # in truth, each would have given some back
    assert "more are in use than the budget has" in node.cache.reservations.records[-1].reason


async def test_pinned_models_stay(node: Node) -> None:
    node.offer("a", size=600, pinned=True)
    node.offer("b", size=300)
    node.offer("c", size=300)
    for name in "abcbc":
        await node.ask(name)
    assert "a" in node.names()
    assert set(node.evicted()) == {"b", "c"}
    node.offer("big", size=500)
    with pytest.raises((ModelUnavailable, Overloaded)):
        await node.ask("big")
    node.cache.pin("a", "1", False)
    assert await node.ask("big") == "big:1"
    assert "a" not in node.names()


async def test_a_tenant_that_has_used_up_its_share_makes_room_itself() -> None:
    node = Node(shares={"acme": 0.3, "*": 0.5})
    node.offer("other", tenant="zeta")
    await node.ask("other")
    for number in range(5):
        node.offer(f"acme{number}", tenant="acme")
        await node.ask(f"acme{number}")
        assert node.budget.tenant_bytes("acme") <= 300
    assert "other" in node.names()
    assert len(node.names()) == 4
    node.offer("large", size=400, tenant="acme")
    with pytest.raises(ModelUnavailable, match="the share of tenant 'acme' is"):
        await node.ask("large")
    await node.cache.close(5.0)


async def test_the_newest_version_is_what_is_asked_for(node: Node) -> None:
    node.offer("a", version="1")
    node.offer("a", version="2")
    assert await node.ask("a") == "a:2"
    assert await node.ask("a", "1") == "a:1"
    node.offer("a", version="10")
    assert node.cache.versions("a") == ["1", "2", "10"]
    assert await node.ask("a") == "a:10"
    await node.cache.withdraw("a", "10")
    assert await node.ask("a") == "a:2"
    with pytest.raises(UnknownModel):
        await node.ask("a", "10")


async def test_aliases_lead_to_versions_loaded_or_not(node: Node) -> None:
    node.offer("a", version="1")
    node.offer("a", version="2")
    node.cache.set_aliases("a", {"champion": "1"})
    assert await node.ask("a@champion") == "a:1"
    assert await node.ask("a", "champion") == "a:1"
    assert ("a@champion", "") in node.cache.routes
    node.cache.set_aliases("a", {"champion": "2"})
    assert await node.ask("a@champion") == "a:2"
    with pytest.raises(UnknownModel, match="'a' has no alias 'loser'; it has champion"):
        await node.ask("a@loser")
    node.cache.set_aliases("a", {})
    with pytest.raises(UnknownModel):
        await node.ask("a@champion")


async def test_a_hint_loads_without_waiting(node: Node) -> None:
    node.offer("a")
    node.cache.prefetch("a")
    await until(lambda: node.names() == ["a"])
    assert node.cache.cache_snapshot().misses == 0
    await node.ask("a")
    assert node.cache.cache_snapshot().hits == 1
    with pytest.raises(UnknownModel):
        node.cache.prefetch("b")


async def test_what_is_withdrawn_while_it_loads_is_gone(node: Node) -> None:
    node.offer("a")
    gate = node.gates["a"] = threading.Event()
    asking = asyncio.create_task(node.ask("a"))
    await until(lambda: node.loads == ["a"])
    withdrawing = asyncio.create_task(node.cache.withdraw("a", "1"))
    await asyncio.sleep(0)
    gate.set()
    await withdrawing
    with pytest.raises((ModelUnavailable, UnknownModel)):
        await asking
    assert not node.cache.knows("a")
    with pytest.raises(UnknownModel):
        await node.ask("a")
    await until(lambda: node.alive == [])


async def test_an_eviction_on_request_spares_what_is_in_use(node: Node) -> None:
    node.offer("a")
    held = await node.cache.acquire("a")
    assert not await node.cache.evict("a", "1")
    held.unpin()
    assert await node.cache.evict("a", "1")
    assert node.alive == []
    assert await node.ask("a") == "a:1"


async def test_what_somebody_loads_is_charged_and_refused_where_nothing_may_go(node: Node) -> None:
    spec = ModelSpec("fixed", "1", Path(__file__), "sized", options={"size": 900})
    measured = replace(spec, path=Path(__file__))
    node.budget.limit = 3_000_000
    await node.cache.load(measured)
    assert node.budget.known_bytes() == 900
    node.budget.limit = BUDGET
    node.offer("a", size=200)
    with pytest.raises(ModelUnavailable, match="no loaded model may be evicted for it"):
        await node.ask("a", deadline=monotonic() + 60)
    await node.cache.unload("fixed", "1")
    with pytest.raises(LoadError):
        await node.cache.load(spec)  # its files are larger than the budget


async def test_answers_are_right_while_models_come_and_go(node: Node) -> None:
    for number in range(40):
        node.offer(f"m{number}", size=100 + 7 * number)

    async def client(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(40):
            name = f"m{random.zipf(1.5) % 40}"
            assert await node.ask(name) == f"{name}:1"
            assert node.budget.known_bytes() <= BUDGET

    await asyncio.gather(*map(client, range(16)))
    assert node.evicted()


async def test_what_is_preloaded_takes_nobodys_room(node: Node) -> None:
    for name in "abc":
        node.offer(name, size=400)
    assert await node.cache.preload("a", "1")
    assert await node.cache.preload("a", "1")
    assert await node.cache.preload("b", "1")
    assert not await node.cache.preload("c", "1")
    assert (node.names(), node.evicted()) == (["a", "b"], [])
    with pytest.raises(UnknownModel):
        await node.cache.preload("none", "1")
