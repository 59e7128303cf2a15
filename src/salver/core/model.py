"""Models, versions and their states, as plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypeAlias

from salver.core.errors import InvalidRequest
from salver.core.registry import Probe
from salver.core.scheduling import Scheduling
from salver.core.signature import TensorSpec

Isolation: TypeAlias = Literal["auto", "inline", "thread", "process"]

RESERVED_NAMES = frozenset({"stats"})
"""Names that models can't have: /v2/models/stats is a URL of the protocol's own."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")
_VERSION = re.compile(r"[A-Za-z0-9]{1,64}")


class ModelState(StrEnum):
    """States of a model version, by the names that the V2 repository index uses."""

    UNKNOWN = "UNKNOWN"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a runtime is told to load.

    Attributes:
        name: the model's name.
        version: the model version.
        path: the artifact: a file, or the folder that holds the version's files.
        runtime: the runtime's name, such as "onnx".
        device: "cpu", "cuda", "cuda:N", or "auto" (the first GPU where there is one that the runtime can use).
        inputs, outputs: declared in model.yaml where the artifact doesn't tell; None to read them from the artifact.
        batched: whether the first dimension is a batch dimension; None to read it from the artifact.
        threads: threads that one execution may use; None for the runtime's choice.
        one_at_a_time: executions follow each other, and each may have all cores; else many requests share them.
        isolation: where the model runs: on the event loop ("inline"), on threads ("thread"), in processes of its own
            ("process"), or on the loop or threads, as measured ("auto").
        scheduling: queue, batches and instances.
        options: settings of this runtime alone; the runtime validates them.
        measured: what its probe has found, so that loading needn't measure it again; None where it had none.
    """

    name: str
    version: str
    path: Path
    runtime: str
    device: str = "auto"
    inputs: tuple[TensorSpec, ...] | None = None
    outputs: tuple[TensorSpec, ...] | None = None
    batched: bool | None = None
    threads: int | None = None
    one_at_a_time: bool = False
    isolation: Isolation = "auto"
    scheduling: Scheduling = field(default_factory=Scheduling)
    options: Mapping[str, Any] = field(default_factory=dict)
    measured: Probe | None = None


def check_model_name(name: str) -> str:
    """The name itself, if it can be one.

    Raises:
        InvalidRequest: it is empty, too long, reserved, or has characters that are unsafe in a path or URL.
    """
    if _NAME.fullmatch(name) is None:
        raise InvalidRequest(
            f"{_quoted(name)} can't be a model name: letters, digits, '_', '-' and '.' are allowed, "
            "the first not '-' or '.', 128 at most"
        )
    if name in RESERVED_NAMES:
        raise InvalidRequest(f"{name!r} can't be a model name: /v2/models/{name} is a URL of the V2 protocol's own")
    return name


def check_version(version: str) -> str:
    """The version itself, if it can be one.

    Raises:
        InvalidRequest: it is empty, too long, or not letters and digits.
    """
    if _VERSION.fullmatch(version) is None:
        raise InvalidRequest(f"{_quoted(version)} can't be a version: an integer, or letters and digits, 64 at most")
    return version


def version_order(version: str) -> tuple[int, int, str]:
    """Sort key of versions: numbers by value and above words; the last is the newest."""
    if version.isdecimal():
        return (1, int(version), version)
    return (0, 0, version)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
