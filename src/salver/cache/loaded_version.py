"""A model version that requests may use: its model, instances, queue and counters."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from salver.batching.executor import Executor
from salver.batching.scheduler import Scheduler
from salver.cache.memory_budget import MemoryBudget, Reservation
from salver.cache.response_cache import ResponseCache
from salver.cache.usage import Usage
from salver.core.errors import SalverError
from salver.core.model import ModelSpec
from salver.monitoring.statistics import ModelStatistics
from salver.runtimes.base import ComposedModel, LoadedModel
from salver.runtimes.instance import Instance


class LoadedVersion:
    """A model version that requests may use.

    Whoever uses it pins it: ``pins`` counts them. Only the event loop's thread touches it.

    Attributes:
        spec: what was loaded.
        model: the loaded model; of several copies the first, of one in processes of its own a description.
        executors: its instances.
        instance: the first of them where they are in this process; None where they are in processes of their own.
        composed: the model, where it asks other models and takes whole requests, past the queue; else None.
        inline: ``instance``, where requests may run on the event loop, past the queue; None where they may not.
        max_rows: rows of the largest request.
        scheduler: the queue in front of the instances.
        responses: its response cache, where it has one.
        batch_size_reason: why its batches are as large as they may be.
        statistics: its counters.
        memory_bytes: what it takes.
        close: closes its instances and its model, once nobody holds it.
        usage: how it is used, for the order of eviction.
        is_evictable: it may go when others need the room, and be loaded again when it is asked for.
        budget, reservation, device_budget: the memory that is set aside for it, and on which device.
        release: called once it is closed: its files may go.
    """

    __slots__ = (
        "batch_size_reason",
        "budget",
        "close",
        "composed",
        "device_budget",
        "executors",
        "idle",
        "inline",
        "instance",
        "is_evictable",
        "max_rows",
        "memory_bytes",
        "model",
        "pins",
        "release",
        "reservation",
        "responses",
        "scheduler",
        "signature",
        "spec",
        "statistics",
        "usage",
    )

    def __init__(
        self,
        spec: ModelSpec,
        model: LoadedModel,
        *,
        executors: Sequence[Executor],
        instance: Instance | None,
        scheduler: Scheduler,
        responses: ResponseCache | None,
        statistics: ModelStatistics,
        memory_bytes: int,
        batch_size_reason: str,
    ) -> None:
        self.spec = spec
        self.model = model
        self.executors = executors
        self.instance = instance
        self.composed = model if isinstance(model, ComposedModel) else None
        self.inline = instance if responses is None and model.kind == "sync" else None
        self.max_rows: float = math.inf
        if model.signature.batched and spec.scheduling.max_batch_size is not None:
            self.max_rows = spec.scheduling.max_batch_size
        self.scheduler = scheduler
        self.responses = responses
        self.signature = model.signature
        self.statistics = statistics
        self.memory_bytes = memory_bytes
        self.batch_size_reason = batch_size_reason
        self.close: Callable[[], Coroutine[Any, Any, None]] = _nothing
        self.release: Callable[[], None] = _no_files
        self.usage = Usage(key=(spec.name, spec.version))
        self.is_evictable = False
        self.budget: MemoryBudget | None = None
        self.reservation: Reservation | None = None
        self.device_budget = ""
        self.pins = 0
        self.idle: asyncio.Event | None = None  # there once the version was replaced or unloaded

    @property
    def name(self) -> str:
        """The model's name."""
        return self.spec.name

    @property
    def version(self) -> str:
        """The model version."""
        return self.spec.version

    @property
    def isolation(self) -> str:
        """Where it runs now: "inline", "thread" or "process"."""
        return "process" if self.instance is None else self.instance.isolation

    @property
    def instances(self) -> int:
        """How many there are; one object stands for all those of a thread-safe model."""
        if self.instance is not None and self.model.max_concurrency is None and self.model.kind in ("sync", "stream"):
            return self.instance.capacity
        return len(self.executors)

    @property
    def failure(self) -> SalverError | None:
        """Why it answers no request any more; None while it does."""
        return self.scheduler.failure

    def unpin(self) -> None:
        """Let go of the version."""
        self.pins -= 1
        if self.idle is not None and self.pins == 0:
            self.idle.set()


async def _nothing() -> None:
    """Close nothing."""


def _no_files() -> None:
    """Give no files back."""
