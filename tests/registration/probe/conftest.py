"""Probing, with nothing left behind."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from gates import until
from process_models import python_spec

from salver.registration.probe.limits import ProbeLimits
from salver.registration.probe.prober import Prober
from salver.registration.probe.result import ProbeResult

Probe = Callable[..., Awaitable[ProbeResult]]


@pytest.fixture
async def prober() -> AsyncIterator[Prober]:
    """One that leaves nothing behind: no process and no descriptor."""
    this = psutil.Process()
    before, fds = set(this.children(recursive=True)), len(os.listdir("/proc/self/fd"))
    prober = Prober()
    yield prober
    await prober.close()
    await until(lambda: set(this.children(recursive=True)) <= before)
    assert len(os.listdir("/proc/self/fd")) <= fds


@pytest.fixture
def probe(prober: Prober, tmp_path: Path) -> Probe:
    """``await probe(code, ...)`` for a Python model.

    Keywords: ``limits``, ``options``, and those of :class:`Scheduling`.
    """

    async def start(code: str, *, limits: ProbeLimits | None = None, **settings: Any) -> ProbeResult:
        spec = python_spec(tmp_path, "m", code, **settings)
        return await prober.probe(spec, allow_code=True, limits=limits)

    return start
