"""A model version that can be loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from salver.core.model import ModelSpec
from salver.core.signature import Signature


def _nothing() -> None:
    """Nothing to give back."""


async def _is_here() -> None:
    """Nothing has to be brought."""


@dataclass(slots=True)
class Offer:
    """A model version that can be loaded when it is asked for, and loaded again after it was evicted.

    Attributes:
        name, version: which.
        fetch: gives what a runtime is to load, and holds its files; None where ``bring`` has to bring them first.
        bring: brings its files near, which may take long, and holds nothing: they may be gone before ``fetch``.
        release: called once a version that came of ``fetch`` was closed, or wasn't loaded after all: its files may go.
        memory_bytes: what it is expected to take; corrected by each load.
        peak_memory_bytes: what loading it is expected to take at most.
        load_seconds: how long it is expected to take; corrected by each load.
        tenant: whose share of the budget it counts to; "" for nobody's.
        pinned: it isn't evicted.
        signature, platform: known from its probe; None and "" where it wasn't probed.
        streams: it answers with one response after another, as far as its probe has told.
        files: tells one state of its files from another; a load that began with others is done again.
    """

    name: str
    version: str
    fetch: Callable[[], Awaitable[ModelSpec | None]]
    release: Callable[[], None] = field(default=_nothing)
    bring: Callable[[], Awaitable[None]] = field(default=_is_here)
    memory_bytes: int = 0
    peak_memory_bytes: int = 0
    load_seconds: float = 0.0
    tenant: str = ""
    pinned: bool = False
    signature: Signature | None = None
    platform: str = ""
    streams: bool = False
    files: str = ""
