"""What happens to models, told by the layers below to whoever listens: monitoring, mostly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class ModelLoading:
    """A version's load has begun."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class ModelReady:
    """A version answers requests from now on.

    Attributes:
        seconds: how long loading and warming up took.
        memory_bytes: what the runtime says the model takes.
        device: where it lies.
        isolation: where it runs: "inline", "thread" or "process".
        on_demand: a request, or a hint of requests to come, has asked for it.
    """

    name: str
    version: str
    seconds: float
    memory_bytes: int
    device: str
    isolation: str
    on_demand: bool = False


@dataclass(frozen=True, slots=True)
class ModelLoadFailed:
    """A version couldn't be loaded; what served before still serves."""

    name: str
    version: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelUnloaded:
    """A version answers no more requests, and its memory was given back."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class ModelEvicted:
    """A version had to go from memory; the next request for it loads it again.

    Attributes:
        reason: why.
        freed_bytes: what it took.
    """

    name: str
    version: str
    reason: str
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class InstanceRestarted:
    """An instance of a version had died, and answers again."""

    name: str
    version: str
    cause: str


@dataclass(frozen=True, slots=True)
class ModelCrashed:
    """A version's instances died again and again; it answers no more requests until it is loaded again."""

    name: str
    version: str
    reason: str


Event: TypeAlias = (
    ModelLoading | ModelReady | ModelLoadFailed | ModelUnloaded | ModelEvicted | InstanceRestarted | ModelCrashed
)
Emit: TypeAlias = Callable[[Event], None]


class EventHub:
    """Passes each event to every listener, at once and in order. A listener must not block or raise."""

    def __init__(self) -> None:
        self._listeners: list[Emit] = []

    def listen(self, listener: Emit) -> None:
        """Call ``listener`` with every event from now on."""
        self._listeners.append(listener)

    def emit(self, event: Event) -> None:
        """Tell all listeners."""
        for listener in self._listeners:
            listener(event)
