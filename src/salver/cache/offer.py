"""A model version that can be loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from salver.core.model import ModelSpec
from salver.core.signature import Signature


def _nothing() -> None:
    """Nothing to give back."""


@dataclass(slots=True)
class Offer:
    """A model version that can be loaded when it is asked for, and loaded again after it was evicted.

    Attributes:
        name, version: which.
        fetch: brings its files here, and gives what a runtime is to load.
        release: called once a version that came of ``fetch`` was closed, or wasn't loaded after all: its files may go.
        memory_bytes: what it is expected to take; corrected by each load.
        peak_memory_bytes: what loading it is expected to take at most.
        load_seconds: how long it is expected to take; corrected by each load.
        tenant: whose share of the budget it counts to; "" for nobody's.
        pinned: it isn't evicted.
        signature, platform: known from its probe; None and "" where it wasn't probed.
        files: tells one state of its files from another; a load that began with others is done again.
    """

    name: str
    version: str
    fetch: Callable[[], Awaitable[ModelSpec]]
    release: Callable[[], None] = field(default=_nothing)
    memory_bytes: int = 0
    peak_memory_bytes: int = 0
    load_seconds: float = 0.0
    tenant: str = ""
    pinned: bool = False
    signature: Signature | None = None
    platform: str = ""
    files: str = ""
