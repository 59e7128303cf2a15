"""Counters of one step of a graph, as plain integers."""

from __future__ import annotations

from dataclasses import dataclass, field

from salver.monitoring.statistics import LatencyHistogram


@dataclass(slots=True)
class StepStatistics:
    """What a step has done since its graph was loaded.

    Attributes:
        kind: "model", "map", ...
        ok: runs that gave outputs, fallbacks among them.
        failed: runs that failed, of optional steps too.
        failed_ns: the time that those took.
        skipped: times that it didn't run.
        retries: further tries.
        fallbacks: runs that its fallback answered.
    """

    kind: str
    ok: LatencyHistogram = field(default_factory=LatencyHistogram)
    failed: int = 0
    failed_ns: int = 0
    skipped: int = 0
    retries: int = 0
    fallbacks: int = 0
