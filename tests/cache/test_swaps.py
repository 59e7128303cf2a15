"""What comes between a load and its request: others who leave, unloads, new offers, stores that fail, tenants."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest
from cache_node import BUDGET, Node
from gates import until
from registered_versions import PROBE

from salver.core.errors import LoadError, ModelUnavailable, Overloaded, StoreUnavailable, UnknownModel
from salver.core.model import ModelSpec, ModelState


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node(shares={"acme": 0.3})
    yield made
    for gate in made.gates.values():
        gate.set()
    await made.cache.close(5.0)
    assert made.alive == []
    assert made.budget.known_bytes() == 0


def spec_of(name: str, version: str = "1", size: int = 100) -> ModelSpec:
    measured = replace(PROBE, memory_bytes=size, peak_memory_bytes=size)
    return ModelSpec(name, version, Path(name), "sized", options={"size": size}, measured=measured)


async def test_who_comes_when_the_last_one_has_left_gets_a_load_of_its_own(node: Node) -> None:
    fetching = asyncio.Event()

    async def fetch() -> ModelSpec:
        if not fetching.is_set():
            fetching.set()
            await asyncio.Event().wait()
        return spec_of("a")

    offer = node.offer("a")
    offer.fetch = fetch
    first = asyncio.create_task(node.ask("a"))
    await fetching.wait()
    first.cancel()
    second = asyncio.create_task(node.ask("a"))  # comes while the first one's load is still being broken off
    assert await second == "a:1"
    with pytest.raises(asyncio.CancelledError):
        await first


@pytest.mark.parametrize("forget", [False, True])
async def test_what_is_offered_again_while_it_is_unloaded_stays(node: Node, forget: bool) -> None:
    node.offer("a")
    held = await node.cache.acquire("a")
    unloading = asyncio.create_task(node.cache.unload("a", "1", forget=forget))
    await until(lambda: held.idle is not None)
    node.offer("a")
    asking = asyncio.create_task(node.ask("a"))
    held.unpin()
    await unloading
    assert await asking == "a:1"
    assert node.loads == ["a", "a"]
    assert [status.state for status in node.cache.statuses()] == [ModelState.READY]


async def test_a_load_that_comes_before_an_unload_ends_as_unloaded(node: Node) -> None:
    gate = node.gates["a"] = threading.Event()
    loading = asyncio.create_task(node.cache.load(spec_of("a")))
    await until(lambda: node.loads == ["a"])
    unloading = asyncio.create_task(node.cache.unload("a", "1"))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(loading, unloading)
    assert node.names() == []
    assert [status.reason for status in node.cache.statuses()] == ["unloaded"]


async def test_a_store_that_fails_for_a_while_does_not_bring_an_older_version_into_service(node: Node) -> None:
    node.offer("a", version="1")
    offer = node.offer("a", version="2")
    reached = offer.fetch

    async def fetch() -> ModelSpec:
        raise StoreUnavailable("the store can't be reached")

    offer.fetch = fetch
    with pytest.raises(StoreUnavailable):
        await node.ask("a")
    with pytest.raises(StoreUnavailable):
        await node.ask("a")
    offer.fetch = reached
    assert await node.ask("a") == "a:2"


async def test_files_that_change_while_they_are_loaded_are_loaded_again(node: Node) -> None:
    gate = node.gates["a"] = threading.Event()
    node.offer("a", files="old")
    asking = asyncio.create_task(node.cache.acquire("a"))
    await until(lambda: node.loads == ["a"])

    async def fetch() -> ModelSpec:
        return spec_of("a", size=200)

    node.offer("a", files="new", fetch=fetch)
    gate.set()
    loaded = await asking
    assert loaded.memory_bytes == 200
    await until(lambda: node.alive == ["a"])
    loaded.unpin()


async def test_aliases_and_versions_of_the_same_name(node: Node) -> None:
    node.offer("a", version="1")
    node.offer("a", version="2")
    node.cache.set_aliases("a", {"2": "1", "live": "1"})
    for _ in range(2):  # first not loaded, then loaded
        assert await node.ask("a", "2") == "a:2"
        assert await node.ask("a@live") == "a:1"
        assert await node.ask("a", "live") == "a:1"
    assert [version for _, version, _ in node.cache.statistics("a@live")] == ["1"]
    for name, version in (("a@", ""), ("a@other", ""), ("a@live", "1"), ("a", "other")):
        with pytest.raises(UnknownModel):
            await node.ask(name, version)


async def test_nobody_waits_for_room_that_cannot_come(node: Node) -> None:
    node.memory = 900  # which no model takes
    node.offer("a", size=100)
    node.offer("b", size=500)
    assert await node.ask("a") == "a:1"
    began = monotonic()
    with pytest.raises(Overloaded, match="the server takes 1 KiB in all; give it a larger budget"):
        await node.ask("b")
    await node.cache.evict("a", "1")
    with pytest.raises(ModelUnavailable, match="needs about 0 KiB of memory"):
        await node.ask("b")
    with pytest.raises(LoadError):
        await node.cache.load(spec_of("c", size=500))
    assert monotonic() - began < 10


async def test_room_that_requests_give_back_is_seen(node: Node) -> None:
    node.offer("a", size=300)
    node.offer("b", size=500)
    held = await node.cache.acquire("a")
    node.memory = 1000
    asking = asyncio.create_task(node.ask("b"))
    await until(lambda: held.idle is not None)
    node.memory = 0
    assert await asking == "b:1"
    held.unpin()


async def test_a_tenant_that_waits_for_its_share_keeps_nobody_else_waiting(node: Node) -> None:
    node.offer("mine", size=200, tenant="acme")
    node.offer("more", size=200, tenant="acme")
    node.offer("other", size=400)
    held = await node.cache.acquire("mine")
    asking = asyncio.create_task(node.ask("more"))
    await until(lambda: held.idle is not None)
    assert await node.ask("other") == "other:1"
    assert not asking.done()
    held.unpin()
    assert await asking == "more:1"
    assert node.budget.tenant_bytes("acme") == 200
    assert node.budget.known_bytes() <= BUDGET


async def test_hints_beyond_the_budget_end_and_hold_nothing(node: Node) -> None:
    for number in range(30):
        node.offer(f"m{number}", size=90)
    for number in range(30):
        node.cache.prefetch(f"m{number}")
    await until(lambda: node.cache.loading() == [])
    assert len(node.names()) == 11
    assert all(loaded.pins == 0 for loaded in node.cache.loaded())
