"""How a loaded version is used."""

from __future__ import annotations


class Usage:
    """How a loaded version is used; touched on the hot path by plain attribute writes only."""

    __slots__ = ("key", "last_used_ns", "load_seconds", "pinned", "size", "tenant", "uses")

    def __init__(
        self,
        key: tuple[str, str],
        size: int = 1,
        load_seconds: float = 0.0,
        uses: int = 0,
        last_used_ns: int = 0,
        pinned: bool = False,
        tenant: str = "",
    ) -> None:
        self.key = key
        self.size = size
        self.load_seconds = load_seconds
        self.uses = uses
        self.last_used_ns = last_used_ns
        self.pinned = pinned
        self.tenant = tenant
