"""TEMPORARY, by the lead; the helper's takes its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from salver.cache.usage import Usage


class EvictionOrder:
    def __init__(self, policy: Literal["cost", "lru"] = "cost") -> None:
        self.all: dict[int, Usage] = {}

    def add(self, usage: Usage) -> None:
        self.all[id(usage)] = usage

    def remove(self, usage: Usage, *, evicted: bool) -> None:
        self.all.pop(id(usage), None)

    def update(self, usage: Usage) -> None:
        pass

    def victims(self, need: int, *, may_go: Callable[[Usage], bool], tenant: str | None = None) -> list[Usage] | None:
        found, freed = [], 0
        for usage, _ in self.ranking():
            if freed >= need:
                break
            if may_go(usage) and not usage.pinned and tenant in (None, usage.tenant):
                found.append(usage)
                freed += usage.size
        return found if freed >= need else None

    def ranking(self) -> list[tuple[Usage, float]]:
        return sorted(((u, float(u.last_used_ns)) for u in self.all.values()), key=lambda x: x[1])

    def hottest(self, limit: int) -> list[tuple[str, str]]:
        return [u.key for u in sorted(self.all.values(), key=lambda u: -u.uses)][:limit]
