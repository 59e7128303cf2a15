"""A node whose models only count: what is loaded, evicted and released, and what memory it takes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from salver.cache.memory_budget import MemoryBudget
from salver.cache.model_cache import ModelCache
from salver.cache.offer import Offer
from salver.cache.reservations import Reservations
from salver.core.errors import SalverError
from salver.core.events import Event, ModelEvicted
from salver.core.model import ModelSpec
from salver.core.request import Parameters
from salver.core.signature import Signature, TensorSpec
from salver.runtimes.base import Inputs, LoadedModel, Outputs, Runtime

BUDGET = 1000


class Node:
    """A node with a budget of 1,000 bytes, whose models say what they take."""

    def __init__(self, **more: Any) -> None:
        self.memory = 0
        self.alive: list[str] = []
        self.loads: list[str] = []
        self.released: list[str] = []
        self.gates: dict[str, threading.Event] = {}
        self.broken: dict[str, SalverError] = {}
        self.events: list[Event] = []
        self.budget = MemoryBudget(BUDGET, used=lambda: self.memory)
        shares = more.pop("shares", None)
        self.cache = ModelCache(
            create_runtime=lambda _: NodeRuntime(self),
            emit=self.events.append,
            reservations=Reservations({"cpu": self.budget}, shares=shares),
            batches=False,
            **more,
        )

    def offer(self, name: str, size: int = 100, version: str = "1", **more: Any) -> Offer:
        spec = ModelSpec(name, version, Path(name), "sized", options={"size": more.pop("real", size)})

        async def fetch() -> ModelSpec:
            return spec

        offer = Offer(
            name, version, fetch, release=lambda: self.released.append(name), memory_bytes=size, load_seconds=0.1
        )
        for key, value in more.items():
            setattr(offer, key, value)
        self.cache.offer(offer)
        return offer

    async def ask(self, name: str, version: str = "", *, deadline: float | None = None) -> str:
        loaded = await self.cache.acquire(name, version, deadline=deadline)
        try:
            loaded.usage.uses += 1
            loaded.usage.last_used_ns += 1
            assert loaded.name in self.alive
            return f"{loaded.name}:{loaded.version}"
        finally:
            loaded.unpin()

    def evicted(self) -> list[str]:
        return [event.name for event in self.events if isinstance(event, ModelEvicted)]

    def names(self) -> list[str]:
        return [loaded.name for loaded in self.cache.loaded()]


class NodeRuntime(Runtime):
    """Loads models that only count."""

    name = "sized"

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node

    def load(self, spec: ModelSpec) -> LoadedModel:
        self._node.loads.append(spec.name)
        if (gate := self._node.gates.get(spec.name)) is not None:
            assert gate.wait(20)
        if (error := self._node.broken.get(spec.name)) is not None:
            raise error
        return NodeModel(self._node, spec)


class NodeModel(LoadedModel):
    """Takes as many bytes as its spec says."""

    platform = "test"
    signature = Signature((TensorSpec("x", "INT64", (1,)),), (TensorSpec("y", "INT64", (1,)),), False)

    def __init__(self, node: Node, spec: ModelSpec) -> None:
        self._node = node
        self._spec = spec
        node.alive.append(spec.name)

    def predict(self, inputs: Inputs, asked: object, parameters: Parameters) -> Outputs:
        return {"y": np.zeros(1, np.int64)}

    def memory_bytes(self) -> int:
        size: int = self._spec.options["size"]
        return size

    def close(self) -> None:
        self._node.alive.remove(self._spec.name)
