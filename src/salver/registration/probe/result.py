"""What a probe finds, and reading it from a process that isn't trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from salver.core.registry import Probe
from salver.core.signature import Signature
from salver.runtimes.process.description import ProcessModel

_MOST_NOTES = 20
_TEXT = 1000


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What was found of a version that may serve.

    Attributes:
        signature: as the loaded model has it.
        probe: what was measured.
        runtime: that loaded it.
        notes: what couldn't be measured or checked, and why.
    """

    signature: Signature
    probe: Probe
    runtime: str
    notes: tuple[str, ...] = ()


def read_result(told: Mapping[str, Any], *, runtime: str) -> ProbeResult:
    """Read what :func:`salver.registration.probe.measurement.measure` gave.

    Raises:
        ValueError, TypeError, KeyError: it is something else.
    """
    model = ProcessModel(told["model"])
    latencies = {int(rows): _seconds(taken) for rows, taken in told["latency_seconds"].items()}
    efficient = told["efficient_batch_size"]
    probe = Probe(
        memory_bytes=_count(told["memory_bytes"]),
        peak_memory_bytes=_count(told["peak_memory_bytes"]),
        load_seconds=_seconds(told["load_seconds"]),
        device_memory_bytes=_count(told["device_memory_bytes"]),
        latency_seconds=dict(sorted(latencies.items())),
        max_batch_size=_count(told["max_batch_size"], least=1),
        efficient_batch_size=None if efficient is None else _count(efficient, least=1),
        batch_size_reason=_text(told["batch_size_reason"]),
        threads=model.threads,
        device=model.device,
        platform=model.platform,
        framework=_text(told["framework"]),
        framework_version=_text(told["framework_version"]),
        streams=model.kind in ("stream", "async_stream"),
    )
    return ProbeResult(model.signature, probe, runtime, tuple(_text(each) for each in told["notes"][:_MOST_NOTES]))


def _count(value: Any, least: int = 0) -> int:
    if type(value) is not int or not least <= value < 1 << 62:
        raise ValueError(f"expected a number of at least {least}, got {value!r}")
    return value


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not 0 <= seconds < 1e9:
        raise ValueError(f"expected seconds, got {value!r}")
    return seconds


def _text(value: Any) -> str:
    return str(value)[:_TEXT]
