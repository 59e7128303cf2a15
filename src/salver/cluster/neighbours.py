"""The servers over one registry: each tells the others of itself, and knows which of them has which model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from time import monotonic, perf_counter_ns

from salver.cache.model_cache import ModelCache
from salver.cache.offer import Offer
from salver.cluster.placement import owner
from salver.core.errors import SalverError
from salver.core.registry import Node
from salver.store.registry.registry import Registry

INTERVAL_SECONDS = 1.0
"""Time between two messages of a server to the others."""

ALIVE_SECONDS = 5.0
"""A server that has told nothing for so long gets no requests."""

_SHUNNED_SECONDS = 3.0
_RECENT_NS = 60 * 10**9

_log = logging.getLogger("salver.cluster")


class Neighbours:
    """This server and the others over its registry.

    Args:
        registry: where they meet.
        models: of this server.
        node_id: this server's, new with each start.
        url: where it answers the others; "" where it doesn't: then it only tells what it has.
    """

    def __init__(self, registry: Registry, models: ModelCache, *, node_id: str, url: str) -> None:
        self.node_id = node_id
        self.url = url
        self._registry = registry
        self._models = models
        self._nodes: Sequence[Node] = ()
        self._places: dict[str, list[Node]] = {}
        self._chosen: dict[str, str] = {}  # version -> URL, by this server, since it last heard of the others
        self._shunned: dict[str, float] = {}
        self._draining = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to tell and to listen."""
        await self._exchange()
        self._task = asyncio.create_task(self._go_on())

    async def close(self) -> None:
        """Leave: the others send nothing any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            await asyncio.to_thread(self._registry.forget_node, self.node_id)
        except SalverError as error:
            _log.warning("the other servers aren't told that this one stops: %s", error)

    async def drain(self) -> None:
        """Tell the others that this server wants no more requests."""
        self._draining = True
        try:
            await self._exchange()
        except SalverError as error:
            _log.warning("the other servers aren't told that this one stops: %s", error)

    def nodes(self) -> Sequence[Node]:
        """The servers that are alive, this one among them where it has told of itself."""
        return self._nodes

    def place(self, name: str, version: str = "") -> Node | None:
        """The other server that a request should go to; None where it should stay here.

        One that has the model comes first; else, the one that rendezvous hashing gives it to.

        Raises:
            UnknownModel, ModelUnavailable: there is no such model.
        """
        found = self._models.find(name, version)
        if not isinstance(found, Offer) or not self.url:
            return None
        key = f"{found.name}/{found.version}"
        having = [node for node in self._places.get(key, ()) if self._takes_requests(node)]
        if having:
            return max(having, key=lambda node: node.node_id)
        takers = {node.url: node for node in self._nodes if self._takes_requests(node)}
        if not takers:
            return None
        if (before := self._chosen.get(key)) is not None and (before == self.url or before in takers):
            return takers.get(before)
        loads = {url: len(node.loaded) for url, node in takers.items()} | {self.url: self._models.reservations.enrolled}
        for url in self._chosen.values():
            if url in takers:
                loads[url] += 1
        budgets = {url: node.budget_bytes for url, node in takers.items()} | {self.url: self._budget()}
        largest = max(max(budgets.values()), 1)
        weights = {url: max(budget, 1) / largest for url, budget in budgets.items()}
        # By URL, which outlives a restart.
        chosen = self._chosen[key] = owner(key, loads, weights=weights)
        return None if chosen == self.url else takers[chosen]

    def shun(self, node: Node) -> None:
        """A server couldn't be reached: send it nothing for a while."""
        self._shunned[node.node_id] = monotonic() + _SHUNNED_SECONDS

    def _takes_requests(self, node: Node) -> bool:
        return (
            node.node_id != self.node_id
            and bool(node.url)
            and node.url != self.url
            and not node.draining
            and self._shunned.get(node.node_id, 0.0) < monotonic()
        )

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            try:
                await self._exchange()
            except SalverError as error:
                # What was heard last is kept: the servers may still reach each other.
                _log.debug("the other servers can't be heard of: %s", error)
            except Exception:  # noqa: BLE001  the next time may go better, and serving goes on
                _log.exception("exchanging with the other servers failed")

    async def _exchange(self) -> None:
        me = Node(
            self.node_id,
            self.url,
            budget_bytes=self._budget(),
            used_bytes=sum(budget.known_bytes() for budget in self._models.reservations.budgets.values()),
            loaded=self._loaded(),
            draining=self._draining,
        )
        await asyncio.to_thread(self._registry.beat, me)
        self._nodes = await asyncio.to_thread(self._registry.nodes, within=ALIVE_SECONDS)
        places: dict[str, list[Node]] = {}
        for node in self._nodes:
            for key in node.loaded:
                places.setdefault(key, []).append(node)
        self._places = places
        self._chosen.clear()

    def _loaded(self) -> dict[str, float]:
        """Loaded versions, and seconds since each was used."""
        now = perf_counter_ns()
        return {
            f"{loaded.name}/{loaded.version}": 0.0
            if loaded.pins
            else round((now - loaded.usage.last_used_ns) / 1e9, 1)
            if loaded.usage.last_used_ns
            else _RECENT_NS / 1e9
            for loaded in self._models.loaded()
        }

    def _budget(self) -> int:
        return sum(budget.limit for budget in self._models.reservations.budgets.values())
